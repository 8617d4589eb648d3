"""Time as an argument: a clock that can be replaced, and deadlines drawn from it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the engine and the services know of time."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait *seconds*."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Deadline:
    """A moment after which nobody waits any more."""

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> "Deadline":
        """Return the deadline *seconds* from now."""
        return cls(clock, clock.monotonic() + seconds)

    def within(self, seconds: float) -> "Deadline":
        """Return the deadline *seconds* from now; this one where it is earlier."""
        return Deadline(self.clock, min(self.at, self.clock.monotonic() + seconds))

    def wait_for(self, holds: Callable[[], bool], every_seconds: float) -> bool:
        """Wait until *holds* is true, looking *every_seconds*; return whether it was in time."""
        while not holds():
            if self.has_passed:
                return False
            self.clock.sleep(every_seconds)
        return True

    def remaining(self, at_most: float = float("inf")) -> float:
        """Return the seconds left, *at_most* that many and never below a millisecond."""
        return max(0.001, min(at_most, self.at - self.clock.monotonic()))

    @property
    def has_passed(self) -> bool:
        """True when no time is left."""
        return self.clock.monotonic() >= self.at


def timestamp(seconds: float) -> str:
    """Return *seconds* since the epoch as RFC 3339, UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
