"""Peers: which one is this node, and what HAProxy gets of them (CONTRACT section 2, peers)."""

import platform
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, LOADBALANCERS, PEERS, POOLS
from tests.fault.node import kill_haproxy
from tests.machine import Machine, Reply, free_port, running, wait_until

SECTION = "peers kinx_loadbalancer_peers"
HERE, ALSO_HERE, ELSEWHERE = "127.0.0.2", "127.0.0.3", "192.0.2.77"


@pytest.fixture
def node(shared: Machine) -> Iterator[Machine]:
    """A node without peers, whose name no setting says, and which has a pool with a stick table."""
    yield shared
    for kind, id in (("peers", "hostname"), ("listeners", "id"), ("pools", "id")):
        for found in shared.get(f"{documents.ROOT}/{kind}").json[kind]:
            assert shared.delete(f"{documents.ROOT}/{kind}/{found[id]}").status == 204


def post(machine: Machine, hostname: str, address: str, **more: Any) -> Reply:
    return machine.post(PEERS, {"hostname": hostname, "address": address, **more})


def lines(machine: Machine) -> list[str]:
    """Return every line of the configuration, without blanks around it."""
    text = "".join(machine.fragments().values())
    return [line.strip() for line in text.splitlines()]


def section(machine: Machine) -> list[str]:
    """Return the peers of the section; [] when it is not rendered."""
    found = lines(machine)
    assert (SECTION in found) == ("10-peers.cfg" in machine.fragments())
    return [line.removeprefix("peer ") for line in found if line.startswith("peer ")]


def tables(machine: Machine) -> set[str]:
    """Return how the stick tables end."""
    return {line.rpartition(" expire ")[2] for line in lines(machine) if " expire " in line}


def local(machine: Machine) -> str:
    """Return the name that HAProxy takes for its own."""
    return next(line for line in lines(machine) if line.startswith("localpeer ")).split()[1]


def stick(machine: Machine) -> None:
    """Make a pool with a stick table."""
    body = documents.pool(stick_size="1k", stick_expire="1h")
    assert machine.post(POOLS, body).status == 201


def assert_shared(machine: Machine, name: str, *peers: str) -> None:
    """Assert that this node is the peer *name* and shares its tables with all *peers*."""
    assert (local(machine), section(machine)) == (name, list(peers))
    assert tables(machine) == {"1h peers kinx_loadbalancer_peers"}
    assert f"id={name}(local" in machine.show("show peers")
    condition = machine.condition("PeersLocal")
    assert (condition["status"], condition["message"]) == ("True", f"this node is peer {name}")


def assert_not_shared(machine: Machine, reason: str) -> None:
    """Assert that nothing of the peers is in HAProxy, and that the node says so."""
    assert section(machine) == []
    assert SECTION not in lines(machine)
    assert tables(machine) <= {"1h"}
    assert "kinx_loadbalancer_peers" not in machine.show("show peers")
    condition = machine.condition("PeersLocal")
    assert (condition["status"], condition["reason"]) == ("False", reason)


# --- which one is local ---------------------------------------------------------------------


def test_the_one_peer_whose_address_is_on_this_host_is_this_node(node: Machine) -> None:
    stick(node)
    port = free_port(HERE)

    replies = [post(node, "a", ELSEWHERE), post(node, "b", HERE, port=port)]

    assert [reply.status for reply in replies] == [201, 201]
    assert [reply.json["applied"]["by"] for reply in replies] == ["none", "reload"]
    assert_shared(node, "b", f"a {ELSEWHERE}:1024", f"b {HERE}:{port}")


def test_of_two_with_addresses_on_this_host_it_is_the_one_with_the_hosts_name(
    node: Machine,
) -> None:
    stick(node)
    port, host = free_port(HERE), platform.node()

    post(node, "zz", ALSO_HERE, port=free_port(ALSO_HERE))
    reply = post(node, host, HERE, port=port)

    assert reply.status == 201
    assert local(node) == host
    assert f"{host} {HERE}:{port}" in section(node)


def test_of_two_with_addresses_on_this_host_and_other_names_it_is_none(node: Machine) -> None:
    stick(node)

    replies = [
        post(node, "a", HERE, port=free_port(HERE)),
        post(node, "b", ALSO_HERE, port=free_port(ALSO_HERE)),
    ]

    assert [reply.status for reply in replies] == [201, 201]
    assert_not_shared(node, "NoneLocal")
    assert "node_name" in node.condition("PeersLocal")["message"]


