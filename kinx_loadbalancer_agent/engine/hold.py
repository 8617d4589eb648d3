"""A hold: for some minutes nothing is changed, so that a person can work on the machine.

What others change is reported, not undone. It ends by itself, and outlives a restart of the agent.
This module must never change what is wanted.
"""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.conditions import Conditions
from kinx_loadbalancer_agent.errors import Unavailable
from kinx_loadbalancer_agent.system import files
from kinx_loadbalancer_agent.system.clock import Clock, timestamp

log = structlog.get_logger()

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
        self._writing = threading.Lock()

    def load(self) -> None:
        """Go on with a hold of the process before; what is no hold is none."""
        try:
            self._asked = Asked(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            self._asked = None
        self.look()

    def begin(self, who: str, reason: str, minutes: int) -> None:
        """Hold for *minutes* from now on, in the place of a hold there is."""
        asked = Asked(who, reason, self._clock.time() + 60 * minutes)
        with self._writing:
            files.write(self._path, json.dumps(asdict(asked)).encode(), mode=MODE)
            self._asked = asked
        log.info("hold begins", who=who, reason=reason, minutes=minutes)
        self.look()

    def end(self) -> None:
        """End it; without one there is nothing to end."""
        with self._writing:
            files.remove(self._path)
            self._asked = None
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
        if asked is None:
            return "not held any more"
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
