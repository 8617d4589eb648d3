"""A machine for tests: a real agent and a real HAProxy under one root, and real back ends."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "kinx_loadbalancer_agent")
GIVEN: set[int] = set()
"""The ports that tests of this process got already, whether they listen there yet or not."""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port nobody holds, below those that outgoing connections take; none twice."""
    while True:
        port = random.randint(10_000, 32_000)
        if port in GIVEN:
            continue
        with socket.socket() as attempt, contextlib.suppress(OSError):
            attempt.bind((address, port))
            GIVEN.add(port)
            return port


def wait_until(holds: Callable[[], Any], seconds: float = 10.0, every: float = 0.02) -> Any:
    """Return what *holds* returns once it is true; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(every)


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class QuietServer(ThreadingHTTPServer):
    """A server that does not mind clients who hang up, as HAProxy's checks do."""

    daemon_threads = True
    request_queue_size = 128

    def server_activate(self) -> None:
        super().server_activate()
        # What made the socket readable may be gone: an accept that waits could never be ended.
        self.socket.settimeout(1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Backend:
    """An HTTP server that answers every GET with its name."""

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        self.name, self.address, self.port = name, address, free_port(address)
        self._server = QuietServer((address, self.port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.daemon = True
        self._thread.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        name = self.name.encode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer on a kept connection takes 40 ms

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name)

            do_HEAD = do_GET

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Machine:
    """An agent with ``--root`` and ``--own-haproxy``; stopped, and everything ended, by ``end``."""

    environment: dict[str, str] = field(default_factory=dict)
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kinx-")))
    port: int = field(default_factory=free_port)
    own_haproxy: bool = True
    process: subprocess.Popen[bytes] | None = None
    secret: str = ""
    backends: list[Backend] = field(default_factory=list)

    # --- the agent --------------------------------------------------------------------------

    def start(self, *, ready: bool = True, command: tuple[str, ...] = COMMAND) -> "Machine":
        """Start the agent; with *ready* wait until it may get work.

        Beside a HAProxy that somebody else starts: until it has taken over.
        """
        if not self.secret:
            self.secret = self.cli("credentials", "add", "test").stdout.strip()
        own = ("--own-haproxy",) if self.own_haproxy else ()
        argv = [*command, "serve", "--root", str(self.root), *own]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if ready:
            wait_until(self.is_ready if self.own_haproxy else self.is_taken_over, 20)
        return self

    def is_ready(self) -> bool:
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz").status == 200
        return False

    def is_taken_over(self) -> bool:
        """True when the agent answers and accepts changes, whatever HAProxy does."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.condition("Ready").get("status") == "True"
        return False

    @property
    def env(self) -> dict[str, str]:
        listen = {"KINX_AGENT_LISTEN": f"127.0.0.1:{self.port}"}
        return {**os.environ, "PYTHONUNBUFFERED": "1", **listen, **self.environment}

    @property
    def log(self) -> Path:
        return self.root / "agent.log"

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 40) -> int:
        """End the agent, not HAProxy; return its exit status."""
        assert self.process is not None
        self.process.send_signal(sig)
        status = self.process.wait(timeout)
        self.process = None
        return status

    def cli(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a sub-command under this root."""
        argv = [*COMMAND, *words, "--root", str(self.root)]
        return subprocess.run(
            argv, env=self.env, capture_output=True, text=True, timeout=60, **options
        )

    def worker_pids(self) -> list[int]:
        """Return the pids of gunicorn's workers."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def end(self) -> None:
        """End all that was started and remove the root."""
        if self.process is not None:
            with contextlib.suppress(Exception):
                self.stop(timeout=15)
            if self.process is not None:
                self.process.kill()
                self.process.wait()
        while pids := self.haproxy_pids():  # until one that was just being forked is gone too
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for backend in self.backends:
            backend.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    # --- its API ----------------------------------------------------------------------------

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """Return a connection to the agent, not opened yet."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        auth: bool = True,
        timeout: float = 30,
    ) -> Reply:
        """Send one request on a connection of its own; *body* bytes go as they are."""
        connection = self.connection(timeout)
        sent = {"Authorization": f"Bearer {self.secret}"} if auth else {}
        content = body
        if body is not None and not isinstance(body, bytes):
            content = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> Reply:
        return self.request("POST", path, body, **options)

    def put(self, path: str, body: Any, **options: Any) -> Reply:
        return self.request("PUT", path, body, **options)

    def delete(self, path: str, **options: Any) -> Reply:
        return self.request("DELETE", path, **options)

    def condition(self, type: str) -> dict[str, Any]:
        """Return a condition of /api/status; an empty one while it was not stated."""
        conditions = self.get("/api/status").json["conditions"]
        return next((found for found in conditions if found["type"] == type), {})

    # --- its HAProxy ------------------------------------------------------------------------

    @property
    def conf_d(self) -> Path:
        return self.root / "etc/haproxy/conf.d"

    def fragments(self) -> dict[str, str]:
        """Return what is in conf.d."""
        return {path.name: path.read_text() for path in sorted(self.conf_d.glob("*.cfg"))}

    def socket(self, name: str = "kinx") -> Path:
        return self.root / f"run/haproxy/{name}.sock"

    def show(self, command: str, name: str = "kinx") -> str:
        """Return HAProxy's answer to *command* on one of its sockets."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(5)
            peer.connect(str(self.socket(name)))
            peer.sendall(command.encode() + b"\n")
            peer.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: peer.recv(65536), b"")).decode()

    def haproxy_pids(self) -> list[int]:
        """Return the pids of every HAProxy process of this root, masters first."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if words[0].endswith(b"haproxy") and str(self.conf_d).encode() in words:
                    found.append(int(path.parent.name))
        return sorted(found)

    def worker_pid(self) -> int:
        """Return the pid of the worker that answers."""
        info = self.show("show info").splitlines()
        return int(next(line for line in info if line.startswith("Pid: ")).split()[1])

    def reloads(self) -> int:
        """Return how often the master has reloaded since it started."""
        lines = self.show("show proc", "master").splitlines()
        return next(int(line.split()[2]) for line in lines if line.split()[1:2] == ["master"])

    # --- traffic ----------------------------------------------------------------------------

    def backend(self, name: str, address: str = "127.0.0.1") -> Backend:
        """Start a back end that answers *name*."""
        backend = Backend(name, address)
        self.backends.append(backend)
        return backend

    def fetch(self, port: int, address: str = "127.0.0.1", timeout: float = 5) -> str:
        """Return the body of one GET through a listener."""
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def split(self, port: int, requests: int) -> Counter[str]:
        """Return how many of *requests* each back end answered."""
        return Counter(self.fetch(port) for _ in range(requests))


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Machine]:
    """A started machine for the time of the block."""
    machine = Machine(**options)
    try:
        yield machine.start()
    finally:
        machine.end()
