"""Two agents on this machine: their stick tables are one, and reloads of either keep it.

Both addresses are on this host, so that only the setting tells the nodes apart.
"""

import contextlib
import http.client
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import need
from tests.machine import Machine, free_port, wait_until

RESYNC_SECONDS = 20.0
FINISHED = 0x1 | 0x2
"""Of a peers section, in ``show peers``: asked the local worker before, asked the other peers."""


@dataclass
class Node:
    """A machine that serves ``li`` at *address*."""

    machine: Machine
    address: str
    port: int

    def post(self, kind: str, **body: Any) -> None:
        reply = self.machine.post(f"/api/haproxy/{kind}", body)
        assert reply.status == 201, reply.body

    def fetch(self, client: str) -> str:
        """Return which member answers the address *client*."""
        connection = http.client.HTTPConnection(
            self.address, self.port, timeout=5, source_address=(client, 0)
        )
        with contextlib.closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().read().decode()

    def table(self) -> dict[str, str]:
        """Return the member of each client in the stick table."""
        shown = self.machine.show("show table backend-li")
        return dict(re.findall(r"key=(\S+) .* server_key=(\S+)", shown))

    def is_synchronised(self) -> bool:
        """True once a reload would keep the table."""
        flags = re.search(r"disabled=0 flags=(0x[0-9a-f]+)", self.machine.show("show peers"))
        return flags is not None and int(flags[1], 16) & FINISHED == FINISHED

    def reload(self) -> None:
        """Make a change that needs a new worker."""
        before = self.machine.worker_pid()
        listener = {"protocol": "TCP", "protocol_port": free_port(self.address)}
        id = f"li-{self.machine.reloads()}"
        self.post("listeners", id=id, vip_address=self.address, **listener)
        assert self.machine.worker_pid() != before


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    """Two nodes that were sent the same objects, each with its own address."""
    need("haproxy")
    places = {"a": "127.0.0.2", "b": "127.0.0.3"}
    nodes = [
        Node(Machine(environment={"KINX_AGENT_NODE_NAME": name}), address, free_port(address))
        for name, address in places.items()
    ]
    peers = {name: free_port(address) for name, address in places.items()}
    try:
        members = [nodes[0].machine.backend(name) for name in ("one", "two")]
        for node in nodes:
            node.machine.start()
            node.post("loadbalancers", id="lb", vip_address=node.address)
            for name, port in peers.items():
                node.post("peers", hostname=name, address=places[name], port=port)
            node.post("listeners", id="li", protocol="HTTP", protocol_port=node.port)
            sticky = {"protocol": "HTTP", "stick_size": "1k", "stick_expire": "1h"}
            node.post("pools", id="po", listener_id="li", lb_algorithm="ROUND_ROBIN", **sticky)
            for member in members:
                server = {"address": member.address, "protocol_port": member.port}
                node.post("pools/po/members", id=member.name, **server)
        wait_until(lambda: all(node.is_synchronised() for node in nodes), RESYNC_SECONDS)
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            node.machine.end()


def both_have(pair: tuple[Node, Node], clients: dict[str, str]) -> bool:
    return all(node.table().items() >= clients.items() for node in pair)


def test_each_node_is_the_peer_that_its_setting_names(pair: tuple[Node, Node]) -> None:
    said = [node.machine.condition("PeersLocal") for node in pair]

    assert [one["message"] for one in said] == ["this node is peer a", "this node is peer b"]


def test_what_one_node_learns_of_a_client_the_other_knows(pair: tuple[Node, Node]) -> None:
    a, b = pair

    learned = {"127.1.0.1": a.fetch("127.1.0.1"), "127.1.0.2": b.fetch("127.1.0.2")}

    wait_until(lambda: both_have(pair, learned), 5)


def test_a_client_meets_one_member_whichever_node_it_comes_to(pair: tuple[Node, Node]) -> None:
    a, b = pair
    clients = [f"127.2.0.{number}" for number in range(1, 9)]

    first = {client: a.fetch(client) for client in clients}
    wait_until(lambda: both_have(pair, first), 5)
    again = {client: b.fetch(client) for client in reversed(clients)}

    assert set(first.values()) == {"one", "two"}
    assert again == first


def test_tables_survive_reloads_of_either_node(pair: tuple[Node, Node]) -> None:
    a, b = pair
    learned = {"127.3.0.1": a.fetch("127.3.0.1"), "127.3.0.2": b.fetch("127.3.0.2")}
    wait_until(lambda: both_have(pair, learned), 5)

    for _ in range(3):
        for node in pair:
            node.reload()
            wait_until(lambda: all(one.is_synchronised() for one in pair), RESYNC_SECONDS)

            assert both_have(pair, learned)
    assert {client: b.fetch(client) for client in learned} == learned
    assert {client: a.fetch(client) for client in learned} == learned


def test_what_is_learned_after_reloads_is_shared_too(pair: tuple[Node, Node]) -> None:
    a, b = pair
    for node in pair:
        node.reload()

    learned = {"127.4.0.1": b.fetch("127.4.0.1"), "127.4.0.2": a.fetch("127.4.0.2")}

    wait_until(lambda: both_have(pair, learned), RESYNC_SECONDS)
