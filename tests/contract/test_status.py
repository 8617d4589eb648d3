"""``/api/status`` and ``…/<id>/status``: how every object does (CONTRACT section 2)."""

import socket
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, LOADBALANCERS, POOLS, Body
from tests.fault.node import kill_haproxy, start_haproxy, stopped
from tests.machine import Machine, free_port, running, wait_until

STATUS = "/api/status"
SECONDS_HUNG, SECONDS_ABSENT = 4.0, 2.0
CHECKED = documents.monitor(delay=1, timeout=1, max_retries=1, max_retries_down=1)
NOBODY = "nobody"
"""A member whose port nobody listens on."""


# --- the skeleton ---------------------------------------------------------------------------


def test_the_status_has_these_members_and_no_other(shared: Machine) -> None:
    wait_until(lambda: shared.get(STATUS).json["drift"]["last_scan"])

    status = shared.get(STATUS).json

    assert tuple(status) == (
        *("ready", "generation", "observed_generation", "conditions", "objects", "haproxy"),
        "drift",
    )
    assert tuple(status["objects"]) == ("listeners", "pools", "members")
    assert tuple(status["haproxy"]) == (
        *("pid", "worker_pid", "version", "reloads", "failed_reloads", "old_workers"),
    )
    assert tuple(status["drift"]) == ("last_scan", "found", "repaired")
    assert datetime.fromisoformat(status["drift"]["last_scan"]).tzinfo is not None
    assert (status["drift"]["found"], status["drift"]["repaired"]) == (0, 0)
    assert status["ready"] is True


def test_a_condition_has_these_members_and_every_type_is_there_once(shared: Machine) -> None:
    conditions = shared.get(STATUS).json["conditions"]

    types = [one["type"] for one in conditions]
    assert len(types) == len(set(types))
    assert {*types} >= {
        *("Ready", "HaproxyRunning", "Applied", "ListenersBound", "PeersLocal", "Drift"),
        *("RoutingApplied", "Scheduled", "WorkerHealthy", "MembersGone"),
    }
    for one in conditions:
        assert tuple(one) == ("type", "status", "severity", "reason", "message", "since")
        assert one["status"] in ("True", "False", "Unknown")
        assert one["severity"] in ("info", "warning", "error")
        assert one["message"]


def test_what_is_wrong_comes_first(idle: Machine) -> None:
    assert idle.post(documents.QUAGGA, documents.quagga()).status == 202

    conditions = idle.get(STATUS).json["conditions"]

    severities = [one["severity"] for one in conditions]
    order = ["error", "warning", "info"]
    assert severities == sorted(severities, key=order.index)
    assert {*severities} == {*order}
    assert {one["type"] for one in conditions if one["severity"] == "error"} >= {
        *("HaproxyRunning", "Applied")
    }


def test_objects_are_named_by_their_ids_with_a_status_and_a_reason(shared: Machine) -> None:
    listener, pool, member = served(shared)

    objects = shared.get(STATUS).json["objects"]

    assert listener in objects["listeners"]
    assert pool in objects["pools"]
    assert f"{pool}/{member}" in objects["members"]
    for found in objects.values():
        for shown in found.values():
            assert tuple(shown) == ("operating_status", "reason")
            assert bool(shown["reason"]) == (shown["operating_status"] != "ONLINE")
    shared.delete(f"{LISTENERS}/{listener}")
    shared.delete(f"{POOLS}/{pool}")
    after = shared.get(STATUS).json["objects"]
    assert listener not in after["listeners"]
    assert pool not in after["pools"]
    assert f"{pool}/{member}" not in after["members"]


def served(machine: Machine, **members: Any) -> tuple[str, str, str]:
    """Make a listener, its pool and a member of it; return their ids."""
    listener = documents.made(machine, "listeners", enabled=True).body["id"]
    pool = documents.made(machine, "pools", enabled=True, listener_id=listener).body["id"]
    member = documents.member(**members)
    assert machine.post(f"{POOLS}/{pool}/members", member).status == 201
    return listener, pool, member["id"]


# --- every status, by what HAProxy sees -----------------------------------------------------


