"""What is known of one object: as wished, as written, as it runs, and why it gets no traffic."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from kinx_loadbalancer_agent.engine.ports import Operating, Written
from kinx_loadbalancer_agent.engine.reports import Reports
from kinx_loadbalancer_agent.model import paths
from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.model.state import State

FINE = ("ONLINE", "NO_MONITOR")


def explain(reports: Reports, state: State, id: str) -> list[dict[str, Any]]:
    """Return what is known of each object of *state* that *id* names; there may be several."""
    found = [one for kind in reports.kinds for one in state.all(kind.name) if one.ref.id == id]
    statuses = reports.operating(state) if found else {}
    written = reports.written(state, [one.ref for one in found])
    return [_explained(reports, state, one, statuses, written.get(one.ref)) for one in found]


def _explained(
    reports: Reports,
    state: State,
    resource: Resource,
    statuses: Mapping[Ref, Operating],
    written: Written | None,
) -> dict[str, Any]:
    ref, status = resource.ref, statuses.get(resource.ref)
    return {
        "kind": ref.kind,
        "id": ref.id,
        **({"parent": ref.parent} if ref.parent else {}),
        "wished": reports.published(resource, state),
        **asdict(written or Written("", (), {})),
        "operating_status": status.status if status else None,
        "because": list(dict.fromkeys(_obstacles(reports, state, resource, statuses))),
    }


def _obstacles(
    reports: Reports, state: State, resource: Resource, statuses: Mapping[Ref, Operating]
) -> Iterator[str]:
    """Yield what keeps clients from *resource*: from itself up to where they come from."""
    status = statuses.get(resource.ref)
    if status is not None:
        reason = status.reason if status.status not in FINE else ""
    else:  # a VIP says so itself
        reason = reports.published(resource, state).get("reason") or ""
    if reason:
        yield f"{resource.ref}: {reason}"
    for one in paths.above(state, resource):
        yield from [one] if isinstance(one, str) else _obstacles(reports, state, one, statuses)
