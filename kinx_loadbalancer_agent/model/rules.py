"""What the resources of a state have against each other, a function per kind.

Each yields faults of one resource, given a state that holds it. Pure; must never change a state.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from netaddr import IPAddress

from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.resources import (
    Listener,
    LoadBalancer,
    Member,
    Peer,
    Pool,
    Quagga,
    Ref,
    Resource,
    Vip,
    vip_addresses,
)
from kinx_loadbalancer_agent.model.state import State


def endpoint(address: str, port: int) -> str:
    """Return *address* and *port* as people and HAProxy write them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def bind_address(state: State, listener: Listener) -> str | None:
    """Return the address *listener* listens on: its own, else its load balancer's."""
    if listener.vip_address is not None or listener.loadbalancer_id is None:
        return listener.vip_address
    owner = cast(LoadBalancer | None, state.get(Ref("loadbalancers", "", listener.loadbalancer_id)))
    return owner.vip_address if owner else None


def default_pool(state: State, listener: Listener) -> Pool | None:
    """Return the pool of *listener*: the one it names, else the one that names it."""
    if listener.default_pool_id is not None:
        return cast(Pool | None, state.get(Ref("pools", "", listener.default_pool_id)))
    return next(iter(_pools_of(state, listener.id)), None)


def overlap(one: str, other: str) -> bool:
    """True when sockets on both addresses and one port would take each other's clients.

    ``::`` takes IPv4 clients too where HAProxy binds it so, and is held to overlap everything.
    """
    if one == other or "::" in (one, other):
        return True
    return "0.0.0.0" in (one, other) and IPAddress(one).version == IPAddress(other).version


