"""Health monitors (CONTRACT section 2)."""

from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import HEALTHMONITORS, LISTENERS, POOLS
from tests.contract.test_pools import serving
from tests.machine import Machine, wait_until


def owned_pool(machine: Machine) -> dict[str, Any]:
    """Return a pool that has a listener and is not rendered, as the API gives it."""
    listener = documents.listener(enabled=False)
    assert machine.post(LISTENERS, listener).status == 201
    reply = machine.post(POOLS, documents.pool(enabled=False, listener_id=listener["id"]))
    assert reply.status == 201
    return judge.content(reply)


# --- the three forms of a POST --------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "listener_id"])
def test_a_monitor_may_be_named_by_pool_or_listener_in_each_form(
    shared: Machine, name: str
) -> None:
    own = documents.monitor(delay=7)
    forms: tuple[tuple[str, Any], ...] = (
        ("nested", lambda pool: ("", {**pool, "healthmonitor": own})),
        ("nested, named alone", lambda pool: ("", {name: pool[name], "healthmonitor": own})),
        ("nested, by pool_id", lambda pool: ("", {"pool_id": pool[name], "healthmonitor": own})),
        ("flat", lambda pool: ("", {"pool_id": pool[name], **own})),
        ("by URL", lambda pool: (f"/{pool[name]}", own)),
        ("nested by URL", lambda pool: (f"/{pool[name]}", {**pool, "healthmonitor": own})),
    )

    for form, sent in forms:
        pool = owned_pool(shared)
        path, body = sent(pool)
        created = shared.post(f"{HEALTHMONITORS}{path}", body)
        repeated = shared.post(f"{HEALTHMONITORS}{path}", body)

        assert (form, created.status, created.body) == (form, 201, created.body)
        assert (form, repeated.status) == (form, 200)
        for reply in (created, repeated):
            assert judge.content(reply).items() >= own.items()
            assert reply.json["pool_id"] == pool["id"]
            assert reply.json["listener_id"] == pool["listener_id"]
            assert reply.json["warnings"] == []
        assert created.headers["Location"] == f"{HEALTHMONITORS}/{pool['id']}"
        for id in (pool["id"], pool["listener_id"]):
            assert shared.get(f"{HEALTHMONITORS}/{id}").json == judge.content(created)
        assert shared.get(f"{POOLS}/{pool['id']}").json == pool


def test_a_monitor_of_a_pool_without_a_listener_has_none(shared: Machine) -> None:
    place = documents.made(shared, "healthmonitors")

    assert shared.get(place.item).json["listener_id"] is None


def test_a_second_monitor_of_a_pool_is_a_409_that_shows_the_first(shared: Machine) -> None:
    place = documents.made(shared, "healthmonitors", delay=5)

    reply = shared.post(place.collection, place.body | {"delay": 6})

    judge.assert_is_problem(reply, 409, "/delay")
    assert reply.json["current"]["delay"] == 5


@pytest.mark.parametrize("name", ["pool_id", "id", "listener_id"])
def test_an_unknown_pool_is_a_422_where_the_document_names_it(shared: Machine, name: str) -> None:
    nested = shared.post(HEALTHMONITORS, {name: "nothing", "healthmonitor": documents.monitor()})
    flat = shared.post(HEALTHMONITORS, {name: "nothing", **documents.monitor()})

    judge.assert_is_problem(nested, 422, f"/{name}")
    judge.assert_is_problem(flat, 422, f"/{name}")


def test_a_monitor_that_names_no_pool_is_a_422(shared: Machine) -> None:
    nested = shared.post(HEALTHMONITORS, {"healthmonitor": documents.monitor()})
    flat = shared.post(HEALTHMONITORS, documents.monitor())

    judge.assert_is_problem(nested, 422, "/pool_id")
    judge.assert_is_problem(flat, 422, "/pool_id")


