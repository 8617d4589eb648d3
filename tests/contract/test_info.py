"""``/api/info``: versions, facts of the host, and whether two nodes agree (CONTRACT section 2)."""

import platform
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kinx_loadbalancer_agent import __version__
from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import NOTHING, Body
from tests.machine import Machine, running

INFO = "/api/info"
SHA256 = re.compile("[0-9a-f]{64}")


@pytest.fixture(scope="module")
def other() -> Iterator[Machine]:
    """The second node of a load balancer."""
    need("haproxy")
    with running(environment={"KINX_AGENT_NODE_NAME": "other-node"}) as found:
        yield found


def digest(machine: Machine) -> str:
    return str(machine.get(INFO).json["state_digest"])


def member(id: str, port: int, **more: Any) -> Body:
    return {"id": id, "address": "127.0.0.1", "protocol_port": port, **more}


def shop(**more: Any) -> Body:
    """Return a state that both nodes may hold at the same time: nothing of it is served."""
    listener = {"id": "li", "loadbalancer_id": "lb", "enabled": False, "protocol": "HTTP"}
    pool = documents.pool(
        id="po",
        listener_id="li",
        loadbalancer_id="lb",
        members=[member("one", 80, weight=7), member("two", 81)],
        healthmonitor=documents.monitor(),
    )
    owner = documents.loadbalancer(id="lb", vip_address="127.0.0.1")
    return NOTHING | {
        "loadbalancers": [owner],
        "listeners": [{**listener, "protocol_port": 80}],
        "pools": [pool],
        "peers": [documents.peer(hostname="lbv-1", address="198.18.0.1")],
        **more,
    }


def build(machine: Machine, wanted: Body) -> str:
    """Build *machine* from a state and return its digest."""
    reply = machine.put("/api/state", wanted)
    assert reply.status in (200, 202), reply.body
    return digest(machine)


# --- versions, host -------------------------------------------------------------------------


def test_the_information_is_of_versions_host_and_state(shared: Machine) -> None:
    info = shared.get(INFO).json

    assert tuple(info) == ("versions", "host", "state_digest", "digests")
    assert info["versions"] == {
        "agent": __version__,
        "haproxy": shared.get("/api/status").json["haproxy"]["version"],
        "python": platform.python_version(),
    }
    assert info["versions"]["haproxy"].startswith(("2.", "3."))
    assert info["digests"].keys() == {"haproxy", "routing", "schedule", "vips"}
    assert all(SHA256.fullmatch(one) for one in (info["state_digest"], *info["digests"].values()))


