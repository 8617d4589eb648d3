"""What is true of this node right now, in words for its operator. Pure bookkeeping."""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kinx_loadbalancer_agent.system.clock import Clock

Status = Literal["True", "False", "Unknown"]
Severity = Literal["info", "warning", "error"]


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

    def __init__(self, clock: Clock, timestamp: Callable[[float], str]) -> None:
        self._clock = clock
        self._timestamp = timestamp
        self._lock = threading.Lock()
        self._conditions: dict[str, Condition] = {}

    def set(
        self, type: str, status: Status, reason: str, message: str, severity: Severity = "info"
    ) -> bool:
        """State the condition *type*, and say whether its status changed."""
        with self._lock:
            before = self._conditions.get(type)
            changed = before is None or before.status != status
            since = self._timestamp(self._clock.time()) if changed else ""
            if before is not None and not changed:
                since = before.since
            self._conditions[type] = Condition(type, status, severity, reason, message, since)
            return changed

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
