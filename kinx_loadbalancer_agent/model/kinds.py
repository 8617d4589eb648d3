"""The table of kinds: what is true of one kind and not of every other is a row here.

A new kind is a class in ``resources``, a row here and, where it is rendered, a template.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kinx_loadbalancer_agent.errors import Fault, NotFound
from kinx_loadbalancer_agent.model import rules
from kinx_loadbalancer_agent.model.resources import (
    Crontab,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    Peer,
    Pool,
    Quagga,
    Ref,
    Resource,
    Vip,
)
from kinx_loadbalancer_agent.model.state import State

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Reference:
    """A field that names a resource of another kind.

    owns: the resource goes with the one it names when that is deleted.
    holds: the one it names cannot be deleted without ``cascade``, which takes both.
    may_come_later: the named resource need not exist.
    """

    field: str
    kind: str
    owns: bool = False
    holds: bool = False
    may_come_later: bool = False


@dataclass(frozen=True)
class Kind:
    """A row: one kind of resource.

    collection: the URL of all of them; ``<parent>`` stands for the parent's id.
    parent: the kind whose id is in the URL of the collection.
    named_by: the kind whose ids this kind's ids are (a pool's monitor is keyed by the pool).
    also_named_by: a field by which URLs may name it, besides its id.
    decide: completes the values of a new resource from the state it is made in.
    rules: yields what the state has against a resource.
    fragment: the HAProxy configuration it renders, as (file name prefix, template).
    is_shared: every node of a load balancer has the same of it.
    switches: fields that have a URL of their own, to be set there alone.
    """

    model: type[Resource]
    collection: str
    parent: str | None = None
    named_by: str | None = None
    also_named_by: str | None = None
    references: tuple[Reference, ...] = ()
    decide: Callable[[State, Values], Values] = lambda state, values: values
    rules: Callable[[State, Any], Iterable[Fault]] = lambda state, resource: ()
    fragment: tuple[str, str] | None = None
    is_shared: bool = True
    switches: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The kind's name: the last word of its URL, its table in state and store."""
        return self.model.kind

    @property
    def is_singleton(self) -> bool:
        """True when there is one resource of it at most, on the one URL."""
        return not self.model.id_field

    def ref(self, values: Values) -> Ref:
        """Return the identity that *values* say; raises KeyError where they say none."""
        parent = values[self.model.parent_field] if self.model.parent_field else ""
        id = values[self.model.id_field] if self.model.id_field else self.name
        return Ref(self.name, parent, id)

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The fields that a PUT may repeat and not change; a null one may be set once."""
        owners = {found.field for found in self.references if found.owns or found.holds}
        return frozenset(owners | {self.model.id_field} - {""})

    @property
    def nested_as(self) -> str:
        """The member that holds it in a document of its owner: a list, or the one there is."""
        return self.name.removesuffix("s") if self.named_by else self.name

    @property
    def owner(self) -> str | None:
        """The kind whose resources own those of this one, None where none does."""
        return next((found.kind for found in self.references if found.owns), None)


KINDS: tuple[Kind, ...] = (
    Kind(model=LoadBalancer, collection="/api/haproxy/loadbalancers"),
    Kind(
        model=Listener,
        collection="/api/haproxy/listeners",
        references=(
            Reference("loadbalancer_id", "loadbalancers", holds=True),
            Reference("default_pool_id", "pools", may_come_later=True),
        ),
        decide=rules.decide_listener,
        rules=rules.listener,
        fragment=("50-frontend-", "haproxy/frontend.cfg.j2"),
    ),
    Kind(
        model=Pool,
        collection="/api/haproxy/pools",
        also_named_by="listener_id",
        references=(
            Reference("loadbalancer_id", "loadbalancers", holds=True),
            Reference("listener_id", "listeners"),
        ),
        decide=rules.decide_pool,
        rules=rules.pool,
        fragment=("60-backend-", "haproxy/backend.cfg.j2"),
    ),
    Kind(
        model=HealthMonitor,
        collection="/api/haproxy/healthmonitors",
        named_by="pools",
        references=(Reference("pool_id", "pools", owns=True),),
    ),
    Kind(
        model=Member,
        collection="/api/haproxy/pools/<parent>/members",
        parent="pools",
        references=(Reference("pool_id", "pools", owns=True),),
        rules=rules.member,
    ),
    Kind(
        model=Peer,
        collection="/api/haproxy/peers",
        rules=rules.peer,
        fragment=("10-peers", "haproxy/peers.cfg.j2"),
    ),
    Kind(
        model=Quagga,
        collection="/api/quagga",
        rules=rules.quagga,
        is_shared=False,
        switches=frozenset({"drain"}),
    ),
    Kind(
        model=Vip,
        collection="/api/quagga/vips",
        parent="quagga",
        references=(Reference("speaker", "quagga", owns=True),),
        rules=rules.vip,
    ),
    Kind(model=Crontab, collection="/api/crontab", is_shared=False),
)


class Kinds:
    """The rows in use, by name; the order is that of parents before children."""

    def __init__(self, rows: tuple[Kind, ...] = KINDS) -> None:
        self._rows = {row.name: row for row in rows}

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._rows.values())

    def __getitem__(self, name: str) -> Kind:
        return self._rows[name]

    def owned_by(self, kind: Kind) -> list[Kind]:
        """Return the kinds whose resources those of *kind* own."""
        return [row for row in self if row.owner == kind.name]

    def held_by(self, kind: Kind) -> Iterator[tuple[Kind, str]]:
        """Yield the kinds that keep one of *kind* from deletion, with the field that names it."""
        for row in self:
            for reference in row.references:
                if reference.holds and reference.kind == kind.name:
                    yield row, reference.field

    def holds(self, kind: Kind) -> bool:
        """True when a resource of *kind* may be kept from deletion by others."""
        return any(self.held_by(kind))

    def find(self, state: State, name: str, id: str) -> str:
        """Return the id of the resource of kind *name* that *id* names, *id* itself if none.

        A pool is named by its id, else by its listener's: the original's URLs used the latter.
        """
        kind = self._rows[name]
        if kind.is_singleton:
            return name
        if kind.named_by:
            return self.find(state, kind.named_by, id)
        if kind.also_named_by and id not in state.table(name):
            for resource in state.having(name, kind.also_named_by, id):
                return resource.ref.id
        return id

    def existing(self, state: State, name: str, id: str, also: Container[Ref] = ()) -> str:
        """Return what ``find`` does; raises NotFound if that is neither in *state* nor *also*."""
        found = Ref(name, "", self.find(state, name, id))
        if state.get(found) is None and found not in also:
            raise NotFound(f"there is no {Ref(name, '', id)}")
        return found.id

    def parent(self, state: State, kind: Kind, id: str, also: Container[Ref] = ()) -> str:
        """Return the parent that *id* names, '' where *kind* has none; raises as ``existing``."""
        return self.existing(state, kind.parent, id, also) if kind.parent else ""

    def locate(
        self, state: State, kind: Kind, parent: str, id: str, also: Container[Ref] = ()
    ) -> Ref:
        """Return the identity that *parent* and *id* in a URL name; raises as ``parent``."""
        within = self.parent(state, kind, parent, also)
        return Ref(kind.name, within, self.find(state, kind.name, id))

    def referring(self, state: State, ref: Ref) -> Iterator[tuple[Reference, Resource]]:
        """Yield every resource that names *ref*, with the reference by which it does."""
        for kind in self:
            for reference in kind.references:
                if reference.kind != ref.kind:
                    continue
                if reference.field == kind.model.parent_field:
                    found = tuple(state.table(kind.name, ref.id).values())
                elif reference.field == kind.model.id_field:
                    same = state.get(Ref(kind.name, "", ref.id))
                    found = (same,) if same else ()
                else:
                    found = state.having(kind.name, reference.field, ref.id)
                for resource in found:
                    yield reference, resource
