"""What an answer says is so (CONTRACT section 1: "truth", "proof", "request id"; "Observing")."""

import re
from datetime import datetime
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge, wire
from tests.machine import Machine, free_port, running, wait_until

PHASES = ["queue", "fold", "check", "activate", "commit", "observe"]
GIVEN = re.compile("[A-Za-z0-9._:-]{1,128}")


def phases(timing: str) -> dict[str, float]:
    """Return the milliseconds of a Server-Timing header by name."""
    parts = (part.strip().split(";dur=") for part in timing.split(","))
    return {name: float(value) for name, value in parts}


# --- proof ----------------------------------------------------------------------------------


def test_a_change_of_haproxy_says_by_what_why_and_where(shared: Machine) -> None:
    before = shared.worker_pid()

    reply = shared.post(documents.LISTENERS, documents.listener())

    applied = reply.json["applied"]
    assert applied["by"] == "reload"
    assert applied["because"]
    assert applied["pid"] == shared.worker_pid() != before
    assert applied["change"] == shared.get("/api/status").json["generation"]
    assert reply.json["warnings"] == []


def test_a_change_that_haproxy_need_not_know_is_applied_by_none(shared: Machine) -> None:
    place = documents.made(shared, "pools", enabled=True)
    before, worker = shared.reloads(), shared.worker_pid()

    reply = shared.put(place.item, {"name": "x"})

    applied = reply.json["applied"]
    assert (applied["by"], applied["pid"]) == ("none", worker)
    assert applied["because"]
    assert shared.reloads() == before


