"""Reloads that clients do not see, and that cost the node no more than they must."""

import contextlib
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from tests.conftest import need
from tests.integration.traffic import client
from tests.machine import Machine, QuietServer, free_port, running, wait_until

API = "/api/haproxy"
BLOCK = bytes(range(256)) * 64
BLOCKS = 400
MANY = 9


class Slow(BaseHTTPRequestHandler):
    """A download of 6 MiB in some seconds, or a protocol of its own after an upgrade."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade") == "echo":
            self.send_response(101)
            self.send_header("Upgrade", "echo")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            while word := self.rfile.readline():
                self.wfile.write(word)
            self.close_connection = True
            return
        self.send_response(200)
        length = len(BLOCK) * BLOCKS if self.path == "/slow" else 2
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.path != "/slow":
            self.wfile.write(b"ok")
            return
        for _ in range(BLOCKS):
            self.wfile.write(BLOCK)
            time.sleep(0.008)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    need("haproxy")
    with running() as machine:
        yield machine


@pytest.fixture(scope="module")
def port(machine: Machine) -> Iterator[int]:
    """The port of a listener in front of :class:`Slow`."""
    server = QuietServer(("127.0.0.1", free_port()), Slow)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    port = free_port()
    own = {"id": "li", "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    assert machine.post(f"{API}/listeners", own).status == 201
    own = {"id": "po", "listener_id": "li", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    assert machine.post(f"{API}/pools", own).status == 201
    member = {"id": "m", "address": "127.0.0.1", "protocol_port": server.server_address[1]}
    assert machine.post(f"{API}/pools/po/members", member).status == 201
    yield port
    server.shutdown()
    server.server_close()


def reload(machine: Machine) -> float:
    """Have the agent reload HAProxy once; return how many seconds the answer took."""
    port = free_port()
    own = {"id": f"x{port}", "protocol": "TCP", "vip_address": "127.0.0.1", "protocol_port": port}
    begun = time.monotonic()
    reply = machine.post(f"{API}/listeners", own)
    taken = time.monotonic() - begun
    assert (reply.status, reply.json["applied"]["by"]) == (201, "reload")
    assert machine.delete(f"{API}/listeners/x{port}").status == 204
    return taken


@contextlib.contextmanager
def upgraded(port: int) -> Iterator[socket.socket]:
    """A connection that speaks another protocol than HTTP by now."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        peer.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += peer.recv(4096)
        assert b" 101 " in answer.splitlines()[0]
        yield peer


def says(peer: socket.socket) -> bytes:
    peer.sendall(b"hello\n")
    return peer.recv(100)


def test_clients_of_all_sorts_do_not_see_reloads(machine: Machine, port: int) -> None:
    digests: list[str] = []

    def download() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/slow")
        digests.append(hashlib.sha256(connection.getresponse().read()).hexdigest())
        connection.close()

    downloading = threading.Thread(target=download)
    with (
        upgraded(port) as peer,
        client(port, keep_alive=True) as kept,
        client(port, keep_alive=False) as closed,
    ):
        downloading.start()
        for _ in range(5):
            reload(machine)
            assert says(peer) == b"hello\n"
        downloading.join(20)

    assert (kept.seen.failures, closed.seen.failures) == ([], [])
    assert min(kept.seen.requests, closed.seen.requests) > 100
    assert digests == [hashlib.sha256(BLOCK * BLOCKS).hexdigest()]


def test_old_workers_are_counted_and_a_reload_waits_where_they_are_many(
    machine: Machine, port: int
) -> None:
    with contextlib.ExitStack() as stack:
        quick = []
        while machine.get("/api/status").json["haproxy"]["old_workers"] < MANY:
            stack.enter_context(upgraded(port))
            quick.append(reload(machine))
        slow = reload(machine)

    assert max(quick[: MANY - 1]) < 2
    assert 4 < slow < 10
    wait_until(lambda: machine.get("/api/status").json["haproxy"]["old_workers"] == 0, 15)


def test_stick_tables_survive_the_first_reload_of_a_cold_worker() -> None:
    need("haproxy")
    port, peers = free_port(), free_port()
    with running(environment={"KINX_AGENT_NODE_NAME": "here"}) as machine:
        backends = [machine.backend(name) for name in ("one", "two", "three")]
        documents = [
            ("peers", {"hostname": "here", "address": "127.0.0.1", "port": peers}),
            (
                "listeners",
                {"id": "li", "protocol": "HTTP", "vip_address": "127.0.0.1", "protocol_port": port},
            ),
            (
                "pools",
                {
                    **{"id": "po", "listener_id": "li", "protocol": "HTTP"},
                    **{"lb_algorithm": "ROUND_ROBIN"},
                    "session_persistence": {"type": "SOURCE_IP"},
                },
            ),
        ]
        for kind, body in documents:
            assert machine.post(f"{API}/{kind}", body).status == 201
        for backend in backends:
            own = {"id": backend.name, "address": "127.0.0.1", "protocol_port": backend.port}
            assert machine.post(f"{API}/pools/po/members", own).status == 201
        machine.stop()
        machine.cli("stop-haproxy")
        machine.start()
        wait_until(lambda: machine.condition("Applied").get("status") == "True")
        stuck = {machine.fetch(port) for _ in range(6)}
        entries = machine.show("show table backend-li").splitlines()[1:]

        reload(machine)

        after = machine.show("show table backend-li").splitlines()[1:]
        still = {machine.fetch(port) for _ in range(6)}

    assert len(stuck) == 1
    assert len([line for line in entries if line]) == 1
    assert len([line for line in after if line]) == 1
    assert still == stuck
