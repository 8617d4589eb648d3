"""What a change costs, at once and under load, against a floor that is taken in the same run.

``python -m tests.bench``: a table. Each row has our figure, the floor (what the same change costs
without an agent, or an agent's request that changes nothing), taken in alternation with ours, and
the target. Status 1 when a target is missed, or could not be measured.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench import bursts, footprint, listeners, members, report, traffic
from tests.bench.node import Scale

GROUPS: dict[str, Callable[[Scale], Iterator[report.Row]]] = {
    "weights": members.weights,
    "additions": members.additions,
    "listeners": listeners.listeners,
    "bursts": bursts.bursts,
    "lists": bursts.lists,
    "load": traffic.weights_under_load,
    "reloads": traffic.reloads_under_wrk,
    "refusals": traffic.refusals,
    "footprint": footprint.footprint,
}
FAILURES = (AssertionError, OSError, http.client.HTTPException, subprocess.SubprocessError)


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then too
    scale = Scale(options.sizes, options.servers, options.rounds)
    facts = report.machine_facts()
    rows: list[report.Row] = []
    failed: dict[str, str] = {}
    print(_load())
    print(report.heading(), flush=True)
    for name in options.only:
        try:
            for row in GROUPS[name](scale):
                rows.append(row)
                print(report.lines(row), flush=True)
        except FAILURES as error:
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: could not be measured: {failed[name]}", flush=True)
    print(_load())
    if options.json:
        written = [row.written() for row in rows]
        found: dict[str, Any] = {"machine": facts, "rows": written, "failed": failed}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    verdicts = [row.is_met for row in rows if row.target]
    missed = [row.what for row in rows if row.is_met is False] + [*failed]
    print(f"{sum(map(bool, verdicts))} of {len(verdicts)} targets met")
    if missed:
        print(f"MISSED: {'; '.join(missed)}")
    return 1 if missed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--sizes", type=_numbers, default="10,100", help="listeners of a node, e.g. 10,100,1000"
    )
    parser.add_argument(
        "--servers", type=_numbers, default="100,1000,10000", help="servers of a node"
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="changes by reload; ten times as many without"
    )
    parser.add_argument(
        "--only", type=_groups, default=",".join(GROUPS), help="some of the groups: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    return parser.parse_args(argv)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _groups(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(GROUPS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(GROUPS)}")
    return names


def _load() -> str:
    return f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors"


if __name__ == "__main__":
    sys.exit(main())
