"""Load balancers behind two routers, in network namespaces: what becomes of the clients' requests.

``bin/lab``: a table of acts. Status 1 when a figure is missed, or could not be taken.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.bench.report import machine_facts
from tests.lab.acts import ACTS, Act, Figure, Result
from tests.lab.lab import Lab, lab

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURES = (AssertionError, OSError, http.client.HTTPException, subprocess.SubprocessError)


@dataclass(frozen=True)
class Played:
    """An act, and what came of it: its result, or why there is none."""

    act: Act
    result: Result
    failure: str = ""

    def lines(self) -> Iterator[str]:
        """Yield its lines of the table."""
        name, counts = self.act.name, ("", "", "")
        if (seen := self.result.seen) is not None:
            counts = (str(len(seen.requests)), str(len(seen.lost)), str(len(seen.slow)))
        for figure in self.result.figures:
            yield _line(name, *counts, figure.what, *_cells(figure))
            name, counts = "", ("", "", "")
        if self.failure:
            yield f"{name}: could not be played: {self.failure}"

    def written(self) -> dict[str, Any]:
        """Return all that is known of it, for JSON."""
        found: dict[str, Any] = {"name": self.act.name, "bfd": self.act.bfd}
        if (seen := self.result.seen) is not None:
            found["requests"] = len(seen.requests)
            found["lost"] = Counter(one.why_lost for one in seen.lost)
            found["slow"] = len(seen.slow)
            found["by_node"] = seen.shares()
        figures = [vars(figure) | {"is_met": figure.is_met} for figure in self.result.figures]
        return found | {"figures": figures, "failure": self.failure or None}


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    if options.list:
        for act in ACTS:
            print(f"{act.name:17}{act.story}")
        return 0
    for sign in SIGNALS:
        signal.signal(sign, _end)
    facts = machine_facts() | {"kernel": platform.release(), "nodes": options.nodes}
    print(_load())
    print(_line("act", "requests", "lost", "slow", "figure", "found", "wanted", ""), flush=True)
    all_played = _play(options.only, options.nodes)
    print(_load())
    if options.json:
        acts = [played.written() for played in all_played]
        options.json.write_text(json.dumps({"machine": facts, "acts": acts}, indent=2) + "\n")
    verdicts = [figure.is_met for played in all_played for figure in played.result.figures]
    print(f"{verdicts.count(True)} of {len(verdicts) - verdicts.count(None)} figures met")
    return int(False in verdicts or any(played.failure for played in all_played))


def _play(acts: Sequence[Act], nodes: int) -> list[Played]:
    """Play *acts*, all that can be in the same lab; one that fails may have spoiled it."""
    all_played = []
    with contextlib.ExitStack() as stack:
        there: Lab | None = None
        for act in acts:
            try:
                if there is None or there.bfd != act.bfd:
                    stack.close()
                    there = stack.enter_context(lab(nodes, act.bfd))
                there.settle()
                played = Played(act, act.play(there))
            except FAILURES as error:
                played = Played(act, Result([]), f"{type(error).__name__}: {error}")
                there = None
            print("\n".join(played.lines()), flush=True)
            all_played.append(played)
    return all_played


def _load() -> str:
    return f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors"


def _end(number: int, frame: Any) -> NoReturn:
    """End the lab in order; a second Ctrl-C must not leave a half."""
    for sign in SIGNALS:
        signal.signal(sign, signal.SIG_IGN)
    sys.exit(128 + number)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/lab", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the acts")
    parser.add_argument(
        "--only", type=_acts, default=ACTS, metavar="NAME,...", help="some of the acts"
    )
    parser.add_argument("--nodes", type=int, choices=(2, 3), default=2, help="load balancers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args(argv)


def _acts(text: str) -> list[Act]:
    known = {act.name: act for act in ACTS}
    names = text.split(",")
    if unknown := sorted(set(names) - set(known)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    return [known[name] for name in names]


def _cells(figure: Figure) -> tuple[str, str, str]:
    """Return what was found, what is wanted, and how they compare."""
    found = f"{_number(figure.found)} {figure.unit}".rstrip()
    if figure.most is None:
        return found, "-", ""
    wanted = f"<= {_number(figure.most)} {figure.unit}".rstrip()
    return found, wanted, "met" if figure.is_met else "MISSED"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _line(name: str, requests: str, lost: str, slow: str, what: str, *cells: str) -> str:
    found, wanted, verdict = cells
    counts = f"{requests:>9}{lost:>6}{slow:>6}"
    return f"{name:17}{counts}  {what:38}{found:>10}  {wanted:12}{verdict}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