def test_a_post_without_a_local_one_stays_a_201_and_haproxy_is_left_alone(node: Machine) -> None:
    stick(node)
    reloads = node.reloads()

    reply = post(node, "a", ELSEWHERE)

    assert (reply.status, reply.json["applied"]["by"]) == (201, "none")
    assert node.reloads() == reloads
    assert_not_shared(node, "NoneLocal")


def test_a_peer_with_the_hosts_name_and_an_address_elsewhere_is_a_409(node: Machine) -> None:
    before = judge.kept(node)

    reply = post(node, platform.node(), ELSEWHERE)

    judge.assert_is_problem(reply, 409, "/address")
    assert ELSEWHERE in reply.json["detail"]
    assert judge.kept(node) == before


@pytest.fixture(scope="module")
def named() -> Iterator[Machine]:
    """A node whose name is a setting."""
    with running(environment={"KINX_AGENT_NODE_NAME": "lbv-b"}) as found:
        stick(found)
        yield found


@pytest.fixture
def lbv_b(named: Machine) -> Iterator[Machine]:
    """The same without peers."""
    yield named
    for found in named.get(PEERS).json["peers"]:
        assert named.delete(f"{PEERS}/{found['hostname']}").status == 204


def test_the_setting_tells_addresses_on_one_host_apart(lbv_b: Machine) -> None:
    one, other = free_port(HERE), free_port(ALSO_HERE)

    post(lbv_b, "lbv-a", HERE, port=one)
    post(lbv_b, "lbv-b", ALSO_HERE, port=other)

    assert_shared(lbv_b, "lbv-b", f"lbv-a {HERE}:{one}", f"lbv-b {ALSO_HERE}:{other}")


@pytest.mark.parametrize("hostname", ["lbv-a", platform.node()])
def test_where_the_setting_names_none_of_them_none_is_local(lbv_b: Machine, hostname: str) -> None:
    reply = post(lbv_b, hostname, HERE, port=free_port(HERE))

    assert reply.status == 201
    assert_not_shared(lbv_b, "NoneLocal")


def test_the_one_that_the_setting_names_must_have_its_address_here(lbv_b: Machine) -> None:
    post(lbv_b, "lbv-a", HERE, port=free_port(HERE))
    before = judge.kept(lbv_b)

    reply = post(lbv_b, "lbv-b", ELSEWHERE)

    judge.assert_is_problem(reply, 409, "/address")
    assert judge.kept(lbv_b) == before


# --- section and words together -------------------------------------------------------------


def test_the_section_and_the_words_come_and_go_with_the_local_one(node: Machine) -> None:
    stick(node)
    post(node, "a", ELSEWHERE)
    alone = section(node), tables(node)

    post(node, "b", HERE, port=free_port(HERE))
    together = len(section(node)), tables(node)
    deleted = node.delete(f"{PEERS}/b")

    assert alone == ([], {"1h"})
    assert together == (2, {"1h peers kinx_loadbalancer_peers"})
    assert deleted.status == 204
    assert_not_shared(node, "NoneLocal")


def test_without_peers_there_is_nothing_to_say(node: Machine) -> None:
    stick(node)
    post(node, "b", HERE, port=free_port(HERE))

    node.delete(f"{PEERS}/b")

    condition = node.condition("PeersLocal")
    assert (condition["status"], condition["reason"]) == ("True", "NoPeers")
    assert tables(node) == {"1h"}


def test_a_pool_that_comes_later_has_the_words_too(node: Machine) -> None:
    post(node, "b", HERE, port=free_port(HERE))

    stick(node)

    assert tables(node) == {"1h peers kinx_loadbalancer_peers"}


def test_a_local_one_that_moves_listens_where_it_is_now(node: Machine) -> None:
    stick(node)
    old, new = free_port(HERE), free_port(HERE)
    post(node, "b", HERE, port=old)

    reply = node.put(f"{PEERS}/b", {"port": new})

    assert (reply.status, reply.json["applied"]["by"]) == (200, "reload")
    assert_shared(node, "b", f"b {HERE}:{new}")
    assert (answers(HERE, old), answers(HERE, new)) == (False, True)


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
    except ConnectionRefusedError:
        return False
    return True


# --- addresses and ports --------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of HERE that another process listens on."""
    with socket.create_server((HERE, free_port(HERE))) as holder:
        yield holder.getsockname()[1]


def test_a_port_that_another_process_has_is_a_409_before_haproxy_is_touched(
    node: Machine, taken: int
) -> None:
    stick(node)
    before = judge.kept(node)

    reply = post(node, "b", HERE, port=taken)

    judge.assert_is_problem(reply, 409, "/port")
    assert f"{HERE}:{taken}" in reply.json["detail"]
    assert judge.kept(node) == before


