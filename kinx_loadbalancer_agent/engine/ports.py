"""What the engine needs of a proxy; services give it. Nothing here knows HAProxy."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Deadline

Status = Literal["True", "False", "Unknown"]
Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Part:
    """One fragment of a configuration, and what of it a running process can be told.

    owner: the resource that renders it.
    shape: tells it from one that a running process cannot be told to be.
    proxy: what the process calls it; it shows others that are not ours to judge.
    bind: the address and port it asks for; bind_at: where its owner's document has them.
    live: what the process can be told, and shows, in the service's own terms.
    """

    content: bytes
    owner: Ref
    shape: str
    proxy: str = ""
    bind: tuple[str, int] | None = None
    live: tuple[Any, ...] = ()
    bind_at: tuple[str, str] = ("/vip_address", "/protocol_port")


@dataclass(frozen=True)
class Claim:
    """A condition as a service sees it."""

    type: str
    status: Status
    reason: str
    message: str
    severity: Severity = "info"


@dataclass(frozen=True)
class Target:
    """A state as the proxy's configuration: parts by file name.

    digest: of the shape; two targets with one digest need no reload between them.
    claims: what the operator should know of it, besides.
    """

    parts: Mapping[str, Part]
    digest: str
    claims: tuple[Claim, ...] = ()

    @property
    def binds(self) -> dict[str, tuple[str, int]]:
        """The addresses asked for, by fragment."""
        return {name: part.bind for name, part in self.parts.items() if part.bind}


@dataclass(frozen=True)
class Observation:
    """What the proxy was seen to be.

    digest: of the running shape; None when nothing is running or it runs something foreign.
    is_recent: it is one of a moment ago, good enough for a change that is proven by itself.
    files: the fragments on disk; shows: what the process shows, in the service's own terms; None
    when not looked at.
    """

    is_running: bool
    worker_pid: int | None = None
    digest: str | None = None
    files: Mapping[str, bytes] | None = None
    shows: Any = None
    is_recent: bool = False


@dataclass(frozen=True)
class Plan:
    """What separates the machine from a target; *because* is empty when nothing does.

    commands: what the process will be told; is_live: it needs no reload.
    concerns: the parts that a live change is about.
    """

    target: Target
    because: str
    commands: tuple[str, ...] = ()
    is_live: bool = False
    concerns: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when the machine agrees with the target."""
        return not self.because


@dataclass(frozen=True)
class Operating:
    """How an object does (LBaaS: operating status), and why where it is not ONLINE."""

    status: str
    reason: str


@dataclass(frozen=True)
class Written:
    """An object in the configuration: its file and lines, and what the process shows of it."""

    file: str
    lines: tuple[str, ...]
    live: Mapping[str, str]


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

    def recent(self) -> Observation | None:
        """Return what was observed a moment ago; None when that is longer ago, or was otherwise."""
        ...

    def render(self, state: State, leave_out: frozenset[str] = frozenset()) -> Target:
        """Return the configuration of *state* without the fragments *leave_out*."""
        ...

    def plan(self, target: Target, observation: Observation) -> Plan:
        """Return what must be done; nothing is touched."""
        ...

    def check(
        self,
        plan: Plan,
        deadline: Deadline,
        *,
        is_trial: bool = False,
        assigned: frozenset[str] = frozenset(),
    ) -> None:
        """Prove as much as can be proven before anything is touched.

        is_trial: not even prepare what could be activated.
        assigned: the addresses that this node assigns, whether they are there yet or not.
        Raises CannotBind or CheckRefused with the fragments at fault.
        """
        ...

    def check_addresses(self, plan: Plan, assigned: frozenset[str] = frozenset()) -> None:
        """Prove that the target's addresses can be bound; a process that is down may lose them.

        Raises CannotBind with the fragments at fault.
        """
        ...

    def activate(self, plan: Plan, deadline: Deadline, *, may_start: bool) -> Applied:
        """Make the plan's target live and prove it; on any error the machine is as before.

        A live plan needs no observation that is not recent: the proof asks the process who it is.
        may_start: a process that is not running is started, where that is the agent's to do.
        Raises LoadRefused if the process refuses the target, NotProven otherwise.
        """
        ...

    def tend(self, deadline: Deadline) -> Claim:
        """Go on with what takes longer than a change: servers that wait for their clients."""
        ...

    def recover(self, deadline: Deadline) -> str:
        """Replace a process that does not answer; return what was done, '' for nothing."""
        ...

    @property
    def is_changing(self) -> bool:
        """True while a change is made, in which an answer may take longer."""
        ...

    def pulse(self, timeout_seconds: float) -> tuple[int, int]:
        """Return the worker that answers, and its connections. Any thread may ask.

        Raises Unreachable when nobody is there, another ApplyError without a whole answer.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Return the member ``haproxy`` of ``/api/status``, as last observed."""
        ...

    def operating(self, state: State, deadline: Deadline) -> dict[Ref, Operating]:
        """Return how the objects of *state* do now. Any thread may ask."""
        ...

    def traffic(self, state: State, owner: str, deadline: Deadline) -> dict[str, int]:
        """Return what the load balancer *owner* of *state* carried so far. Any thread may ask."""
        ...

    def written(
        self, state: State, refs: Collection[Ref], deadline: Deadline
    ) -> dict[Ref, Written]:
        """Return how objects of *state* are configured and run. Any thread may ask."""
        ...


