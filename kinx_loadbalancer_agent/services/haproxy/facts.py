"""What HAProxy's sockets answer, as values. Pure: text in, facts out."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kinx_loadbalancer_agent.services.haproxy.shape import Limit, Server

FORCED_MAINTENANCE = 0x01  # srv_admin_state, HAProxy 2.6 management guide, 9.3 show servers state
FORCED_DRAIN = 0x08
CHECK_ENABLED = 0x04  # srv_check_state, include/haproxy/check-t.h
DOWN = "0"  # srv_op_state
RESYNCED = 0x3  # flags of a peers section: local and remote resynchronization are over
SESSION = re.compile(
    r"^(?P<id>0x[0-9a-f]+): .*? be=(?P<backend>\S+) srv=(?P<server>\S+) ", re.MULTILINE
)
LIMITS = ("Maxconn", "ConnRateLimit", "SessRateLimit", "SslRateLimit")
MASTER = re.compile(r"(?P<pid>\d+)\s+master\s+(?P<reloads>\d+) \[failed: (?P<failed>\d+)\]")
FIELD = re.compile(
    r"^(Pid|Version|description|CurrConns|\w*Maxconn|\w+RateLimit): (.*)$", re.MULTILINE
)
WORKER = re.compile(r"(?P<pid>\d+)\s+worker\s")


@dataclass(frozen=True)
class Worker:
    """``show info``: the process that answers, and the shape it says it has.

    limits: of the whole process, which commands on the socket can change.
    connections: of clients, at this moment.
    """

    pid: int
    version: str
    description: str | None
    limits: str
    connections: int = field(default=0, compare=False)


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
    fields = dict(FIELD.findall(text))
    if not fields.get("Pid", "").isdigit():
        return None
    limits = " ".join(f"{name} {fields.get(name, '')}" for name in LIMITS)
    version, description = fields.get("Version", ""), fields.get("description")
    connections = int(fields.get("CurrConns") or 0)
    return Worker(int(fields["Pid"]), version, description, limits, connections)


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


Row = tuple[str, str, str, str, str, bool, bool, str, str, str]
"""Of a server: its names, address, admin state, weight; whether it is checked, or down unchecked;
its port, and where it is checked."""


def servers(text: str) -> list[Row]:
    """Return the rows of ``show servers state``; the last one only when it is whole."""
    whole, _, _ = text.rpartition("\n")
    found = []
    for line in whole.split("\n"):
        words = line.split(" ")
        if len(words) > 22 and words[0] != "#":
            is_checked = bool(int(words[13]) & CHECK_ENABLED)
            who = (words[1], words[3], words[4], words[6], words[7])
            is_down = words[5] == DOWN and not is_checked
            found.append((*who, is_checked, is_down, words[18], words[21], words[22]))
    return found


def server(row: Row, limits: Mapping[tuple[str, str], int]) -> Server:
    """Return *row* as a server; *limits* of connections by backend and server."""
    backend, name, address, admin, weight, is_checked, is_down, port, check_port, at = row
    mode = "ready"
    if int(admin) & (FORCED_MAINTENANCE | FORCED_DRAIN):
        mode = "maint" if int(admin) & FORCED_MAINTENANCE else "drain"
    check = f"{at} {check_port}" if is_checked else ""
    limit = limits.get((backend, name), 0)
    where = (address, int(port), int(weight))
    is_down = is_down and mode == "ready"
    return Server(backend, name, *where, mode, check, limit=limit, is_down=is_down)


def down(text: str) -> list[tuple[Row, str]]:
    """Return the servers of ``show servers state`` that are down, each with its line."""
    lines = [line for line in text.splitlines() if line.count(" ") > 22]
    found = [line for line in lines if line.split(" ", 6)[5] == DOWN]
    return [(servers(f"{line}\n")[0], line) for line in found]


def sessions(text: str, backend: str, server: str) -> list[str]:
    """Return the pointers of the sessions with *server* of *backend* in ``show sess``."""
    found = SESSION.finditer(text)
    return [one["id"] for one in found if (one["backend"], one["server"]) == (backend, server)]


def frontends(text: str) -> list[Limit]:
    """Return the frontends of ``show stat``; those of which the limit is cut off are not there."""
    return [
        Limit(name, int(limit or 0), status)
        for name, server, limit, status in columns(text, "slim", "status")
        if server == "FRONTEND"
    ]


def limited(text: str) -> dict[tuple[str, str], int]:
    """Return the servers of ``show stat`` whose connections are limited, and to how many."""
    rows = columns(text, "slim", "status")
    return {(name, server): int(limit) for name, server, limit, _ in rows if limit}


def columns(text: str, *wanted: str) -> Iterator[tuple[str, ...]]:
    """Yield proxy, server and the columns *wanted* of each whole row of ``show stat``."""
    whole, _, _ = text.rpartition("\n")
    at: list[int] = []
    for line in whole.split("\n"):
        if line.startswith("# "):
            names = line.removeprefix("# ").split(",")
            is_whole = {"pxname", "svname", *wanted} <= set(names)
            at = [names.index(name) for name in ("pxname", "svname", *wanted) if is_whole]
        elif at and len(words := line.split(",", max(at) + 1)) > max(at):
            yield tuple(words[index] for index in at)


def is_resynced(text: str) -> bool:
    """True when ``show peers`` says of its section that tables would be handed on.

    A worker does so when it has been taught itself, or has given up to be (measured on 2.6.12).
    """
    found = re.search(r"flags=0x([0-9a-f]+)", text)
    return found is not None and int(found[1], 16) & RESYNCED == RESYNCED


def has_entries(text: str) -> bool:
    """True when ``show table`` lists a table that is in use."""
    return any(int(used) for used in re.findall(r"used:(\d+)", text))


def statistics(text: str) -> dict[tuple[str, str], Shown]:
    """Return the rows of ``show stat`` by proxy and server; FRONTEND and BACKEND are servers."""
    wanted = ("status", "check_status", "scur", "bin", "bout", "ereq", "stot")
    found = {}
    for proxy, server, status, check, *numbers in columns(text, *wanted):
        active, *totals = (int(number or 0) for number in numbers)
        found[proxy, server] = Shown(status, check, active, (*totals,))  # type: ignore[arg-type]
    return found
