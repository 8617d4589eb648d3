"""What HAProxy's sockets answer, as values. Pure: text in, facts out."""

import re
from dataclasses import dataclass

from kinx_loadbalancer_agent.services.haproxy.view import shown_frontend, shown_server

FORCED_MAINTENANCE = 0x01  # srv_admin_state, HAProxy 2.6 management guide, 9.3 show servers state
FORCED_DRAIN = 0x08
MASTER = re.compile(r"(?P<pid>\d+)\s+master\s+(?P<reloads>\d+) \[failed: (?P<failed>\d+)\]")
WORKER = re.compile(r"(?P<pid>\d+)\s+worker\s")


@dataclass(frozen=True)
class Worker:
    """``show info``: the process that answers, and the shape it says it has."""

    pid: int
    version: str
    description: str | None


@dataclass(frozen=True)
class Master:
    """``show proc``: the master, how its last reload went, and its workers."""

    pid: int
    reloads: int
    failed: int
    workers: tuple[int, ...]
    old_workers: tuple[int, ...]


def worker(text: str) -> Worker | None:
    """Return what ``show info`` says; None when *text* is something else."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    if not fields.get("Pid", "").isdigit():
        return None
    return Worker(int(fields["Pid"]), fields.get("Version", ""), fields.get("description"))


def master(text: str) -> Master | None:
    """Return what ``show proc`` says; None when *text* is something else."""
    found: tuple[int, int, int] | None = None
    workers: dict[str, list[int]] = {"# workers": [], "# old workers": []}
    section = ""
    for line in text.splitlines():
        if line.startswith("# "):
            section = line.strip()
        elif match := MASTER.match(line):
            found = (int(match["pid"]), int(match["reloads"]), int(match["failed"]))
        elif section in workers and (match := WORKER.match(line)):
            workers[section].append(int(match["pid"]))
    if found is None:
        return None
    return Master(*found, tuple(workers["# workers"]), tuple(workers["# old workers"]))


def servers(text: str) -> frozenset[str]:
    """Return the servers of ``show servers state``, a line each as a target has them."""
    found = set()
    whole, _, _ = text.rpartition("\n")
    for line in whole.splitlines()[2:]:
        words = line.split(" ")
        if len(words) > 18:
            admin = int(words[6])
            disabled = bool(admin & FORCED_MAINTENANCE)
            weight = words[7] if not admin & FORCED_DRAIN else f"{words[7]} drained"
            found.add(
                shown_server(words[1], words[3], words[4], words[18], weight, disabled=disabled)
            )
    return frozenset(found)


def frontends(text: str) -> frozenset[str]:
    """Return the frontends of ``show stat -1 1 -1``, a line each as a target has them."""
    whole, _, _ = text.rpartition("\n")
    header, *rows = whole.splitlines() or [""]
    columns = header.removeprefix("# ").split(",")
    if not {"pxname", "slim", "status"} <= set(columns):
        return frozenset()
    found = (dict(zip(columns, row.split(","), strict=False)) for row in rows if row)
    return frozenset(shown_frontend(row["pxname"], row["status"], row["slim"]) for row in found)
