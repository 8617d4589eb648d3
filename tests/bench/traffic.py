"""What clients of a listener notice of changes: nothing, whichever change it is."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.load import Load, load
from tests.bench.node import API, Caller, Scale, filled, listener, reloads
from tests.bench.report import Row, Target
from tests.machine import Machine, free_port

NONE = Target(0, "worst")
CLIENTS = 8
WEIGHTS = 200
RELOADS = 50
REFUSALS = 20
OUTAGE_SECONDS = 0.5  # one would last two seconds
WRK_ERRORS = re.compile(r"Socket errors: (.*)|Non-2xx or 3xx responses: (\d+)")
WRK_REQUESTS = re.compile(r"(\d+) requests in")


def weights_under_load(scale: Scale) -> Iterator[Row]:
    """Measure weight changes while clients keep their connections busy."""
    took = []
    with _serving() as (machine, port):
        caller, worker = Caller(machine), machine.worker_pid()
        with load(port, CLIENTS) as seen:
            for number in range(WEIGHTS):
                path, body = f"{API}/pools/po-0/members/one", {"weight": 2 + number % 7}
                reply, milliseconds = caller.timed("PUT", path, body)
                assert reply.status == 200, reply.body
                took.append(milliseconds)
        others = int(machine.worker_pid() != worker)
    what = f"{WEIGHTS} weight changes under load"
    yield Row(what, "ms", took)
    yield Row(f"{what}: other workers", "", [others], NONE)
    yield _failed(what, seen)
    yield Row(f"{what}: closed connections", "", [seen.closed], NONE)
    yield Row(f"{what}: requests", "", [seen.requests])


def reloads_under_wrk(scale: Scale) -> Iterator[Row]:
    """Measure what wrk, which does not pause, sees of reloads."""
    if shutil.which("wrk") is None:
        print("reloads under wrk: not measured, there is no wrk (apt-get install wrk)")
        return
    with _serving() as (machine, port):
        for name, headers in (("keep-alive", ()), ("close", ("-H", "Connection: close"))):
            before = reloads(machine)
            with _wrk(port, *headers) as seen:
                _reload(machine, RELOADS)
            assert reloads(machine) - before == RELOADS, f"{reloads(machine) - before} reloads"
            what = f"{RELOADS} reloads under wrk, {name}"
            yield Row(f"{what}: errors", "", [seen.errors], NONE)
            yield Row(f"{what}: requests", "", [seen.requests])


def refusals(scale: Scale) -> Iterator[Row]:
    """Measure what others see of a listener whose port somebody else holds."""
    statuses = []
    took = []
    with (
        _serving() as (machine, port),
        socket.create_server(("127.0.0.1", free_port())) as holder,
        load(port, CLIENTS // 2) as kept,
        load(port, CLIENTS // 2, keep_alive=False) as single,
    ):
        caller, taken = Caller(machine), holder.getsockname()[1]
        for number in range(REFUSALS):
            body = listener(f"bad-{number}", taken)
            reply, milliseconds = caller.timed("POST", f"{API}/listeners", body)
            statuses.append(reply.status)
            took.append(milliseconds)
        time.sleep(OUTAGE_SECONDS)
    what = f"{REFUSALS} taken ports under load"
    yield Row(what, "ms", took)
    yield Row(f"{what}: not 409", "", [sum(status != 409 for status in statuses)], NONE)
    yield _failed(f"{what}, keep-alive", kept)
    yield _failed(f"{what}, close", single)


@contextlib.contextmanager
def _serving() -> Iterator[tuple[Machine, int]]:
    """A node, and the port of its listener with two back ends."""
    port = free_port()
    with filled(1, 0, [port]) as machine:
        members = [
            {"id": backend.name, "address": backend.address, "protocol_port": backend.port}
            for backend in map(machine.backend, ("one", "two"))
        ]
        assert machine.put(f"{API}/pools/po-0/members", members).status == 200
        yield machine, port


def _failed(what: str, seen: Load) -> Row:
    assert seen.requests > 10 * CLIENTS, f"{what}: no load but {seen.requests} requests"
    if seen.failures:
        print(f"    {what}: {'; '.join(seen.failures)}")
    return Row(f"{what}: failed requests", "", [seen.failed], NONE)


def _reload(machine: Machine, times: int) -> None:
    """Make and remove another listener, a reload each, until there were *times*."""
    caller, path, body = Caller(machine), f"{API}/listeners", listener("other", free_port())
    for _ in range(times // 2):
        reply = caller.ask("POST", path, body)
        assert (reply.status, reply.json["applied"]["by"]) == (201, "reload"), reply.body
        assert caller.ask("DELETE", f"{path}/other").status == 204


@dataclass
class Seen:
    """What wrk saw."""

    requests: int = 0
    errors: int = 0


@contextlib.contextmanager
def _wrk(port: int, *headers: str) -> Iterator[Seen]:
    """wrk for the time of the block; what it saw is there afterwards."""
    argv = ["wrk", "-t1", f"-c{CLIENTS}", "-d600s", *headers, f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            seen = Seen()
            time.sleep(OUTAGE_SECONDS)
            yield seen
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=20)
            for match in WRK_ERRORS.finditer(said):
                print(f"    wrk: {match[0]}")
                seen.errors += sum(map(int, re.findall(r"\d+", match[1] or match[2])))
            requests = WRK_REQUESTS.search(said)
            assert requests is not None, said
            seen.requests = int(requests[1])
        finally:
            process.kill()
