"""What clients and routers see of load balancers, in a lab: nothing but what the agents were told.

Times here are generous; ``bin/lab`` measures.
"""

import json
import time
from pathlib import Path
from typing import Any

from tests.lab.acts import calm_traffic
from tests.lab.lab import SAMPLES, VIP, Lab
from tests.lab.node import API, Node
from tests.lab.traffic import LATE_SECONDS, Request, Seen
from tests.machine import wait_until

CALM_SECONDS = 1.0
WATCH_SECONDS = 3.0
PATIENCE_SECONDS = 20.0


def lost(lab: Lab, seen: Seen) -> list[Request]:
    """Return the requests that were lost, but for what changing routes alone cost."""
    return seen.lost_apart_from([change.at for change in lab.changes(0.0)])


def served(seen: Seen, node: Node, since: float, until: float) -> list[Request]:
    """Return the requests that began meanwhile and were lost, or answered by *node*."""
    meant = ("", node.address)
    return [one for one in seen.requests if since <= one.begun < until and one.node in meant]


def sessions(node: Node) -> dict[str, int]:
    """Return how often the session with each router ended."""
    told = json.loads(node.speaker.vtysh("-d", "bgpd", "-c", "show bgp neighbors json"))
    return {gateway: one["connectionsDropped"] for gateway, one in told.items()}


def files(node: Node) -> dict[Path, tuple[int, bytes]]:
    """Return the speaker's configuration files: when they were written, and what is in them."""
    paths = node.speaker.directory.glob("*.conf")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def listener(node: Node) -> dict[str, Any]:
    (found,) = node.state()["listeners"]
    return dict(found)


# --- the speaker --------------------------------------------------------------------------------


def test_the_original_document_becomes_a_route_in_both_routers_kernels(lab: Lab) -> None:
    node = lab.nodes[0]
    begun = time.time()
    node.tell("DELETE", "/api/quagga")
    lab.withdrawn(node, begun)

    node.tell("POST", "/api/quagga", json.loads((SAMPLES / "13-quagga.json").read_text()))

    lab.announced(node, begun)
    for router in lab.routers:
        assert node.address in router.gateways(VIP)
        route = router.namespace.ip(f"route show {VIP}/32")
        assert "proto bgp" in route
        assert f"via {node.address} " in route


def test_the_routers_share_new_connections_among_the_nodes(lab: Lab) -> None:
    with lab.traffic() as seen:
        time.sleep(WATCH_SECONDS)

    assert seen.lost == []
    shares = seen.shares()
    assert shares.keys() == {node.address for node in lab.nodes}
    assert min(shares.values()) > len(seen.requests) / 4


def test_the_same_document_once_more_touches_nothing(lab: Lab) -> None:
    node = lab.nodes[0]
    document = json.loads((SAMPLES / "13-quagga.json").read_text())
    begun, before = time.time(), (sessions(node), files(node))

    reply = node.ask("POST", "/api/quagga", document)
    time.sleep(CALM_SECONDS)

    assert reply.status == 200
    assert (sessions(node), files(node)) == before
    assert lab.changes(begun) == []


def test_the_vip_of_the_last_listener_is_withdrawn_before_its_deletion_is_answered(
    lab: Lab,
) -> None:
    node = lab.nodes[0]
    state = node.state()
    with calm_traffic(lab, CALM_SECONDS) as seen:
        begun = time.time()
        node.tell("DELETE", f"{API}/listeners/{listener(node)['id']}")
        answered = time.time()
        gone = lab.withdrawn(node, begun)

    assert gone <= answered
    assert lost(lab, seen) == []
    node.tell("PUT", "/api/state", state)


# --- something ends, or hangs -------------------------------------------------------------------


def test_a_killed_haproxy_gets_no_requests_until_it_is_back(lab: Lab) -> None:
    node = lab.nodes[0]
    with calm_traffic(lab, CALM_SECONDS) as seen:
        gone = lab.withdrawn(node, node.kill_haproxy())
        back = lab.returned(node, gone)

    assert served(seen, node, gone, back - LATE_SECONDS) == []
    assert any(one.node == node.address for one in seen.requests if one.begun > back)


def test_a_hung_haproxy_gets_no_requests_until_it_is_replaced(lab: Lab) -> None:
    node = lab.nodes[1]
    with calm_traffic(lab, CALM_SECONDS) as seen, node.hung_haproxy() as event:
        gone = lab.withdrawn(node, event)
        back = lab.returned(node, gone)

    assert served(seen, node, gone, back - LATE_SECONDS) == []
    assert any(one.node == node.address for one in seen.requests if one.begun > back)


def test_a_killed_agent_moves_no_traffic_nor_does_its_return(lab: Lab) -> None:
    node = lab.nodes[0]
    with lab.traffic() as seen:
        begun = node.kill_agent()
        time.sleep(WATCH_SECONDS)
        node.start_agent()
        wait_until(node.is_ready, PATIENCE_SECONDS)
        time.sleep(WATCH_SECONDS)

    assert lab.changes(begun) == []
    assert seen.lost == []


def test_the_vip_is_withdrawn_when_nobody_is_left_to_do_it(lab: Lab) -> None:
    node = lab.nodes[0]
    with lab.traffic() as seen:
        time.sleep(CALM_SECONDS)

        node.kill_agent()
        gone = lab.withdrawn(node, node.kill_haproxy())
        time.sleep(CALM_SECONDS)
        node.start_agent()
        back = lab.returned(node, gone)

    assert served(seen, node, gone, back - LATE_SECONDS) == []


def test_a_killed_bgpd_loses_no_request_and_announces_again_what_it_reads(lab: Lab) -> None:
    node = lab.nodes[0]
    with calm_traffic(lab, CALM_SECONDS) as seen:
        begun = time.time()
        node.speaker.kill("bgpd")
        gone = lab.withdrawn(node, begun)
        node.speaker.start()
        lab.announced(node, gone)

    assert lost(lab, seen) == []


def test_a_drained_node_loses_no_request_and_comes_back(lab: Lab) -> None:
    node = lab.nodes[0]
    with calm_traffic(lab, CALM_SECONDS) as seen:
        begun = time.time()
        node.tell("PUT", "/api/quagga/drain", {"drain": True})
        gone = lab.withdrawn(node, begun)
        time.sleep(CALM_SECONDS)
        node.tell("PUT", "/api/quagga/drain", {"drain": False})
        back = lab.returned(node, gone)

    assert lost(lab, seen) == []
    assert served(seen, node, gone, back - LATE_SECONDS) == []
    assert any(one.node == node.address for one in seen.requests if one.begun > back)


def test_a_listener_that_moves_to_another_port_moves_no_route(lab: Lab) -> None:
    node = lab.nodes[0]
    item = f"{API}/listeners/{listener(node)['id']}"
    begun = time.time()

    for port in (81, 80):
        node.tell("PUT", item, {"protocol_port": port})
        time.sleep(CALM_SECONDS)

    assert lab.changes(begun) == []
