"""``/api/changes``: what was asked for, in order, and what became of it (CONTRACT section 2)."""

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge, wire
from tests.contract.documents import LISTENERS, LOADBALANCERS, POOLS, Body
from tests.fault.node import kill_haproxy, start_haproxy
from tests.machine import Machine, free_port, wait_until

CHANGES = "/api/changes"
MEMBERS = {"generation", "state", "objects", "who", "remote", "requested_at"}
MEMBERS |= {"applied", "reason"}


def changes(machine: Machine, query: str = "") -> list[Body]:
    reply = machine.get(CHANGES + query)
    assert reply.status == 200, reply.body
    assert reply.json.keys() == {"changes"}
    found: list[Body] = reply.json["changes"]
    return found


def change(machine: Machine, number: int) -> Body:
    found: Body = machine.get(f"{CHANGES}/{number}").json
    return found


def named(found: Body) -> Body:
    """Return *found* without what changed of its objects, as it is in the list."""
    hidden = ("before", "after")
    objects = [{name: one[name] for name in one if name not in hidden} for one in found["objects"]]
    return found | {"objects": objects}


# --- order and paging -----------------------------------------------------------------------


def test_changes_are_in_the_order_of_their_generations(shared: Machine) -> None:
    known = len(changes(shared))
    made = [documents.made(shared, "pools").body["id"] for _ in range(3)]
    shared.post(POOLS, documents.pool(protocol="UDP"))  # refused: no change
    shared.put(f"{POOLS}/{made[0]}", {"name": ""})  # the same: no change
    shared.delete(f"{POOLS}/{made[1]}")

    found = changes(shared)

    assert [one["generation"] for one in found] == list(range(1, known + 5))
    assert found == [named(change(shared, one["generation"])) for one in found]
    mine = found[known:]
    assert all(one.keys() == MEMBERS for one in mine)
    assert [one["objects"][0]["id"] for one in mine] == [*made, made[1]]
    assert [one["objects"][0]["operation"] for one in mine] == ["create"] * 3 + ["delete"]
    assert [one["requested_at"] for one in mine] == sorted(one["requested_at"] for one in mine)


def test_pages_go_on_after_the_marker(shared: Machine) -> None:
    for _ in range(5):
        documents.made(shared, "pools")
    every = changes(shared)

    pages, marker = [changes(shared, "?limit=2")], 0
    while pages[-1] and len(pages) <= len(every):
        marker = pages[-1][-1]["generation"]
        pages.append(changes(shared, f"?limit=2&marker={marker}"))

    assert [one for page in pages for one in page] == every
    assert {len(page) for page in pages[:-2]} == {2}
    assert changes(shared, f"?marker={marker}") == []
    assert changes(shared, f"?marker={'9' * 18}") == []
    assert changes(shared, "?marker=0") == changes(shared, "?marker=") == every
    assert changes(shared, "?limit=1000&marker=1") == every[1:]


@pytest.mark.parametrize("marker", ["x", "-1", "1.0", "+1", "0x1", "9" * 30, "%D9%A1", "1%20", "²"])
def test_a_marker_that_is_no_generation_is_a_400(shared: Machine, marker: str) -> None:
    marker = marker.replace("²", "%C2%B2")

    judge.assert_is_problem(shared.get(f"{CHANGES}?marker={marker}"), 400)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.0", "1001", "9" * 30, "%D9%A1"])
def test_a_limit_that_is_none_is_a_400(shared: Machine, limit: str) -> None:
    judge.assert_is_problem(shared.get(f"{CHANGES}?limit={limit}"), 400)


@pytest.mark.parametrize("query", ["?since=1", "?dry_run=true", "?Limit=1"])
def test_an_unknown_query_parameter_is_a_400(shared: Machine, query: str) -> None:
    judge.assert_is_problem(shared.get(CHANGES + query), 400)
    judge.assert_is_problem(shared.get(f"{CHANGES}/1{query}"), 400)


