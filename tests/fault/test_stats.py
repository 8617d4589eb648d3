"""The statistics of a load balancer never go back, and lose nothing that was told already.

HAProxy's counters begin at 0 in every process. Somebody asks for ours all the time while reloads,
kills and commands take HAProxy's away.
"""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.conftest import need
from tests.fault.node import kill_haproxy, stopped
from tests.machine import Machine, free_port, running, wait_until

TOTALS = ("bytes_in", "bytes_out", "request_errors", "total_connections")
LB = "/api/haproxy/loadbalancers"
LISTENERS = "/api/haproxy/listeners"
POOLS = "/api/haproxy/pools"
OBSERVED_SECONDS = 8.0
"""How long HAProxy and the agent may take to count the bytes of a connection that goes on."""


class Peer:
    """A TCP server that sends back what it gets, or feeds a client of it slowly for ever."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while block := peer.recv(65536):
                peer.sendall(block)
                while block == b"feed me":
                    peer.sendall(b"x" * 10_000)
                    time.sleep(0.02)

    def close(self) -> None:
        self._server.close()


@dataclass
class Carrier:
    """A load balancer with one listener, its clients, and somebody who asks how it does."""

    machine: Machine
    id: str
    port: int
    connections: int = 0
    sent: int = 0
    asked: list[dict[str, int]] = field(default_factory=list)

    def exchange(self, times: int = 5, size: int = 1000) -> None:
        """Send *size* bytes and get them back, *times* times."""
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as peer:
                peer.sendall(b"x" * size)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
            self.connections += 1
            self.sent += size

    @property
    def carried(self) -> dict[str, int]:
        """What was carried, as the statistics should have it."""
        totals = (self.sent, self.sent, 0, self.connections)
        return dict(zip(TOTALS, totals, strict=True))

    def stats(self) -> dict[str, int]:
        reply = self.machine.get(f"{LB}/{self.id}/stats")
        assert reply.status == 200, reply.body
        found: dict[str, int] = reply.json
        return found

    def totals(self) -> dict[str, int]:
        """Return the totals once no connection is open any more."""
        wait_until(lambda: self.stats()["active_connections"] == 0, 5)
        found = self.stats()
        return {name: found[name] for name in TOTALS}

    def asks(self, stop: threading.Event) -> None:
        """Ask all the time; while the agent is away, or takes over, nothing is told."""
        while not stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                reply = self.machine.get(f"{LB}/{self.id}/stats")
                if reply.status == 200:
                    self.asked.append(reply.json)
            time.sleep(0.02)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Nothing told during the block, or before and after it, may go back."""
        self.asked.append(self.stats())
        stop = threading.Event()
        asker = threading.Thread(target=self.asks, args=(stop,), daemon=True)
        asker.start()
        try:
            yield
        finally:
            stop.set()
            asker.join(10)
        self.asked.append(self.stats())
        for name in TOTALS:
            told = [found[name] for found in self.asked]
            assert told == sorted(told), f"{name} goes back"


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    found = Peer()
    yield found
    found.close()


@pytest.fixture(scope="module")
def node() -> Iterator[Machine]:
    """A node that every test here damages, each with a load balancer of its own."""
    need("haproxy")
    with running() as found:
        yield found


@pytest.fixture
def carrier(node: Machine, peer: Peer) -> Carrier:
    """A load balancer that has carried something, and has said so."""
    number = len(node.get(LB).json["loadbalancers"])
    found = Carrier(node, f"lb-{number}", free_port())
    id = f"li-{number}"
    own = {"id": id, "protocol": "TCP", "protocol_port": found.port}
    pool = {"id": id, "listener_id": id, "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"}
    member = {"id": "m", "address": "127.0.0.1", "protocol_port": peer.port}
    made = [
        node.post(LB, {"id": found.id, "vip_address": "127.0.0.1"}),
        node.post(LISTENERS, {**own, "loadbalancer_id": found.id}),
        node.post(POOLS, pool),
        node.post(f"{POOLS}/{id}/members", member),
    ]
    assert [reply.status for reply in made] == [201] * 4
    found.exchange()
    assert found.totals() == found.carried
    return found


def reload(machine: Machine) -> None:
    """Have HAProxy reloaded by a change of something else."""
    other = {"id": "other", "protocol": "HTTP", "protocol_port": free_port()}
    machine.post(LISTENERS, {**other, "vip_address": "127.0.0.1", "loadbalancer_id": None})
    reply = machine.put(f"{LISTENERS}/other", {"protocol_port": free_port()})
    assert reply.json["applied"]["by"] == "reload"


def load_by_hand(machine: Machine) -> None:
    """Reload HAProxy as an operator does."""
    worker = machine.worker_pid()
    with contextlib.suppress(OSError):
        machine.show("reload", "master")
    wait_until(lambda: another_worker(machine, worker), 5)


def serves_again(machine: Machine) -> None:
    """Wait until a HAProxy that was killed has been started by the agent."""
    wait_until(lambda: another_worker(machine, 0), 10)
    wait_until(lambda: machine.condition("HaproxyRunning")["status"] == "True", 10)


def another_worker(machine: Machine, old: int) -> bool:
    with contextlib.suppress(OSError, StopIteration):
        return machine.worker_pid() != old
    return False


# --- what takes HAProxy's counters away -----------------------------------------------------


def test_reloads(carrier: Carrier) -> None:
    for _ in range(5):
        carrier.exchange()
        reload(carrier.machine)  # nobody asks before it

    assert carrier.totals() == carrier.carried