def test_the_host_says_how_it_does(shared: Machine) -> None:
    host = shared.get(INFO).json["host"]

    assert host.keys() == {"cpu_percent", "load", "memory", "disk", "net", "uptime_seconds"}
    assert len(host["load"]) == 3
    assert 0 < host["memory"]["used_bytes"] < host["memory"]["total_bytes"]
    assert "/" in [disk["mount"] for disk in host["disk"]]
    (loopback,) = (nic for nic in host["net"] if nic["nic"] == "lo")
    assert loopback.keys() == {"nic", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets"}
    assert loopback["rx_bytes"] > 0
    assert host["uptime_seconds"] > 0


def test_it_is_only_read(shared: Machine) -> None:
    judge.assert_is_problem(shared.get(f"{INFO}?x=1"), 400)
    judge.assert_is_problem(shared.put(INFO, {}), 405)


# --- state_digest: over what all nodes of a load balancer share -----------------------------


def test_two_nodes_with_the_same_shared_objects_have_one_digest(
    shared: Machine, other: Machine
) -> None:
    mine = shop(
        quagga=documents.quagga(hostname="lbv-1", vm_addr="192.0.2.1", vip_addr="203.0.113.1"),
        crontab=documents.crontab(vm_id="lbv-1"),
    )
    theirs = shop(
        quagga=documents.quagga(hostname="lbv-2", vm_addr="192.0.2.2", vip_addr="203.0.113.1"),
        crontab=documents.crontab(vm_id="lbv-2", schedule="*/5 * * * *"),
    )

    assert build(shared, mine) == build(other, theirs)
    one, two = shared.get(INFO).json["digests"], other.get(INFO).json["digests"]
    assert one["routing"] != two["routing"]
    assert one["schedule"] != two["schedule"]
    assert digest(shared) == digest(other)


DIFFERENCES: dict[str, Body] = {
    "a load balancer": {
        "loadbalancers": [documents.loadbalancer(id="lb", vip_address="127.0.0.1", name="x")]
    },
    "a peer": {"peers": [documents.peer(hostname="lbv-1", address="198.18.0.2")]},
    "one peer more": {
        "peers": [documents.peer(hostname=f"lbv-{n}", address=f"198.18.0.{n}") for n in (1, 2)]
    },
    "a VIP": {"quagga": documents.quagga(vip_addr="203.0.113.2")},
    "a pool": {"pools": []},
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_another_shared_object_is_another_digest(shared: Machine, what: str) -> None:
    before = build(shared, shop(quagga=documents.quagga()))

    assert build(shared, shop(**{"quagga": documents.quagga(), **DIFFERENCES[what]})) != before
    assert build(shared, shop(quagga=documents.quagga())) == before


@pytest.mark.parametrize(
    ("url", "change"),
    [
        ("listeners/li", {"connection_limit": 7}),
        ("listeners/li", {"description": "x"}),
        ("pools/po", {"lb_algorithm": "SOURCE_IP"}),
        ("pools/po", {"session_persistence": {"type": "SOURCE_IP"}}),
        ("pools/po/members/one", {"weight": 8}),
        ("pools/po/members/one", {"enabled": False}),
        ("healthmonitors/po", {"delay": 9}),
        ("peers/lbv-1", {"port": 1025}),
    ],
    ids=str,
)
def test_a_change_of_a_shared_object_is_another_digest(
    shared: Machine, url: str, change: Body
) -> None:
    before = build(shared, shop())
    back = {name: shared.get(f"/api/haproxy/{url}").json[name] for name in change}

    changed = shared.put(f"/api/haproxy/{url}", change)
    after = digest(shared)
    shared.put(f"/api/haproxy/{url}", back)

    assert changed.status == 200
    assert after != before
    assert digest(shared) == before


def test_what_a_member_carried_is_no_part_of_the_digest(shared: Machine) -> None:
    persistence = {"type": "SOURCE_IP", "cookie_name": None}
    wanted = shop()
    wanted["pools"][0] |= {"session_persistence": persistence}
    before = build(shared, wanted)
    carried = {"type": "SOURCE_IP", "healthmonitor": documents.monitor()}

    reply = shared.put("/api/haproxy/pools/po/members/one", carried)

    assert reply.json["healthmonitor"] == documents.monitor()
    assert digest(shared) == before


def test_the_order_in_which_things_were_made_is_no_part_of_the_digest(
    shared: Machine, other: Machine
) -> None:
    wanted = shop()
    wanted["pools"].append(documents.pool(id="another", loadbalancer_id="lb"))
    known = build(shared, wanted)
    build(other, NOTHING)
    (pool, another), (owner,), (listener,) = (
        wanted[kind] for kind in ("pools", "loadbalancers", "listeners")
    )
    two, one = reversed(pool.pop("members"))
    monitor = pool.pop("healthmonitor")

    made = [
        other.post(documents.PEERS, wanted["peers"][0]),
        other.post(documents.LOADBALANCERS, owner),
        other.post(documents.POOLS, another),
        other.post(documents.LISTENERS, listener),
        other.post(documents.POOLS, pool),
        other.post(f"{documents.POOLS}/po/members", two | {"healthmonitor": monitor}),
        other.post(f"{documents.POOLS}/po/members", one),
    ]

    assert [reply.status for reply in made] == [201] * 7
    assert digest(other) == known


def test_the_digest_outlives_the_agent(shared: Machine) -> None:
    before = build(shared, shop())

    shared.stop()
    shared.start()

    assert digest(shared) == before