def decide_listener(state: State, values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a listener that says nothing of a load balancer the only one there is."""
    return {"loadbalancer_id": _only_one(state), **values}


def decide_pool(state: State, values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a pool its backend's name for life, and its listener's or the only load balancer."""
    listener_id, owner = values.get("listener_id"), values.get("loadbalancer_id")
    listener = state.get(Ref("listeners", "", listener_id)) if listener_id else None
    if "loadbalancer_id" not in values:
        owner = cast(Listener, listener).loadbalancer_id if listener else _only_one(state)
    names = [f"backend-{id}" for id in (listener_id, values.get("id")) if id]
    free = [name for name in names if not state.having("pools", "backend", name)]
    return {"backend": (free or names)[0], **values, "loadbalancer_id": owner}


def listener(state: State, listener: Listener) -> Iterator[Fault]:
    """Yield what *state* has against *listener*."""
    address = bind_address(state, listener)
    owner = listener.loadbalancer_id
    is_orphan = owner is not None and state.get(Ref("loadbalancers", "", owner)) is None
    if address is None and not is_orphan:
        yield Fault("/vip_address", "is required: its load balancer has none")
    for same_port in state.having("listeners", "protocol_port", listener.protocol_port):
        other = cast(Listener, same_port)
        taken = bind_address(state, other) if other.id != listener.id else None
        if address is not None and taken is not None and overlap(address, taken):
            yield Fault(
                "/protocol_port",
                f"{endpoint(address, listener.protocol_port)} overlaps listener {other.id} "
                f"on {endpoint(taken, other.protocol_port)}",
                is_conflict=True,
            )
    for found in state.all("peers"):
        peer = cast(Peer, found)
        if address and peer.port == listener.protocol_port and overlap(address, peer.address):
            detail = f"{endpoint(address, peer.port)} overlaps {peer.ref}"
            yield Fault("/protocol_port", detail, is_conflict=True)
    if listener.default_pool_id is not None:
        for pool in _pools_of(state, listener.id):
            if pool.id != listener.default_pool_id:
                detail = f"pool {pool.id} is this listener's by its listener_id"
                yield Fault("/default_pool_id", detail, is_conflict=True)
    yield from _pairing(listener, default_pool(state, listener))


def pool(state: State, pool: Pool) -> Iterator[Fault]:
    """Yield what *state* has against *pool*."""
    for other in _others(pool, _pools_of(state, pool.id)):
        detail = f"names pool {other.id} already, by its listener_id"
        yield Fault("/id", detail, is_conflict=True)
    for other in _others(pool, state.having("pools", "backend", pool.backend)):
        detail = f"the backend of pool {other.id} has the name {pool.backend} already"
        yield Fault("/id", detail, is_conflict=True)
    listeners = list(state.having("listeners", "default_pool_id", pool.id))
    if pool.listener_id is not None:
        namesakes = state.having("pools", "id", pool.listener_id)
        for other in _others(pool, (*_pools_of(state, pool.listener_id), *namesakes)):
            detail = f"{pool.listener_id} names pool {other.id} already"
            yield Fault("/listener_id", detail, is_conflict=True)
        own = cast(Listener | None, state.get(Ref("listeners", "", pool.listener_id)))
        if own is not None:
            yield from _belonging(pool, own)
            listeners += [own]
    for listener in {listener.ref: listener for listener in listeners}.values():
        yield from _pairing(cast(Listener, listener), pool)


def member(state: State, member: Member) -> Iterator[Fault]:
    """Yield what *state* has against *member*."""
    for found in state.having("members", "address", member.address, member.pool_id):
        other = cast(Member, found)
        if other.protocol_port == member.protocol_port and other.id != member.id:
            detail = f"member {other.id} has the same address and port"
            yield Fault("/address", detail, is_conflict=True)


def peer(state: State, peer: Peer) -> Iterator[Fault]:
    """Yield what *state* has against *peer*: somebody listens where it would."""
    where = endpoint(peer.address, peer.port)
    for found in state.having("peers", "address", peer.address):
        other = cast(Peer, found)
        if other.hostname != peer.hostname and other.port == peer.port:
            yield Fault("/address", f"{other.ref} has {where} already", is_conflict=True)
    for found in state.having("listeners", "protocol_port", peer.port):
        listener = cast(Listener, found)
        taken = bind_address(state, listener)
        if taken is not None and overlap(peer.address, taken):
            yield Fault("/port", f"{where} overlaps {listener.ref}", is_conflict=True)


def quagga(state: State, speaker: Quagga) -> Iterator[Fault]:
    """Yield what *state* has against *speaker*: without a VIP it has nothing to say."""
    vips = vip_addresses(state)
    if not vips:
        yield Fault("", "the speaker has no other VIP; delete the speaker", is_conflict=True)
    for name in ("vm_addr", "primary_gateway_addr", "secondary_gateway_addr"):
        if getattr(speaker, name) in vips:
            yield Fault(f"/{name}", "is a VIP of the speaker", is_conflict=True)


def vip(state: State, vip: Vip) -> Iterator[Fault]:
    """Yield what *state* has against *vip*: it is the address of a router, or of this node."""
    speaker = cast(Quagga | None, state.get(Ref("quagga", "", vip.speaker)))
    if IPAddress(vip.vip_addr).is_ipv4_mapped():
        yield Fault("/vip_addr", "is an IPv4 address in the notation of IPv6")
    for name in ("vm_addr", "primary_gateway_addr", "secondary_gateway_addr"):
        if getattr(speaker, name, None) == vip.vip_addr:
            yield Fault("/vip_addr", f"is the speaker's {name}", is_conflict=True)


def _belonging(pool: Pool, listener: Listener) -> Iterator[Fault]:
    if listener.default_pool_id not in (None, pool.id):
        detail = f"listener {listener.id} has the default pool {listener.default_pool_id}"
        yield Fault("/listener_id", detail, is_conflict=True)
    owners = {listener.loadbalancer_id, pool.loadbalancer_id}
    if len(owners - {None}) > 1:
        yield Fault("/loadbalancer_id", f"its listener belongs to {listener.loadbalancer_id}")


def _pairing(listener: Listener, pool: Pool | None) -> Iterator[Fault]:
    # HAProxy refuses to load a frontend in mode http whose backend is in mode tcp; the other
    # way round works.
    if pool is not None and listener.mode == "http" and pool.mode == "tcp":
        detail = f"listener {listener.id} ({listener.protocol}) cannot use pool {pool.id} "
        yield Fault("/protocol", f"{detail}({pool.protocol})", is_conflict=True)


def _pools_of(state: State, listener_id: str) -> tuple[Pool, ...]:
    return cast(tuple[Pool, ...], state.having("pools", "listener_id", listener_id))


def _others(pool: Pool, found: Iterable[Resource]) -> list[Pool]:
    return [cast(Pool, other) for other in found if other.ref != pool.ref]


def _only_one(state: State) -> str | None:
    owners = list(state.table("loadbalancers"))
    return owners[0] if len(owners) == 1 else None
