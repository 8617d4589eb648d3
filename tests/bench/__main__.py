"""How long a change takes until it is live, against the same change by hand.

``python -m tests.bench``: for each size, an agent with that many listeners (a pool and members
each) and an equal HAProxy without an agent. In turns, one change by hand (the floor) and the same
change through the API. Milliseconds from before the change; ``answered``: until the API answered,
by hand until another worker did; ``live``: until the new listener's first own answer. Status 1
when a listener takes more than 1.5 times the floor at any size.
"""

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.floor import Floor, equal_to
from tests.integration.traffic import by_clients, free_ports
from tests.machine import Machine, Reply, running

TARGET = 1.5
CLIENTS = 32
PAUSE_SECONDS = 0.02  # old workers end, so that no round pays for the one before
FRONTEND = """\
frontend new
    option httplog
    maxconn 12000
    bind 127.0.0.1:{port}
    mode http
    option idle-close-on-response
    timeout http-keep-alive 10s
"""

Sample = dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--sizes", default="10,100", help="listeners, e.g. 10,100,1000")
    parser.add_argument("--rounds", type=int, default=20, help="changes of each kind per size")
    parser.add_argument("--members", type=int, default=3, help="members per pool")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    options = parser.parse_args(argv)
    found: dict[str, Any] = {"machine": machine_facts(), "sizes": {}}
    is_met = True
    for size in map(int, options.sizes.split(",")):
        samples = measure(size, options.rounds, options.members)
        found["sizes"][size] = {name: summary(taken) for name, taken in samples.items()}
        is_met = table(size, samples) and is_met
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"target: answered and live within {TARGET} x floor: {'met' if is_met else 'MISSED'}")
    return 0 if is_met else 1


def machine_facts() -> dict[str, Any]:
    """Return what the figures depend on."""
    version = subprocess.run(["haproxy", "-v"], check=True, capture_output=True, text=True)
    return {
        "haproxy": version.stdout.split()[2],
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
    }


def measure(size: int, rounds: int, members: int) -> dict[str, list[Sample]]:
    """Return a sample per round: a new listener and a member's weight, by hand and by the API."""
    ports = free_ports(2 * size + 2)
    agent_ports, floor_ports = ports[:size], ports[size : 2 * size]
    new_port, floor_port = ports[2 * size :]
    samples: dict[str, list[Sample]] = {
        name: [] for name in ("listener floor", "listener", "member floor", "member")
    }
    with running() as machine:
        populate(machine, agent_ports, members)
        with equal_to(machine.fragments(), floor_ports) as floor:
            for number in range(rounds + 1):
                taken = {
                    "listener floor": floor_listener(floor, floor_port),
                    "listener": listener(machine, new_port),
                    "member floor": floor_member(floor, number % 2 + 1),
                    "member": member(machine, number % 2 + 1),
                }
                if number:  # the first round warms caches
                    for name, sample in taken.items():
                        samples[name].append(sample)
    return samples


def populate(machine: Machine, ports: Sequence[int], members: int) -> None:
    """Give each of *ports* a listener, a pool and members."""
    address = {"vip_address": "127.0.0.1"}
    pool = {"protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    waves: list[list[tuple[str, dict[str, Any]]]] = [
        [
            ("listeners", {"id": f"li-{at}", "protocol": "HTTP", "protocol_port": port, **address})
            for at, port in enumerate(ports)
        ],
        [
            ("pools", {"id": f"po-{at}", "listener_id": f"li-{at}", **pool})
            for at in range(len(ports))
        ],
        [
            (
                f"pools/po-{at}/members",
                {"id": f"m-{number}", "address": f"127.0.0.{2 + number}", "protocol_port": 9},
            )
            for at in range(len(ports))
            for number in range(members)
        ],
    ]
    for wave in waves:
        calls = [partial(machine.post, f"/api/haproxy/{url}", body) for url, body in wave]
        replies = by_clients(CLIENTS, calls)
        assert {reply.status for reply in replies} == {201}, replies


