"""A state, or a part of it, as one nested document, as operations; and its digest. Pure.

In a document a resource has what it owns in it: a pool its members and its health monitor.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from kinx_loadbalancer_agent.model.intents import Operation, Place, Retain, Upsert
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.model.state import State


def nested(state: State, kinds: Kinds, resource: Resource) -> dict[str, Any]:
    """Return the members of *resource*, and what it owns."""
    shown = resource.published(state)
    for child in kinds.owned_by(kinds[resource.kind]):
        if child.named_by:
            single = state.get(Ref(child.name, "", resource.ref.id))
            shown[child.nested_as] = nested(state, kinds, single) if single else None
        else:
            table = state.table(child.name, resource.ref.id)
            shown[child.nested_as] = [nested(state, kinds, table[id]) for id in sorted(table)]
    return shown


def tree(state: State, kinds: Kinds, root: Resource) -> dict[str, Any]:
    """Return *root*, what it owns, and what keeps it from being deleted."""
    shown = nested(state, kinds, root)
    for kind, field in kinds.held_by(kinds[root.kind]):
        found = state.having(kind.name, field, root.ref.id)
        shown[kind.name] = [nested(state, kinds, resource) for resource in found]
    return shown


def whole(state: State, kinds: Kinds) -> dict[str, Any]:
    """Return everything, as ``PUT /api/state`` takes it."""
    shown: dict[str, Any] = {}
    for kind in top(kinds):
        found = [nested(state, kinds, resource) for resource in state.all(kind.name)]
        shown[kind.name] = (found[0] if found else None) if kind.is_singleton else found
    return shown


def operations(state: State, kinds: Kinds) -> Iterator[Operation]:
    """Yield what makes *state* all there is: also of what is private, which no document says."""
    for kind in kinds:
        parents = [one.ref.id for one in state.all(kind.parent)] if kind.parent else [""]
        for parent in parents:
            table = state.table(kind.name, parent)
            yield Retain(kind.name, frozenset(table), parent)
            for at, id in enumerate(sorted(table)):
                place = Place(prefix=f"/{kind.name}" if kind.is_singleton else f"/{kind.name}/{at}")
                yield Upsert(kind.name, dict(table[id]), parent, is_whole=True, place=place)


def top(kinds: Kinds) -> list[Kind]:
    """Return the kinds that nothing owns."""
    return [kind for kind in kinds if kind.owner is None]


def digest(state: State, kinds: Kinds) -> str:
    """Return the SHA-256 of what every node of a load balancer has the same of.

    What a member carried last is not part of it: it says who wrote, not what is wanted.
    """
    found = hashlib.sha256()
    for kind in kinds:
        for resource in state.all(kind.name) if kind.is_shared else ():
            published = resource.published(state)
            content = {name: published[name] for name in published if name not in resource.carried}
            found.update(json.dumps([*resource.ref, content], sort_keys=True).encode())
    return found.hexdigest()
