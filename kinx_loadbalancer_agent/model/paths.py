"""The way of a client: what it comes through before it reaches a resource. Pure."""

from collections.abc import Iterator
from typing import cast

from kinx_loadbalancer_agent.model import rules
from kinx_loadbalancer_agent.model.resources import Listener, Member, Pool, Ref, Resource, Vip
from kinx_loadbalancer_agent.model.state import State

Above = Resource | str
"""A resource; or in words that there is none where there should be."""


def above(state: State, resource: Resource) -> Iterator[Above]:
    """Yield what is right above *resource* on the way."""
    match resource:
        case Member():
            pool = state.get(Ref(Pool.kind, "", resource.pool_id))
            yield from [pool] if pool is not None else []
        case Pool():
            listeners = cast(Iterator[Listener], state.all(Listener.kind))
            using: list[Above] = [
                one for one in listeners if rules.default_pool(state, one) is resource
            ]
            yield from using or [f"no listener uses {resource.ref}"]
        case Listener():
            address = rules.bind_address(state, resource)
            yield from (one for one in state.all(Vip.kind) if one.ref.id == address)
