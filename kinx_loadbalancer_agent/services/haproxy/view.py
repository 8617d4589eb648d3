"""What templates show: every value of a fragment, computed from the state. Pure.

A view is made again only when one of its sources is another object than before, so that changing
one member computes and renders one backend.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from kinx_loadbalancer_agent.engine.ports import Part, Target
from kinx_loadbalancer_agent.model import rules
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import (
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    Peer,
    Pool,
    Ref,
    Resource,
)
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy import shape
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import HaproxySettings

BALANCE = {"ROUND_ROBIN": "roundrobin", "LEAST_CONNECTIONS": "leastconn", "SOURCE_IP": "source"}
PEERS = "kinx_loadbalancer_peers"
Kept = tuple[tuple[Any, ...], Part | None]
"""What was rendered from which sources."""
MARK = b"# kinx_loadbalancer_agent writes this file; edits are undone.\n"


@dataclass(frozen=True)
class Node:
    """What the configuration says of the node itself.

    is_root: HAProxy drops its privileges and logs to ``/dev/log`` only when it starts as root.
    local_peer: the peer that it is, '' when it is none: then no peers section is rendered.
    """

    node_name: str
    is_root: bool
    settings: HaproxySettings
    local_peer: str = ""


@dataclass(frozen=True)
class View:
    """The values of one fragment, and what of it a running process can be told.

    owner: the resource that asks for the address, where it is not the one that is shown.
    """

    values: Mapping[str, Any]
    proxy: str = ""
    bind: tuple[str, int] | None = None
    live: tuple[shape.Live, ...] = ()
    owner: Ref | None = None
    bind_at: tuple[str, str] = ("/vip_address", "/protocol_port")


@dataclass(frozen=True)
class Recipe:
    """How a kind becomes a fragment: what its view is made from, and how.

    sources: everything the view depends on, the node aside.
    view: the view of those sources; None when nothing is rendered. With *inner* it is told what was
    rendered before, to keep of it what is the same.
    is_whole: one fragment shows all resources of the kind.
    inner: kinds of what is in a resource, or shares its id: seen in its fragment and nowhere else.
    """

    sources: Callable[[State, Any], tuple[Any, ...]]
    view: Callable[..., View | None]
    is_whole: bool = False
    inner: tuple[str, ...] = ()


def _frontend_sources(state: State, listener: Listener) -> tuple[Any, ...]:
    is_on = listener.enabled
    if listener.loadbalancer_id is not None:
        owner = state.get(Ref("loadbalancers", "", listener.loadbalancer_id))
        is_on = is_on and (owner is None or cast(LoadBalancer, owner).enabled)
    pool = rules.default_pool(state, listener)
    backend = pool.backend if pool is not None and pool.enabled else None
    return listener, is_on, rules.bind_address(state, listener), backend


def _frontend(
    node: Node, listener: Listener, is_on: bool, address: str, backend: str | None
) -> View | None:
    if not is_on:
        return None
    limit = listener.connection_limit
    maxconn = node.settings.default_connection_limit if limit == -1 else limit
    values = {
        "name": listener.id,
        "log_option": "httplog" if listener.mode == "http" else "tcplog",
        "maxconn": maxconn,
        "bind": rules.endpoint(address, listener.protocol_port),
        "mode": listener.mode,
        "default_backend": backend,
    }
    live = (shape.Limit(listener.id, maxconn),)
    return View({"frontend": values}, listener.id, (address, listener.protocol_port), live)


def _backend_sources(state: State, pool: Pool) -> tuple[Any, ...]:
    listeners = [*state.having("listeners", "default_pool_id", pool.id)]
    if pool.listener_id is not None:
        own = state.get(Ref("listeners", "", pool.listener_id))
        listeners += [own] if own else []
    addresses = [rules.bind_address(state, cast(Listener, found)) for found in listeners]
    monitor = state.get(Ref("healthmonitors", "", pool.id))
    is_ipv6 = any(":" in address for address in addresses if address)
    return pool, monitor, state.table("members", pool.id), is_ipv6


def _backend(
    node: Node,
    pool: Pool,
    monitor: HealthMonitor | None,
    members: Mapping[str, Member],
    is_ipv6: bool,
    *,
    before: Kept | None = None,
) -> View | None:
    if not pool.enabled:
        return None
    same = _same(before, pool, monitor, members)
    persistence = pool.session_persistence
    by_cookie = persistence is not None and persistence.type == "HTTP_COOKIE"
    servers = tuple(
        same.get(id) or _server(pool, members[id], monitor, by_cookie) for id in sorted(members)
    )
    values = {
        "name": pool.backend,
        "mode": pool.mode,
        "balance": BALANCE[pool.lb_algorithm],
        "stick": None if by_cookie else _stick(node, pool, is_ipv6),
        "peers": PEERS if node.local_peer else None,
        "inserts_cookie": by_cookie,
        "check": monitor and _check(monitor),
        "servers": [server.line for server in servers],
    }
    return View({"backend": values}, pool.backend, live=servers)


def _same(
    before: Kept | None, pool: Pool, monitor: HealthMonitor | None, members: Mapping[str, Member]
) -> dict[str, shape.Server]:
    """Return the servers of *before*, by name, that are made from the very same objects."""
    if before is None or before[1] is None or before[0][1] is not pool:
        return {}
    old = before[0][3] if before[0][2] is monitor else {}
    return {one.name: one for one in before[1].live if old.get(one.name) is members.get(one.name)}


def _stick(node: Node, pool: Pool, is_ipv6: bool) -> dict[str, Any] | None:
    """Return the stick table: of the application's cookie, else of the source, if at all."""
    persistence = pool.session_persistence
    size = pool.stick_size or node.settings.stick_size
    expire = pool.stick_expire or node.settings.stick_expire
    if persistence is not None and persistence.type == "APP_COOKIE":
        cookie = persistence.cookie_name
        return {"type": "string len 64", "size": size, "expire": expire, "cookie": cookie}
    if persistence is None and pool.stick_size is None:
        return None
    # An ip table holds no IPv6 client; an ipv6 one holds both.
    kind = "ipv6" if is_ipv6 else "ip"
    return {"type": kind, "size": size, "expire": expire, "cookie": None}


