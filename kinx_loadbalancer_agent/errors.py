"""Everything that can go wrong, as classes with data.

AgentError
├── SettingsError            the settings cannot be used (exit 2)
├── StateError               the state directory cannot be used
│   ├── StateLocked          another agent holds it
│   ├── StateNewer           a newer version wrote it
│   └── StateFull            no space to keep a change (507)
├── Refusal                  the caller's document or moment is wrong; nothing was kept
│   ├── Malformed            400  not a JSON document we read
│   ├── NotFound             404
│   ├── Conflict             409  something else is there
│   ├── PreconditionFailed   412
│   ├── BadMediaType         415
│   ├── Unprocessable        422  members that their rules forbid
│   └── Unavailable          503  not now; repeat later
└── ApplyError               the machine does not do what was planned
    ├── CheckRefused         ``haproxy -c`` or ``vtysh -C`` refuses the configuration
    ├── CannotBind           an address or port that HAProxy could not bind
    ├── LoadRefused          HAProxy refused to load a configuration that ``-c`` accepted
    ├── NotProven            HAProxy does not show what it was told
    ├── Held                 somebody asked that nothing is changed
    ├── Unreachable          nobody listens on a socket
    ├── TimedOut             no answer in time
    ├── ProgramTimedOut      a program did not end in time
    └── ProgramMissing       a program cannot be started

This module must never import another of ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

MAX_NAMED = 4


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a document: where (RFC 6901), what, and whether it is a conflict."""

    pointer: str
    detail: str
    is_conflict: bool = False

    def within(self, prefix: str) -> "Fault":
        """Return the same fault of a document nested at *prefix*."""
        return Fault(prefix + self.pointer, self.detail, self.is_conflict)


class AgentError(Exception):
    """Base of every error of this package."""


class SettingsError(AgentError):
    """The settings cannot be used; each of *faults* says why."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class StateError(AgentError):
    """The state directory cannot be used."""


class StateLocked(StateError):
    """Another agent holds the lock *path*."""

    def __init__(self, path: str) -> None:
        super().__init__(f"cannot lock {path}: another agent uses this state directory")


class StateNewer(StateError):
    """The store *path* was written by a newer version of the agent."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"cannot open {path}: its format is {found}, this version knows {known}; "
            "install the version that wrote it"
        )


class StateFull(StateError):
    """There is no space left to keep a change."""


class Refusal(AgentError):
    """Nothing was kept, because of what the caller sent or when."""

    is_about_document: ClassVar[bool] = False
    """True when the document as a whole is at fault where no fault says more."""

    def __init__(self, detail: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults) or ((Fault("", detail),) if self.is_about_document else ())
        self.members: Mapping[str, Any] = {}
        self.etag: str | None = None


class Malformed(Refusal):
    """The body is not a JSON document we read."""

    is_about_document = True


class NotFound(Refusal):
    """There is no such resource."""


class Conflict(Refusal):
    """Something else is there already; *current* is what, where it is a resource."""

    def __init__(
        self,
        detail: str,
        faults: Iterable[Fault] = (),
        current: Any = None,
        etag: str | None = None,
    ) -> None:
        super().__init__(detail, faults)
        self.current = current
        self.etag = etag


class PreconditionFailed(Refusal):
    """The resource is not in the state that If-Match or If-None-Match asked for."""


class BadMediaType(Refusal):
    """The body is in a type that is not JSON."""

    is_about_document = True


class Unprocessable(Refusal):
    """Members of the document break their rules."""


class Unavailable(Refusal):
    """Not now: the same request may succeed in *retry_after_seconds*."""

    def __init__(self, detail: str, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


def refusal(faults: Iterable[Fault]) -> Refusal:
    """Return all *faults* as one refusal: a conflict only when nothing else is wrong."""
    found = tuple(faults)
    detail = "; ".join(f"{fault.pointer or 'document'}: {fault.detail}" for fault in found)
    if all(fault.is_conflict for fault in found):
        return Conflict(detail, found)
    return Unprocessable(detail, found)


def listed(words: Sequence[str], between: str = ", ") -> str:
    """Return *words* as one line: the first few of them, and how many more there are."""
    more = len(words) - MAX_NAMED
    named = between.join(words[:MAX_NAMED])
    return f"{named} and {more} more" if more > 0 else named


class ApplyError(AgentError):
    """The machine does not do what was planned."""


class CheckRefused(ApplyError):
    """*program* refuses the configuration; *fragments* are those of our files it names."""

    def __init__(
        self, words: str, fragments: frozenset[str] = frozenset(), program: str = "haproxy"
    ) -> None:
        super().__init__(f"{program} refuses the configuration: {words}")
        self.program = program
        self.words = words
        self.fragments = fragments


class CannotBind(ApplyError):
    """HAProxy could not bind: *reasons* by the fragment that asks for the address.

    waiting: fragments whose address this node assigns, and could not yet: nobody's fault.
    """

    def __init__(self, reasons: Mapping[str, Fault], waiting: frozenset[str] = frozenset()) -> None:
        super().__init__("; ".join(sorted({fault.detail for fault in reasons.values()})))
        self.reasons = reasons
        self.waiting = waiting


class LoadRefused(ApplyError):
    """HAProxy refused to load what ``-c`` accepted; the one before still serves."""


class NotProven(ApplyError):
    """HAProxy does not show what it was told to do."""


class Held(ApplyError):
    """Somebody asked that nothing is changed for some time."""


class Unreachable(ApplyError):
    """Nobody listens on *peer*."""

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(f"cannot reach {peer}: {why}")


class TimedOut(ApplyError):
    """*peer* did not answer in time."""

    def __init__(self, peer: str, seconds: float) -> None:
        super().__init__(f"no answer from {peer} within {seconds:.1f} s")


class ProgramTimedOut(ApplyError):
    """A program did not end in time."""

    def __init__(self, program: str, seconds: float) -> None:
        super().__init__(f"{program} did not end within {seconds:.1f} s")


class ProgramMissing(ApplyError):
    """A program cannot be started."""

    def __init__(self, program: str, why: str) -> None:
        super().__init__(f"cannot run {program}: {why}")