def floor_listener(floor: Floor, port: int) -> Sample:
    name, content = "50-frontend-new.cfg", FRONTEND.format(port=port)
    live, laps = until_live(port, lambda: floor.change(name, content))
    floor.change(name, None)
    time.sleep(PAUSE_SECONDS)
    return {"answered": sum(laps.values()), "live": live, **laps}


def floor_member(floor: Floor, weight: int) -> Sample:
    name = "60-backend-po-0.cfg"
    before = f"weight {3 - weight}" if f"weight {3 - weight}" in floor.read(name) else "weight 1"
    content = floor.read(name).replace(before, f"weight {weight}", 1)
    laps = floor.change(name, content)
    time.sleep(PAUSE_SECONDS)
    return {"answered": sum(laps.values()), **laps}


def listener(machine: Machine, port: int) -> Sample:
    body = {"id": "new", "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    post = partial(machine.post, "/api/haproxy/listeners", body)
    live, sample = until_live(port, partial(ask, post, 201))
    assert machine.delete("/api/haproxy/listeners/new").status == 204
    time.sleep(PAUSE_SECONDS)
    return {"live": live, **sample}


def member(machine: Machine, weight: int) -> Sample:
    path = "/api/haproxy/pools/po-0/members/m-0"
    sample = ask(partial(machine.put, path, {"weight": weight}), 200)
    time.sleep(PAUSE_SECONDS)
    return sample


def ask(call: Callable[[], Reply], status: int) -> Sample:
    """Return how long *call* took, and the phases its answer tells of."""
    begun = time.perf_counter()
    reply = call()
    took = 1000 * (time.perf_counter() - begun)
    assert reply.status == status, reply.body
    phases = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
    known = {name: float(phase) for name, phase in phases.items()}
    return {"answered": took, **known, "else": took - sum(known.values())}


def until_live(port: int, change: Callable[[], Sample]) -> tuple[float, Sample]:
    """Return how long *change* takes until *port* answers, and what it returns."""
    live_at: list[float] = []
    looking = threading.Thread(target=lambda: live_at.append(first_answer(port)))
    looking.start()
    begun = time.perf_counter()
    sample = change()
    looking.join()
    return 1000 * (live_at[0] - begun), sample


def first_answer(port: int) -> float:
    """Return when a listener on *port* answered first."""
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            return time.perf_counter()
        time.sleep(0.002)


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return min, median and 99th percentile of each figure, and all of them."""
    return {
        name: {**spread([sample[name] for sample in samples]), "all": [s[name] for s in samples]}
        for name in samples[0]
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"n": len(ordered), "min": ordered[0], "median": statistics.median(ordered), "p99": p99}


def table(size: int, samples: dict[str, list[Sample]]) -> bool:
    """Print the figures of one size; say whether a listener meets the target."""
    is_met = True
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"{size} listeners, n = {len(samples['listener'])}, milliseconds, {load}")
    print(f"  {'':24}{'min':>8}{'median':>8}{'p99':>8}{'x floor':>9}")
    for change in ("listener", "member"):
        by_hand, ours = samples[f"{change} floor"], samples[change]
        floor = spread([sample["answered"] for sample in by_hand])
        for name, taken in ((f"{change} by hand", by_hand), (change, ours)):
            for moment in sorted({"answered", "live"} & taken[0].keys()):
                found = spread([sample[moment] for sample in taken])
                ratio = found["median"] / floor["median"]
                times = "".join(f"{found[key]:8.1f}" for key in ("min", "median", "p99"))
                print(f"  {f'{name} {moment}':24}{times}{ratio:9.2f}")
                is_met = is_met and (name != "listener" or ratio <= TARGET)
    for name, taken in samples.items():
        phases = {
            phase: statistics.median(sample[phase] for sample in taken)
            for phase in taken[0]
            if phase not in ("answered", "live")
        }
        words = "  ".join(f"{phase} {median:.1f}" for phase, median in phases.items())
        print(f"  {name}: {words}")
    print()
    return is_met


if __name__ == "__main__":
    sys.exit(main())