def _check(monitor: HealthMonitor) -> dict[str, Any]:
    return {
        "timeout_seconds": monitor.timeout,
        "is_http": monitor.type in ("HTTP", "HTTPS"),
        "is_tls_hello": monitor.type == "TLS-HELLO",
        "method": monitor.http_method,
        "path": monitor.url_path,
        "codes": monitor.expected_codes,
    }


def _server(
    pool: Pool, member: Member, monitor: HealthMonitor | None, by_cookie: bool
) -> shape.Server:
    """Return the ``server`` line of *member*; many of them cost too much in a template."""
    check = checks = ""
    if monitor is not None:
        if monitor.enabled:
            check = f"{member.monitor_address or '-'} {member.monitor_port or 0}"
        fall, rise = monitor.max_retries_down, monitor.max_retries
        checks = f" check inter {monitor.delay}s fall {fall} rise {rise}"
        if monitor.type == "HTTPS":
            checks += " check-ssl verify none"
    return shape.Server(
        pool.backend,
        member.id,
        member.address,
        member.protocol_port,
        member.weight,
        "ready" if member.enabled else "maint",
        check,
        checks,
        f" cookie {member.id}" if by_cookie else "",
        backup=member.backup,
        is_addable=not by_cookie,
    )


def _peers_sources(state: State, peer: Peer) -> tuple[Any, ...]:
    return (state.table(peer.kind),)


def _peers(node: Node, peers: Mapping[str, Peer]) -> View | None:
    if not node.local_peer:
        return None
    shown = [
        {"name": name, "endpoint": rules.endpoint(peers[name].address, peers[name].port)}
        for name in sorted(peers)
    ]
    local = peers[node.local_peer]
    return View(
        {"peers": {"name": PEERS, "peers": shown}},
        bind=(local.address, local.port),
        owner=local.ref,
        bind_at=("/address", "/port"),
    )


RECIPES: Mapping[str, Recipe] = {
    "listeners": Recipe(_frontend_sources, _frontend),
    "pools": Recipe(_backend_sources, _backend, inner=("members", "healthmonitors")),
    "peers": Recipe(_peers_sources, _peers, is_whole=True),
}


