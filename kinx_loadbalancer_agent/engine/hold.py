"""A hold: for some minutes nothing is changed, so that a person can work on the machine.

What others change is reported, not undone. It ends by itself, and outlives a restart of the agent.
This module must never change what is wanted.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinx_loadbalancer_agent.engine.conditions import Conditions
from kinx_loadbalancer_agent.errors import Unavailable
from kinx_loadbalancer_agent.system import files
from kinx_loadbalancer_agent.system.clock import Clock, timestamp

CONDITION = "Held"
MODE = 0o600


@dataclass(frozen=True)
class Asked:
    """Who asked for it, why, and when it ends, in seconds since the epoch."""

    who: str
    reason: str
    until: float


class Hold:
    """The hold of one node, kept in the file *path*."""

    def __init__(self, path: Path, conditions: Conditions, clock: Clock) -> None:
        self._path = path
        self._conditions = conditions
        self._clock = clock
        self._asked: Asked | None = None

    def load(self) -> None:
        """Go on with a hold of the process before; what is no hold is none."""
        try:
            self._asked = Asked(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            self._asked = None
        self.look()

    def begin(self, who: str, reason: str, minutes: int) -> None:
        """Hold for *minutes* from now on, in the place of a hold there is."""
        self._asked = Asked(who, reason, self._clock.time() + 60 * minutes)
        files.write(self._path, json.dumps(asdict(self._asked)).encode(), mode=MODE)
        self.look()

    def end(self) -> None:
        """End it; without one there is nothing to end."""
        self._asked = None
        files.remove(self._path)
        self.look()

    @property
    def is_on(self) -> bool:
        """True while nothing is to be changed."""
        return self._asked is not None and self._clock.time() < self._asked.until

    def look(self) -> None:
        """Say in the condition how it stands."""
        if self.is_on:
            self._conditions.set(CONDITION, "True", "Asked", self.words(), "warning")
        else:
            message = "what others change is undone"
            self._conditions.set(CONDITION, "False", "NotAsked", message)

    def words(self) -> str:
        """Return in words who holds, and why."""
        asked = self._asked
        assert asked is not None
        return f"held by {asked.who} until {timestamp(asked.until)}: {asked.reason}"

    def refuse(self) -> None:
        """Raise Unavailable while it is on."""
        asked = self._asked
        if asked is not None and self.is_on:
            left = int(asked.until - self._clock.time()) + 1
            raise Unavailable(f"{self.words()}; nothing was kept", left)

    def published(self) -> dict[str, Any]:
        """Return it as callers see it."""
        asked = self._asked if self.is_on else None
        return {
            "held": asked is not None,
            "who": asked.who if asked else None,
            "reason": asked.reason if asked else None,
            "until": timestamp(asked.until) if asked else None,
        }