@pytest.mark.parametrize("kind", documents.NAMES)
def test_every_write_says_how_long_each_phase_took(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    replies = [
        shared.post(place.collection, place.body),
        shared.post(place.collection, place.body),
        shared.put(place.item, documents.CHANGE[kind]),
        shared.delete(place.item),
    ]

    wanted = [documents.answered(kind, status) for status in (201, 200, 200, 204)]
    assert [reply.status for reply in replies] == wanted
    for reply in replies:
        found = phases(reply.headers["Server-Timing"])
        assert sorted(found) == sorted(PHASES)
        assert all(0 <= value < 15_000 for value in found.values())


def test_a_warning_is_in_the_answer_and_no_error(shared: Machine) -> None:
    place = documents.place(shared, "healthmonitors", delay=3, timeout=10)

    reply = shared.post(place.collection, place.body)

    assert reply.status == 201
    assert len(reply.json["warnings"]) == 1
    assert "timeout" in reply.json["warnings"][0]


# --- request id -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A.b_c:d-9", "x" * 128, "00000000-0000-0000-0000-000000"])
def test_a_request_id_is_echoed(shared: Machine, given: str) -> None:
    headers = {"X-Request-Id": given}

    replies = [
        shared.get("/api/status", headers=headers),
        shared.get("/healthz", headers=headers),
        shared.get("/nothing", headers=headers),
        shared.get("/api/status", auth=False, headers=headers),
        shared.post(documents.POOLS, b"{", headers=headers),
        shared.post(documents.LOADBALANCERS, documents.loadbalancer(), headers=headers),
    ]

    assert {reply.headers["X-Request-Id"] for reply in replies} == {given}


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a/b", 'a"b', "a;b", "a\tb", "\xe9", "{}"])
def test_a_malformed_request_id_is_replaced(shared: Machine, given: str) -> None:
    reply = shared.get("/api/status", headers={"X-Request-Id": given})

    made = reply.headers["X-Request-Id"]
    assert made != given
    assert GIVEN.fullmatch(made)


def test_a_request_without_an_id_gets_one_of_its_own(shared: Machine) -> None:
    first, second = (shared.get("/healthz").headers["X-Request-Id"] for _ in range(2))

    assert GIVEN.fullmatch(first)
    assert first != second


def test_the_request_id_is_in_the_log_line_of_what_was_done(shared: Machine) -> None:
    given = documents.fresh("request")

    shared.post(documents.LISTENERS, documents.listener(), headers={"X-Request-Id": given})

    lines = [line for line in shared.log.read_text().splitlines() if "haproxy reloaded" in line]
    assert any(given in line for line in lines)


# --- /api/changes ---------------------------------------------------------------------------


def test_a_change_says_who_wanted_what_and_what_became_of_it(shared: Machine) -> None:
    place = documents.place(shared, "pools", enabled=True)
    reply = shared.post(place.collection, place.body)

    number = reply.json["applied"]["change"]
    change = shared.get(f"/api/changes/{number}").json

    assert change.keys() >= {
        *("generation", "state", "objects", "who", "requested_at", "applied", "reason")
    }
    assert change["generation"] == number
    assert change["state"] == "applied"
    assert change["who"] == "test"
    (made,) = change["objects"]
    assert (made["kind"], made["id"]) == ("pools", place.body["id"])
    assert (made["operation"], made["before"]) == ("create", None)
    assert datetime.fromisoformat(change["requested_at"]).tzinfo is not None
    assert change["applied"] == reply.json["applied"]


def test_a_change_names_everything_it_touched(shared: Machine) -> None:
    place = documents.place(shared, "members")
    pool = place.collection.split("/")[-2]
    body = place.body | {"type": "SOURCE_IP", "healthmonitor": documents.monitor()}
    made = shared.post(place.collection, body).json["applied"]["change"]
    shared.put(place.item, {"weight": 5})
    changed = shared.get("/api/status").json["generation"]
    shared.delete(f"{documents.POOLS}/{pool}")
    deleted = shared.get("/api/status").json["generation"]

    def operations(number: int) -> set[tuple[str, str, str]]:
        found = shared.get(f"/api/changes/{number}").json["objects"]
        return {(one["kind"], one["id"], one["operation"]) for one in found}

    me = place.body["id"]
    assert operations(made) == {
        ("members", me, "create"),
        ("pools", pool, "update"),
        ("healthmonitors", pool, "create"),
    }
    assert operations(changed) == {("members", me, "update")}
    assert operations(deleted) == {
        ("members", me, "delete"),
        ("pools", pool, "delete"),
        ("healthmonitors", pool, "delete"),
    }


def test_a_change_over_the_unix_socket_is_by_local(shared: Machine) -> None:
    place = documents.place(shared, "loadbalancers")
    reply = wire.over_unix_socket(shared, "POST", place.collection, place.body)

    change = shared.get(f"/api/changes/{reply.json['applied']['change']}").json

    assert change["who"] == "local"


@pytest.mark.parametrize(
    "number", ["0", "-1", "999999999", "9" * 30, "x", "1.0", "1/2", "%201", "0x1"]
)
def test_an_unknown_change_is_a_404(shared: Machine, number: str) -> None:
    judge.assert_is_problem(shared.get(f"/api/changes/{number}"), 404)


def test_a_refused_document_is_no_change(shared: Machine) -> None:
    before = shared.get("/api/status").json["generation"]

    shared.post(documents.POOLS, documents.pool(protocol="UDP"))

    after = shared.get("/api/status").json["generation"]
    assert after == before
    judge.assert_is_problem(shared.get(f"/api/changes/{before + 1}"), 404)


# --- /api/status, /readyz, /healthz ---------------------------------------------------------


def test_the_status_says_what_is_known_of_node_and_haproxy(shared: Machine) -> None:
    documents.made(shared, "pools", enabled=True)
    wait_until(lambda: shared.get("/api/status").json["drift"]["last_scan"])

    status = shared.get("/api/status").json

    assert status.keys() >= {
        *("ready", "generation", "observed_generation", "conditions", "haproxy", "drift")
    }
    assert status["ready"] is True
    assert status["generation"] == status["observed_generation"] > 0
    haproxy = status["haproxy"]
    assert haproxy.keys() == {
        *("pid", "worker_pid", "version", "reloads", "failed_reloads", "old_workers")
    }
    assert haproxy["worker_pid"] == shared.worker_pid()
    assert haproxy["pid"] == shared.haproxy_pids()[0]
    assert haproxy["reloads"] == shared.reloads()
    assert haproxy["failed_reloads"] == 0
    assert haproxy["version"].startswith(("2.", "3."))
    assert status["drift"].keys() == {"last_scan", "found", "repaired"}


def test_conditions_say_whether_why_and_since_when(shared: Machine) -> None:
    conditions: list[dict[str, Any]] = shared.get("/api/status").json["conditions"]

    assert {one["type"] for one in conditions} >= {"Ready", "HaproxyRunning", "Applied"}
    for one in conditions:
        assert one.keys() == {"type", "status", "severity", "reason", "message", "since"}
        assert one["status"] in ("True", "False", "Unknown")
        assert datetime.fromisoformat(one["since"]).tzinfo is not None


def test_a_node_that_may_get_work_is_ready(shared: Machine) -> None:
    assert shared.get("/readyz").status == 200
    assert shared.get("/healthz", auth=False).status == 200


# --- HAProxy is not running -----------------------------------------------------------------


@pytest.mark.parametrize("kind", documents.NAMES)
def test_a_write_while_haproxy_does_not_run_is_a_202_that_says_so(idle: Machine, kind: str) -> None:
    enabled = {"enabled": True} if kind in ("listeners", "pools") else {}
    place = documents.place(idle, kind, **enabled)

    made = idle.post(place.collection, place.body)
    repeated = idle.post(place.collection, place.body)
    changed = idle.put(place.item, documents.CHANGE[kind])
    deleted = idle.delete(place.item)

    for reply in (made, repeated, changed, deleted):
        assert reply.status == 202
        applied = reply.json["applied"]
        assert (applied["by"], applied["pid"]) == ("none", None)
        assert "not running" in applied["because"]
        assert reply.headers["Location"] == f"/api/changes/{applied['change']}"
        change = idle.get(reply.headers["Location"]).json
        assert (change["state"], bool(change["reason"])) == ("pending", True)
    for reply in (made, repeated, changed):
        assert judge.content(reply).keys() == documents.MEMBERS_OF[kind]
        assert "ETag" in reply.headers
    judge.assert_is_problem(idle.get(place.item), 404)


def test_a_refusal_stays_a_refusal_while_haproxy_does_not_run(idle: Machine) -> None:
    port = free_port()
    assert idle.post(documents.LISTENERS, documents.listener(protocol_port=port)).status == 202

    taken = idle.post(documents.LISTENERS, documents.listener(protocol_port=port))
    wrong = idle.post(documents.LISTENERS, documents.listener(protocol="UDP"))
    absent = idle.delete(f"{documents.LISTENERS}/nothing")

    assert [reply.status for reply in (taken, wrong, absent)] == [409, 422, 404]


def test_a_node_without_haproxy_is_not_ready_and_says_why(idle: Machine) -> None:
    ready = idle.get("/readyz")
    status = idle.get("/api/status").json

    judge.assert_is_problem(ready, 503)
    assert len(ready.json["errors"]) == 1
    assert "not running" in ready.json["errors"][0]["detail"]
    assert idle.condition("HaproxyRunning")["status"] == "False"
    assert status["haproxy"]["worker_pid"] is None
    assert idle.get("/healthz", auth=False).status == 200


def test_what_was_kept_meanwhile_is_live_when_haproxy_comes() -> None:
    need("haproxy")
    with running(own_haproxy=False) as machine:
        port, one = free_port(), machine.backend("one")
        listener = machine.post(documents.LISTENERS, documents.listener(protocol_port=port))
        change = listener.headers["Location"]
        pool = documents.pool(listener_id=listener.json["id"])
        machine.post(documents.POOLS, pool)
        member = documents.member(protocol_port=one.port)
        machine.post(f"{documents.POOLS}/{pool['id']}/members", member)
        before = machine.get("/api/status").json

        machine.stop()
        machine.own_haproxy = True
        machine.start()

        assert machine.fetch(port) == "one"
        assert before["observed_generation"] < before["generation"] == 3
        assert machine.get(change).json["state"] == "applied"
        after = machine.get("/api/status").json
        assert after["observed_generation"] == after["generation"] == 3
        repeated = machine.post(documents.POOLS, pool)
        assert (repeated.status, repeated.json["applied"]["by"]) == (200, "none")
        judge.assert_haproxy_agrees(machine)
