"""The agent's own processes restarted, killed and ended while callers write.

Nothing is lost, and no answer turns out to be a lie.
"""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.fault.load import load
from tests.fault.node import stopped
from tests.machine import Machine, free_port, wait_until


def another_worker(machine: Machine, old: int) -> Callable[[], bool]:
    """Return whether a worker that is not *old* alone is there."""
    return lambda: bool(machine.worker_pids()) and old not in machine.worker_pids()


def test_hangups_under_load_lose_nothing_and_cut_nobody_off(machine: Machine) -> None:
    assert machine.process is not None

    with load(machine) as callers:
        for _ in range(3):
            callers.go_on()
            (worker,) = machine.worker_pids()
            machine.process.send_signal(signal.SIGHUP)
            wait_until(another_worker(machine, worker), 25)

    assert machine.process.poll() is None
    assert callers.cut == []
    callers.assert_all_true()


def test_killed_workers_under_load_lose_nothing(machine: Machine) -> None:
    with load(machine) as callers:
        for _ in range(4):
            callers.go_on()
            (worker,) = machine.worker_pids()
            os.kill(worker, signal.SIGKILL)
            wait_until(another_worker(machine, worker), 10)

    callers.assert_all_true()


def test_ends_under_load_answer_everybody_and_lose_nothing(machine: Machine) -> None:
    statuses, ends = [], []

    with load(machine) as callers:
        for _ in range(2):
            callers.go_on()
            began = time.monotonic()
            statuses.append(machine.stop(signal.SIGTERM, timeout=30))
            ends.append((began, time.monotonic()))
            machine.start()

    assert statuses == [0, 0]
    # Who comes to a socket that nobody accepts from any more is cut off, and nothing is kept.
    assert [
        cut
        for cut in callers.cut
        if not any(began - 0.05 < cut.sent_at <= cut.at <= over + 0.05 for began, over in ends)
    ] == []
    callers.assert_all_true()


def test_a_killed_master_under_load_loses_nothing(machine: Machine) -> None:
    with load(machine) as callers:
        callers.go_on()
        (worker,) = machine.worker_pids()
        assert machine.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), 30)
        machine.start()
        callers.go_on()

    callers.assert_all_true()


def test_an_end_while_haproxy_hangs_answers_everybody(machine: Machine) -> None:
    listener = {"protocol": "HTTP", "protocol_port": free_port(), "vip_address": "127.0.0.1"}

    with stopped(machine.worker_pid()), ThreadPoolExecutor(4) as callers:
        writes = [
            callers.submit(machine.post, "/api/haproxy/listeners", {"id": f"l{n}", **listener})
            for n in range(4)
        ]
        time.sleep(0.3)
        began = time.monotonic()
        status = machine.stop()
        took = time.monotonic() - began
        answers = [write.result() for write in writes]
    machine.start()

    assert status == 0
    assert took < 20
    assert [answer.status for answer in answers] == [503] * 4
    assert machine.get("/api/haproxy/listeners").json["listeners"] == []


def test_restarts_leave_haproxy_as_it_is(machine: Machine) -> None:
    with load(machine, writers=1) as callers:
        callers.go_on()
    pids, worker, reloads = machine.haproxy_pids(), machine.worker_pid(), machine.reloads()

    assert machine.process is not None
    (old,) = machine.worker_pids()
    machine.process.send_signal(signal.SIGHUP)
    wait_until(another_worker(machine, old), 25)
    wait_until(machine.is_ready)
    machine.stop()
    machine.start()
    scan = machine.get("/api/status").json["drift"]["last_scan"]
    wait_until(lambda: machine.get("/api/status").json["drift"]["last_scan"] != scan, 10)

    assert machine.haproxy_pids() == pids
    assert (machine.worker_pid(), machine.reloads()) == (worker, reloads)