def pool(id: str, members: list[Body], **more: Any) -> Body:
    own = {"id": id, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", "listener_id": id}
    return {**own, "members": members, "healthmonitor": CHECKED, **more}


@pytest.fixture(scope="module")
def mixed() -> Iterator[Machine]:
    """A node whose objects do well, badly, and everything between."""
    need("haproxy")
    with running() as machine:
        address = documents.loopback()
        up = [machine.backend(f"up-{number}").port for number in range(2)]

        def member(id: str, port: int, **more: Any) -> Body:
            return {"id": id, "address": "127.0.0.1", "protocol_port": port, **more}

        one, two = member("one", up[0]), member("two", up[1])
        down, gone = member("down", free_port()), member("gone", free_port())
        pools = [
            pool("fine", [one, two], loadbalancer_id="fine"),
            pool("half", [one, down], loadbalancer_id="half"),
            pool("dead", [down, gone], loadbalancer_id="bad"),
            pool("well", [one], loadbalancer_id="bad"),
            pool("empty", [], loadbalancer_id="fine"),
            pool(
                "plain",
                [one, {**two, "weight": 0}, {**down, "enabled": False}],
                loadbalancer_id="fine",
                healthmonitor=None,
            ),
            pool(
                "paused", [one], loadbalancer_id="fine", healthmonitor=CHECKED | {"enabled": False}
            ),
            pool("off", [one, down], loadbalancer_id="fine", enabled=False),
            pool(
                "order",
                [
                    {**member("disabled-down-drained", down["protocol_port"]), "weight": 0}
                    | {"enabled": False},
                    {**member("down-drained", gone["protocol_port"]), "weight": 0},
                    {**member("drained", up[0]), "weight": 0},
                    two,
                ],
                loadbalancer_id="order",
            ),
            pool("drained", [{**one, "weight": 0}], loadbalancer_id="drained"),
            pool("switched-off", [{**one, "enabled": False}], loadbalancer_id="switched-off"),
            pool("under-off", [one], loadbalancer_id="off"),
            pool("unused", [down], loadbalancer_id="unused", listener_id=None),
        ]
        listeners = [
            {
                "id": one["id"],
                "loadbalancer_id": one["loadbalancer_id"],
                "protocol": "HTTP",
                "protocol_port": free_port(address),
            }
            for one in [*pools, {"id": "bare", "loadbalancer_id": "fine"}]
            if one["id"] != "unused"
        ]
        listeners[0] |= {"name": "shop"}
        listeners.append({**listeners[0], "id": "closed", "enabled": False})
        listeners[-1]["protocol_port"] = free_port(address)
        names = ("fine", "half", "bad", "order", "drained", "switched-off", "off", "unused")
        wanted = {
            "loadbalancers": [
                {"id": name, "vip_address": address, "enabled": name != "off"} for name in names
            ],
            "listeners": listeners,
            "pools": pools,
            "peers": [],
            "quagga": None,
            "crontab": None,
        }
        reply = machine.put("/api/state", wanted)
        assert reply.status == 200, reply.body
        wait_until(lambda: is_checked(machine), 10, 0.1)
        yield machine


def is_checked(machine: Machine) -> bool:
    """True once HAProxy has found every member that is down, and kept those that are up."""
    members = statuses(machine, "members")
    down = ("half/down", "dead/down", "dead/gone", "order/down-drained", "unused/down")
    return {members[name] for name in down} == {"ERROR"}


def statuses(machine: Machine, kind: str) -> dict[str, str]:
    """Return the operating status of each object of *kind*."""
    found = machine.get(STATUS).json["objects"][kind]
    return {name: shown["operating_status"] for name, shown in found.items()}


@pytest.mark.parametrize(
    ("member", "status"),
    {
        "fine/one": "ONLINE",
        "fine/two": "ONLINE",
        "half/one": "ONLINE",
        "half/down": "ERROR",
        "dead/gone": "ERROR",
        "plain/one": "NO_MONITOR",
        "plain/two": "DRAINING",
        "plain/down": "DISABLED",
        "paused/one": "NO_MONITOR",
        "off/one": "DISABLED",
        "under-off/one": "ONLINE",
    }.items(),
)
def test_a_member_does_as_haproxy_sees_it(mixed: Machine, member: str, status: str) -> None:
    assert statuses(mixed, "members")[member] == status


@pytest.mark.parametrize(
    ("member", "status"),
    {
        "disabled-down-drained": "DISABLED",
        "down-drained": "ERROR",
        "drained": "DRAINING",
        "two": "ONLINE",
    }.items(),
)
def test_disabled_is_before_error_before_draining_before_no_monitor_before_online(
    mixed: Machine, member: str, status: str
) -> None:
    assert statuses(mixed, "members")[f"order/{member}"] == status


def test_a_member_that_is_drained_says_so_without_a_monitor_too(mixed: Machine) -> None:
    members = statuses(mixed, "members")

    assert (members["plain/two"], members["plain/one"]) == ("DRAINING", "NO_MONITOR")


@pytest.mark.parametrize(
    ("pool", "status"),
    {
        "fine": "ONLINE",
        "half": "DEGRADED",
        "dead": "ERROR",
        "empty": "ONLINE",
        "plain": "ONLINE",
        "paused": "ONLINE",
        "off": "DISABLED",
        "order": "DEGRADED",
        "switched-off": "ERROR",
        "unused": "ERROR",
    }.items(),
)
def test_a_pool_does_as_its_members_do(mixed: Machine, pool: str, status: str) -> None:
    assert statuses(mixed, "pools")[pool] == status


def test_a_pool_that_can_serve_nobody_is_not_online(mixed: Machine) -> None:
    port = mixed.get(f"{LISTENERS}/drained").json["protocol_port"]
    address = mixed.get(f"{LOADBALANCERS}/drained").json["vip_address"]

    answer = mixed.fetch(port, address)

    assert "503 Service Unavailable" in answer
    assert statuses(mixed, "pools")["drained"] != "ONLINE"


@pytest.mark.parametrize(
    ("listener", "status"),
    {
        "fine": "ONLINE",
        "bare": "ONLINE",
        "half": "DEGRADED",
        "dead": "DEGRADED",
        "closed": "DISABLED",
        "under-off": "DISABLED",
    }.items(),
)
def test_a_listener_does_as_its_pool_does(mixed: Machine, listener: str, status: str) -> None:
    assert statuses(mixed, "listeners")[listener] == status


@pytest.mark.parametrize(
    ("owner", "status"),
    {
        "fine": "ONLINE",
        "half": "DEGRADED",
        "bad": "ERROR",
        "order": "DEGRADED",
        "switched-off": "ERROR",
        "off": "DISABLED",
        "unused": "ERROR",
    }.items(),
)
def test_a_load_balancer_is_what_is_below_it_rolled_up(
    mixed: Machine, owner: str, status: str
) -> None:
    found = mixed.get(f"{LOADBALANCERS}/{owner}/status").json

    assert found.keys() == {"loadbalancer"}
    assert found["loadbalancer"]["operating_status"] == status
    assert found["loadbalancer"]["id"] == owner


def test_the_tree_of_statuses_is_that_of_the_objects(mixed: Machine) -> None:
    objects = mixed.get(STATUS).json["objects"]

    trees = {
        owner["id"]: mixed.get(f"{LOADBALANCERS}/{owner['id']}/status").json["loadbalancer"]
        for owner in mixed.get(LOADBALANCERS).json["loadbalancers"]
    }

    seen: dict[str, dict[str, Body]] = {"listeners": {}, "pools": {}, "members": {}}
    for tree in trees.values():
        for listener in tree["listeners"]:
            seen["listeners"][listener["id"]] = listener
        for found in [*tree["pools"], *(p for one in tree["listeners"] for p in one["pools"])]:
            seen["pools"][found["id"]] = found
            assert found.keys() >= {"members", "healthmonitor"}
            for member in found["members"]:
                seen["members"][f"{found['id']}/{member['id']}"] = member
    for kind, named in seen.items():
        told = {name: {key: one[key] for key in objects[kind][name]} for name, one in named.items()}
        assert told == objects[kind]
    assert trees["fine"]["listeners"][-1]["pools"]
    monitors = {one["id"]: one["healthmonitor"] for one in seen["pools"].values()}
    assert monitors["plain"] is None
    assert monitors["fine"] == mixed.get(f"{documents.HEALTHMONITORS}/fine").json
    assert [one["name"] for one in trees["fine"]["listeners"] if one["id"] == "fine"] == ["shop"]


def test_a_status_follows_what_happens(mixed: Machine) -> None:
    backend = mixed.backend("later")
    port = backend.port
    backend.stop()
    url = f"{POOLS}/empty/members"
    mixed.post(url, documents.member(id="later", protocol_port=port))
    wait_until(lambda: statuses(mixed, "members")["empty/later"] == "ERROR", 5, 0.1)
    before = statuses(mixed, "pools")["empty"]

    with socket.create_server(("127.0.0.1", port)):
        wait_until(lambda: statuses(mixed, "members")["empty/later"] == "ONLINE", 5, 0.1)
        after = statuses(mixed, "pools")["empty"]
    mixed.put(f"{url}/later", {"enabled": False})
    disabled = mixed.get(STATUS).json["objects"]
    mixed.delete(f"{url}/later")

    assert (before, after) == ("ERROR", "ONLINE")
    assert disabled["members"]["empty/later"]["operating_status"] == "DISABLED"


# --- HAProxy does not answer, or is not there -----------------------------------------------


def timed(machine: Machine, path: str) -> tuple[float, Body]:
    """Return how many seconds an answer took, and the answer."""
    since = time.monotonic()
    reply = machine.get(path)
    assert reply.status == 200, reply.body
    return time.monotonic() - since, reply.json


def test_while_haproxy_is_down_what_it_should_serve_is_offline(idle: Machine) -> None:
    start_haproxy(idle)
    wait_until(idle.is_ready, 10)
    owner = documents.made(idle, "loadbalancers").body["id"]
    off = documents.made(idle, "listeners", loadbalancer_id=owner).body["id"]
    on = documents.made(idle, "listeners", loadbalancer_id=owner, enabled=True).body["id"]
    pool = documents.made(idle, "pools", listener_id=on, enabled=True).body["id"]
    unused = documents.quiet_pool(idle)
    idle.post(f"{POOLS}/{pool}/members", documents.member(id="m"))
    kill_haproxy(idle)
    wait_until(lambda: idle.condition("HaproxyRunning")["status"] == "False", 5)

    seconds, status = timed(idle, STATUS)
    _, tree = timed(idle, f"{LOADBALANCERS}/{owner}/status")
    _, traffic = timed(idle, f"{LOADBALANCERS}/{owner}/stats")

    objects = status["objects"]
    assert seconds <= SECONDS_ABSENT
    assert objects["listeners"][on]["operating_status"] == "OFFLINE"
    assert "not running" in objects["listeners"][on]["reason"]
    assert objects["listeners"][off]["operating_status"] == "DISABLED"
    assert objects["pools"][pool]["operating_status"] == "OFFLINE"
    assert objects["pools"][unused]["operating_status"] == "DISABLED"
    assert objects["members"][f"{pool}/m"]["operating_status"] in ("ERROR", "OFFLINE")
    assert "not running" in objects["members"][f"{pool}/m"]["reason"]
    assert tree["loadbalancer"]["operating_status"] == "OFFLINE"
    assert status["haproxy"]["worker_pid"] is None
    assert traffic["active_connections"] == 0


def test_a_status_comes_in_time_while_haproxy_hangs(shared: Machine) -> None:
    owner = documents.made(shared, "loadbalancers", vip_address=documents.loopback()).body["id"]
    listener, pool, member = served(shared)

    with stopped(shared.worker_pid()):
        answers = [
            timed(shared, path) for path in (STATUS, f"{LOADBALANCERS}/{owner}/status", "/api/info")
        ]
        answers.append(timed(shared, f"{LOADBALANCERS}/{owner}/stats"))
        health, _ = timed(shared, "/healthz")

    objects = answers[0][1]["objects"]
    assert all(seconds <= SECONDS_HUNG for seconds, _ in answers), answers
    assert health < 1
    assert objects["listeners"][listener]["operating_status"] == "OFFLINE"
    assert "no answer" in objects["listeners"][listener]["reason"]
    assert objects["pools"][pool]["operating_status"] == "OFFLINE"
    assert objects["members"][f"{pool}/{member}"]["operating_status"] in ("ERROR", "OFFLINE")
    wait_until(lambda: statuses(shared, "listeners")[listener] == "ONLINE", 10)


def test_a_listener_that_is_left_out_is_in_error_and_says_where_to_look(shared: Machine) -> None:
    bad = documents.made(shared, "listeners", enabled=True).body
    shared.stop()
    kill_haproxy(shared)

    with wait_until(lambda: held((bad["vip_address"], bad["protocol_port"])), 5):
        shared.start()
        shown = shared.get(STATUS).json["objects"]["listeners"][bad["id"]]

    assert shown["operating_status"] == "ERROR"
    assert "ListenersBound" in shown["reason"]
    wait_until(lambda: statuses(shared, "listeners")[bad["id"]] == "ONLINE", 10)


def held(address: tuple[str, int]) -> socket.socket | None:
    """Return a server on *address*, None while that is somebody else's."""
    try:
        return socket.create_server(address)
    except OSError:
        return None


# --- what is not there ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["status", "stats"])
def test_what_is_no_load_balancer_is_a_404(shared: Machine, what: str) -> None:
    listener, pool, _ = served(shared)

    for id in ("nothing", listener, pool):
        judge.assert_is_problem(shared.get(f"{LOADBALANCERS}/{id}/{what}"), 404)


@pytest.mark.parametrize("what", ["status", "stats"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_is_only_read(shared: Machine, method: str, what: str) -> None:
    owner = documents.made(shared, "loadbalancers").item

    judge.assert_is_problem(shared.request(method, f"{owner}/{what}", {}), 405)
    judge.assert_is_problem(shared.get(f"{owner}/{what}?x=1"), 400)


def test_the_status_of_the_node_is_only_read(shared: Machine) -> None:
    judge.assert_is_problem(shared.put(STATUS, {}), 405)
    judge.assert_is_problem(shared.get(f"{STATUS}?x=1"), 400)
