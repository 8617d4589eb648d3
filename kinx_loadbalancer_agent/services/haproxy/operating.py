"""The operating status of every object, as LBaaS has it, from what HAProxy shows. Pure.

What is below decides: a pool that lost some members is DEGRADED, and so is what stands on it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

from kinx_loadbalancer_agent.engine.ports import Operating
from kinx_loadbalancer_agent.model import rules
from kinx_loadbalancer_agent.model.resources import (
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    Pool,
    Ref,
)
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy.facts import Shown

FRONTEND = "FRONTEND"
WORST = ("ERROR", "OFFLINE", "DEGRADED")
FINE = Operating("ONLINE", "")


def statuses(
    state: State, shown: Mapping[tuple[str, str], Shown] | None, absent: str
) -> dict[Ref, Operating]:
    """Return the status of load balancers, listeners, pools and members.

    shown: what HAProxy shows, by proxy and server; None when it does not answer, as *absent* says.
    """
    found: dict[Ref, Operating] = {}
    for resource in state.all("pools"):
        pool = cast(Pool, resource)
        members = cast(Mapping[str, Member], state.table("members", pool.id))
        monitor = cast(HealthMonitor | None, state.get(Ref("healthmonitors", "", pool.id)))
        is_checked = monitor is not None and monitor.enabled
        for member in members.values():
            row = shown.get((pool.backend, member.id)) if shown is not None else None
            why = absent if shown is None else "HAProxy does not show it"
            found[member.ref] = _member(pool, member, row, why, is_checked)
        found[pool.ref] = _pool(pool, [found[member.ref] for member in members.values()])
        if shown is None and pool.enabled:
            found[pool.ref] = Operating("OFFLINE", absent)
    for resource in state.all("listeners"):
        listener = cast(Listener, resource)
        row = shown.get((listener.id, FRONTEND)) if shown is not None else None
        found[listener.ref] = _listener(state, listener, row, found)
        if shown is None and found[listener.ref].status != "DISABLED":
            found[listener.ref] = Operating("OFFLINE", absent)
    for resource in state.all("loadbalancers"):
        found[resource.ref] = _loadbalancer(state, cast(LoadBalancer, resource), found)
    return found


def leaving(state: State, servers: Iterable[tuple[str, str]]) -> dict[Ref, Operating]:
    """Return the status of deleted members that have clients yet: *servers* by backend and name."""
    status = Operating("DRAINING", "it is deleted; clients are connected yet")
    return {
        Ref("members", pool.ref.id, name): status
        for backend, name in servers
        for pool in state.having("pools", "backend", backend)
    }


def _member(pool: Pool, member: Member, row: Shown | None, why: str, is_checked: bool) -> Operating:
    if not member.enabled or not pool.enabled:
        whose = "it" if not member.enabled else f"pool {pool.id}"
        return Operating("DISABLED", f"{whose} is disabled")
    if row is None:
        return Operating("ERROR", why)
    if row.status.startswith(("DOWN", "MAINT")):
        return Operating("ERROR", f"{row.status} {row.check}".strip())
    if member.weight == 0 or row.status.startswith("DRAIN"):
        return Operating("DRAINING", "its weight is 0" if member.weight == 0 else "drained")
    return FINE if is_checked else Operating("NO_MONITOR", "its pool has no health monitor")


def _pool(pool: Pool, members: list[Operating]) -> Operating:
    if not pool.enabled:
        return Operating("DISABLED", "it is disabled")
    found = Counter(member.status for member in members)
    in_error = found["ERROR"]
    if members and not found["ONLINE"] + found["NO_MONITOR"]:
        status = "DEGRADED" if found["DRAINING"] else "ERROR"
        return Operating(status, "no member takes new clients")
    if in_error:
        return Operating("DEGRADED", f"{in_error} of {len(members)} members are in error")
    return FINE


def _listener(
    state: State, listener: Listener, row: Shown | None, found: Mapping[Ref, Operating]
) -> Operating:
    owner = state.get(Ref("loadbalancers", "", listener.loadbalancer_id or ""))
    if not listener.enabled:
        return Operating("DISABLED", "it is disabled")
    if owner is not None and not cast(LoadBalancer, owner).enabled:
        return Operating("DISABLED", f"{owner.ref} is disabled")
    if row is None:
        return Operating("ERROR", "HAProxy does not serve it; see the condition ListenersBound")
    if row.status != "OPEN":
        status = "DEGRADED" if row.status == "FULL" else "ERROR"
        return Operating(status, f"HAProxy shows it {row.status}")
    pool = rules.default_pool(state, listener)
    below = found[pool.ref] if pool is not None else FINE
    if below.status in WORST:
        return Operating("DEGRADED", f"pool {pool.id if pool else ''}: {below.reason}")
    return FINE


def _loadbalancer(state: State, owner: LoadBalancer, found: Mapping[Ref, Operating]) -> Operating:
    if not owner.enabled:
        return Operating("DISABLED", "it is disabled")
    below = [
        resource.ref
        for kind in ("listeners", "pools")
        for resource in state.having(kind, "loadbalancer_id", owner.id)
    ]
    for status in WORST:
        for ref in below:
            if found[ref].status == status:
                return Operating(status, f"{ref}: {found[ref].reason}")
    return FINE
