"""Clients for tests under load: threads that call at once, and one in a process of its own.

``python -m tests.integration.traffic PORT PATH`` asks one address over and over until its input
ends, then prints what it saw. In a process of its own it measures the other end, not the test.
"""

import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.machine import free_port

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Seen:
    """What a client in a process of its own saw; milliseconds, connecting included.

    machine_ms: the worst that an idle process took to answer a byte meanwhile. On a machine that
    is busy with something else, that much of ``worst_ms`` may not be the server's.
    """

    requests: int
    failed: int
    failures: list[str]
    median_ms: float
    worst_ms: float
    machine_ms: float


class Client:
    """A client in a process of its own; ``seen`` after the block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seen = Seen(0, 0, [], 0.0, 0.0, 0.0)

    def stop(self) -> None:
        said, _ = self._process.communicate(timeout=20)
        self.seen = Seen(**json.loads(said))


@contextlib.contextmanager
def client(
    port: int, path: str = "/", *, keep_alive: bool = False, pause_ms: float = 1.0
) -> Iterator[Client]:
    """GET *path* over and over for the time of the block; it begins after the first answer."""
    words = (str(port), path, str(pause_ms), *(("--keep-alive",) if keep_alive else ()))
    with process_of("tests.integration.traffic", *words) as process:
        found = Client(process)
        yield found
        found.stop()


@contextlib.contextmanager
def process_of(module: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run *module* in a process of its own; the block starts once it prints that it has begun."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def free_ports(count: int) -> list[int]:
    """Return *count* different free ports in random order."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return random.sample(sorted(found), count)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make all *calls* in the same instant, each in a thread; return what they return."""
    start = threading.Barrier(len(calls))

    def make(call: Callable[[], Any]) -> Any:
        start.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


def by_clients(clients: int, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Let *clients*, each waiting for its answer before it goes on, share *calls*."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda call: call(), calls))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what *call* returns and how many seconds it took."""
    begun = time.monotonic()
    return call(), time.monotonic() - begun


def _ask(connection: http.client.HTTPConnection, path: str, *, keep_alive: bool) -> str:
    """Return what went wrong with one request, '' if nothing did."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)
    if not keep_alive:
        connection.close()
    return "" if answer.status == 200 else f"status {answer.status}"


def _echo() -> socket.socket:
    """Return a socket to a process that answers each byte, and ends when it is closed."""
    here, there = socket.socketpair()
    if os.fork() == 0:
        here.close()
        while there.recv(1):
            there.send(b"!")
        os._exit(0)
    there.close()
    return here


def _main(port: int, path: str, pause_ms: float, *, keep_alive: bool) -> None:
    echo = _echo()
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    took: list[float] = []
    machine: list[float] = []
    failures: list[str] = []
    while not ended.is_set():
        begun = time.perf_counter()
        failure = _ask(connection, path, keep_alive=keep_alive)
        took.append(1000 * (time.perf_counter() - begun))
        begun = time.perf_counter()
        echo.send(b"?")
        echo.recv(1)
        machine.append(1000 * (time.perf_counter() - begun))
        if failure:
            failures.append(failure)
        if len(took) == 1:
            print("begun", flush=True)
        ended.wait(pause_ms / 1000)
    figures = (statistics.median(took), max(took), max(machine))
    print(json.dumps(vars(Seen(len(took), len(failures), failures[:5], *figures))))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), keep_alive="--keep-alive" in sys.argv)
