"""Traffic counters that never go back: HAProxy's begin at 0 in every process, ours go on.

What each process showed last is kept in a file before it is told to anybody, so that the next
reload, crash or restart only adds to it.
"""

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.errors import ApplyError
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy.facts import Shown
from kinx_loadbalancer_agent.services.haproxy.master import Master
from kinx_loadbalancer_agent.services.haproxy.runtime import Runtime
from kinx_loadbalancer_agent.system import files, process
from kinx_loadbalancer_agent.system.clock import Deadline

log = structlog.get_logger()

MODE = 0o640
PATIENCE_SECONDS = 1.0
TOTALS = ("bytes_in", "bytes_out", "request_errors", "total_connections")

Entry = dict[str, Any]
"""Of one frontend: its load balancer, the sums of processes that ended, and of those that run."""


class Counters:
    """The counters of all frontends, in the file *path*, by the load balancer that owns them."""

    def __init__(self, path: Path, runtime: Runtime, master: Master) -> None:
        self._path = path
        self._runtime = runtime
        self._master = master
        self._lock = threading.Lock()
        self._owners: Mapping[str, str] = {}
        self._known: frozenset[str] | None = None
        self._kept: Mapping[str, Entry] | None = None

    def of(self, state: State, owner: str, deadline: Deadline) -> dict[str, int]:
        """Return the sums of the load balancer *owner*, of listeners that are gone included."""
        with self._lock:
            self._owners = {
                listener.ref.id: getattr(listener, "loadbalancer_id", None) or ""
                for listener in state.all("listeners")
            }
            self._known = frozenset(state.table("loadbalancers"))
            found = self._take(deadline)
            mine = {name: e for name, e in self._load().items() if e["owner"] == owner}
            rows = [_sum(entry) for entry in mine.values()]
            sums = {total: sum(row[at] for row in rows) for at, total in enumerate(TOTALS)}
            shown = (row for rows in found.values() for name, row in rows.items() if name in mine)
            return {"active_connections": sum(row.active for row in shown)} | sums

    def take(self, deadline: Deadline) -> None:
        """Keep what every process shows now; for one that is about to end it is the last time."""
        with self._lock:
            self._take(deadline)

    def _take(self, deadline: Deadline) -> Mapping[int, Mapping[str, Shown]]:
        """Keep what every process shows now, and return it, by pid and name."""
        found: dict[int, Mapping[str, Shown]] = {}
        with suppress(ApplyError):
            worker = self._runtime.worker(deadline, PATIENCE_SECONDS)
            found[worker.pid] = self._runtime.traffic(deadline, PATIENCE_SECONDS)
        with suppress(ApplyError):
            for pid in self._master.processes(deadline).old_workers:
                found[pid] = self._master.traffic(pid, deadline.remaining(PATIENCE_SECONDS))
        before = self._load()
        names = {name for rows in found.values() for name in rows if name in self._owners}
        kept: dict[str, Entry] = {}
        for name in before.keys() | names:
            entry = before.get(name)
            owner = self._owners.get(name, entry["owner"] if entry else "")
            if entry and entry["owner"] not in ("", owner):  # another one of that name
                left = f"{name} of {entry['owner']}"
                ended = [a + b for a, b in zip(_sum(entry), _sum(before.get(left)), strict=True)]
                kept[left] = {"owner": entry["owner"], "ended": ended, "running": {}}
                entry = None
            is_known = self._known is None or owner in self._known or name in self._owners
            if is_known and name not in kept:
                kept[name] = self._updated(entry, name, owner, found)
        self._kept = kept
        if kept != before:
            try:
                files.make_directory(self._path.parent, 0o700)
                files.write(self._path, json.dumps(kept).encode(), mode=MODE)
            except OSError as error:
                log.warning("counters not kept", error=str(error))
        return found

    def _load(self) -> Mapping[str, Entry]:
        if self._kept is None:
            try:
                self._kept = json.loads(self._path.read_bytes())
            except (OSError, ValueError):  # the first start; a disk that was full
                self._kept = {}
        return self._kept or {}

    def _updated(
        self, entry: Entry | None, name: str, owner: str, found: Mapping[int, Mapping[str, Shown]]
    ) -> Entry:
        now = {str(pid): list(rows[name].totals) for pid, rows in found.items() if name in rows}
        ended = entry["ended"] if entry else [0] * len(TOTALS)
        for pid, last in entry["running"].items() if entry else ():
            if pid not in now and process.is_alive(int(pid)):
                now[pid] = last  # it does not answer just now
            # What counts from 0 again is another process, or somebody cleared the counters.
            elif pid not in now or any(new < old for new, old in zip(now[pid], last, strict=True)):
                ended = [old + more for old, more in zip(ended, last, strict=True)]
        return {"owner": owner, "ended": ended, "running": now}


def _sum(entry: Entry | None) -> list[int]:
    if entry is None:
        return [0] * len(TOTALS)
    return [sum(column) for column in zip(entry["ended"], *entry["running"].values(), strict=True)]
