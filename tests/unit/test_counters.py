"""Counters that go on where those of HAProxy's processes begin at 0 again."""

import contextlib
import json
import socketserver
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kinx_loadbalancer_agent.services.haproxy.counters import TOTALS, Counters
from kinx_loadbalancer_agent.services.haproxy.master import Master
from kinx_loadbalancer_agent.services.haproxy.runtime import Runtime
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.unit.desired import Desired

COLUMNS = ("pxname", "svname", "status", "check_status", "scur", "bin", "bout", "ereq", "stot")
Totals = tuple[int, int, int, int]
Rows = dict[str, tuple[int, Totals]]


def a_process() -> subprocess.Popen[bytes]:
    """Start a process that does nothing."""
    return subprocess.Popen(["sleep", "600"])


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@dataclass
class Processes:
    """The sockets of a HAProxy: what its worker and its old ones carried, by listener.

    Each row is connections now, then bytes in, bytes out, request errors, connections.
    """

    directory: Path
    worker: subprocess.Popen[bytes] = field(default_factory=a_process)
    carried: Rows = field(default_factory=dict)
    old: dict[int, Rows] = field(default_factory=dict)
    _servers: list[socketserver.ThreadingUnixStreamServer] = field(default_factory=list)

    def start(self) -> None:
        """Listen on both sockets."""
        for name, answer in (("worker", self._worker), ("master", self._master)):
            path = self.directory / name
            path.unlink(missing_ok=True)

            class Handler(socketserver.StreamRequestHandler):
                tell = staticmethod(answer)

                def handle(self) -> None:
                    command = self.rfile.readline().decode().strip()
                    with contextlib.suppress(OSError):
                        self.wfile.write(self.tell(command).encode())

            server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self._servers.append(server)

    def stop(self) -> None:
        """Listen no more, as a HAProxy that has ended."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()

    def reload(self) -> None:
        """Have another worker, which begins with nothing; the old one has no connection left."""
        end(self.worker)
        self.worker, self.carried = a_process(), dict.fromkeys(self.carried, (0, (0, 0, 0, 0)))

    def _worker(self, command: str) -> str:
        if command == "show info":
            return f"Name: HAProxy\nVersion: 2.6.12\nPid: {self.worker.pid}\n"
        return _table(self.carried)

    def _master(self, command: str) -> str:
        if command == "show proc":
            old = "".join(f"{pid} worker 1 0d 2.6\n" for pid in self.old)
            workers = f"# workers\n{self.worker.pid} worker 0 0d 2.6\n# old workers\n{old}"
            return f"#<PID> <type>\n1 master 0 [failed: 0] 0d 2.6\n{workers}# programs\n"
        return _table(self.old[int(command.split()[0].removeprefix("@!"))])


def _table(rows: Rows) -> str:
    lines = [
        ",".join(map(str, (name, "FRONTEND", "OPEN", "", active, *totals)))
        for name, (active, totals) in rows.items()
    ]
    return "# " + ",".join(COLUMNS) + "\n" + "".join(f"{line}\n" for line in lines)


@dataclass
class Node:
    """A node with listeners ``a`` and ``b`` of ``lb``, and ``z`` of nobody."""

    desired: Desired
    processes: Processes
    path: Path
    counters: Counters

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(SystemClock(), 2)

    def of(self, owner: str = "lb") -> tuple[int, Totals]:
        """Return what is open now, and the totals."""
        found = self.counters.of(self.desired.state, owner, self.deadline)
        assert tuple(found) == ("active_connections", *TOTALS)
        active, *totals = found.values()
        return active, (*totals,)  # type: ignore[return-value]

    def restart(self) -> None:
        """Have another agent take over."""
        directory, clock = self.processes.directory, SystemClock()
        self.counters = Counters(
            self.path, Runtime(directory / "worker"), Master(directory / "master", clock)
        )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    desired = Desired()
    listener = {"protocol": "TCP", "vip_address": "192.0.2.1"}
    desired.post("listeners", {**listener, "id": "z", "protocol_port": 79})
    desired.post("loadbalancers", {"id": "lb"})
    for port, id in enumerate("ab", 80):
        desired.post("listeners", {**listener, "id": id, "protocol_port": port})
    processes = Processes(tmp_path)
    processes.start()
    found: Any = Node(desired, processes, tmp_path / "state" / "counters.json", None)  # type: ignore[arg-type]
    found.restart()
    yield found
    processes.stop()
    end(processes.worker)


def test_nothing_is_nothing(node: Node) -> None:
    assert node.of() == (0, (0, 0, 0, 0))
    assert node.of("nobody") == (0, (0, 0, 0, 0))


def test_a_load_balancer_is_the_sum_of_its_own_listeners(node: Node) -> None:
    node.processes.carried = {
        "a": (1, (10, 20, 3, 4)),
        "b": (2, (100, 200, 30, 40)),
        "z": (5, (5000, 5000, 5000, 5000)),
        "stats": (7, (7, 7, 7, 7)),
    }

    assert node.of() == (3, (110, 220, 33, 44))


def test_what_a_process_carried_stays_when_it_has_ended(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()

    node.processes.reload()
    node.processes.carried = {"a": (2, (1, 1, 1, 1))}

    assert node.of() == (2, (11, 21, 4, 5))


def test_what_is_taken_before_a_reload_is_not_lost_with_it(node: Node) -> None:
    node.processes.carried = {"a": (0, (1, 1, 0, 1))}
    node.of()
    node.processes.carried = {"a": (0, (10, 20, 3, 4))}

    node.counters.take(node.deadline)
    node.processes.reload()

    assert node.of() == (0, (10, 20, 3, 4))


def test_old_workers_count_while_they_run_and_stay_when_they_end(node: Node) -> None:
    old = a_process()
    try:
        node.processes.carried = {"a": (0, (10, 20, 0, 1))}
        node.processes.old = {old.pid: {"a": (1, (100, 200, 1, 1))}}
        both = node.of()
        node.processes.old = {old.pid: {"a": (1, (100, 300, 1, 1))}}
        later = node.of()
    finally:
        end(old)
    node.processes.old = {}

    assert (both, later) == ((1, (110, 220, 1, 2)), (1, (110, 320, 1, 2)))
    assert node.of() == (0, (110, 320, 1, 2))


def test_counters_that_somebody_cleared_go_on(node: Node) -> None:
    node.processes.carried = {"a": (0, (10, 20, 3, 4))}
    node.of()

    node.processes.carried = {"a": (0, (0, 0, 0, 0))}
    cleared = node.of()
    node.processes.carried = {"a": (0, (11, 21, 4, 5))}

    assert cleared == (0, (10, 20, 3, 4))
    assert node.of() == (0, (21, 41, 7, 9))


def test_one_counter_that_goes_back_is_enough_to_see_it(node: Node) -> None:
    node.processes.carried = {"a": (0, (10, 20, 3, 4))}
    node.of()

    node.processes.carried = {"a": (0, (15, 25, 3, 1))}

    assert node.of() == (0, (25, 45, 6, 5))


def test_a_haproxy_that_does_not_answer_keeps_what_it_said(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()

    node.processes.stop()
    silent = node.of()
    node.processes.start()
    node.processes.carried = {"a": (1, (11, 21, 4, 5))}

    assert silent == (0, (10, 20, 3, 4))
    assert node.of() == (1, (11, 21, 4, 5))


def test_a_haproxy_that_is_gone_keeps_what_it_said(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()

    node.processes.stop()
    end(node.processes.worker)

    assert node.of() == node.of() == (0, (10, 20, 3, 4))


def test_another_agent_goes_on_where_the_last_one_ended(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()

    node.restart()
    kept = node.of()
    node.processes.reload()
    node.restart()

    assert kept == (1, (10, 20, 3, 4))
    assert node.of() == (0, (10, 20, 3, 4))


def test_an_agent_that_takes_before_anybody_asks_forgets_nothing(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()

    node.restart()
    node.counters.take(node.deadline)
    node.processes.reload()

    assert node.of() == (0, (10, 20, 3, 4))


def test_a_listener_that_goes_leaves_what_it_carried(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4)), "b": (1, (1, 1, 1, 1))}
    node.of()

    node.desired.delete("listeners", "a")
    node.processes.reload()
    del node.processes.carried["a"]

    assert node.of() == (0, (11, 21, 4, 5))
    node.restart()
    assert node.of() == (0, (11, 21, 4, 5))


def test_a_listener_that_comes_again_adds_to_what_it_carried(node: Node) -> None:
    listener = node.desired.get("listeners", "a")
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()
    node.desired.delete("listeners", "a")
    node.of()

    node.desired.post("listeners", listener)
    node.processes.reload()
    node.processes.carried = {"a": (0, (1, 1, 1, 1))}

    assert node.of() == (0, (11, 21, 4, 5))


def test_a_listener_of_the_same_id_elsewhere_takes_nothing_along(node: Node) -> None:
    node.desired.post("loadbalancers", {"id": "other"})
    listener = node.desired.get("listeners", "a")
    told = []

    for times, owner in enumerate(("lb", "other", "lb"), 1):
        node.desired.delete("listeners", "a")
        node.desired.post("listeners", listener | {"loadbalancer_id": owner})
        node.processes.reload()
        node.processes.carried = {"a": (0, (times, times, 0, 1))}
        told.append((node.of(), node.of("other")))

    assert [(lb[1][0], other[1][0]) for lb, other in told] == [(1, 0), (1, 2), (4, 2)]


def test_a_listener_of_nobody_brings_what_it_carried_to_its_load_balancer(node: Node) -> None:
    node.processes.carried = {"z": (1, (10, 20, 3, 4))}
    before = node.of()

    node.desired.put("listeners", "z", {"loadbalancer_id": "lb"})

    assert (before, node.of()) == ((0, (0, 0, 0, 0)), (1, (10, 20, 3, 4)))


def test_a_load_balancer_that_goes_takes_its_counters_along(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()

    node.desired.delete("loadbalancers", "lb", cascade=True)
    node.processes.reload()
    del node.processes.carried["a"]
    node.of()
    node.desired.post("loadbalancers", {"id": "lb"})

    assert node.of() == (0, (0, 0, 0, 0))
    assert json.loads(node.path.read_text()).keys() <= {"z"}


def test_what_was_told_is_kept_first(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    told = node.of()
    node.processes.stop()

    node.restart()

    assert node.of()[1] == told[1]
    assert stat.S_IMODE(node.path.stat().st_mode) == 0o640
    assert stat.S_IMODE(node.path.parent.stat().st_mode) == 0o700


def test_what_has_not_changed_is_not_written(node: Node) -> None:
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}
    node.of()
    written = node.path.stat()

    node.of()

    assert node.path.stat() == written


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff"])
def test_a_file_that_is_none_of_ours_is_begun_anew(node: Node, content: bytes) -> None:
    node.path.parent.mkdir()
    node.path.write_bytes(content)
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}

    assert node.of() == (1, (10, 20, 3, 4))


def test_a_disk_that_gives_and_takes_nothing_keeps_nobody_from_an_answer(node: Node) -> None:
    node.path.mkdir(parents=True)
    node.processes.carried = {"a": (1, (10, 20, 3, 4))}

    first = node.of()
    node.processes.carried = {"a": (1, (11, 21, 4, 5))}

    assert (first, node.of()) == ((1, (10, 20, 3, 4)), (1, (11, 21, 4, 5)))
