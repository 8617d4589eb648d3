"""A listener until it is live, against the same change by hand on an equal HAProxy.

In turns, a listener by hand (the floor) and one through the API. ``live``: until the new listener's
first own answer; ``answered``: until the API answered, by hand until another worker did. Each
round removes its listener again, which is not measured.
"""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.bench.floor import Floor, equal_to
from tests.bench.node import API, Caller, Scale, filled, listener, phases
from tests.bench.report import Row, Target, medians
from tests.integration.traffic import free_ports

LIVE, ANSWERED = Target(1.25, "ratio"), Target(1.5, "ratio")  # answered: proven as well
MEMBERS = 3
PAUSE_SECONDS = 0.02  # old workers end, so that no round pays for the one before
POLL_SECONDS = 0.002
FRONTEND = """\
frontend new
    option httplog
    maxconn 12000
    bind 127.0.0.1:{port}
    mode http
    option idle-close-on-response
    timeout http-keep-alive 10s
"""

T = TypeVar("T")


def listeners(scale: Scale) -> Iterator[Row]:
    """Measure a new listener beside as many as each size says."""
    for size in scale.sizes:
        yield from _beside(size, scale.rounds)


def _beside(size: int, rounds: int) -> Iterator[Row]:
    ports = free_ports(2 * size + 2)
    port, floor_port = ports[2 * size :]
    by_hand, floor_live, floor_laps, live, answered, known = [], [], [], [], [], []
    with (
        filled(size, MEMBERS, ports[:size]) as machine,
        equal_to(machine.fragments(), ports[size : 2 * size]) as floor,
    ):
        caller = Caller(machine)
        for number in range(rounds + 1):
            live_by_hand, laps = _by_hand(floor, floor_port)
            live_here, took, told = _by_agent(caller, port)
            if number:  # the first round warms caches
                by_hand.append(sum(laps.values()))
                floor_live.append(live_by_hand)
                floor_laps.append(laps)
                live.append(live_here)
                answered.append(took)
                known.append(told)
    what, floor_of_it = f"listener create -> {{}}, {size} listeners", {"by hand": by_hand}
    yield Row(what.format("live"), "ms", live, LIVE, floor_of_it)
    yield Row(what.format("answered"), "ms", answered, ANSWERED, floor_of_it, medians(known))
    beside = {"by hand, answered": by_hand}
    what = f"listener by hand -> live, {size} listeners"
    yield Row(what, "ms", floor_live, None, beside, medians(floor_laps))


def _by_hand(floor: Floor, port: int) -> tuple[float, dict[str, float]]:
    name, content = "50-frontend-new.cfg", FRONTEND.format(port=port)
    live, laps = _until_live(port, lambda: floor.change(name, content))
    floor.change(name, None)
    time.sleep(PAUSE_SECONDS)
    return live, laps


def _by_agent(caller: Caller, port: int) -> tuple[float, float, dict[str, float]]:
    path, body = f"{API}/listeners", listener("new", port)
    live, (reply, took) = _until_live(port, lambda: caller.timed("POST", path, body))
    assert reply.status == 201, reply.body
    assert caller.ask("DELETE", f"{path}/new").status == 204
    time.sleep(PAUSE_SECONDS)
    return live, took, phases(reply, took)


def _until_live(port: int, change: Callable[[], T]) -> tuple[float, T]:
    """Return after how many milliseconds of *change* *port* answers, and what it returns."""
    live_at: list[float] = []
    looking = threading.Thread(target=lambda: live_at.append(_first_answer(port)), daemon=True)
    looking.start()
    begun = time.perf_counter()
    found = change()
    looking.join()
    return 1000 * (live_at[0] - begun), found


def _first_answer(port: int) -> float:
    """Return when a listener on *port* answered first."""
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                connection.getresponse().read()
                return time.perf_counter()
        time.sleep(POLL_SECONDS)