class Network(Protocol):
    """What gives this node the addresses that its listeners bind, and announces them."""

    def assigns(self, state: State) -> frozenset[str]:
        """Return the addresses that *state* has this node assign."""
        ...

    def assign(self, addresses: frozenset[str], deadline: Deadline) -> None:
        """Assign those of *addresses* that are not there; raises ApplyError or OSError."""
        ...

    def leading_to(
        self, binds: Collection[tuple[str, int]], deadline: Deadline
    ) -> AbstractContextManager[None]:
        """Announce nothing, for the time of the block, that *binds* alone will not serve.

        What is announced is withdrawn before, in at most 500 ms; that may fail.
        """
        ...


class Service(Protocol):
    """What a keeper keeps as the state says. Every method ends by its deadline.

    condition: the type of the first claim it makes, which says whether the service is as wanted.
    kinds: the resources it is made of; a change of the awaited ones is answered when it is kept.
    look_seconds: how long nothing is looked at when nothing happens.
    """

    name: str
    condition: str
    kinds: frozenset[str]
    awaited: frozenset[str]
    look_seconds: float = 2.0

    def follow(self, state: State, changed: Callable[[], None]) -> None:
        """Know that *state* is wanted; call *changed* to be looked at. Returns at once."""
        return

    def stop(self) -> None:
        """End what goes on by itself."""
        return

    def render(self, state: State) -> bytes:
        """Return *state* in the service's own words; b"" where it asks for nothing. Pure."""
        ...

    def aim(self, state: State) -> bytes:
        """Return what is to be kept now, where that depends on more than *state*."""
        return self.render(state)

    def readable(self, content: bytes) -> str:
        """Return rendered *content* as people may see it: without secrets."""
        return content.decode()

    def check(self, content: bytes, deadline: Deadline) -> None:
        """Ask the service's own check about rendered *content*; raises CheckRefused."""
        return

    def observe(self, deadline: Deadline) -> Any:
        """Return what is there; raises ApplyError or OSError."""
        ...

    def last_seen(self, deadline: Deadline) -> Any:
        """Return what was observed a moment ago, for a plan that nobody carries out."""
        return self.observe(deadline)

    def plan(self, state: State, observation: Any) -> tuple[str, ...]:
        """Return in words what separates what is there from *state*; nothing is touched."""
        ...

    def apply(self, state: State, observation: Any, deadline: Deadline) -> None:
        """Do what is planned; raises ApplyError or OSError."""
        ...

    def claims(self, state: State) -> tuple[Claim, ...]:
        """Return how it stands, after a look that found nothing to do."""
        ...

    def shows(self, resource: Resource, shown: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what only the service knows of *resource*, whose other members are *shown*."""
        return {}
