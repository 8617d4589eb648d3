"""Collections with paging, and ``PUT …/members`` (CONTRACT sections 1, "bodies", and 2)."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import POOLS, Body
from tests.machine import Machine, Reply, free_port, running

MIB = 1024 * 1024
FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "an array": lambda wanted: wanted,
    "an object": lambda wanted: {"members": wanted},
}
every_collection = pytest.mark.parametrize("kind", documents.COLLECTIONS)
every_form = pytest.mark.parametrize("form", FORMS)


# --- collections ----------------------------------------------------------------------------


def listed(machine: Machine, kind: str, url: str, query: str = "") -> list[str]:
    """Return the ids of a collection, or of a page of it."""
    reply = machine.get(url + query)
    assert reply.status == 200, reply.body
    assert reply.json.keys() == {kind}
    return [one[documents.IDENTITIES[kind]] for one in reply.json[kind]]


def several(machine: Machine, kind: str) -> str:
    """Make five of *kind* beside what is there and return the URL of the collection."""
    place = documents.made(machine, kind)
    for _ in range(4):
        other = documents.place(machine, kind)
        assert machine.post(place.collection, other.body).status in (201, 202)
    return place.collection


@every_collection
def test_a_collection_is_in_id_order_and_pages_give_all_of_it(shared: Machine, kind: str) -> None:
    url = several(shared, kind)
    every = listed(shared, kind, url)

    pages = [listed(shared, kind, url, "?limit=2")]
    while pages[-1] and len(pages) <= len(every):
        marker = quote(pages[-1][-1], safe="")
        pages.append(listed(shared, kind, url, f"?limit=2&marker={marker}"))

    assert len(every) >= 5
    assert every == sorted(every)
    assert [id for page in pages for id in page] == every
    assert {len(page) for page in pages[:-2]} == {2}


@every_collection
def test_a_page_begins_after_the_marker_whether_that_is_there_or_not(
    shared: Machine, kind: str
) -> None:
    url = several(shared, kind)
    every = listed(shared, kind, url)

    after, between = every[2], f"{every[2]}."

    assert listed(shared, kind, url, f"?marker={after}") == every[3:]
    assert listed(shared, kind, url, f"?marker={between}") == [id for id in every if id > between]
    assert listed(shared, kind, url, "?marker=~") == []
    assert listed(shared, kind, url, "?marker=") == every
    assert listed(shared, kind, url, "?limit=10000") == every


@every_collection
def test_a_limit_that_is_none_is_a_400(shared: Machine, kind: str) -> None:
    url = documents.place(shared, kind).collection

    for limit in ("0", "-1", "x", "", "1.0", "10001", "9" * 30, "%D9%A1", "+1"):
        judge.assert_is_problem(shared.get(f"{url}?limit={limit}"), 400)


@every_collection
def test_a_collection_holds_what_each_get_gives(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    found = shared.get(place.collection).json[kind]

    assert place.identity is not None
    mine = [one for one in found if one[place.identity] == place.body[place.identity]]
    assert mine == [shared.get(place.item).json]


# --- PUT …/members: the whole wanted list ---------------------------------------------------


def pool(machine: Machine, **members: Any) -> str:
    """Make a pool that is not rendered unless *members* enable it; return its URL."""
    return documents.made(machine, "pools", **members).item


def put(machine: Machine, pool: str, wanted: Any, **options: Any) -> Reply:
    """Send the whole list and assert that it was taken."""
    reply = machine.put(f"{pool}/members", wanted, **options)
    assert reply.status == 200, reply.body
    return reply


def members(machine: Machine, pool: str) -> dict[str, Body]:
    """Return the members of *pool* by id."""
    return {one["id"]: one for one in machine.get(f"{pool}/members").json["members"]}


def numbers(reply: Reply) -> tuple[int, int, int]:
    return reply.json["added"], reply.json["changed"], reply.json["removed"]


@every_form
def test_the_whole_wanted_list_is_a_200_with_members_and_numbers(
    shared: Machine, form: str
) -> None:
    url = pool(shared)
    a, b, c, d = (documents.member(id=id) for id in "abcd")

    first = put(shared, url, FORMS[form]([c, a, b]))
    second = put(shared, url, FORMS[form]([d, a, {**b, "weight": 7}]))

    assert first.json.keys() == {*("members", "added", "changed", "removed", "applied", "warnings")}
    assert (numbers(first), numbers(second)) == ((3, 0, 0), (1, 1, 1))
    assert [one["id"] for one in first.json["members"]] == ["a", "b", "c"]
    assert [one["id"] for one in second.json["members"]] == ["a", "b", "d"]
    assert second.json["members"] == list(members(shared, url).values())
    assert second.json["members"][1]["weight"] == 7
    assert all(one.keys() == documents.MEMBERS_OF["members"] for one in second.json["members"])
    assert "Server-Timing" in second.headers


def test_an_absent_member_of_an_element_keeps_its_value_and_null_is_the_default(
    shared: Machine,
) -> None:
    url = pool(shared)
    given = {"weight": 7, "backup": True, "name": "x", "monitor_port": 80, "enabled": False}
    put(shared, url, [documents.member(id="a", **given)])
    before = members(shared, url)["a"]

    kept = put(shared, url, [{"id": "a"}])
    nulled = put(shared, url, [{"id": "a", "weight": None, "backup": None, "monitor_port": None}])

    assert numbers(kept) == (0, 0, 0)
    assert kept.json["members"] == [before]
    assert numbers(nulled) == (0, 1, 0)
    assert nulled.json["members"] == [before | {"weight": 1, "backup": False, "monitor_port": None}]


def test_synonyms_and_numbers_are_those_of_a_member(shared: Machine) -> None:
    url = pool(shared)
    port = free_port()
    element = {"id": "a", "ip_address": "127.0.0.1", "protocol_port": str(port), "tags": []}

    reply = put(shared, url, [{**element, "admin_state_up": False, "tenant_id": "t"}])

    (found,) = reply.json["members"]
    assert (found["address"], found["protocol_port"]) == ("127.0.0.1", port)
    assert (found["enabled"], found["project_id"]) == (False, "t")


@every_form
def test_an_empty_list_removes_all(shared: Machine, form: str) -> None:
    url = pool(shared)
    put(shared, url, [documents.member(), documents.member()])

    reply = put(shared, url, FORMS[form]([]))

    assert (numbers(reply), reply.json["members"]) == ((0, 0, 2), [])
    assert members(shared, url) == {}


def test_a_pool_is_named_by_its_listener_too(shared: Machine) -> None:
    listener = documents.made(shared, "listeners").body["id"]
    url = pool(shared, listener_id=listener)

    put(shared, f"{POOLS}/{listener}", [documents.member(id="a")])

    assert members(shared, url).keys() == {"a"}


def test_an_unknown_pool_is_a_404(shared: Machine) -> None:
    for wanted in ([], [documents.member()], {"members": []}):
        judge.assert_is_problem(shared.put(f"{POOLS}/nothing/members", wanted), 404)


def test_two_members_may_change_places(shared: Machine) -> None:
    url = pool(shared)
    a, b = documents.member(id="a"), documents.member(id="b")
    put(shared, url, [a, b])

    reply = put(shared, url, [{**b, "id": "a"}, {**a, "id": "b"}])

    assert numbers(reply) == (0, 2, 0)
    found = members(shared, url)
    assert found["a"]["protocol_port"] == b["protocol_port"]
    assert found["b"]["protocol_port"] == a["protocol_port"]


def test_a_new_member_may_take_the_place_of_one_that_goes(shared: Machine) -> None:
    url = pool(shared)
    old = documents.member(id="old")
    put(shared, url, [old])

    reply = put(shared, url, [{**old, "id": "new"}])

    assert (numbers(reply), [one["id"] for one in reply.json["members"]]) == ((1, 0, 1), ["new"])


def test_the_same_list_again_is_by_none(shared: Machine) -> None:
    url = pool(shared, enabled=True)
    wanted = [documents.member(), documents.member(weight=7, type="SOURCE_IP")]
    put(shared, url, wanted)
    before = judge.kept(shared)

    replies = [
        put(shared, url, wanted),
        put(shared, url, list(reversed(wanted))),
        put(shared, url, shared.get(f"{url}/members").json),
    ]

    assert {numbers(reply) for reply in replies} == {(0, 0, 0)}
    assert {reply.json["applied"]["by"] for reply in replies} == {"none"}
    assert judge.kept(shared) == before


# --- what a member says of its pool ---------------------------------------------------------


def test_a_member_that_carries_persistence_and_a_monitor_applies_them(shared: Machine) -> None:
    url = pool(shared)
    monitor = documents.monitor(type="HTTP", url_path="/alive")
    element = documents.member(type="APP_COOKIE", cookie_name="sid", healthmonitor=monitor)

    reply = put(shared, url, [documents.member(), element])

    persistence = shared.get(url).json["session_persistence"]
    found = shared.get(url.replace("/pools/", "/healthmonitors/")).json
    assert numbers(reply) == (2, 0, 0)
    assert persistence == {"type": "APP_COOKIE", "cookie_name": "sid"}
    assert found.items() >= monitor.items()
    carried = {one["id"]: one for one in reply.json["members"]}[element["id"]]
    assert carried.items() >= {"type": "APP_COOKIE", "cookie_name": "sid"}.items()


def test_what_a_member_carried_already_is_no_news(shared: Machine) -> None:
    url = pool(shared)
    element = documents.member(type="SOURCE_IP", healthmonitor=documents.monitor())
    put(shared, url, [element])
    shared.put(url, {"session_persistence": None})
    monitor = url.replace("/pools/", "/healthmonitors/")
    shared.put(monitor, {"delay": 77})

    put(shared, url, [{**element, "weight": 5}])

    assert shared.get(url).json["session_persistence"] is None
    assert shared.get(monitor).json["delay"] == 77


def test_what_a_member_carries_wrongly_is_named_where_it_is(shared: Machine) -> None:
    url = pool(shared)
    before = judge.kept(shared)
    wrong = [
        documents.member(),
        documents.member(healthmonitor=documents.monitor(type="PING", delay=0)),
        documents.member(type="APP_COOKIE"),
    ]

    reply = shared.put(f"{url}/members", {"members": wrong})

    judge.assert_is_problem(reply, 422)
    assert judge.pointers(reply) >= {
        "/members/1/healthmonitor/type",
        "/members/1/healthmonitor/delay",
    }
    assert judge.kept(shared) == before


def test_persistence_that_is_not_whole_is_named_where_it_is(shared: Machine) -> None:
    url = pool(shared)

    reply = shared.put(f"{url}/members", [documents.member(), documents.member(type="APP_COOKIE")])

    judge.assert_is_problem(reply, 422, "/1/cookie_name")
    assert members(shared, url) == {}


# --- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "prefix"), [("an array", ""), ("an object", "/members")])
def test_every_fault_is_named_at_its_own_place(shared: Machine, form: str, prefix: str) -> None:
    url = pool(shared)
    before = judge.kept(shared)
    wrong = [
        documents.member(),
        "member",
        documents.member(weight=257, x=1),
        documents.member(protocol_port="http", address="nowhere"),
        {**documents.member(), "id": "no id"},
        documents.member(**{"a/b~": 1}),
    ]

    reply = shared.put(f"{url}/members", FORMS[form](wrong))

    inside = {"/1", "/2/weight", "/2/x", "/3/protocol_port", "/3/address", "/4/id", "/5/a~1b~0"}
    judge.assert_is_problem(reply, 422, *(prefix + pointer for pointer in inside))
    assert judge.kept(shared) == before


def test_what_is_wrong_and_what_is_missing_is_named_at_once(shared: Machine) -> None:
    url = pool(shared)

    reply = shared.put(
        f"{url}/members",
        [
            documents.member(weight=257),
            {"id": "new", "protocol_port": 80},
            {"id": "other", "address": "127.0.0.1"},
            {"weight": 1},
        ],
    )

    wanted = {"/0/weight", "/1/address", "/2/protocol_port"}
    judge.assert_is_problem(reply, 422)
    assert judge.pointers(reply) >= {*wanted, "/3/id"}


@pytest.mark.parametrize(("form", "prefix"), [("an array", ""), ("an object", "/members")])
def test_a_repeated_id_is_a_422_at_its_place(shared: Machine, form: str, prefix: str) -> None:
    url = pool(shared)
    wanted = [documents.member(id="a"), documents.member(id="b"), documents.member(id="a")]

    reply = shared.put(f"{url}/members", FORMS[form](wanted))

    judge.assert_is_problem(reply, 422, f"{prefix}/2/id")
    assert members(shared, url) == {}


def test_a_duplicate_address_is_a_409_at_its_place(shared: Machine) -> None:
    url = pool(shared)
    a, b = documents.member(id="a"), documents.member(id="b")
    put(shared, url, [a, b])
    before = judge.kept(shared)

    new = shared.put(f"{url}/members", [a, b, {**b, "id": "c"}])
    changed = shared.put(f"{url}/members", [{"id": "a", "protocol_port": b["protocol_port"]}, b])

    judge.assert_is_problem(new, 409, "/2/address")
    judge.assert_is_problem(changed, 409)
    assert judge.pointers(changed) <= {"/0/address", "/0/protocol_port"}
    assert judge.kept(shared) == before


def test_another_pool_in_an_element_is_a_422(shared: Machine) -> None:
    url, other = pool(shared), documents.quiet_pool(shared)

    reply = shared.put(f"{url}/members", [documents.member(pool_id=other)])

    judge.assert_is_problem(reply, 422, "/0/pool_id")


@pytest.mark.parametrize("body", [b"null", b"true", b"1", b'"members"'])
def test_what_is_no_list_and_no_object_is_a_400_and_removes_nothing(
    shared: Machine, body: bytes
) -> None:
    url = pool(shared)
    put(shared, url, [documents.member(id="a")])

    reply = shared.put(f"{url}/members", body)

    judge.assert_is_problem(reply, 400)
    assert members(shared, url).keys() == {"a"}


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/members"}),
        ({"member": []}, {"/member", "/members"}),
        ({"members": [], "a/b": 1}, {"/a~1b"}),
        ({"members": {}}, {"/members"}),
        ({"members": "a"}, {"/members"}),
    ],
    ids=str,
)
def test_an_object_without_its_list_is_a_422_and_removes_nothing(
    shared: Machine, body: Body, pointers: set[str]
) -> None:
    url = pool(shared)
    put(shared, url, [documents.member(id="a")])

    reply = shared.put(f"{url}/members", body)

    judge.assert_is_problem(reply, 422, *pointers)
    assert members(shared, url).keys() == {"a"}


def test_unknown_members_of_lists_and_trees_may_be_warnings() -> None:
    need("haproxy")
    with running(environment={"KINX_AGENT_UNKNOWN_MEMBERS": "warn"}) as machine:
        url = pool(machine)
        owner = documents.made(machine, "loadbalancers").item
        state = machine.get("/api/state").json

        replies = [
            machine.put(f"{url}/members", {"members": [documents.member(shoe=1)], "hat": 2}),
            machine.put(f"{owner}/tree", {"hat": 2, "pools": [{**documents.pool(), "shoe": 1}]}),
            machine.put("/api/state", state | {"hat": 2}),
        ]

        assert [reply.status for reply in replies] == [200, 200, 200]
        for reply in replies:
            assert any("hat" in warning for warning in reply.json["warnings"])


# --- concurrency, size ----------------------------------------------------------------------


def test_if_match_is_judged_on_the_pool(shared: Machine) -> None:
    url = pool(shared)
    seen = {"If-Match": shared.get(url).headers["ETag"]}

    matching = shared.put(f"{url}/members", [documents.member(id="a")], headers=seen)
    shared.put(url, {"name": "other"})
    stale = shared.put(f"{url}/members", [], headers=seen)
    star = shared.put(f"{url}/members", {"members": [{"id": "a"}]}, headers={"If-Match": "*"})

    assert matching.status == star.status == 200
    judge.assert_is_problem(stale, 412)
    assert members(shared, url).keys() == {"a"}


def test_a_thousand_members_are_one_change_and_no_reload(shared: Machine) -> None:
    url = pool(shared, enabled=True)
    wanted = [
        documents.member(id=f"m{number:04}", address=f"127.1.{number // 250}.{1 + number % 250}")
        for number in range(1000)
    ]
    reloads = shared.reloads()

    times = [time.monotonic()]
    first = put(shared, url, wanted)
    times.append(time.monotonic())
    again = put(shared, url, wanted)
    times.append(time.monotonic())
    changed = put(shared, url, [{**one, "weight": 2} for one in wanted])
    times.append(time.monotonic())
    emptied = put(shared, url, [])
    times.append(time.monotonic())

    taken = [round(after - before, 2) for before, after in pairwise(times)]
    print(f"1000 members added, again, changed, removed: {taken} s")
    assert [numbers(reply) for reply in (first, again, changed, emptied)] == [
        *((1000, 0, 0), (0, 0, 0), (0, 1000, 0), (0, 0, 1000))
    ]
    assert [reply.json["applied"]["by"] for reply in (first, again, changed, emptied)] == [
        *("runtime", "none", "runtime", "runtime")
    ]
    assert shared.reloads() == reloads
    assert max(taken) < 10


def test_a_list_may_have_16_mib_and_no_more(shared: Machine) -> None:
    url = pool(shared)
    wanted = json.dumps([documents.member(id="a")]).encode()

    above_a_mib = put(shared, url, wanted + b" " * MIB)
    largest = put(shared, url, wanted + b" " * (16 * MIB - len(wanted)))
    above = shared.put(f"{url}/members", b"[]" + b" " * (16 * MIB - 1))

    assert (numbers(above_a_mib), numbers(largest)) == ((1, 0, 0), (0, 0, 0))
    judge.assert_is_problem(above, 413)
    assert members(shared, url).keys() == {"a"}


def test_what_haproxy_serves_is_the_list(shared: Machine) -> None:
    port, backends = free_port(), [shared.backend(name) for name in ("one", "two", "three")]
    listener = documents.listener(protocol_port=port)
    shared.post(documents.LISTENERS, listener)
    url = pool(shared, enabled=True, listener_id=listener["id"])
    one, two, three = (
        documents.member(id=backend.name, protocol_port=backend.port) for backend in backends
    )

    put(shared, url, [one, two])
    first = shared.split(port, 10)
    put(shared, url, [two, three])
    second = shared.split(port, 10)

    assert (first, second) == ({"one": 5, "two": 5}, {"two": 5, "three": 5})