@pytest.mark.parametrize("number", ["0", str(2**31), str(2**62), str(2**63), "9" * 18, "9" * 100])
def test_a_change_that_is_not_there_is_a_404(shared: Machine, number: str) -> None:
    judge.assert_is_problem(shared.get(f"{CHANGES}/{number}"), 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_changes_are_only_read(shared: Machine, method: str) -> None:
    for path in (CHANGES, f"{CHANGES}/1"):
        judge.assert_is_problem(shared.request(method, path, {}), 405)


# --- who, when, what ------------------------------------------------------------------------


def test_a_change_says_who_asked_and_when(shared: Machine) -> None:
    secret = shared.cli("credentials", "add", "driver").stdout.strip()
    headers = wire.basic("driver", secret)
    before = datetime.now(UTC)

    wait_until(lambda: shared.get("/api/status", auth=False, headers=headers).status == 200)
    shared.request("POST", POOLS, documents.pool(), headers, auth=False)
    shared.post(POOLS, documents.pool())
    wire.over_unix_socket(shared, "POST", POOLS, documents.pool())

    found = changes(shared)[-3:]
    assert [one["who"] for one in found] == ["driver", "test", "local"]
    for one in found:
        requested = datetime.fromisoformat(one["requested_at"])
        assert before.replace(microsecond=0) <= requested <= datetime.now(UTC)


def test_a_change_of_many_is_one_and_names_each(shared: Machine) -> None:
    owner = documents.made(shared, "loadbalancers", vip_address=documents.loopback())
    listener = {"id": documents.fresh("li"), "protocol": "HTTP", "protocol_port": free_port()}
    pool = documents.pool(members=[documents.member(id="m")], healthmonitor=documents.monitor())
    wanted = {"name": "x", "listeners": [listener], "pools": [pool]}

    number = shared.put(f"{owner.item}/tree", wanted).json["applied"]["change"]
    shared.delete(f"{owner.item}?cascade=true")

    made, gone = change(shared, number), change(shared, number + 1)
    created = {("listeners", listener["id"]), ("pools", pool["id"])}
    created |= {("members", "m"), ("healthmonitors", pool["id"])}
    assert {(one["kind"], one["id"], one["operation"]) for one in made["objects"]} == {
        ("loadbalancers", owner.body["id"], "update"),
        *((kind, id, "create") for kind, id in created),
    }
    assert {(one["kind"], one["id"], one["operation"]) for one in gone["objects"]} == {
        *((kind, id, "delete") for kind, id in {*created, ("loadbalancers", owner.body["id"])})
    }


def test_changes_outlive_the_agent(shared: Machine) -> None:
    documents.made(shared, "listeners", enabled=True)
    before = changes(shared)

    shared.stop()
    shared.start()

    assert changes(shared) == before
    documents.made(shared, "pools")
    assert [one["generation"] for one in changes(shared)[-2:]] == [len(before), len(before) + 1]


def test_a_change_says_what_was_and_what_became_of_it(shared: Machine) -> None:
    pool = documents.made(shared, "pools", name="a")

    number = shared.put(pool.item, {"name": "b"}).json["applied"]["change"]
    shared.delete(pool.item)

    (made,), (changed,), (gone,) = (change(shared, number + at)["objects"] for at in (-1, 0, 1))
    assert (made["before"], made["after"]["name"]) == (None, "a")
    assert (
        made["after"].keys()
        <= shared.get("/api/openapi.json")
        .json["components"]["schemas"]["Pool"]["properties"]
        .keys()
    )
    assert (changed["before"], changed["after"]) == ({"name": "a"}, {"name": "b"})
    assert (gone["before"]["name"], gone["after"]) == ("b", None)


def test_a_change_says_where_it_came_from(shared: Machine) -> None:
    shared.post(POOLS, documents.pool())
    wire.over_unix_socket(shared, "POST", POOLS, documents.pool())

    assert [one["remote"] for one in changes(shared)[-2:]] == ["127.0.0.1", ""]


# --- restore --------------------------------------------------------------------------------


def test_a_restore_makes_all_as_it_was_and_is_a_change_itself(machine: Machine) -> None:
    listener = documents.made(machine, "listeners", enabled=True)
    owner = listener.body["id"]
    pool = documents.made(machine, "pools", listener_id=owner, enabled=True)
    members = f"{POOLS}/{pool.body['id']}/members"
    number = machine.post(members, documents.member(id="m", weight=3)).json["applied"]["change"]
    wanted = machine.get("/api/state").json
    machine.put(f"{members}/m", {"weight": 9})
    documents.made(machine, "listeners", enabled=True)
    machine.delete(listener.item)

    reply = machine.post(f"{CHANGES}/{number}/restore", {})

    assert reply.status == 200, reply.body
    assert machine.get("/api/state").json == wanted
    assert reply.json["applied"]["change"] == number + 4
    assert reply.json["applied"]["by"] == "reload"
    assert "weight 3" in machine.fragments()[f"60-backend-{pool.body['id']}.cfg"]
    assert [one["generation"] for one in changes(machine)] == list(range(1, number + 5))


def test_a_restored_pool_keeps_the_name_of_its_backend(machine: Machine) -> None:
    owner = documents.made(machine, "listeners").body["id"]
    pool = documents.made(machine, "pools", listener_id=owner, enabled=True)
    file = f"60-backend-{pool.body['id']}.cfg"
    number = machine.put(pool.item, {"listener_id": None}).json["applied"]["change"]
    rendered = machine.fragments()[file]
    machine.delete(pool.item)

    machine.post(f"{CHANGES}/{number}/restore", {})

    assert f"backend backend-{owner}" in rendered
    assert machine.fragments()[file] == rendered


def test_a_restored_monitor_that_only_members_brought_gives_way_as_before(machine: Machine) -> None:
    pool = documents.made(machine, "pools")
    monitor = {"type": "TCP", "delay": 3, "timeout": 2}
    member = documents.member(healthmonitor=monitor)
    made = machine.post(f"{POOLS}/{pool.body['id']}/members", member)
    machine.delete(pool.item)
    machine.post(f"{CHANGES}/{made.json['applied']['change']}/restore", {})
    own = {**monitor, "pool_id": pool.body["id"], "delay": 9}

    taken_over = machine.post(documents.HEALTHMONITORS, own)

    assert (taken_over.status, taken_over.json["delay"]) == (201, 9)


def test_a_restore_can_be_rehearsed_and_undone(machine: Machine) -> None:
    documents.made(machine, "pools")
    documents.made(machine, "pools")
    wanted = machine.get("/api/state").json

    trial = machine.post(f"{CHANGES}/1/restore?dry_run=true", {})
    untouched = machine.get("/api/state").json
    machine.post(f"{CHANGES}/1/restore", {})
    back = machine.post(f"{CHANGES}/2/restore", {})

    assert (trial.status, trial.json["dry_run"]) == (200, True)
    assert untouched == wanted
    assert (back.status, machine.get("/api/state").json) == (200, wanted)


@pytest.mark.parametrize("number", ["0", "99999", str(2**62), "9" * 100])
def test_a_restore_of_a_change_that_is_not_there_is_a_404(shared: Machine, number: str) -> None:
    before = judge.kept(shared)

    judge.assert_is_problem(shared.post(f"{CHANGES}/{number}/restore", {}), 404)
    assert judge.kept(shared) == before


# --- what became of it ----------------------------------------------------------------------


def test_what_is_live_is_applied(shared: Machine) -> None:
    reply = shared.post(LISTENERS, documents.listener())

    found = change(shared, reply.json["applied"]["change"])

    assert (found["state"], found["reason"]) == ("applied", "")
    assert found["applied"] == reply.json["applied"]
    assert found["applied"]["by"] == "reload"


@pytest.mark.parametrize("kind", documents.UNAPPLIED)
def test_what_no_daemon_has_taken_is_pending_and_says_why(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)
    reply = shared.post(place.collection, place.body)

    found = shared.get(reply.headers["Location"]).json

    assert (reply.status, found["state"]) == (202, "pending")
    assert "not applied" in found["reason"]
    shared.delete(documents.QUAGGA)


def test_what_is_kept_while_haproxy_is_down_is_pending_until_it_comes() -> None:
    need("haproxy")
    machine = Machine(own_haproxy=False)
    try:
        machine.start(ready=False)
        wait_until(machine.is_taken_over, 20)
        numbers = [
            machine.post(LISTENERS, documents.listener()).json["applied"]["change"],
            machine.post(LOADBALANCERS, documents.loadbalancer()).json["applied"]["change"],
        ]
        before = [change(machine, number) for number in numbers]

        start_haproxy(machine)
        wait_until(machine.is_ready, 10)
        after = [change(machine, number) for number in numbers]

        assert [one["state"] for one in before] == ["pending"] * 2
        assert all("not running" in one["reason"] for one in before)
        assert [(one["state"], one["reason"]) for one in after] == [("applied", "")] * 2
    finally:
        machine.end()


def test_what_cannot_be_done_is_failed_until_it_is(machine: Machine) -> None:
    bad = documents.made(machine, "listeners", enabled=True)
    good = documents.made(machine, "listeners", enabled=True)
    first, second = changes(machine)
    machine.stop()
    kill_haproxy(machine)

    with holding((bad.body["vip_address"], bad.body["protocol_port"])):
        machine.start()
        left_out, served = change(machine, 1), change(machine, 2)
        renamed = machine.put(bad.item, {"name": "x"})
        still = change(machine, 3)
    wait_until(lambda: change(machine, 3)["state"] == "applied", 10)

    assert (first["state"], second["state"]) == ("applied", "applied")
    assert (left_out["state"], served["state"]) == ("failed", "applied")
    assert bad.body["id"] in left_out["reason"]
    assert good.body["id"] not in left_out["reason"]
    assert renamed.headers["Location"] == f"{CHANGES}/3"
    assert (still["state"], still["reason"]) == ("failed", left_out["reason"])
    assert [one["state"] for one in changes(machine)] == ["applied"] * 3


def test_what_haproxy_fails_to_run_is_failed_and_says_why(machine: Machine, tmp_path: Path) -> None:
    only_checks = tmp_path / "haproxy"
    only_checks.write_text('#!/bin/sh\n[ "$1" = -c ] && exec haproxy "$@"\nexit 1\n')
    only_checks.chmod(0o755)
    machine.environment["KINX_HAPROXY_PROGRAM"] = str(only_checks)
    machine.stop()
    kill_haproxy(machine)

    machine.start(ready=False)
    wait_until(machine.is_taken_over, 20)
    number = machine.post(POOLS, documents.pool()).json["applied"]["change"]
    wait_until(lambda: "does not start" in change(machine, number)["reason"], 10)

    assert change(machine, number)["state"] == "failed"
    assert machine.get("/api/status").json["observed_generation"] < number


def holding(address: tuple[str, int]) -> Any:
    """Return a server on *address* once nobody else has it."""

    def server() -> socket.socket | None:
        try:
            return socket.create_server(address)
        except OSError:
            return None

    return wait_until(server, 5)
