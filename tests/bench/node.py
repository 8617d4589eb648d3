"""The node that is measured: an agent and its HAProxy, filled by one document, and its callers."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.machine import Machine, Reply, running

API = "/api/haproxy"
FILL_SECONDS = 60.0
PER_POOL = 10


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    sizes: listeners of a node. servers: of a node, in pools of ten. rounds: changes by reload.
    """

    sizes: Sequence[int]
    servers: Sequence[int]
    rounds: int

    @property
    def quick_rounds(self) -> int:
        """How many changes without a reload."""
        return 10 * self.rounds


class Caller:
    """A client of the agent on one kept connection, which http.client makes with TCP_NODELAY."""

    def __init__(self, machine: Machine) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {machine.secret}"}

    def ask(self, method: str, path: str, body: Any = b"") -> Reply:
        """Return the answer to one request."""
        return self.timed(method, path, body)[0]

    def timed(self, method: str, path: str, body: Any = b"") -> tuple[Reply, float]:
        """Return the answer to one request, and after how many milliseconds it was there."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        begun = time.perf_counter()
        self._connection.request(method, path, content, self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        took = 1000 * (time.perf_counter() - begun)
        return Reply(answer.status, dict(answer.headers), said), took

    def empty_post(self) -> float:
        """Return how many milliseconds a POST takes that is refused before the engine sees it."""
        reply, took = self.timed("POST", f"{API}/listeners")
        assert 400 <= reply.status < 500, reply.body
        return took


@contextlib.contextmanager
def filled(pools: int, members: int, ports: Sequence[int]) -> Iterator[Machine]:
    """A node with *pools*, each with *members*, and a listener for the first ones on *ports*."""
    with running() as machine:
        reply = machine.put("/api/state", document(pools, members, ports), timeout=FILL_SECONDS)
        assert reply.status == 200, reply.body[:1000]
        yield machine


def document(pools: int, members: int, ports: Sequence[int]) -> dict[str, Any]:
    """Return the document of that node, as ``GET /api/state`` has it."""
    return {
        "loadbalancers": [{"id": "lb", "vip_address": "127.0.0.1"}],
        "listeners": [listener(f"li-{at}", port) for at, port in enumerate(ports)],
        "pools": [
            {
                "id": f"po-{at}",
                "listener_id": f"li-{at}" if at < len(ports) else None,
                "loadbalancer_id": "lb",
                "protocol": "HTTP",
                "lb_algorithm": "ROUND_ROBIN",
                "members": [member(number) for number in range(members)],
            }
            for at in range(pools)
        ],
        "peers": [],
        "quagga": None,
        "crontab": None,
    }


def listener(id: str, port: int) -> dict[str, Any]:
    """Return the document of a listener on loopback."""
    place = {"protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    return {"id": id, "loadbalancer_id": "lb", **place}


def member(number: int) -> dict[str, Any]:
    """Return the document of a member where nobody answers."""
    address = f"127.1.{number // 200}.{number % 200 + 1}"
    return {"id": f"m-{number}", "address": address, "protocol_port": 9, "weight": 1}


def phases(reply: Reply, took: float) -> dict[str, float]:
    """Return the milliseconds by phase of which an answer tells, and what is left of *took*."""
    parts = (part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
    known = {name: float(duration) for name, duration in parts}
    return {**known, "else": took - sum(known.values())}


def reloads(machine: Machine) -> int:
    """Return how often HAProxy was reloaded, as the agent says and as the master says."""
    told = machine.get("/api/status").json["haproxy"]["reloads"]
    return max(int(told), machine.reloads())
