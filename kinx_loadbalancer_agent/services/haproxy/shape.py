"""What a running HAProxy can be told to change, and what it must be reloaded for. Pure.

Two configurations of one shape differ only in what the Runtime API can set: servers, and the
limits of frontends (HAProxy 2.6 management guide, 9.3). A difference of two of them is a list of
commands, or the reason why only a reload will do.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import compress
from operator import is_not

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.errors import listed
from kinx_loadbalancer_agent.model.rules import endpoint

GLOBAL = "00-global.cfg"
LIVE_LINES = re.compile(rb"^    (?:server|maxconn) .*\n", re.MULTILINE)
NOWHERE = "- 0"  # as HAProxy shows that a server is checked where it serves


@dataclass(frozen=True, slots=True)
class Server:
    """A ``server`` line.

    mode: ready or maint; of a running process also drain.
    check: the address and port that are checked, as HAProxy shows them; '' when nothing is.
    checks: how it is checked when it is; words, backup: the rest of the line. No command sets them:
    only a new server has others.
    is_addable: a running process can get it (2.6 refuses the word ``cookie`` there).
    limit: of its connections, which somebody has set; 0 is none.
    is_down: somebody says so, and no check says otherwise.
    line: what follows the word ``server`` in the configuration.
    """

    backend: str
    name: str
    address: str
    port: int
    weight: int
    mode: str = "ready"
    check: str = ""
    checks: str = ""
    words: str = ""
    backup: bool = False
    is_addable: bool = True
    limit: int = 0
    is_down: bool = False
    line: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        disabled = " disabled" if self.mode == "maint" else ""
        object.__setattr__(self, "line", f"{self.name} {self.given}{disabled}")

    @property
    def given(self) -> str:
        """What a server has from the beginning."""
        address, _, port = self.check.partition(" ")
        host = f"[{address}]" if ":" in address else address
        checks = self.checks if self.check else ""
        checks += f" addr {host}" if self.check and address != "-" else ""
        checks += f" port {port}" if self.check and port != "0" else ""
        backup = " backup" if self.backup else ""
        return (
            f"{endpoint(self.address, self.port)} weight {self.weight}{self.words}{checks}{backup}"
        )

    @property
    def key(self) -> tuple[str, str]:
        """What the process calls it."""
        return self.backend, self.name

    @property
    def fixed(self) -> tuple[str, str, bool]:
        """What no command sets."""
        return self.checks, self.words, self.backup

    @property
    def is_used(self) -> bool:
        """True when new clients may come to it."""
        return self.mode == "ready" and self.weight > 0

    def __str__(self) -> str:
        check = f"checked at {self.check}" if self.check else "unchecked"
        others = f" limited to {self.limit}" if self.limit else ""
        others += " down" if self.is_down else ""
        words = f"{self.address} {self.port} weight {self.weight} {self.mode} {check}{others}"
        return f"{self.backend}/{self.name} {words}"


@dataclass(frozen=True, slots=True)
class Limit:
    """The ``maxconn`` line of a frontend; status: OPEN, or what a running process shows."""

    name: str
    maxconn: int
    status: str = "OPEN"

    @property
    def key(self) -> tuple[str, str]:
        """What the process calls it."""
        return self.name, ""

    def __str__(self) -> str:
        return f"{self.name} {self.status} {self.maxconn}"


Live = Server | Limit


@dataclass(frozen=True)
class Difference:
    """What turns one into another: *commands*, or nothing but a reload, because *reload*."""

    commands: tuple[str, ...] = ()
    reload: str = ""


def of(content: bytes, *, is_live: bool) -> str:
    """Return the digest of the fragment *content*, of its live lines only that they are live."""
    return hashlib.sha256(LIVE_LINES.sub(b"", content) if is_live else content).hexdigest()


def digest(parts: Mapping[str, Part]) -> str:
    """Return the digest of the shape of *parts*: SHA-256 over names and shapes, in order."""
    found = hashlib.sha256()
    for name in sorted(parts):
        found.update(f"{name} {parts[name].shape}\n".encode())
    return found.hexdigest()


# --- two states → commands, or a reload -------------------------------------------------------


def difference(before: Iterable[Live], wanted: Iterable[Live]) -> Difference:
    """Return how a process that has *before* is told to have *wanted*.

    What comes is added first and what goes is taken away last, so that clients always find a
    server.
    """
    old = {one.key: one for one in before}
    new = {one.key: one for one in wanted}
    added, told = [], []
    replaced: dict[tuple[str, str], Server] = {}
    for key, one in new.items():
        was = old.get(key)
        if was == one:
            continue
        if was is None:
            if isinstance(one, Limit) or not one.is_addable:
                return Difference(reload=f"{_name(one)} cannot be added to a running process")
            added.append(one)
        elif isinstance(one, Server) and isinstance(was, Server) and one.fixed != was.fixed:
            replaced[key] = one
        else:
            commands = _told(was, one)
            if commands is None:
                return Difference(reload=f"{_name(one)} changes what no command sets back")
            told += commands
    removed = [one for key, one in old.items() if key not in new and isinstance(one, Server)]
    stays = {
        one.backend
        for key, one in new.items()
        if isinstance(one, Server) and one.is_used and key not in replaced
    }
    for one in replaced.values():  # for a moment it is not there
        if one.backend not in stays or not one.is_addable:
            return Difference(reload=f"{_name(one)} changes what only a load can")
    commands = [command for one in added for command in _add(one)] + told
    for one in replaced.values():
        commands += [*_remove(one), *_add(one)]
    commands += [command for one in removed for command in _remove(one)]
    return Difference(tuple(commands))


def _name(one: Live) -> str:
    return f"{one.backend}/{one.name}" if isinstance(one, Server) else one.name


def _add(one: Server) -> Iterator[str]:
    name = _name(one)
    yield f"add server {name} {one.given}"
    if one.check:
        yield f"enable health {name}"
    if one.mode == "ready":
        yield f"enable server {name}"


def _remove(one: Server) -> Iterator[str]:
    yield f"set server {_name(one)} state maint"
    yield f"del server {_name(one)}"


def _told(was: Live, one: Live) -> list[str] | None:
    """Return the commands that make *was* into *one*; None when there are none."""
    if isinstance(one, Limit) and isinstance(was, Limit):
        if was.status not in ("OPEN", "PAUSED"):
            return None
        limit = [f"set maxconn frontend {one.name} {one.maxconn}"]
        resume = [f"enable frontend {one.name}"] if was.status == "PAUSED" else []
        return resume + (limit if was.maxconn != one.maxconn else [])
    assert isinstance(was, Server)
    assert isinstance(one, Server)
    name, commands = _name(one), []
    if (was.address, was.port) != (one.address, one.port):
        commands.append(f"set server {name} addr {one.address} port {one.port}")
    if was.weight != one.weight:
        commands.append(f"set server {name} weight {one.weight}")
    if bool(was.check) != bool(one.check):
        # What is not checked any more is up, whatever the last check said.
        up = [f"set server {name} health up"]
        commands += [f"enable health {name}"] if one.check else [f"disable health {name}", *up]
    if one.check and one.check != (was.check or NOWHERE):
        address, port = one.check.split(" ")
        if address == "-" and not (was.check or NOWHERE).startswith("- "):
            return None
        if address != "-":
            commands.append(f"set server {name} check-addr {address}")
        commands.append(f"set server {name} check-port {port}")
    if was.is_down:
        commands.append(f"set server {name} health up")
    if was.limit:
        commands.append(f"set maxconn server {name} 0")
    if was.mode != one.mode:
        commands.append(f"set server {name} state {one.mode}")
    return commands


def others(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return the keys of which *old* and *new* have not the very same object; quick for many."""
    found = compress(new, map(is_not, map(old.get, new), new.values()))
    return [*found, *(old.keys() - new.keys())]


