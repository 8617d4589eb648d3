"""A load balancer of the lab: an agent, its HAProxy and FRR in a namespace, told by HTTP alone."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.frr import Speaker
from tests.lab.network import Namespace, kill, parent
from tests.machine import Reply

COMMAND = (sys.executable, "-m", "kinx_loadbalancer_agent")
API = "/api/haproxy"
START_SECONDS = 30.0
ANSWER_SECONDS = 30.0


class Node:
    """One load balancer; *bfd*: as the agent's setting of that name."""

    def __init__(
        self, namespace: Namespace, directory: Path, address: str, hostname: str, bfd: str
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.hostname = hostname
        self.root = directory / namespace.name
        self.root.mkdir()
        frr = directory / f"{namespace.name}-frr"
        self.speaker = Speaker(namespace, frr, bfd=bfd != "off")
        self._agent: subprocess.Popen[Any] | None = None
        inherited = {name: os.environ[name] for name in os.environ if name[:5] != "KINX_"}
        self._env = inherited | {
            "HOME": str(self.root),  # vtysh keeps a history there
            "KINX_AGENT_NODE_NAME": hostname,
            "KINX_ROUTING_LIVE": "true",
            "KINX_ROUTING_BFD": bfd,
            "KINX_ROUTING_VTY_SOCKET": str(frr),
            "KINX_ROUTING_CONFIG_DIR": str(frr),
        }

    def clean(self) -> None:
        """Remove all files of it, when what ran in its namespace has ended."""
        self.speaker.clean()
        shutil.rmtree(self.root)

    # --- its agent --------------------------------------------------------------------------

    def start_agent(self) -> None:
        """Start the agent; it starts HAProxy where none runs."""
        argv = [*COMMAND, "serve", "--root", str(self.root), "--own-haproxy"]
        with self.log.open("ab") as log:
            self._agent = self.namespace.start(argv, stdout=log, stderr=log, env=self._env)

    def is_ready(self) -> bool:
        """Return whether the agent may get work."""
        assert self._agent is not None
        assert self._agent.poll() is None, self.log.read_text()[-2000:]
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/readyz").status == 200
        return False

    def stop_agent(self) -> None:
        """Have the agent end as at a restart; HAProxy goes on."""
        assert self._agent is not None
        self._agent.terminate()
        self._agent.wait(START_SECONDS)

    def kill_agent(self) -> float:
        """Kill all processes of the agent; return when."""
        assert self._agent is not None
        children = Path(f"/proc/{self._agent.pid}/task/{self._agent.pid}/children")
        pids = [self._agent.pid, *map(int, children.read_text().split())]
        at = time.time()
        kill(pids)
        self._agent.wait()
        return at

    @property
    def log(self) -> Path:
        return self.root / "agent.log"

    # --- its HAProxy ------------------------------------------------------------------------

    def kill_haproxy(self) -> float:
        """Kill HAProxy's master and workers; return when."""
        pids = self.namespace.pids_of("haproxy")
        at = time.time()
        kill(pids)
        return at

    @contextlib.contextmanager
    def hung_haproxy(self) -> Iterator[float]:
        """Keep HAProxy's workers, not the master, from doing anything; yield since when."""
        pids = self.namespace.pids_of("haproxy")
        workers = [pid for pid in pids if parent(pid) in pids]
        at = time.time()
        kill(workers, signal.SIGSTOP)
        try:
            yield at
        finally:
            kill(workers, signal.SIGCONT)

    # --- its API ----------------------------------------------------------------------------

    def ask(self, method: str, path: str, document: Any = None) -> Reply:
        """Return the answer to one request by the Unix socket, where none has to say who it is."""
        connection = _UnixConnection(self.root / "run/kinx_loadbalancer_agent.sock")
        body = None if document is None else json.dumps(document).encode()
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.headers), answer.read())

    def tell(self, method: str, path: str, document: Any = None) -> Any:
        """Have the agent take *document*; return what it answers."""
        reply = self.ask(method, path, document)
        assert reply.status in (200, 201, 202, 204), (method, path, reply.status, reply.body)
        return reply.json if reply.body else None

    def state(self) -> Any:
        """Return the document of the whole node."""
        return self.tell("GET", "/api/state")

    @contextlib.contextmanager
    def holding(self, document: Any) -> Iterator[None]:
        """Have the node hold another state for the time of the block."""
        before = self.state()
        self.tell("PUT", "/api/state", document)
        try:
            yield
        finally:
            self.tell("PUT", "/api/state", before)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
