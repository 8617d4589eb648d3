"""Callers who write all the time, believe every answer, and check at the end who was right."""

import contextlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.machine import Machine, Reply, free_port, wait_until

KEPT = (200, 201, 202, 204)
NOTHING_KEPT = ("nothing was kept", "taking over", "too many changes wait")


@dataclass(frozen=True)
class Cut:
    """A write whose connection ended without an answer: when it was sent, when it was cut off."""

    sent_at: float
    at: float
    error: str


@dataclass
class Writer:
    """One caller: makes listeners with pool and member, changes and deletes them, in turn.

    It repeats what was refused for the moment or cut off, as a driver does. An answer that does
    not fit the ones before it is a lie.
    """

    machine: Machine
    name: str
    ports: list[int]
    pause: float = 0.01
    weights: dict[str, int] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    cut: list[Cut] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        for number in range(10_000):
            if stop.is_set():
                return
            port = self.ports[number % len(self.ports)]
            self._work(f"{self.name}-{number % len(self.ports)}", port, 1 + number % 200)

    def _work(self, id: str, port: int, weight: int) -> None:
        if id in self.weights:
            self._do("DELETE", f"/api/haproxy/pools/{id}")
            self._do("DELETE", f"/api/haproxy/listeners/{id}")
            del self.weights[id]
        listener = {"id": id, "protocol": "HTTP", "protocol_port": port}
        self._do("POST", "/api/haproxy/listeners", {**listener, "vip_address": "127.0.0.1"})
        pool = {"id": id, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
        self._do("POST", "/api/haproxy/pools", pool)
        self._do("PUT", f"/api/haproxy/listeners/{id}", {"default_pool_id": id})
        member = {"id": "m", "address": "127.0.0.1", "protocol_port": port, "weight": 0}
        self._do("POST", f"/api/haproxy/pools/{id}/members", member)
        self._do("PUT", f"/api/haproxy/pools/{id}/members/m", {"weight": weight})
        self.weights[id] = weight

    def _do(self, method: str, path: str, body: Any = None) -> None:
        """Repeat a request until it is answered for good."""
        may_be_there = False
        deadline = time.monotonic() + 30
        while True:
            reply = self._ask(method, path, body)
            time.sleep(self.pause)
            if reply is None:
                may_be_there = True
            elif reply.status in KEPT:
                first = {"POST": 201, "PUT": 200, "DELETE": 204}[method]
                if reply.status not in (first, 202) and not may_be_there:
                    self._lie(method, path, reply)
                return
            elif reply.status == 503 and "Retry-After" in reply.headers:
                may_be_there |= not any(word in reply.json["detail"] for word in NOTHING_KEPT)
            elif reply.status == 404 and method == "DELETE" and may_be_there:
                return
            else:
                self._lie(method, path, reply)
                return
            if time.monotonic() > deadline:
                self.lies.append(f"{method} {path} is not answered for good within 30 s")
                return

    def _ask(self, method: str, path: str, body: Any) -> Reply | None:
        sent_at = time.monotonic()
        try:
            reply = self.machine.request(method, path, body)
        except ConnectionRefusedError:
            return Reply(503, {"Retry-After": "1"}, b'{"detail": "nothing was kept"}')
        except (OSError, http.client.HTTPException) as error:
            self.cut.append(Cut(sent_at, time.monotonic(), repr(error)))
            return None
        self.answers[reply.status] += 1
        return reply

    def _lie(self, method: str, path: str, reply: Reply) -> None:
        self.lies.append(f"{method} {path}: {reply.status} {reply.body.decode()}")


@dataclass
class Reader:
    """One caller who lists the listeners, and one client of a listener."""

    machine: Machine
    port: int
    reads: Counter[int] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    slowest_health: float = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            for path in ("/api/haproxy/listeners", "/healthz"):
                since = time.monotonic()
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self.reads[self.machine.get(path).status] += 1
                    if path == "/healthz":
                        self.slowest_health = max(self.slowest_health, time.monotonic() - since)
            time.sleep(0.01)

    def run_client(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self.served[self.machine.fetch(self.port)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.served[repr(error)] += 1
            time.sleep(0.002)


@dataclass
class Load:
    """Everybody who was at work, and what they were told."""

    machine: Machine
    writers: list[Writer]
    reader: Reader

    @property
    def cut(self) -> list[Cut]:
        """The writes that ended without an answer."""
        return [cut for writer in self.writers for cut in writer.cut]

    @property
    def answers(self) -> Counter[int]:
        """How many writes were answered, by status."""
        return sum((writer.answers for writer in self.writers), Counter())

    def go_on(self, answers: int = 8) -> None:
        """Let them work until that many more resources are made."""
        goal = self.answers[201] + answers
        wait_until(lambda: self.answers[201] >= goal, 30)

    def assert_all_true(self, *, haproxy_died: bool = False) -> None:
        """Assert that the agent, and HAProxy, are what the answers said, and clients were served.

        haproxy_died: clients were served before and after only.
        """
        weights = {id: weight for writer in self.writers for id, weight in writer.weights.items()}
        for writer in self.writers:
            assert not writer.lies, writer.lies
        listeners = self.machine.get("/api/haproxy/listeners").json["listeners"]
        mine = {found["id"]: found["default_pool_id"] for found in listeners}
        assert mine == {"stable": None} | {id: id for id in weights}
        for id, weight in weights.items():
            members = self.machine.get(f"/api/haproxy/pools/{id}/members").json["members"]
            assert [found["weight"] for found in members] == [weight]
        assert servers(self.machine) == {f"backend-{id}/m": w for id, w in weights.items()} | {
            "backend-stable/only": 1
        }
        assert frontends(self.machine) == {*weights, "stable"}
        assert self.reader.reads.keys() <= {200, 503}
        assert haproxy_died or self.reader.served.keys() == {"only"}


def servers(machine: Machine) -> dict[str, int]:
    """Return the weight of each server of the running HAProxy."""
    rows = [line.split() for line in machine.show("show servers state").splitlines()[2:]]
    return {f"{row[1]}/{row[3]}": int(row[7]) for row in rows if len(row) > 7}


def frontends(machine: Machine) -> set[str]:
    """Return the frontends of the running HAProxy that are open."""
    lines = [line.split(",") for line in machine.show("show stat -1 1 -1").splitlines() if line]
    status = lines[0].index("status")
    return {row[0] for row in lines[1:] if row[status] == "OPEN"}


@contextlib.contextmanager
def load(machine: Machine, writers: int = 3) -> Iterator[Load]:
    """Callers at work on *machine* for the time of the block."""
    backend, port = machine.backend("only"), free_port()
    made = [
        machine.post(
            "/api/haproxy/listeners",
            {"id": "stable", "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"},
        ),
        machine.post(
            "/api/haproxy/pools",
            {
                "id": "pool",
                "listener_id": "stable",
                "protocol": "HTTP",
                "lb_algorithm": "ROUND_ROBIN",
            },
        ),
        machine.post(
            "/api/haproxy/pools/pool/members",
            {"id": "only", "address": "127.0.0.1", "protocol_port": backend.port},
        ),
    ]
    assert [reply.status for reply in made] == [201] * 3
    reader = Reader(machine, port)
    found = Load(
        machine,
        [
            Writer(machine, f"w{number}", [free_port() for _ in range(3)])
            for number in range(writers)
        ],
        reader,
    )
    stop = threading.Event()
    work = [*(writer.run for writer in found.writers), reader.run, reader.run_client]
    threads = [threading.Thread(target=run, args=(stop,)) for run in work]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