class Renderer:
    """States as targets. Keeps what it rendered, by the objects it was rendered from."""

    def __init__(self, kinds: Kinds, templates: Templates, node: Node) -> None:
        self._kinds = [kind for kind in kinds if kind.fragment]
        self._inner = {
            name: kind
            for kind in self._kinds
            if (recipe := RECIPES.get(kind.name))
            for name in recipe.inner
        }
        self._outer = [kind.name for kind in kinds if kind.name not in self._inner]
        self._templates = templates
        self._node = node
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._last: tuple[State, tuple[frozenset[str], str], Target] | None = None

    def render(
        self, state: State, leave_out: frozenset[str] = frozenset(), local_peer: str = ""
    ) -> Target:
        """Return the configuration of *state* without the fragments *leave_out*. Any thread may."""
        node = replace(self._node, local_peer=local_peer)
        asked, target = (leave_out, local_peer), None
        with self._lock:
            if self._last is not None and self._last[1] == asked:
                before, _, last = self._last
                if before is state:
                    return last
                target = self._changed(node, before, last, state)
            if target is None:
                target = self._whole(node, state, leave_out)
            self._last = (state, asked, target)
            return target

    def _whole(self, node: Node, state: State, leave_out: frozenset[str]) -> Target:
        parts: dict[str, Part] = {}
        for kind in self._kinds:
            for resource in state.table(kind.name).values():
                name = fragment_name(kind, resource)
                part = None if name in parts else self._part(kind, name, node, state, resource)
                if part is not None and name not in leave_out:
                    parts[name] = part
        if len(self._kept) > 2 * len(parts) + 64:
            self._kept = {name: self._kept[name] for name in parts}
        return self._target(node, dict(sorted(parts.items())))

    def _changed(self, node: Node, before: State, last: Target, state: State) -> Target | None:
        """Return *last*, the target of *before*, with what is otherwise in *state*.

        None when more has changed than what is in others.
        """
        if not state.shares(before, self._outer):
            return None
        parts, is_same = dict(last.parts), True
        for inner, kind in self._inner.items():
            for id in _differing(inner, before, state):
                resource = state.table(kind.name).get(id)
                name = fragment_name(kind, resource) if resource is not None else ""
                if resource is not None and name in parts:
                    part = self._part(kind, name, node, state, resource)
                    assert part is not None  # it is shown or not for what it is itself
                    is_same = is_same and part.shape == parts[name].shape
                    parts[name] = part
        if is_same:
            return Target(parts, last.digest)
        del parts[shape.GLOBAL]
        return self._target(node, parts)

    def _part(
        self, kind: Kind, name: str, node: Node, state: State, resource: Resource
    ) -> Part | None:
        recipe = RECIPES.get(kind.name)
        sources = recipe.sources(state, resource) if recipe else (resource,)
        kept = self._kept.get(name)
        # Tuples compare by identity before they compare by value.
        if kept is not None and kept[0] == (node.local_peer, *sources):
            return kept[1]
        known = {"before": kept} if recipe and recipe.inner else {}
        view = recipe.view(node, *sources, **known) if recipe else View({"resource": resource})
        part = None
        if view is not None:
            assert kind.fragment is not None
            content = MARK + self._templates.render(kind.fragment[1], view.values)
            is_live = recipe is not None and not recipe.is_whole
            part = Part(
                content,
                view.owner or resource.ref,
                shape.of(content, is_live=is_live),
                view.proxy,
                view.bind,
                view.live,
                view.bind_at,
            )
        self._kept[name] = ((node.local_peer, *sources), part)
        return part

    def _target(self, node: Node, parts: dict[str, Part]) -> Target:
        blank = self._global(node, "")
        digest = shape.digest({shape.GLOBAL: blank, **parts})
        return Target({shape.GLOBAL: self._global(node, digest), **parts}, digest)

    def _global(self, node: Node, digest: str) -> Part:
        view = {"node": node, "digest": digest}
        content = MARK + self._templates.render("haproxy/global.cfg.j2", view)
        return Part(content, Ref("node", "", node.node_name), shape.of(content, is_live=False))


def _differing(kind: str, before: State, after: State) -> Iterator[str]:
    """Yield the parents, and the ids of what has none, of which *kind* is not the same."""
    old, new = before.tables.get(kind, {}), after.tables.get(kind, {})
    for parent in shape.others(old, new) if old is not new else ():
        one, other = old.get(parent, {}), new.get(parent, {})
        if parent:
            yield parent
        else:
            yield from shape.others(one, other)


def fragment_name(kind: Kind, resource: Resource) -> str:
    """Return the file name of the fragment that shows *resource*."""
    assert kind.fragment is not None
    recipe = RECIPES.get(kind.name)
    return f"{kind.fragment[0]}{'' if recipe and recipe.is_whole else resource.ref.id}.cfg"
