"""The way of a client: what it comes through before it reaches a resource. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from kinx_loadbalancer_agent.model import rules
from kinx_loadbalancer_agent.model.resources import Listener, Member, Pool, Ref, Resource, Vip
from kinx_loadbalancer_agent.model.state import State

Above = Resource | str
"""A resource; or in words that there is none where there should be."""


def above(state: State, resource: Resource) -> Iterator[Above]:
    """Yield what is right above *resource* on the way."""
    found = ABOVE.get(type(resource))
    if found is not None:
        yield from found(state, resource)


def _of_member(state: State, member: Member) -> Iterator[Above]:
    pool = state.get(Ref("pools", "", member.pool_id))
    if pool is not None:
        yield pool


def _of_pool(state: State, pool: Pool) -> Iterator[Above]:
    listeners = cast(Iterator[Listener], state.all(Listener.kind))
    using = [one for one in listeners if rules.default_pool(state, one) is pool]
    if not using:
        yield f"no listener uses {pool.ref}"
    yield from using


def _of_listener(state: State, listener: Listener) -> Iterator[Above]:
    address = rules.bind_address(state, listener)
    yield from (one for one in state.all(Vip.kind) if one.ref.id == address)


ABOVE: Mapping[type[Resource], Callable[[State, Any], Iterator[Above]]] = {
    Member: _of_member,
    Pool: _of_pool,
    Listener: _of_listener,
}