@pytest.mark.parametrize("name", ["pool_id", "id", "listener_id"])
def test_a_document_that_names_another_pool_than_its_url_is_a_422(
    shared: Machine, name: str
) -> None:
    one, two = owned_pool(shared), owned_pool(shared)
    other = two["listener_id" if name == "listener_id" else "id"]
    url = f"{HEALTHMONITORS}/{one['id']}"

    nested = shared.post(url, {name: other, "healthmonitor": documents.monitor()})
    flat = shared.post(url, {name: other, **documents.monitor()})
    assert shared.post(url, documents.monitor()).status == 201
    changed = shared.put(url, {name: other, "delay": 9})

    for reply in (nested, flat, changed):
        judge.assert_is_problem(reply, 422, f"/{name}")
    assert shared.get(url).json["delay"] == 5
    judge.assert_is_problem(shared.get(f"{HEALTHMONITORS}/{two['id']}"), 404)


def test_the_pool_is_found_by_pool_id_then_id_then_listener_id(shared: Machine) -> None:
    one, two, three = (owned_pool(shared) for _ in range(3))
    names = {"pool_id": one["id"], "id": two["id"], "listener_id": three["listener_id"]}

    first = shared.post(HEALTHMONITORS, {**names, "healthmonitor": documents.monitor()})
    del names["pool_id"]
    second = shared.post(HEALTHMONITORS, {**names, "healthmonitor": documents.monitor()})

    assert (first.status, first.json["pool_id"]) == (201, one["id"])
    assert (second.status, second.json["pool_id"]) == (201, two["id"])
    assert first.json["warnings"]
    judge.assert_is_problem(shared.get(f"{HEALTHMONITORS}/{three['id']}"), 404)


def test_the_pools_own_members_are_compared_and_never_written(shared: Machine) -> None:
    pool = owned_pool(shared)
    other = {**pool, "name": "other", "lb_algorithm": "SOURCE_IP", "protocol_mode": None}

    reply = shared.post(HEALTHMONITORS, {**other, "healthmonitor": documents.monitor()})

    assert reply.status == 201
    warnings = " ".join(reply.json["warnings"])
    assert len(reply.json["warnings"]) == 2
    assert "name" in warnings
    assert "lb_algorithm" in warnings
    assert shared.get(f"{POOLS}/{pool['id']}").json == pool


def test_a_pool_document_that_is_wrong_is_a_422_with_its_own_pointers(shared: Machine) -> None:
    pool = owned_pool(shared)
    wrong = {**pool, "lb_algorithm": "X", "colour": 1}

    reply = shared.post(HEALTHMONITORS, {**wrong, "healthmonitor": documents.monitor(delay=0)})

    judge.assert_is_problem(reply, 422, "/lb_algorithm", "/colour", "/healthmonitor/delay")


# --- the others -----------------------------------------------------------------------------


def test_put_takes_the_pools_document_too(shared: Machine) -> None:
    pool = owned_pool(shared)
    url = f"{HEALTHMONITORS}/{pool['listener_id']}"
    assert shared.post(url, documents.monitor()).status == 201

    nested = shared.put(url, {**pool, "healthmonitor": {"delay": 8}})
    flat = shared.put(url, {"timeout": 2, "pool_id": pool["id"]})

    assert (nested.status, nested.json["delay"], nested.json["warnings"]) == (200, 8, [])
    assert (flat.status, flat.json["delay"], flat.json["timeout"]) == (200, 8, 2)


def test_a_monitor_that_only_members_brought_is_taken_over_by_the_post(shared: Machine) -> None:
    member = documents.place(shared, "members")
    pool = member.collection.split("/")[-2]
    brought = documents.monitor(delay=5, max_retries=9)
    shared.post(member.collection, {**member.body, "healthmonitor": brought})
    own = {"pool_id": pool, **documents.monitor(delay=6)}

    taken = shared.post(HEALTHMONITORS, own)
    repeated = shared.post(HEALTHMONITORS, own)
    other = shared.post(HEALTHMONITORS, own | {"delay": 7})

    assert (taken.status, repeated.status, other.status) == (201, 200, 409)
    assert (taken.json["delay"], taken.json["max_retries"]) == (6, 3)
    again = shared.put(member.item, {"healthmonitor": brought})
    assert again.status == 200
    assert shared.get(f"{HEALTHMONITORS}/{pool}").json["delay"] == 6


