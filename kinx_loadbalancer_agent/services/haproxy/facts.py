"""What HAProxy's sockets answer, as values. Pure: text in, facts out."""

import re
from dataclasses import dataclass

from kinx_loadbalancer_agent.services.haproxy.view import shown_frontend, shown_server

FORCED_MAINTENANCE = 0x01  # srv_admin_state, HAProxy 2.6 management guide, 9.3 show servers state
FORCED_DRAIN = 0x08
CHECK_ENABLED = 0x04  # srv_check_state, include/haproxy/check-t.h
LIMITS = ("Maxconn", "ConnRateLimit", "SessRateLimit", "SslRateLimit")
MASTER = re.compile(r"(?P<pid>\d+)\s+master\s+(?P<reloads>\d+) \[failed: (?P<failed>\d+)\]")
WORKER = re.compile(r"(?P<pid>\d+)\s+worker\s")


@dataclass(frozen=True)
class Worker:
    """``show info``: the process that answers, and the shape it says it has.

    limits: of the whole process, which commands on the socket can change.
    """

    pid: int
    version: str
    description: str | None
    limits: str


@dataclass(frozen=True)
class Shown:
    """A row of ``show stat``: status, last check, connections, and totals that only grow.

    totals: bytes in, bytes out, request errors, connections (management guide, 9.1).
    """

    status: str
    check: str
    active: int
    totals: tuple[int, int, int, int]


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
    limits = " ".join(f"{name} {fields.get(name, '')}" for name in LIMITS)
    version, description = fields.get("Version", ""), fields.get("description")
    return Worker(int(fields["Pid"]), version, description, limits)


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
        if len(words) > 22:
            admin = int(words[6])
            disabled = bool(admin & FORCED_MAINTENANCE)
            weight = words[7] if not admin & FORCED_DRAIN else f"{words[7]} drained"
            check = f"{words[22]} {words[21]}" if int(words[13]) & CHECK_ENABLED else ""
            server = shown_server(words[1], words[3], words[4], words[18], weight, check, disabled)
            found.add(server)
    return frozenset(found)


def frontends(text: str) -> frozenset[str]:
    """Return the frontends of ``show stat -1 5 -1``, a line each as a target has them.

    A server whose connections somebody has limited is a line too, which no target has.
    """
    whole, _, _ = text.rpartition("\n")
    header, *rows = whole.splitlines() or [""]
    columns = header.removeprefix("# ").split(",")
    if not {"pxname", "svname", "slim", "status"} <= set(columns):
        return frozenset()
    name, server, limit, status = map(columns.index, ("pxname", "svname", "slim", "status"))
    found = set()
    for row in rows:
        words = row.split(",", status + 1)
        if len(words) > status and words[server] == "FRONTEND":
            found.add(shown_frontend(words[name], words[status], words[limit]))
        elif len(words) > status and words[limit]:
            found.add(f"{words[name]}/{words[server]} limited to {words[limit]}")
    return frozenset(found)


def statistics(text: str) -> dict[tuple[str, str], Shown]:
    """Return the rows of ``show stat`` by proxy and server; FRONTEND and BACKEND are servers."""
    header, *rows = text.splitlines() or [""]
    columns = header.removeprefix("# ").split(",")
    wanted = ("pxname", "svname", "status", "check_status", "scur", "bin", "bout", "ereq", "stot")
    if not set(wanted) <= set(columns):
        return {}
    at = [columns.index(name) for name in wanted]
    found = {}
    for row in rows:
        words = row.split(",")
        if len(words) > max(at):
            proxy, server, status, check, *numbers = (words[index] for index in at)
            active, *totals = (int(number or 0) for number in numbers)
            found[proxy, server] = Shown(status, check, active, (*totals,))  # type: ignore[arg-type]
    return found
