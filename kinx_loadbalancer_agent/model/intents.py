"""What callers ask for, as values, and what became of it. An intent never says a result. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.resources import Ref, Resource

Values = Mapping[str, Any]
WHOLE = Ref("state", "", "state")
"""The subject of what is about no resource in particular."""


@dataclass(frozen=True)
class Place:
    """Where a document has what it says of a resource: below *prefix*, a field by *at*."""

    at: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""

    def of(self, fault: Fault) -> Fault:
        """Return *fault* of the resource at the place where the document has the field."""
        name, slash, rest = fault.pointer.removeprefix("/").partition("/")
        inside = self.at.get(name, f"/{name}") + slash + rest if name else ""
        return replace(fault, pointer=self.prefix + inside)


@dataclass(frozen=True)
class Operation:
    """Base of what is done with resources of *kind*; the document says so at *place*."""

    kind: str
    place: Place = field(default=Place(), kw_only=True)


@dataclass(frozen=True)
class Create(Operation):
    """Make a resource from *values*, the members the document names.

    parent: the id in the URL of the collection.
    id: the id in the URL, where a kind is keyed by another and the URL says by which.
    """

    values: Values
    parent: str = ""
    id: str = ""


@dataclass(frozen=True)
class Upsert(Create):
    """Make a resource, or change the members that *values* names, None for their defaults.

    is_whole: members that *values* does not name get their defaults, too.
    """

    is_whole: bool = False


@dataclass(frozen=True)
class Merge(Operation):
    """Change the members *changes* of a resource; None stands for the default."""

    id: str
    changes: Values
    parent: str = ""


Write = Create | Merge
"""What says of one resource what it is to be."""


@dataclass(frozen=True)
class Delete(Operation):
    """Delete a resource; with *cascade* also what it is not deleted without."""

    id: str
    parent: str = ""
    cascade: bool = False


@dataclass(frozen=True)
class Retain(Operation):
    """Delete the resources of *kind* but *ids*: all, those under *parent*, or those *having* it.

    having: a field and its value.
    """

    ids: frozenset[str]
    parent: str = ""
    having: tuple[str, str] | None = None


@dataclass(frozen=True)
class Expect(Operation):
    """Refuse the document where there is no such resource."""

    id: str


@dataclass(frozen=True)
class Carry(Operation):
    """Apply the *values* that a resource carries for another one, if it is news.

    The carrier is what the operation before is about; the other, of *kind*, is its parent or keyed
    by that. It is news when the carrier is new, or when *carried* is not what it carried last.
    """

    values: Values
    carried: Values


@dataclass(frozen=True)
class Compare(Operation):
    """Warn where the resource differs from *values*; change nothing."""

    id: str
    values: Values


@dataclass(frozen=True)
class Preconditions:
    """If-Match and If-None-Match (RFC 9110, 13.1): sets of strong ETags, or '*'."""

    match: frozenset[str] | None = None
    none_match: frozenset[str] | None = None

    def hold(self, current: str | None) -> bool:
        """True when they allow a change of a resource whose ETag is *current*, None if absent."""
        return self.hold_match(current) and self.hold_none_match(current)

    def hold_match(self, current: str | None) -> bool:
        """True when If-Match holds."""
        return self.match is None or _matches(self.match, current)

    def hold_none_match(self, current: str | None) -> bool:
        """True when If-None-Match holds."""
        return self.none_match is None or not _matches(self.none_match, current)


@dataclass(frozen=True)
class Intent:
    """One document's wish: a transaction. The first operation is about its subject."""

    operations: tuple[Operation, ...]
    preconditions: Preconditions = Preconditions()
    who: str = ""
    remote: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class Change:
    """One resource before and after; None where it is not there."""

    ref: Ref
    before: Resource | None
    after: Resource | None


@dataclass(frozen=True)
class Folded:
    """What became of an intent: the status it earns, its subject, what it changes.

    changed_at: where the document has the one member it changes; '' when there are others.
    places: where the document has what it says of each resource.
    """

    status: int
    subject: Ref
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    changed_at: str = ""
    places: Mapping[Ref, Place] = field(default_factory=dict)


def _matches(tags: frozenset[str], current: str | None) -> bool:
    return current is not None and ("*" in tags or current in tags)
