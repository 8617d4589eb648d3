"""``GET`` and ``PUT …/<id>/tree`` of a load balancer (CONTRACT section 2): all of it at once."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import HEALTHMONITORS, LISTENERS, LOADBALANCERS, POOLS, Body
from tests.machine import Machine, Reply, free_port, running


def owner(machine: Machine, **members: Any) -> str:
    """Make a load balancer and return its URL."""
    address = documents.loopback()
    return documents.made(machine, "loadbalancers", vip_address=address, **members).item


def branch(**more: Any) -> tuple[Body, Body]:
    """Return a listener, and its pool with two members and a monitor."""
    listener = {"id": documents.fresh("li"), "protocol": "HTTP", "protocol_port": free_port()}
    pool = documents.pool(
        listener_id=listener["id"],
        members=[documents.member(id="one"), documents.member(id="two")],
        healthmonitor=documents.monitor(),
    )
    return listener, pool | more


def put(machine: Machine, owner: str, tree: Body) -> Reply:
    """Send a tree and assert that it was taken."""
    reply = machine.put(f"{owner}/tree", tree)
    assert reply.status == 200, reply.body
    return reply


def tree(machine: Machine, owner: str) -> Body:
    found: Body = machine.get(f"{owner}/tree").json
    return found


def ids(found: list[Body]) -> list[str]:
    return [one["id"] for one in found]


@pytest.fixture
def built(shared: Machine) -> Iterator[tuple[str, Body, Body]]:
    """The URL of a load balancer with one branch, its listener and its pool."""
    url = owner(shared)
    listener, pool = branch()
    put(shared, url, {"listeners": [listener], "pools": [pool]})
    yield url, listener, pool
    shared.delete(f"{url}?cascade=true")


# --- GET ------------------------------------------------------------------------------------


def test_a_tree_is_the_load_balancer_with_all_that_belongs_to_it(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built
    pool_url = f"{POOLS}/{pool['id']}"

    found = shared.get(f"{url}/tree")

    assert found.status == 200
    listeners, pools = found.json.pop("listeners"), found.json.pop("pools")
    expected = tree(shared, url)
    assert listeners == expected["listeners"] == [shared.get(f"{LISTENERS}/{listener['id']}").json]
    assert pools == expected["pools"]
    (branch,) = pools
    assert branch.pop("members") == shared.get(f"{pool_url}/members").json["members"]
    assert branch.pop("healthmonitor") == shared.get(f"{HEALTHMONITORS}/{pool['id']}").json
    assert branch == shared.get(pool_url).json
    del expected["listeners"], expected["pools"]
    assert expected == shared.get(url).json


def test_a_tree_holds_nothing_of_others(shared: Machine, built: tuple[str, Body, Body]) -> None:
    other = owner(shared)

    assert (tree(shared, other)["listeners"], tree(shared, other)["pools"]) == ([], [])


def test_what_a_get_of_a_tree_gives_may_be_put_and_changes_nothing(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url = built[0]
    found, before = tree(shared, url), judge.kept(shared)

    reply = put(shared, url, found)

    assert reply.json["applied"]["by"] == "none"
    assert judge.content(reply) == found
    assert judge.kept(shared) == before


def test_a_tree_of_nothing_is_a_404(shared: Machine) -> None:
    listener, pool = branch()

    judge.assert_is_problem(shared.get(f"{LOADBALANCERS}/nothing/tree"), 404)
    wanted = {"id": "nothing", "listeners": [listener], "pools": [pool]}
    judge.assert_is_problem(shared.put(f"{LOADBALANCERS}/nothing/tree", wanted), 404)
    judge.assert_is_problem(shared.get(f"{LISTENERS}/{listener['id']}"), 404)


# --- PUT ------------------------------------------------------------------------------------


def test_a_tree_is_one_transaction_and_one_reload(shared: Machine) -> None:
    url, address = owner(shared), documents.loopback()
    branches = [branch() for _ in range(10)]
    wanted = {
        "vip_address": address,
        "name": "x",
        "listeners": [listener for listener, _ in branches],
        "pools": [
            pool | {"members": [documents.member(id=f"m{number}") for number in range(10)]}
            for _, pool in branches
        ],
    }
    reloads, generation = shared.reloads(), shared.get("/api/status").json["generation"]

    since = time.monotonic()
    reply = put(shared, url, wanted)

    print(f"10 listeners with 10 members each: {time.monotonic() - since:.2f} s")
    assert reply.json["applied"]["by"] == "reload"
    assert shared.reloads() == reloads + 1
    assert shared.get("/api/status").json["generation"] == generation + 1
    assert judge.content(reply) == tree(shared, url)
    assert (reply.json["name"], reply.json["vip_address"]) == ("x", address)
    assert len(reply.json["listeners"]) == len(reply.json["pools"]) == 10
    assert {len(pool["members"]) for pool in reply.json["pools"]} == {10}
    assert {one["loadbalancer_id"] for one in reply.json["listeners"] + reply.json["pools"]} == {
        reply.json["id"]
    }
    assert put(shared, url, wanted).json["applied"]["by"] == "none"
    judge.assert_haproxy_agrees(shared)
    shared.delete(f"{url}?cascade=true")


def test_what_a_list_lacks_goes_and_what_is_new_comes(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, old_listener, old_pool = built
    listener, pool = branch()
    reloads = shared.reloads()

    put(shared, url, {"listeners": [listener], "pools": [pool]})

    found = tree(shared, url)
    assert (ids(found["listeners"]), ids(found["pools"])) == ([listener["id"]], [pool["id"]])
    for gone in (
        f"{LISTENERS}/{old_listener['id']}",
        f"{POOLS}/{old_pool['id']}",
        f"{HEALTHMONITORS}/{old_pool['id']}",
    ):
        judge.assert_is_problem(shared.get(gone), 404)
    assert shared.reloads() == reloads + 1
    judge.assert_haproxy_agrees(shared)


def test_what_a_tree_does_not_name_keeps(shared: Machine, built: tuple[str, Body, Body]) -> None:
    url, listener, pool = built
    before = tree(shared, url)

    named = put(shared, url, {"name": "x"})
    listed = put(shared, url, {"listeners": [{"id": listener["id"], "connection_limit": 7}]})
    bare = put(shared, url, {"pools": [{"id": pool["id"], "lb_algorithm": "SOURCE_IP"}]})

    changed = {"name": "x", "listeners": before["listeners"], "pools": before["pools"]}
    assert judge.content(named) == before | changed
    limited = [before["listeners"][0] | {"connection_limit": 7}]
    assert judge.content(listed) == before | {"name": "x", "listeners": limited}
    balanced = [before["pools"][0] | {"lb_algorithm": "SOURCE_IP"}]
    assert judge.content(bare) == before | {"name": "x", "listeners": limited, "pools": balanced}


def test_a_null_monitor_removes_it_and_an_empty_list_of_members_all(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, _, pool = built

    without = put(shared, url, {"pools": [{"id": pool["id"], "healthmonitor": None}]})
    emptied = put(shared, url, {"pools": [{"id": pool["id"], "members": []}]})

    assert without.json["pools"][0]["healthmonitor"] is None
    assert ids(without.json["pools"][0]["members"]) == ["one", "two"]
    assert emptied.json["pools"][0]["members"] == []
    judge.assert_is_problem(shared.get(f"{HEALTHMONITORS}/{pool['id']}"), 404)


def test_a_monitor_and_a_member_of_a_tree_keep_what_is_not_named(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, _, pool = built
    shared.put(f"{HEALTHMONITORS}/{pool['id']}", {"max_retries": 7})
    shared.put(f"{POOLS}/{pool['id']}/members/one", {"weight": 7})
    wanted = {"id": pool["id"], "healthmonitor": {"delay": 9}, "members": [{"id": "one"}]}

    reply = put(shared, url, {"pools": [wanted]})

    (found,) = reply.json["pools"]
    assert (found["healthmonitor"]["delay"], found["healthmonitor"]["max_retries"]) == (9, 7)
    assert [(one["id"], one["weight"]) for one in found["members"]] == [("one", 7)]


def test_empty_lists_leave_the_load_balancer_alone(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url = built[0]

    reply = put(shared, url, {"listeners": [], "pools": []})

    assert (reply.json["listeners"], reply.json["pools"]) == ([], [])
    assert shared.delete(url).status == 204


def test_what_others_have_is_left_alone(shared: Machine, built: tuple[str, Body, Body]) -> None:
    url, other = built[0], owner(shared)
    listener, pool = branch()
    put(shared, other, {"listeners": [listener], "pools": [pool]})
    before = tree(shared, other)

    put(shared, url, {"listeners": [], "pools": []})

    assert tree(shared, other) == before
    shared.delete(f"{other}?cascade=true")


def test_two_listeners_may_change_ports(shared: Machine) -> None:
    url = owner(shared)
    (one, _), (two, _) = branch(), branch()
    put(shared, url, {"listeners": [one, two]})
    swapped = [
        {"id": one["id"], "protocol_port": two["protocol_port"]},
        {"id": two["id"], "protocol_port": one["protocol_port"]},
    ]

    reply = put(shared, url, {"listeners": swapped})

    ports = {found["id"]: found["protocol_port"] for found in reply.json["listeners"]}
    assert ports == {one["id"]: two["protocol_port"], two["id"]: one["protocol_port"]}
    judge.assert_haproxy_agrees(shared)
    shared.delete(f"{url}?cascade=true")


def test_a_new_listener_may_take_the_port_of_one_that_goes(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built
    new = listener | {"id": documents.fresh("li")}

    reply = put(shared, url, {"listeners": [new], "pools": [{**pool, "listener_id": new["id"]}]})

    assert ids(reply.json["listeners"]) == [new["id"]]
    frontends = judge.shown_proxies(shared, 1)
    assert new["id"] in frontends
    assert listener["id"] not in frontends


def test_a_listener_may_name_a_pool_of_the_same_tree(shared: Machine) -> None:
    url = owner(shared)
    listener, pool = branch(listener_id=None)

    put(shared, url, {"listeners": [{**listener, "default_pool_id": pool["id"]}], "pools": [pool]})

    text = shared.fragments()[f"50-frontend-{listener['id']}.cfg"]
    assert f"default_backend backend-{pool['id']}\n" in text
    shared.delete(f"{url}?cascade=true")


def test_if_match_is_judged_on_the_load_balancer(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url = built[0]
    seen = {"If-Match": shared.get(url).headers["ETag"]}

    first = shared.put(f"{url}/tree", {"name": "x"}, headers=seen)
    second = shared.put(f"{url}/tree", {"listeners": []}, headers=seen)

    assert first.status == 200
    judge.assert_is_problem(second, 412)
    assert len(tree(shared, url)["listeners"]) == 1


# --- faults ---------------------------------------------------------------------------------


def refused(machine: Machine, url: str, wanted: Body, status: int, *pointers: str) -> Reply:
    """Assert that the tree *wanted* is refused so, with faults at *pointers*, and not kept."""
    before = judge.kept(machine)

    reply = machine.put(f"{url}/tree", wanted)

    judge.assert_is_problem(reply, status, *pointers)
    assert judge.kept(machine) == before
    return reply


def test_every_fault_of_a_tree_is_named_at_its_own_place(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built
    monitor = documents.monitor(type="PING", timeout=0)
    members = [documents.member(weight=257), documents.member(**{"a/b": 1})]
    wrong = pool | {"members": members, "healthmonitor": monitor, "protocol": "UDP"}

    refused(
        shared,
        url,
        {
            "enabled": "maybe",
            "hat": 1,
            "listeners": [listener, {**branch()[0], "protocol_port": 0}, "listener"],
            "pools": [wrong],
        },
        422,
        *("/enabled", "/hat", "/listeners/1/protocol_port", "/listeners/2"),
        *("/pools/0/protocol", "/pools/0/members/0/weight", "/pools/0/members/1/a~1b"),
        *("/pools/0/healthmonitor/type", "/pools/0/healthmonitor/timeout"),
    )


def test_what_is_missing_in_a_tree_is_named_with_what_is_wrong(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built
    shapeless = {"id": documents.fresh("po"), "members": [documents.member()]}
    unknown = branch(listener_id="nothing")[1]
    portless = {"id": documents.fresh("li"), "protocol": "HTTP"}

    refused(
        shared,
        url,
        {
            "listeners": [{**listener, "connection_limit": 0}, portless],
            "pools": [pool, shapeless, unknown, documents.pool(stick_size="1k")],
        },
        422,
        *("/listeners/0/connection_limit", "/listeners/1/protocol_port"),
        *("/pools/1/protocol", "/pools/1/lb_algorithm"),
        *("/pools/2/listener_id", "/pools/3/stick_expire"),
    )


def test_a_new_pool_that_is_not_whole_is_a_422_whatever_it_holds(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, pool = built[0], branch(listener_id=None)[1]
    del pool["lb_algorithm"]

    for holds in ({"members": [], "healthmonitor": None}, {"healthmonitor": None}, {}):
        refused(shared, url, {"pools": [{**pool, **holds}]}, 422, "/pools/0/lb_algorithm")


def test_what_is_inside_an_element_without_an_id_is_judged_too(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    wrong = branch(id="no id", members=[documents.member(weight=257)])[1]

    pointers = {"/pools/0/id", "/pools/0/members/0/weight"}
    reply = refused(shared, built[0], {"pools": [wrong]}, 422)

    assert judge.pointers(reply) >= pointers


def test_lists_that_are_none_and_ids_that_repeat_are_faults(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built

    refused(shared, url, {"listeners": {}, "pools": "p"}, 422, "/listeners", "/pools")
    refused(shared, url, {"listeners": [listener, listener]}, 422, "/listeners/1/id")
    inner = pool | {"members": [documents.member(id="a"), documents.member(id="a")]}
    refused(shared, url, {"pools": [inner]}, 422, "/pools/0/members/1/id")
    refused(shared, url, {"pools": [{**pool, "healthmonitor": []}]}, 422, "/pools/0/healthmonitor")


def test_another_identity_than_the_urls_is_a_422(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built
    other = pool["members"][0] | {"pool_id": "other"}

    refused(shared, url, {"id": "other", "listeners": []}, 422, "/id")
    refused(
        shared,
        url,
        {"listeners": [{**listener, "loadbalancer_id": "other"}]},
        *(422, "/listeners/0/loadbalancer_id"),
    )
    refused(
        shared,
        url,
        {"pools": [{**pool, "members": [other]}]},
        *(422, "/pools/0/members/0/pool_id"),
    )


def test_what_belongs_to_another_load_balancer_is_refused(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, other = built[0], owner(shared)
    listener, pool = branch()
    put(shared, other, {"listeners": [listener], "pools": [pool]})

    refused(shared, url, {"listeners": [listener]}, 422, "/listeners/0/loadbalancer_id")
    refused(shared, url, {"pools": [{"id": pool["id"]}]}, 422, "/pools/0/loadbalancer_id")

    assert len(tree(shared, other)["listeners"]) == len(tree(shared, other)["pools"]) == 1
    shared.delete(f"{other}?cascade=true")


def test_conflicts_in_a_tree_are_409_at_their_places(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, pool = built
    second = {**branch()[0], "protocol_port": listener["protocol_port"]}
    twin = pool["members"][0] | {"id": "twin"}

    ports = refused(shared, url, {"listeners": [listener, second]}, 409)
    twins = refused(shared, url, {"pools": [{**pool, "members": [*pool["members"], twin]}]}, 409)

    assert "/listeners/1/protocol_port" in judge.pointers(ports)
    assert "/pools/0/members/2/address" in judge.pointers(twins)


def test_an_address_that_is_not_here_is_the_409_of_its_listener(
    shared: Machine, built: tuple[str, Body, Body]
) -> None:
    url, listener, _ = built
    away = {**branch()[0], "vip_address": "192.0.2.1"}

    refused(shared, url, {"listeners": [listener, away]}, 409, "/listeners/1/vip_address")


def test_a_tree_that_haproxy_refuses_is_kept_in_no_part(tmp_path: Path) -> None:
    need("haproxy")
    extra = tmp_path / "extra.cfg"
    extra.write_text("backend backend-guilty\n    mode http\n")

    with running(environment={"KINX_HAPROXY_EXTRA_CONFIG": str(extra)}) as machine:
        url = owner(machine)
        good, guilty = branch(), branch(id="guilty", listener_id=None)[1]
        put(machine, url, {"listeners": [good[0]], "pools": [good[1]]})
        before, loaded = judge.kept(machine), machine.fragments()

        reply = machine.put(f"{url}/tree", {"name": "x", "listeners": [], "pools": [guilty]})

        judge.assert_is_problem(reply, 422)
        assert "backend-guilty" in reply.json["detail"]
        after = judge.kept(machine)
        del before["files"], after["files"]  # what is checked is staged in the idle directory
        assert after == before
        assert machine.fragments() == loaded


@pytest.mark.parametrize("kind", [kind for kind in documents.NAMES if kind != "loadbalancers"])
def test_only_a_load_balancer_has_a_tree(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    judge.assert_is_problem(shared.get(f"{place.item}/tree"), 404)