def test_a_brought_monitor_that_the_post_repeats_is_a_201_too(shared: Machine) -> None:
    member = documents.place(shared, "members")
    pool = member.collection.split("/")[-2]
    shared.post(member.collection, {**member.body, "healthmonitor": documents.monitor()})

    replies = [
        shared.post(HEALTHMONITORS, {"pool_id": pool, **documents.monitor()}) for _ in range(2)
    ]

    assert [reply.status for reply in replies] == [201, 200]


def test_the_monitor_of_a_deleted_pool_is_gone(shared: Machine) -> None:
    place = documents.made(shared, "healthmonitors")
    pool = place.body["pool_id"]

    shared.delete(f"{POOLS}/{pool}")
    shared.post(POOLS, documents.pool(id=pool, enabled=False))

    judge.assert_is_problem(shared.get(place.item), 404)


@pytest.mark.parametrize(("timeout", "warnings"), [(5, 0), (6, 1)])
def test_a_timeout_above_the_delay_is_accepted_with_a_warning(
    shared: Machine, timeout: int, warnings: int
) -> None:
    place = documents.place(shared, "healthmonitors", delay=5, timeout=timeout)

    reply = shared.post(place.collection, place.body)

    assert (reply.status, len(reply.json["warnings"])) == (201, warnings)


# --- in HAProxy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "backend", "server"),
    [
        ("TCP", [], ""),
        ("HTTP", ["option httpchk HEAD /up?x=1", "http-check expect status 200-204"], ""),
        (
            "HTTPS",
            ["option httpchk HEAD /up?x=1", "http-check expect status 200-204"],
            "check-ssl verify none",
        ),
        ("TLS-HELLO", ["option ssl-hello-chk"], ""),
    ],
)
def test_the_type_decides_what_a_check_does(
    shared: Machine, type: str, backend: list[str], server: str
) -> None:
    found = serving(shared, members=1)
    own = documents.monitor(type=type, delay=60, timeout=10, max_retries=2, max_retries_down=4)
    more = {"http_method": "HEAD", "url_path": "/up?x=1", "expected_codes": "200-204"}

    reply = shared.post(f"{HEALTHMONITORS}/{found.listener}", own | more)

    lines = found.lines()
    checks = ("option httpchk", "option ssl", "http-check")
    assert reply.status == 201
    assert "timeout check 10s" in lines
    assert [line for line in lines if line.startswith(checks)] == backend
    line = next(line for line in lines if line.startswith("server "))
    assert "check inter 60s fall 4 rise 2" in line
    assert ("check-ssl" in line) == bool(server)
    assert server in line


def test_a_disabled_or_deleted_monitor_checks_nothing(shared: Machine) -> None:
    found = serving(shared, members=1)
    url = f"{HEALTHMONITORS}/{found.pool}"
    assert shared.post(url, documents.monitor(delay=60)).status == 201

    def is_checked() -> bool:
        return any(" check " in line for line in found.lines() if line.startswith("server "))

    assert is_checked()
    shared.put(url, {"enabled": False})
    assert not is_checked()
    shared.put(url, {"enabled": True})
    assert is_checked()
    shared.delete(url)
    assert not is_checked()
    judge.assert_haproxy_agrees(shared)


def test_monitor_address_and_port_are_checked_instead(shared: Machine) -> None:
    found = serving(shared, members=1)
    shared.post(f"{HEALTHMONITORS}/{found.pool}", documents.monitor(delay=60))

    shared.put(found.member(0), {"monitor_address": "::1", "monitor_port": 81})

    line = next(line for line in found.lines() if line.startswith("server "))
    assert "addr [::1]" in line
    assert "port 81" in line


def test_a_member_that_fails_its_checks_gets_nothing_until_it_is_well(shared: Machine) -> None:
    found = serving(shared, members=1)
    url = f"{HEALTHMONITORS}/{found.pool}"
    own = documents.monitor(type="HTTP", delay=1, timeout=1, max_retries=1, max_retries_down=1)

    shared.post(url, own | {"expected_codes": "204"})
    wait_until(lambda: found.get()[0] == 503, 5)
    shared.put(url, {"expected_codes": "200,204"})

    wait_until(lambda: found.get()[0] == 200, 5)
