"""What an agent of a big node costs while nothing happens, and how long it takes to start."""

import time
from collections.abc import Iterator

import psutil

from tests.bench.node import PER_POOL, Scale, filled
from tests.bench.report import Row, Target
from tests.integration.traffic import timed
from tests.machine import Machine, free_port

MEMORY = Target(120)
IDLE = Target(1.0)
START = Target(3.0)
NONE = Target(0, "worst")
SETTLE_SECONDS = 8.0
IDLE_SECONDS = 20.0
STARTS = 5


def footprint(scale: Scale) -> Iterator[Row]:
    """Measure memory, idle processor time and starts with as many members as the largest node."""
    members = max(scale.servers)
    with filled(members // PER_POOL, PER_POOL, [free_port()]) as machine:
        time.sleep(SETTLE_SECONDS)
        idle = _idle_percent(machine)
        yield Row(f"memory (PSS), {members} members", "MiB", [_memory(machine)], MEMORY)
        yield Row(f"idle, {members} members, {IDLE_SECONDS:.0f} s", "% core", [idle], IDLE)
        seconds, lost = [], 0
        for _ in range(STARTS):
            worker = machine.worker_pid()
            machine.stop()
            seconds.append(timed(machine.start)[1])
            lost += machine.worker_pid() != worker
        yield Row(f"start -> ready, {members} members", "s", seconds, START)
        yield Row(f"start -> ready, {members} members: other workers", "", [lost], NONE)
        time.sleep(SETTLE_SECONDS)
        what = f"memory (PSS), {members} members, after a start"
        yield Row(what, "MiB", [_memory(machine)], MEMORY)


def _processes(machine: Machine) -> list[psutil.Process]:
    assert machine.process is not None
    return [psutil.Process(pid) for pid in (machine.process.pid, *machine.worker_pids())]


def _memory(machine: Machine) -> float:
    return sum(one.memory_full_info().pss for one in _processes(machine)) / 2**20


def _idle_percent(machine: Machine) -> float:
    """Return the share of a core that the agent takes, what it starts included."""

    def used() -> float:
        return sum(sum(one.cpu_times()[:4]) for one in _processes(machine))

    before, begun = used(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return 100 * (used() - before) / (time.monotonic() - begun)