# --- in words -----------------------------------------------------------------------------------


def changes(before: Mapping[str, Part], after: Mapping[str, Part]) -> str:
    """Return in words why a process of the shape *before* must be reloaded for *after*."""
    old = {name: part.shape for name, part in before.items()}
    new = {name: part.shape for name, part in after.items()}
    return _difference(old, new, only_new="is new", only_old="goes", both="changes")


def drift(wanted: Mapping[str, bytes], present: Mapping[str, bytes]) -> str:
    """Return in words how the files *present* differ from *wanted*; '' when they do not."""
    return _difference(
        wanted, present, only_new="is not ours", only_old="is missing", both="was edited"
    )


def summary(words: Iterable[str]) -> str:
    """Return *words* as one line, the first few of them by name."""
    return listed(sorted(words))


def _difference(
    old: Mapping[str, object],
    new: Mapping[str, object],
    *,
    only_new: str,
    only_old: str,
    both: str,
) -> str:
    words = [f"{name} {only_new}" for name in new.keys() - old.keys()]
    words += [f"{name} {only_old}" for name in old.keys() - new.keys()]
    words += [f"{name} {both}" for name in old.keys() & new.keys() if old[name] != new[name]]
    return summary(word for word in words if not word.startswith(GLOBAL) or len(words) == 1)
