"""The Runtime API: what a worker is told and says of itself, over the agent's own socket."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinx_loadbalancer_agent.errors import NotProven
from kinx_loadbalancer_agent.services.haproxy import facts, shape
from kinx_loadbalancer_agent.system import sockets
from kinx_loadbalancer_agent.system.clock import Deadline

PATIENCE_SECONDS = 2.0
FRONTENDS = "show stat -1 1 -1"
SAFE = re.compile(r"[A-Za-z0-9_.:/\[\] -]+")
REFUSED = re.compile(r"^\[[0-3]\]: (.*)", re.MULTILINE)
MAX_COMMANDS, MAX_BYTES = 50, 8000
LIMITS_AT_ONCE = 100


@dataclass(frozen=True)
class Shows:
    """What a worker has of that which it can be told; limits of servers, as far as looked at."""

    servers: tuple[facts.Row, ...]
    frontends: tuple[shape.Limit, ...]
    limits: Mapping[tuple[str, str], int]

    def __hash__(self) -> int:
        return hash((self.servers, self.frontends, tuple(sorted(self.limits.items()))))


class Runtime:
    """The worker behind the socket *path* (HAProxy 2.6 management guide, 9.3).

    Every method raises Unreachable if no worker listens, TimedOut when it is silent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_limits = 0

    def ask(self, question: str, deadline: Deadline, at_most: float = PATIENCE_SECONDS) -> str:
        """Return the worker's answer to *question*, which changes nothing, in *at_most* seconds."""
        return sockets.ask(self._path, question, deadline.remaining(at_most))

    def worker(self, deadline: Deadline, at_most: float = PATIENCE_SECONDS) -> facts.Worker:
        """Return who answers; raises NotProven when the answer is cut short."""
        found = facts.worker(self.ask("show info", deadline, at_most))
        if found is None:
            raise NotProven("haproxy's answer to show info was cut short")
        return found

    def tell(self, commands: Sequence[str], questions: Sequence[str], deadline: Deadline) -> str:
        """Carry out *commands* in order, then ask *questions*; return what the worker says.

        Connections are bounded in commands and bytes: 2.6 resets longer ones now and then.
        """
        said = []
        for batch in _batches([*commands, *questions]):
            patience = deadline.remaining(PATIENCE_SECONDS)
            said.append(sockets.ask(self._path, batch, patience, effect="haproxy.tell"))
        return "".join(said)

    def shows(self, backends: Sequence[str], deadline: Deadline) -> Shows:
        """Return frontends and servers, and limits of the servers of some of *backends*.

        Limits cost most and are looked at in turns; up to 100 backends have theirs each time.
        """
        first = self._next_limits if self._next_limits < len(backends) else 0
        some = backends[first : first + LIMITS_AT_ONCE]
        self._next_limits = first + LIMITS_AT_ONCE
        limits: dict[tuple[str, str], int] = {}
        for batch in _batches([f"show stat {name} 4 -1" for name in some]):
            limits |= facts.limited(self.ask(batch, deadline))
        frontends = facts.frontends(self.ask(FRONTENDS, deadline))
        servers = facts.servers(self.ask("show servers state", deadline))
        return Shows(tuple(servers), tuple(frontends), limits)

    def statistics(self, deadline: Deadline, at_most: float) -> dict[tuple[str, str], facts.Shown]:
        """Return what the worker shows of frontends, backends and servers."""
        return facts.statistics(self.ask("show stat -1 7 -1", deadline, at_most))

    def traffic(self, deadline: Deadline, at_most: float) -> dict[str, facts.Shown]:
        """Return what the worker shows of its frontends, by name."""
        answer = self.ask(FRONTENDS, deadline, at_most)
        return {name: shown for (name, _), shown in facts.statistics(answer).items()}


def refusals(said: str) -> Collection[str]:
    """Return the errors of which the worker speaks."""
    return dict.fromkeys(REFUSED.findall(said))


def _batches(commands: Sequence[str]) -> Iterator[str]:
    """Yield *commands* as lines of several; raises NotProven for one that could be two."""
    line: list[str] = []
    size = 0
    for command in commands:
        if not SAFE.fullmatch(command):
            raise NotProven(f"not to be told to haproxy: {command!r}")
        if len(line) >= MAX_COMMANDS or size + len(command) > MAX_BYTES:
            yield "; ".join(["set severity-output number", *line])
            line, size = [], 0
        line.append(command)
        size += len(command) + 2
    if line:
        yield "; ".join(["set severity-output number", *line])
