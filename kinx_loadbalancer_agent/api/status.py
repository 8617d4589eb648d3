"""What the node is doing: status, changes, statistics, facts; and its whole state as a document."""

import platform
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, request

from kinx_loadbalancer_agent import __version__
from kinx_loadbalancer_agent.api import bodies
from kinx_loadbalancer_agent.api.documents import Document
from kinx_loadbalancer_agent.api.documents import tree as trees
from kinx_loadbalancer_agent.api.documents.document import Read
from kinx_loadbalancer_agent.api.problems import respond
from kinx_loadbalancer_agent.api.resources import arguments, is_asked, page, settled
from kinx_loadbalancer_agent.engine.batch import Answer
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.engine.explain import explain
from kinx_loadbalancer_agent.engine.ports import Operating
from kinx_loadbalancer_agent.errors import Malformed, NotFound
from kinx_loadbalancer_agent.model import export, rules
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Listener, LoadBalancer, Ref, Resource
from kinx_loadbalancer_agent.model.state import State

MAX_CHANGES = 1000
LOADBALANCER = "/haproxy/loadbalancers/<id>"


def blueprint(
    kinds: Kinds,
    engine: Engine,
    documents: Mapping[str, Document],
    host: Callable[[], Mapping[str, Any]],
) -> Blueprint:
    """Return the routes; *host* gives the facts of the host."""
    routes = Blueprint("status", __name__, url_prefix="/api")
    reports = engine.reports

    def whole(done: Answer) -> Mapping[str, Any]:
        return export.whole(done.state, kinds)

    @routes.get("/status")
    def status() -> Response:
        arguments()
        return respond(reports.status())

    @routes.get("/changes")
    def changes() -> Response:
        limit, marker = page(MAX_CHANGES)
        if not marker.isascii() or not (marker or "0").isdecimal() or len(marker) > 18:
            raise Malformed("marker must be the generation of a change")
        return respond({"changes": reports.changes(int(marker or 0), limit)})

    @routes.get("/changes/<int:generation>")
    def change(generation: int) -> Response:
        arguments()
        found = reports.change(generation) if generation < 2**62 else None
        if found is None:
            raise NotFound(f"there is no change {generation}")
        return respond(found)

    @routes.post("/changes/<int:generation>/restore")
    def restore(generation: int) -> Response:
        is_trial = is_asked("dry_run")
        found = reports.state_at(generation)
        if found is None:
            raise NotFound(f"there is no change {generation}")
        return settled(engine, Read(tuple(export.operations(found, kinds))), whole, is_trial)

    @routes.get("/explain/<id>")
    def explained(id: str) -> Response:
        arguments()
        found = explain(reports, engine.state, id)
        if not found:
            raise NotFound(f"there is nothing with the id {id}")
        return respond({"explained": found})

    @routes.get("/info")
    def info() -> Response:
        arguments()
        versions = {
            "agent": __version__,
            "haproxy": reports.proxy.status()["version"],
            "python": platform.python_version(),
        }
        return respond({"versions": versions, "host": host()} | reports.digests())

    @routes.get("/state")
    def state() -> Response:
        arguments()
        return respond(export.whole(engine.state, kinds))

    @routes.put("/state")
    def merge_state() -> Response:
        is_trial = is_asked("dry_run")
        body = bodies.read_object(request, bodies.MAX_TREE_BYTES)
        read = trees.state(trees.Gathering(kinds, documents, is_whole=True), kinds, body)
        return settled(engine, read, whole, is_trial)

    @routes.get(f"{LOADBALANCER}/status")
    def status_tree(id: str) -> Response:
        arguments()
        state = engine.state
        owner = _loadbalancer(state, id)
        return respond({"loadbalancer": _status_tree(state, owner, reports.operating(state))})

    @routes.get(f"{LOADBALANCER}/stats")
    def stats(id: str) -> Response:
        arguments()
        state = engine.state
        return respond(reports.traffic(state, _loadbalancer(state, id).id))

    return routes


def _loadbalancer(state: State, id: str) -> LoadBalancer:
    found = state.get(Ref(LoadBalancer.kind, "", id))
    if not isinstance(found, LoadBalancer):
        raise NotFound(f"there is no {Ref(LoadBalancer.kind, '', id)}")
    return found


def _status_tree(
    state: State, owner: LoadBalancer, found: Mapping[Ref, Operating]
) -> dict[str, Any]:
    """Return the status of *owner* and of what belongs to it, as LBaaS nests it.

    A pool that no listener uses is beside the listeners.
    """
    shown = _shown(owner, found)
    used: set[Ref] = set()
    shown["listeners"] = []
    for resource in state.having("listeners", "loadbalancer_id", owner.id):
        assert isinstance(resource, Listener)
        pool = rules.default_pool(state, resource)
        used |= {pool.ref} if pool else set()
        pools = [_pool(state, pool, found)] if pool else []
        shown["listeners"].append(_shown(resource, found) | {"pools": pools})
    others = state.having("pools", "loadbalancer_id", owner.id)
    shown["pools"] = [_pool(state, other, found) for other in others if other.ref not in used]
    return shown


def _pool(state: State, pool: Resource, found: Mapping[Ref, Operating]) -> dict[str, Any]:
    members = state.table("members", pool.ref.id)
    monitor = state.get(Ref("healthmonitors", "", pool.ref.id))
    shown = _shown(pool, found)
    shown["members"] = [_shown(members[id], found) for id in sorted(members)]
    return shown | {"healthmonitor": monitor.published(state) if monitor else None}


def _shown(resource: Resource, found: Mapping[Ref, Operating]) -> dict[str, Any]:
    status = found[resource.ref]
    named = {"id": resource.ref.id, "name": getattr(resource, "name", "")}
    told = {"operating_status": status.status, "reason": status.reason}
    return named | told | {"provisioning_status": "ACTIVE"}
