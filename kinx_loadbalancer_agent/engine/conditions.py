"""What is true of this node right now, in words for its operator. Pure bookkeeping."""

import logging
import threading
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.ports import Claim, Severity, Status
from kinx_loadbalancer_agent.system.clock import Clock, timestamp

log = structlog.get_logger()

LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SHOWN_SECONDS = 1.5
SHOWN = 5  # of what was changed, in one message


@dataclass(frozen=True)
class Condition:
    """One statement: whether it holds, why, since when (Kubernetes API conventions)."""

    type: str
    status: Status
    severity: Severity
    reason: str
    message: str
    since: str


class Conditions:
    """The conditions of this node; written by the engine, read by anybody."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._conditions: dict[str, Condition] = {}

    def set(
        self, type: str, status: Status, reason: str, message: str, severity: Severity = "info"
    ) -> bool:
        """State the condition *type*, and say whether its status changed."""
        with self._lock:
            before = self._conditions.get(type)
            changed = before is None or before.status != status
            since = timestamp(self._clock.time()) if changed else ""
            if before is not None and not changed:
                since = before.since
            self._conditions[type] = Condition(type, status, severity, reason, message, since)
        is_news = before is None or (before.status, before.reason) != (status, reason)
        if is_news and (before is not None or severity != "info"):
            words = {"type": type, "status": status, "reason": reason, "message": message}
            log.log(LEVELS[severity], "condition changed", **words)
        return changed

    def state(self, claim: Claim) -> bool:
        """State what *claim* says."""
        return self.set(
            claim.type, claim.status, claim.reason, claim.message, severity=claim.severity
        )

    def holds(self, type: str) -> bool:
        """True when the condition *type* was stated as True."""
        found = self._conditions.get(type)
        return found is not None and found.status == "True"

    def message(self, type: str) -> str:
        """Return what was said last of the condition *type*, '' before it was stated."""
        found = self._conditions.get(type)
        return found.message if found else ""

    def published(self) -> list[dict[str, Any]]:
        """Return all conditions: what is wrong first, then by type."""
        order = {"error": 0, "warning": 1, "info": 2}
        with self._lock:
            conditions = list(self._conditions.values())
        found = sorted(conditions, key=lambda c: (order[c.severity], c.type))
        return [asdict(condition) for condition in found]


class Drift:
    """What others changed behind the agent, by the service that found it."""

    def __init__(self, conditions: Conditions, clock: Clock) -> None:
        self._conditions = conditions
        self._clock = clock
        self._last_scan: str | None = None
        self._last_found = 0.0
        self._lock = threading.Lock()
        self._open: dict[str, list[str]] = {}
        self._found = 0
        self._repaired = 0
        self._undone = ""

    def found(self, source: str, what: str, *, is_left: bool = False) -> None:
        """Say that *source* found *what*; it stays until it has ended.

        is_left: it will not be undone yet; found again it is nothing new.
        """
        with self._lock:
            if is_left and what in self._open.get(source, ()):
                return
            self._found += 1
            self._last_found = self._clock.monotonic()
            self._open.setdefault(source, []).append(what)
            self._say()
        log.warning("drift found", what=what)

    def is_open(self, source: str) -> bool:
        """True while something is not as it should be that *source* found."""
        return source in self._open

    def ended(self, source: str) -> None:
        """Say that a look of *source* found everything as it should be.

        What was found a moment ago goes on to be shown, so that somebody sees it.
        """
        with self._lock:
            if self._open and self._clock.monotonic() - self._last_found < SHOWN_SECONDS:
                return
            self._undone = self._words() or self._undone
            self._repaired += len(self._open.pop(source, ()))
            self._say()

    def scanned(self) -> None:
        """Say that all was looked at just now."""
        self._last_scan = timestamp(self._clock.time())

    def published(self) -> dict[str, Any]:
        """Return the member ``drift`` of ``/api/status``."""
        return {"last_scan": self._last_scan, "found": self._found, "repaired": self._repaired}

    def _words(self) -> str:
        """Return what is not as it should be, what was found last at the end."""
        told = dict.fromkeys(what for found in self._open.values() for what in found)
        return "; ".join(list(told)[-SHOWN:])

    def _say(self) -> None:
        if words := self._words():
            self._conditions.set("Drift", "True", "Foreign", words, "warning")
        elif self._undone:
            self._conditions.set("Drift", "False", "Repaired", f"undone last: {self._undone}")
        else:
            message = "nothing was changed behind the agent"
            self._conditions.set("Drift", "False", "None", message)
