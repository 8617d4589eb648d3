"""``…/<id>/stats``: what a load balancer carried (CONTRACT section 2, "Observing")."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.contract import documents
from tests.contract.documents import LISTENERS, LOADBALANCERS, POOLS
from tests.machine import Machine, free_port, wait_until

TOTALS = ("bytes_in", "bytes_out", "request_errors", "total_connections")
MEMBERS = ("active_connections", *TOTALS)
NOTHING = dict.fromkeys(MEMBERS, 0)


class Echo:
    """A TCP server that sends back what it gets."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                threading.Thread(target=self._echo, args=(peer,), daemon=True).start()

    def _echo(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while block := peer.recv(65536):
                peer.sendall(block)

    def close(self) -> None:
        self._server.close()


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    found = Echo()
    yield found
    found.close()


def carries(
    machine: Machine, echo: Echo, protocol: str = "TCP", owner: str = ""
) -> tuple[str, int]:
    """Make a load balancer, unless *owner* is one, with a listener to *echo*; return both."""
    if not owner:
        owner = documents.made(machine, "loadbalancers", vip_address="127.0.0.1").body["id"]
    port = free_port()
    listener = {"id": documents.fresh("li"), "protocol": protocol, "protocol_port": port}
    pool = documents.pool(protocol=protocol, listener_id=listener["id"])
    made = [
        machine.post(LISTENERS, {**listener, "loadbalancer_id": owner}),
        machine.post(POOLS, pool),
        machine.post(f"{POOLS}/{pool['id']}/members", documents.member(protocol_port=echo.port)),
    ]
    assert [reply.status for reply in made] == [201] * 3
    return owner, port


def stats(machine: Machine, owner: str) -> dict[str, int]:
    reply = machine.get(f"{LOADBALANCERS}/{owner}/stats")
    assert reply.status == 200, reply.body
    found: dict[str, int] = reply.json
    return found


def exchange(port: int, content: bytes) -> bytes:
    """Send *content* to a listener and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(content)
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(65536), b""))


def test_the_statistics_are_five_numbers_and_nothing_else(shared: Machine) -> None:
    owner = documents.made(shared, "loadbalancers").body["id"]

    reply = shared.get(f"{LOADBALANCERS}/{owner}/stats")

    assert reply.status == 200
    assert tuple(reply.json) == MEMBERS
    assert reply.json == NOTHING


def test_every_connection_and_byte_is_counted(shared: Machine, echo: Echo) -> None:
    owner, port = carries(shared, echo)

    answers = [exchange(port, b"x" * 1000 * number) for number in range(1, 8)]

    sent = 1000 * sum(range(1, 8))
    assert sum(map(len, answers)) == sent
    wanted = NOTHING | {"bytes_in": sent, "bytes_out": sent, "total_connections": 7}
    wait_until(lambda: stats(shared, owner)["active_connections"] == 0, 5)
    assert stats(shared, owner) == wanted


def test_connections_are_active_while_they_are_open(shared: Machine, echo: Echo) -> None:
    owner, port = carries(shared, echo)

    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        wait_until(lambda: stats(shared, owner)["active_connections"] == 3, 5)

    wait_until(lambda: stats(shared, owner)["active_connections"] == 0, 5)
    assert stats(shared, owner)["total_connections"] == 3


def test_connections_that_outlive_a_reload_stay_active(shared: Machine, echo: Echo) -> None:
    owner, port = carries(shared, echo)

    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(b"first")
        assert peer.recv(5) == b"first"
        documents.made(shared, "pools", enabled=True)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            wait_until(lambda: stats(shared, owner)["active_connections"] == 2, 5)
        wait_until(lambda: stats(shared, owner)["active_connections"] == 1, 5)

    wait_until(lambda: stats(shared, owner)["active_connections"] == 0, 5)
    assert stats(shared, owner)["total_connections"] == 2


def test_requests_that_are_none_are_errors(shared: Machine, echo: Echo) -> None:
    owner, port = carries(shared, echo, "HTTP")

    answers = [exchange(port, b"BROKEN\r\n\r\n") for _ in range(3)]

    assert all(b"400 Bad request" in answer for answer in answers)
    found = stats(shared, owner)
    assert (found["request_errors"], found["total_connections"]) == (3, 3)


def test_a_load_balancer_is_the_sum_of_its_listeners(shared: Machine, echo: Echo) -> None:
    owner, first = carries(shared, echo)
    _, second = carries(shared, echo, owner=owner)

    exchange(first, b"x" * 10)
    exchange(second, b"x" * 200)

    assert stats(shared, owner)["bytes_in"] == 210
    assert stats(shared, owner)["total_connections"] == 2


def test_each_load_balancer_has_its_own(shared: Machine, echo: Echo) -> None:
    (one, first), (two, second) = carries(shared, echo), carries(shared, echo)

    exchange(first, b"x" * 10)
    exchange(second, b"x" * 200)

    assert (stats(shared, one)["bytes_in"], stats(shared, two)["bytes_in"]) == (10, 200)


def test_a_listener_that_goes_leaves_what_it_carried(shared: Machine, echo: Echo) -> None:
    owner, port = carries(shared, echo)
    exchange(port, b"x" * 10)
    before = stats(shared, owner)

    for listener in shared.get(f"{LOADBALANCERS}/{owner}/tree").json["listeners"]:
        assert shared.delete(f"{LISTENERS}/{listener['id']}").status == 204

    assert before["bytes_in"] == 10
    assert stats(shared, owner) == before


def test_another_load_balancer_of_the_same_id_begins_with_nothing(
    shared: Machine, echo: Echo
) -> None:
    owner, port = carries(shared, echo)
    exchange(port, b"x" * 10)
    assert stats(shared, owner)["bytes_in"] == 10

    shared.delete(f"{LOADBALANCERS}/{owner}?cascade=true")
    stats(shared, documents.made(shared, "loadbalancers").body["id"])
    shared.post(LOADBALANCERS, documents.loadbalancer(id=owner))

    assert stats(shared, owner) == NOTHING
