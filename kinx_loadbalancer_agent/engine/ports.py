"""What the engine needs of a proxy; services give it. Nothing here knows HAProxy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Deadline


@dataclass(frozen=True)
class Part:
    """One fragment of a configuration, and what the running process must show for it.

    owner: the resource that renders it.
    proxy: what the process calls it; it shows others that are not ours to judge.
    bind: the address and port it asks for.
    shows: a line for each frontend and server, as the process would describe them.
    """

    content: bytes
    owner: Ref
    proxy: str = ""
    bind: tuple[str, int] | None = None
    shows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A state as the proxy's configuration: parts by file name.

    digest: of the shape; two targets with one digest need no reload between them.
    """

    parts: Mapping[str, Part]
    digest: str

    @property
    def binds(self) -> dict[str, tuple[str, int]]:
        """The addresses asked for, by fragment."""
        return {name: part.bind for name, part in self.parts.items() if part.bind}

    @property
    def shows(self) -> frozenset[str]:
        """All lines that the running process must show."""
        return frozenset(line for part in self.parts.values() for line in part.shows)


@dataclass(frozen=True)
class Observation:
    """What the proxy was seen to be.

    digest: of the running shape; None when nothing is running or it runs something foreign.
    files, shows: the fragments on disk and the lines the process shows; None when not looked at.
    """

    is_running: bool
    worker_pid: int | None = None
    digest: str | None = None
    files: Mapping[str, bytes] | None = None
    shows: frozenset[str] | None = None


@dataclass(frozen=True)
class Plan:
    """What separates the machine from a target; *because* is empty when nothing does."""

    target: Target
    because: str

    @property
    def is_empty(self) -> bool:
        """True when the machine agrees with the target."""
        return not self.because


@dataclass(frozen=True)
class Applied:
    """What was done to make a change live, and the worker it is live in.

    put_aside: files of others that were in the way.
    """

    by: Literal["runtime", "reload", "none"]
    because: str
    pid: int | None
    is_live: bool
    put_aside: tuple[str, ...] = ()

    def published(self, change: int) -> dict[str, Any]:
        """Return the member ``applied`` of an answer."""
        return {"by": self.by, "because": self.because, "pid": self.pid, "change": change}


class Proxy(Protocol):
    """The service that balances.

    Every method ends by its deadline. Unreachable and TimedOut may come from each of them.
    """

    def observe(self, deadline: Deadline, *, thorough: bool = False) -> Observation:
        """Return what the process is; thorough: also its files, frontends and servers."""
        ...

    def render(self, state: State, leave_out: frozenset[str] = frozenset()) -> Target:
        """Return the configuration of *state* without the fragments *leave_out*."""
        ...

    def plan(self, target: Target, observation: Observation) -> Plan:
        """Return what must be done; nothing is touched."""
        ...

    def check(self, plan: Plan, deadline: Deadline) -> None:
        """Prove as much as can be proven before anything is touched.

        Raises CannotBind or CheckRefused with the fragments at fault.
        """
        ...

    def check_addresses(self, plan: Plan) -> None:
        """Prove that the target's addresses can be bound; a process that is down may lose them.

        Raises CannotBind with the fragments at fault.
        """
        ...

    def activate(self, plan: Plan, deadline: Deadline, *, may_start: bool) -> Applied:
        """Make the plan's target live and prove it; on any error the machine is as before.

        may_start: a process that is not running is started, where that is the agent's to do.
        Raises LoadRefused if the process refuses the target, NotProven otherwise.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Return the member ``haproxy`` of ``/api/status``, as last observed."""
        ...
