"""A row of the table, what is wanted of it, and how both are printed and written.

This module measures nothing.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

WHAT, UNIT, FIGURE = 59, 8, 9  # characters


@dataclass(frozen=True)
class Target:
    """The most that is allowed.

    of: the median, the worst figure, the median's ratio to the floor, or what it is above it.
    """

    most: float
    of: Literal["median", "worst", "ratio", "excess"] = "median"

    def text(self, unit: str) -> str:
        """Return the target in words."""
        limit = f"{self.most:g} {unit}".rstrip()
        words = {"ratio": f"{self.most:g} x floor", "excess": f"floor + {limit}"}
        return f"<= {words.get(self.of, limit)}"


@dataclass(frozen=True)
class Row:
    """Figures of ours, the floor taken in alternation with them, and what is wanted.

    floor: figures of its parts by name, in the unit of ours; the floor is the sum of their medians.
    phases: medians of what ours consists of, as far as it tells.
    load: of the machine in the last minute, when the row was done.
    """

    what: str
    unit: str
    taken: Sequence[float]
    target: Target | None = None
    floor: Mapping[str, Sequence[float]] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def spread(self) -> dict[str, float]:
        return spread(self.taken)

    @property
    def floor_median(self) -> float | None:
        medians = [statistics.median(part) for part in self.floor.values()]
        return sum(medians) if medians else None

    @property
    def ratio(self) -> float | None:
        floor = self.floor_median
        return self.spread["median"] / floor if floor else None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        median = self.spread["median"]
        found = {
            "median": median,
            "worst": max(self.taken),
            "ratio": self.ratio,
            "excess": median - (self.floor_median or 0.0),
        }[self.target.of]
        assert found is not None, f"{self.what}: no floor was taken"
        return found <= self.target.most

    def written(self) -> dict[str, Any]:
        """Return every figure, for JSON."""
        return {
            "what": self.what,
            "unit": self.unit,
            **self.spread,
            "floor": self.floor_median,
            "floor_parts": {name: spread(part) for name, part in self.floor.items()},
            "ratio": self.ratio,
            "target": self.target.text(self.unit) if self.target else None,
            "is_met": self.is_met,
            "phases": dict(self.phases),
            "load": self.load,
            "all": list(self.taken),
            "floor_all": {name: list(part) for name, part in self.floor.items()},
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return number, minimum, median and 99th percentile."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"n": len(ordered), "min": ordered[0], "median": statistics.median(ordered), "p99": p99}


def heading() -> str:
    """Return the first line of the table."""
    names = ("what", "unit", "n", "min", "median", "p99", "floor", "ratio")
    return f"{_line(names)}  target"


def lines(row: Row) -> str:
    """Return *row* as a line, and lines under it with what floor and figure consist of."""
    found = row.spread
    is_one = found["n"] == 1
    figures = [
        f"{found['n']:.0f}",
        "" if is_one else _number(found["min"]),
        _number(found["median"]),
        "" if is_one else _number(found["p99"]),
        _number(row.floor_median),
        _number(row.ratio),
    ]
    verdict = {True: "met", False: "MISSED", None: ""}[row.is_met]
    target = row.target.text(row.unit) if row.target else "-"
    text = f"{_line((row.what, row.unit, *figures))}  {target:17}{verdict}".rstrip()
    if len(row.floor) > 1:
        parts = (f"{name} {statistics.median(part):.2f}" for name, part in row.floor.items())
        text += f"\n    floor: {' + '.join(parts)}"
    if row.phases:
        text += f"\n    of it: {'  '.join(f'{name} {ms:.2f}' for name, ms in row.phases.items())}"
    return text


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure that *samples* have."""
    return {name: statistics.median(one[name] for one in samples) for name in samples[0]}


def machine_facts() -> dict[str, Any]:
    """Return what the figures depend on."""
    version = subprocess.run(["haproxy", "-v"], check=True, capture_output=True, text=True)
    return {
        "haproxy": version.stdout.split()[2],
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
    }


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    what, unit, *figures = cells
    return f"{what:{WHAT}}{unit:{UNIT}}" + "".join(f"{figure:>{FIGURE}}" for figure in figures)
