"""What HAProxy's sockets answer, as values. Pure: text in, facts out."""

from dataclasses import dataclass

from kinx_loadbalancer_agent.services.haproxy.view import shown_frontend, shown_server

FORCED_MAINTENANCE = 0x01  # srv_admin_state, HAProxy 2.6 management guide, 9.3 show servers state
FORCED_DRAIN = 0x08


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
            continue
        words = line.split()
        if len(words) >= 3 and words[0].isdigit():
            if words[1] == "master":
                failed = words[4].rstrip("]") if words[3:4] == ["[failed:"] else "0"
                found = (int(words[0]), int(words[2]), int(failed))
            elif section in workers:
                workers[section].append(int(words[0]))
    if found is None:
        return None
    return Master(*found, tuple(workers["# workers"]), tuple(workers["# old workers"]))


def servers(text: str) -> frozenset[str]:
    """Return the servers of ``show servers state``, a line each as a target has them."""
    found = set()
    for line in text.splitlines()[2:]:
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
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# "):
        return frozenset()
    columns = lines[0].removeprefix("# ").split(",")
    name, limit, status = (columns.index(column) for column in ("pxname", "slim", "status"))
    rows = [line.split(",") for line in lines[1:] if line]
    return frozenset(shown_frontend(row[name], row[status], row[limit]) for row in rows)
