"""The desired state: an immutable table of resources that shares what a change leaves alone.

This module must never judge a change: it holds, finds and replaces.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kinx_loadbalancer_agent.model.resources import Ref, Resource

Table = Mapping[str, Resource]
Index = Mapping[Hashable, tuple[Resource, ...]]
NOTHING: Table = MappingProxyType({})


@dataclass(frozen=True)
class State:
    """All resources, by kind, by parent, by id; a child of nobody has the parent ''.

    A table that a change does not touch is the same object in the state before and after, so
    that what is derived from it can be kept.
    """

    tables: Mapping[str, Mapping[str, Table]] = field(default_factory=dict)
    _indexes: dict[str, dict[str, dict[str, Index]]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """By kind, parent and attribute; states share them as they share tables."""

    def table(self, kind: str, parent: str = "") -> Table:
        """Return the resources of *kind* under *parent*, by id."""
        return self.tables.get(kind, {}).get(parent, NOTHING)

    def get(self, ref: Ref) -> Resource | None:
        """Return the resource *ref*, None when there is none."""
        return self.table(ref.kind, ref.parent).get(ref.id)

    def shares(self, other: "State", kinds: Iterable[str]) -> bool:
        """True when *other* has the very tables of *kinds* that this state has."""
        return all(self.tables.get(kind) is other.tables.get(kind) for kind in kinds)

    def all(self, kind: str) -> Iterator[Resource]:
        """Yield every resource of *kind*, in the order of parents and ids."""
        for _, table in sorted(self.tables.get(kind, {}).items()):
            for _, resource in sorted(table.items()):
                yield resource

    def having(
        self, kind: str, name: str, value: Hashable, parent: str = ""
    ) -> tuple[Resource, ...]:
        """Return the resources of *kind*, or those under *parent*, whose *name* is *value*."""
        indexes = self._indexes.setdefault(kind, {}).setdefault(parent, {})
        index = indexes.get(name)
        if index is None:
            found: dict[Hashable, list[Resource]] = {}
            for resource in self.table(kind, parent).values() if parent else self.all(kind):
                found.setdefault(getattr(resource, name), []).append(resource)
            index = {key: tuple(resources) for key, resources in found.items()}
            indexes[name] = index
        return index.get(value, ())

    def including(self, resource: Resource) -> "State":
        """Return this state with *resource*, in place of the one of the same identity."""
        ref = resource.ref
        return self._replacing(ref, {**self.table(ref.kind, ref.parent), ref.id: resource})

    def without(self, ref: Ref) -> "State":
        """Return this state without the resource *ref*."""
        table = {key: value for key, value in self.table(*ref[:2]).items() if key != ref.id}
        return self._replacing(ref, table)

    def _replacing(self, ref: Ref, table: Table) -> "State":
        parents = {**self.tables.get(ref.kind, {}), ref.parent: table}
        if not table:
            del parents[ref.parent]
        indexes = self._indexes.get(ref.kind, {}).copy()
        indexes.pop("", None)
        if old := indexes.pop(ref.parent, None):
            change = (self.get(ref), table.get(ref.id))
            indexes[ref.parent] = {
                name: _indexed(index, name, *change) for name, index in old.copy().items()
            }
        kept = {**self._indexes, ref.kind: indexes}
        return State({**self.tables, ref.kind: parents}, kept)


def _indexed(index: Index, name: str, before: Resource | None, after: Resource | None) -> Index:
    """Return *index*, by the attribute *name*, with *after* in the place of *before*."""
    found = dict(index)
    if before is not None:
        value = getattr(before, name)
        found[value] = tuple(one for one in found.get(value, ()) if one is not before)
        if not found[value]:
            del found[value]
    if after is not None:
        found[getattr(after, name)] = (*found.get(getattr(after, name), ()), after)
    return found
