"""What the templates of the speaker show: every value, computed from the state. Pure.

FRR announces nothing without a filter for each neighbor, and what equals its default is not
rendered: it would come back as a difference for ever.
"""

from collections.abc import Callable
from typing import Any, cast

from kinx_loadbalancer_agent.model.resources import Quagga, Ref, vip_addresses
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.settings import RoutingSettings

FAMILIES = {
    4: {"name": "ipv4", "ip": "ip", "all": "0.0.0.0/0", "bits": 32},
    6: {"name": "ipv6", "ip": "ipv6", "all": "::/0", "bits": 128},
}
DEFAULT_TIMERS, DEFAULT_CONNECT, DEFAULT_BFD = "60 180", 120, (300, 3)
"""FRR 8.4, ``frr defaults traditional``: keepalive and hold, connect, BFD interval and count."""


def speaker(state: State) -> Quagga | None:
    """Return the speaker, None while there is none."""
    return cast(Quagga | None, state.get(Ref("quagga", "", "quagga")))


def view(
    state: State, settings: RoutingSettings, announces: Callable[[str], bool]
) -> dict[str, Any] | None:
    """Return the values of the speaker's configuration, None while there is none.

    A family stays where none of its VIPs is announced: to leave it would end every session.
    """
    found = speaker(state)
    if found is None:
        return None
    vips = vip_addresses(state)
    families = [
        family | {"prefixes": [f"{vip}/{family['bits']}" for vip in of_it if announces(vip)]}
        for version, family in FAMILIES.items()
        if (of_it := [vip for vip in vips if (":" in vip) == (version == 6)])
    ]
    neighbors = (found.primary_gateway_addr, found.secondary_gateway_addr)
    return {
        "hostname": found.hostname,
        "as_number": found.inter_as_number,
        "router_id": found.vm_addr,
        "neighbor_as": found.router_as_number,
        "neighbors": [neighbor for neighbor in neighbors if neighbor],
        "password": settings.password,
        "timers": settings.timers if settings.timers != DEFAULT_TIMERS else None,
        "connect": settings.connect if settings.connect != DEFAULT_CONNECT else None,
        "bfd": _bfd(settings.bfd),
        "families": families,
    }


def _bfd(setting: str) -> dict[str, int | None] | None:
    if setting == "off":
        return None
    interval, count = map(int, setting.split("x"))
    return {
        "interval_ms": interval if interval != DEFAULT_BFD[0] else None,
        "multiplier": count if count != DEFAULT_BFD[1] else None,
    }