def test_moving_to_a_port_that_another_process_has_is_a_409_too(node: Machine, taken: int) -> None:
    post(node, "b", HERE, port=free_port(HERE))
    before = judge.kept(node)

    reply = node.put(f"{PEERS}/b", {"port": taken})

    judge.assert_is_problem(reply, 409, "/port")
    assert judge.kept(node) == before


def test_the_port_of_a_peer_elsewhere_is_not_tried_here(node: Machine, taken: int) -> None:
    reply = post(node, "a", ELSEWHERE, port=taken)

    assert reply.status == 201


@pytest.mark.parametrize("address", [HERE, "0.0.0.0", "::"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_peer_where_a_listener_is_is_a_409_that_names_it(
    node: Machine, address: str, enabled: bool
) -> None:
    port = free_port(HERE)
    listener = documents.listener(vip_address=address, protocol_port=port, enabled=enabled)
    assert node.post(LISTENERS, listener).status == 201
    before = judge.kept(node)

    reply = post(node, "b", HERE, port=port)

    judge.assert_is_problem(reply, 409, "/port")
    assert listener["id"] in reply.json["detail"]
    assert judge.kept(node) == before


@pytest.mark.parametrize("address", [HERE, "0.0.0.0", "::"])
def test_a_listener_where_a_peer_is_is_a_409_that_names_it(node: Machine, address: str) -> None:
    port = free_port(HERE)
    post(node, "b", HERE, port=port)
    before = judge.kept(node)

    reply = node.post(LISTENERS, documents.listener(vip_address=address, protocol_port=port))

    judge.assert_is_problem(reply, 409, "/protocol_port")
    assert "peer b" in reply.json["detail"]
    assert judge.kept(node) == before


def test_a_load_balancer_does_not_move_its_listeners_to_where_a_peer_is(node: Machine) -> None:
    port, owner = free_port(HERE), documents.loadbalancer(vip_address="127.0.0.1")
    node.post(LOADBALANCERS, owner)
    listener = documents.listener(loadbalancer_id=owner["id"], protocol_port=port, vip_address=None)
    assert node.post(LISTENERS, listener).status == 201
    post(node, "b", HERE, port=port)
    before = judge.kept(node)

    reply = node.put(f"{LOADBALANCERS}/{owner['id']}", {"vip_address": HERE})

    judge.assert_is_problem(reply, 409, "/vip_address")
    assert "peer b" in reply.json["detail"]
    assert judge.kept(node) == before


def test_a_listener_on_the_peers_port_of_another_address_is_fine(node: Machine) -> None:
    port = free_port(HERE)
    post(node, "b", HERE, port=port)

    reply = node.post(LISTENERS, documents.listener(vip_address="127.0.0.1", protocol_port=port))

    assert reply.status == 201
    assert "503 Service Unavailable" in node.fetch(port)


def test_two_peers_at_one_address_and_port_are_a_409(node: Machine) -> None:
    post(node, "a", ELSEWHERE)
    before = judge.kept(node)

    replies = [post(node, "b", ELSEWHERE), post(node, "b", ELSEWHERE, port="1024")]

    for reply in replies:
        judge.assert_is_problem(reply, 409, "/address")
        assert "peer a" in reply.json["detail"]
    assert judge.kept(node) == before
    assert post(node, "b", ELSEWHERE, port=1025).status == 201


# --- a port that is lost --------------------------------------------------------------------


def test_a_local_port_taken_when_the_agent_starts_is_left_out_until_it_is_free() -> None:
    with running() as machine:
        port, served = free_port(HERE), free_port()
        stick(machine)
        listener = documents.listener(protocol_port=served)
        assert machine.post(LISTENERS, listener).status == 201
        assert post(machine, "b", HERE, port=port).status == 201
        machine.stop()
        kill_haproxy(machine)

        with socket.create_server((HERE, port)):
            machine.start()
            wait_until(lambda: machine.condition("PeersLocal")["status"] == "False")
            answer = machine.fetch(served)
            kept = machine.get(f"{PEERS}/b").status
            accepted = machine.post(LISTENERS, documents.listener()).status
            assert_not_shared(machine, "CannotBind")
        wait_until(lambda: machine.condition("PeersLocal")["status"] == "True")

        assert "503 Service Unavailable" in answer
        assert (kept, accepted) == (200, 201)
        assert_shared(machine, "b", f"b {HERE}:{port}")
