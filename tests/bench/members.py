"""One change of one member: weights on nodes of all sizes, and members that are new."""

import contextlib
import http.client
import sqlite3
import time
from collections.abc import Iterator

from tests.bench.node import API, PER_POOL, Caller, Scale, filled, phases
from tests.bench.report import Row, Target, medians
from tests.integration.traffic import timed
from tests.machine import Machine, free_port

WEIGHT = Target(1.5, "ratio")
WEIGHT_OF_MANY = Target(1.3, "ratio")
ADDITION = Target(3.0, "excess")
TURN = 20  # changes in a row on one node: its caches are warm, and the nodes still alternate
ONE_POOL = 1000
ROW_BYTES = 500
PATIENCE_SECONDS = 5.0


class Disk:
    """A database as the agent's, on its file system: what one durable commit costs there."""

    def __init__(self, machine: Machine) -> None:
        self._database = sqlite3.connect(machine.root / "bench.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE kept (body TEXT)")

    def commit(self) -> None:
        self._database.execute("INSERT INTO kept VALUES (?)", ("x" * ROW_BYTES,))


class Weights:
    """Weight changes on one node, each beside the parts of its floor."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._caller, self._disk = machine, Caller(machine), Disk(machine)
        self._number = 0
        self.taken: list[float] = []
        self.phases: list[dict[str, float]] = []
        self.floor: dict[str, list[float]] = {"empty POST": [], "commit": [], "socket command": []}
        self._change()  # the first one warms caches

    def change(self, times: int) -> None:
        """Change a weight *times* times; before each take its floor."""
        # The weight that is stored: another one would be drift, and repaired.
        command = "set server backend-li-0/m-1 weight 1"
        for _ in range(times):
            self.floor["empty POST"].append(self._caller.empty_post())
            self.floor["commit"].append(1000 * timed(self._disk.commit)[1])
            self.floor["socket command"].append(1000 * timed(lambda: self._tell(command))[1])
            took, known = self._change()
            self.taken.append(took)
            self.phases.append(known)

    def _tell(self, command: str) -> None:
        assert not self._machine.show(command).strip()

    def _change(self) -> tuple[float, dict[str, float]]:
        self._number += 1
        path = f"{API}/pools/po-0/members/m-0"
        reply, took = self._caller.timed("PUT", path, {"weight": 1 + self._number % 7})
        assert reply.status == 200, reply.body
        assert reply.json["applied"]["by"] == "runtime", reply.body
        return took, phases(reply, took)


def weights(scale: Scale) -> Iterator[Row]:
    """Measure weight changes on a node of each size, in turns, so that all have the same load."""
    with contextlib.ExitStack() as stack:

        def node(pools: int, members: int) -> Weights:
            return Weights(stack.enter_context(filled(pools, members, [free_port()])))

        found = {size: node(size // PER_POOL, PER_POOL) for size in sorted(scale.servers)}
        whole = node(1, ONE_POOL)
        for begun in range(0, scale.quick_rounds, TURN):
            for one in (*found.values(), whole):
                one.change(min(TURN, scale.quick_rounds - begun))
    for size, one in found.items():
        what = f"weight change, {size} servers"
        yield Row(what, "ms", one.taken, WEIGHT, one.floor, medians(one.phases))
    what = f"weight change, {ONE_POOL} servers in one pool"
    yield Row(what, "ms", whole.taken, None, whole.floor, medians(whole.phases))
    few, many = min(found), max(found)
    if few != many:
        what = f"weight change, {many} servers against {few}"
        floor = {f"{few} servers": found[few].taken}
        yield Row(what, "ms", found[many].taken, WEIGHT_OF_MANY, floor)


def additions(scale: Scale) -> Iterator[Row]:
    """Measure how long a new member, the only one of its pool, takes to serve."""
    port = free_port()
    empty: list[float] = []
    answered: list[float] = []
    served: list[float] = []
    known = []
    with filled(1, 0, [port]) as machine:
        caller, backend = Caller(machine), machine.backend("new")
        place = {"address": backend.address, "protocol_port": backend.port}
        for number in range(scale.quick_rounds + 1):
            floor = caller.empty_post()
            path, body = f"{API}/pools/po-0/members", {"id": f"m-{number}", **place}
            begun = time.perf_counter()
            reply, took = caller.timed("POST", path, body)
            serves = _until_served(port, backend.name) - begun
            assert reply.status == 201, reply.body
            assert reply.json["applied"]["by"] == "runtime", reply.body
            assert caller.ask("DELETE", f"{path}/m-{number}").status == 204
            if number:  # the first round warms caches
                empty.append(floor)
                answered.append(took)
                served.append(1000 * serves)
                known.append(phases(reply, took))
    floor_of_it = {"empty POST": empty}
    yield Row("member add -> first request served", "ms", served, ADDITION, floor_of_it)
    yield Row("member add -> answered", "ms", answered, None, floor_of_it, medians(known))


def _until_served(port: int, name: str) -> float:
    """Return when the back end *name* answered first through the listener on *port*."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while time.perf_counter() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            if connection.getresponse().read() == name.encode():
                return time.perf_counter()
    raise TimeoutError(f"{name} did not serve within {PATIENCE_SECONDS:.0f} s")