def test_a_reload_by_hand(carrier: Carrier) -> None:
    with carrier.watched():
        load_by_hand(carrier.machine)
        wait_until(lambda: carrier.machine.condition("Drift")["status"] == "True", 5)
        wait_until(lambda: carrier.machine.condition("Drift")["status"] == "False", 10)
        carrier.exchange()

    assert carrier.totals() == carrier.carried


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_ends_and_starts(carrier: Carrier, sig: int) -> None:
    machine = carrier.machine
    (worker,) = machine.worker_pids()

    with carrier.watched():
        machine.stop(sig)
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), 30)
        carrier.exchange()
        machine.start()
        carrier.exchange()

    assert carrier.totals() == carrier.carried


def test_a_graceful_restart_of_the_agent(carrier: Carrier) -> None:
    machine = carrier.machine
    (old,) = machine.worker_pids()
    assert machine.process is not None

    with carrier.watched():
        machine.process.send_signal(signal.SIGHUP)
        wait_until(lambda: machine.worker_pids() and old not in machine.worker_pids(), 25)
        wait_until(machine.is_ready)
        carrier.exchange()

    assert carrier.totals() == carrier.carried


def test_an_agent_that_starts_and_must_reload_first(carrier: Carrier) -> None:
    machine = carrier.machine

    known = carrier.carried

    machine.stop()
    file = machine.conf_d / "00-global.cfg"
    file.write_text(file.read_text().replace("description ", "description foreign"))
    load_by_hand(machine)
    machine.start()  # nobody asks before it has reloaded

    assert carrier.totals() == known


def test_a_haproxy_that_is_killed_and_started_again(carrier: Carrier) -> None:
    machine = carrier.machine

    with carrier.watched():
        kill_haproxy(machine)
        serves_again(machine)
        carrier.exchange()

    assert carrier.totals() == carrier.carried


def test_haproxy_and_the_agent_killed_together(carrier: Carrier) -> None:
    machine = carrier.machine
    (worker,) = machine.worker_pids()

    with carrier.watched():
        machine.stop(signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), 30)
        kill_haproxy(machine)
        machine.start()
        carrier.exchange()

    assert carrier.totals() == carrier.carried


def test_a_haproxy_that_hangs_for_a_while(carrier: Carrier) -> None:
    with carrier.watched(), stopped(carrier.machine.worker_pid()):
        hung = carrier.stats()

    assert {name: hung[name] for name in TOTALS} == carrier.carried
    carrier.exchange()
    assert carrier.totals() == carrier.carried


@pytest.mark.parametrize("command", ["clear counters all", "clear counters"])
def test_counters_that_somebody_clears(carrier: Carrier, command: str) -> None:
    with carrier.watched():
        for times in (3, 4):
            carrier.machine.show(command, "admin")
            assert carrier.totals() == carrier.carried
            carrier.exchange(times)
            assert carrier.totals() == carrier.carried

    assert carrier.totals() == carrier.carried


def test_a_listener_that_goes_and_comes_again(carrier: Carrier) -> None:
    machine, id = carrier.machine, carrier.id.replace("lb", "li")
    listener = machine.get(f"{LISTENERS}/{id}").json

    with carrier.watched():
        assert machine.delete(f"{LISTENERS}/{id}").status == 204
        reload(machine)
        assert carrier.totals() == carrier.carried
        machine.stop()
        machine.start()
        assert carrier.totals() == carrier.carried
        assert machine.post(LISTENERS, listener).status == 201
        carrier.exchange()

    assert carrier.totals() == carrier.carried


# --- connections that go on -----------------------------------------------------------------


@contextlib.contextmanager
def fed(carrier: Carrier) -> Iterator[list[int]]:
    """A download that goes on for the time of the block; how many bytes came so far."""
    came = [0]
    with socket.create_connection(("127.0.0.1", carrier.port), timeout=5) as client:
        client.sendall(b"feed me")

        def read() -> None:
            with contextlib.suppress(OSError):
                while block := client.recv(65536):
                    came[0] += len(block)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wait_until(lambda: came[0] > 20_000, 5)
        yield came
        client.shutdown(socket.SHUT_RDWR)
        reader.join(5)


def test_a_long_download_is_counted_wherever_it_runs(carrier: Carrier) -> None:
    before = carrier.stats()
    with carrier.watched(), fed(carrier) as came:
        reload(carrier.machine)
        active = carrier.stats()["active_connections"]
        old, so_far = carrier.machine.worker_pid(), came[0]
        carrier.exchange()
        wait_until(
            lambda: carrier.stats()["bytes_out"] >= before["bytes_out"] + so_far,
            OBSERVED_SECONDS,
        )
        counted, last = carrier.stats()["bytes_out"], came[0]
        reload(carrier.machine)

    assert active == 1
    assert old != carrier.machine.worker_pid()
    assert counted - before["bytes_out"] <= last + 5000 + carrier.sent
    assert carrier.totals()["bytes_out"] >= counted
    assert carrier.totals()["total_connections"] == carrier.connections + 1


def test_what_goes_on_while_everything_happens(carrier: Carrier) -> None:
    machine, stop = carrier.machine, threading.Event()
    failures: list[OSError] = []

    def work() -> None:
        while not stop.is_set():
            try:
                carrier.exchange(1, 300)
            except OSError as error:  # HAProxy is killed in between
                failures.append(error)
            time.sleep(0.01)

    client = threading.Thread(target=work, daemon=True)
    with carrier.watched():
        client.start()
        for _ in range(3):
            reload(machine)
        machine.show("clear counters all", "admin")
        reload(machine)
        machine.stop(signal.SIGTERM)
        machine.start()
        kill_haproxy(machine)
        serves_again(machine)
        reload(machine)
        stop.set()
        client.join(10)

    found = carrier.totals()
    assert len(failures) < carrier.connections
    assert 0 < found["total_connections"] <= carrier.connections + len(failures)
    assert found["bytes_in"] <= carrier.sent + 300 * len(failures)
