"""Steps from state to state: documents and deletions, each about something that is there."""

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from tests.fuzz.strategies import Body, Documents, Strategy, without

PICKS = st.integers(0, 11)
Ids = Callable[[str], list[str]]
"""The ids of what is there, by kind."""


class Step(NamedTuple):
    """A change of a state: *pick* says which resource there it is about, or under which."""

    verb: str
    kind: str
    pick: int
    body: Body


def steps(documents: Documents) -> Strategy[Step]:
    """Return a change of any resource."""
    return st.one_of(
        posts(documents, kind.name)
        | st.builds(Step, st.just("PUT"), st.just(kind.name), PICKS, documents.changes(kind.name))
        | st.builds(Step, st.just("DELETE"), st.just(kind.name), PICKS, st.just({}))
        for kind in documents.kinds
    )


def posts(documents: Documents, kind: str) -> Strategy[Step]:
    """Return a POST of a document of *kind*."""
    return st.builds(Step, st.just("POST"), st.just(kind), PICKS, documents.valid(kind))


def making(documents: Documents, most: int = 3) -> Strategy[list[Step]]:
    """Return POSTs of some documents of each kind, in the order that lets most be taken."""
    each = [
        st.lists(posts(documents, kind.name), min_size=1 + more, max_size=most + more)
        for kind in documents.kinds
        for more in [int(kind.owner is not None)]
    ]
    return st.tuples(*each).map(lambda found: [step for some in found for step in some])


def paths(documents: Documents, most: int = 3) -> Strategy[list[Step]]:
    """Return ways from nothing to states that have some of everything."""
    further = st.lists(steps(documents), max_size=10)
    return st.builds(lambda first, then: first + then, making(documents, most), further)


# --- what a step comes to where something is there -----------------------------------------------


def parent(kind: Kind, step: Step, ids: Ids) -> str:
    """Return the parent that a new resource of *step* gets."""
    there = ids(kind.parent) if kind.parent else []
    return there[step.pick % len(there)] if there else (kind.parent or "")


def pointing(kind: Kind, step: Step, ids: Ids) -> Body:
    """Return the document of *step*, which names what is there instead of what is not."""
    body = dict(step.body)
    for reference in kind.references:
        there, named = ids(reference.kind), body.get(reference.field)
        if named is not None and named not in there and not reference.may_come_later:
            body[reference.field] = there[step.pick % len(there)] if there else None
    return body


# --- states that POSTs can tell ------------------------------------------------------------------

Shown = tuple[str, str, Body]
"""What GET shows of a resource: its kind, its parent, its members."""


def keeps_backend_names(step: Step) -> bool:
    """True unless a pool gets another listener than the one its backend is called after."""
    return not (step.verb == "PUT" and "listener_id" in step.body)


def can_be_told(step: Step) -> bool:
    """True unless a state that *step* is on the way to cannot be told by POSTs alone.

    A pool outlives its listener, which a POST must name while it is there.
    """
    is_outlived = step.kind in ("listeners", "loadbalancers") and step.verb == "DELETE"
    return keeps_backend_names(step) and not is_outlived


def told(kinds: Kinds, shown: list[Shown]) -> list[Shown]:
    """Return what GET has *shown* of a node as POSTs to another.

    What belongs to no load balancer comes before there is one that it would be given to. What a
    member carried for its pool is the pool's by now.
    """
    order = [kind.name for kind in kinds]

    def rank(one: Shown) -> tuple[bool, int]:
        kind, _, body = one
        return body.get("loadbalancer_id", "") is not None, order.index(kind)

    return [
        (kind, parent, without(body, kinds[kind].model.carried))
        for kind, parent, body in sorted(shown, key=rank)
    ]
