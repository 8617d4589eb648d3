"""A random walk of what callers, operators and accidents do to one node, watched all the time.

The rule: no router sends a VIP to a node that does not serve it, but for the moment it takes to
turn away, and never once a change was acknowledged.
"""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.lab import PORT, VIP, Lab
from tests.lab.node import API, Node
from tests.machine import wait_until

LISTEN = "0A"
SAMPLE_SECONDS = 0.01
READY_SECONDS = 20.0
LISTENERS = f"{API}/listeners"


class Watcher:
    """How long a router sent the VIP to *node* while nobody listened there: the longest time."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self._lab = lab
        self._node = node
        (zebra,) = node.namespace.pids_of("zebra")  # it lives as long as the lab
        self._sockets = Path(f"/proc/{zebra}/net/tcp")
        self._stopping = False
        self._thread = threading.Thread(target=self._watch)
        self.longest_seconds = 0.0

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()

    @property
    def is_announced(self) -> bool:
        return any(self._node.address in router.gateways(VIP) for router in self._lab.routers)

    @property
    def is_served(self) -> bool:
        packed = bytes(map(int, VIP.split(".")))[::-1].hex().upper()
        lines = (line.split() for line in self._sockets.read_text().splitlines()[1:])
        return any(one[1].startswith(f"{packed}:") and one[3] == LISTEN for one in lines)

    def _watch(self) -> None:
        since: float | None = None
        while not self._stopping:
            is_wrong = self.is_announced and not self.is_served
            now = time.monotonic()
            since = (since or now) if is_wrong else None
            self.longest_seconds = max(self.longest_seconds, now - since if since else 0.0)
            time.sleep(SAMPLE_SECONDS)


def walk(lab: Lab, node: Node, steps: int, seed: int) -> tuple[float, list[str]]:
    """Take *steps* at random; return the longest wrong time, and what was wrong when answered."""
    chance = random.Random(seed)
    listeners = [dict(one) for one in node.state()["listeners"]]
    document = next(one for one in listeners if one["protocol_port"] == PORT)
    item = f"{LISTENERS}/{document['id']}"
    wrong: list[str] = []

    def ask(method: str, path: str, body: object = None) -> None:
        wait_until(lambda: _answers(node), READY_SECONDS)
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = node.ask(method, path, body)
            if reply.status in (200, 201, 204) and watcher.is_announced and not watcher.is_served:
                wrong.append(f"{method} {path} {body}: {reply.status}")

    def agent_dies() -> None:
        node.kill_agent()
        time.sleep(chance.random())
        node.start_agent()

    def agent_restarts() -> None:
        node.stop_agent()
        node.start_agent()

    def all_dies() -> None:
        node.kill_agent()
        node.kill_haproxy()
        time.sleep(chance.random())
        node.start_agent()

    moves: tuple[Callable[[], object], ...] = (
        *(3 * (lambda: ask("POST", LISTENERS, document),)),
        lambda: ask("DELETE", item),
        lambda: ask("PUT", item, {"enabled": chance.random() < 0.5}),
        lambda: ask("PUT", item, {"protocol_port": chance.choice((PORT, PORT + 1))}),
        lambda: ask("PUT", "/api/quagga/drain", {"drain": chance.random() < 0.3}),
        node.kill_haproxy,
        node.kill_haproxy,
        agent_dies,
        agent_restarts,
        all_dies,
    )
    with Watcher(lab, node) as watcher:
        for _ in range(steps):
            chance.choice(moves)()
            time.sleep(chance.random() * chance.choice((0.1, 1.5, 3.0)))
    wait_until(lambda: _answers(node), READY_SECONDS)
    node.tell("PUT", "/api/quagga/drain", {"drain": False})
    wait_until(node.is_ready, READY_SECONDS)
    node.tell("PUT", "/api/state", node.state() | {"listeners": listeners})
    return watcher.longest_seconds, wrong


def _answers(node: Node) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return node.ask("GET", "/api/state").status == 200
    return False
