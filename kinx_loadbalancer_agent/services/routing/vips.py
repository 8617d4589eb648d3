"""The VIPs of this node: on lo as long as something is to answer there (Network and Service).

The engine has them assigned before HAProxy binds; only the keeper, which comes after HAProxy, takes
them away.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

from netaddr import IPAddress

from kinx_loadbalancer_agent.engine.ports import Claim, Service
from kinx_loadbalancer_agent.model.resources import vip_addresses
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.routing.loopback import Loopback
from kinx_loadbalancer_agent.services.routing.service import Routing
from kinx_loadbalancer_agent.settings import RoutingSettings
from kinx_loadbalancer_agent.system import sockets
from kinx_loadbalancer_agent.system.clock import Deadline
from kinx_loadbalancer_agent.system.host import sysctl

SPEAKER = frozenset({"quagga", "vips"})
SYSCTLS = (
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
    ("net.ipv4.conf.all.rp_filter", "2"),
    ("net.ipv4.ip_nonlocal_bind", "1"),
    ("net.ipv6.ip_nonlocal_bind", "1"),
)
LISTENERS = frozenset({"listeners", "loadbalancers"})


class Vips(Service):
    """The VIPs on the loopback interface of one node."""

    name = "vips"
    condition = "VipAssigned"
    awaited = SPEAKER  # a listener's answer tells of its own address

    def __init__(self, settings: RoutingSettings, routing: Routing) -> None:
        self._loopback = Loopback(settings.release_batch)
        self._routing = routing
        self._is_on = settings.live
        self.kinds = (SPEAKER | LISTENERS) if settings.assign_vips else SPEAKER

    def follow(self, state: State, changed: Callable[[], None]) -> None:
        # Who had HAProxy end has the addresses released.
        self._routing.companion = changed

    def assigns(self, state: State) -> frozenset[str]:
        """Return the addresses that *state* has this node assign."""
        if not self._is_on:
            return frozenset()
        found = set(vip_addresses(state))
        for kind in LISTENERS & self.kinds:
            found |= {getattr(one, "vip_address", None) or "" for one in state.all(kind)}
        return frozenset(one for one in found if one and int(IPAddress(one)))

    def assign(self, addresses: frozenset[str], deadline: Deadline) -> None:
        """Assign those of *addresses* that are not there; whether they are announced comes later.

        A daemon that started before HAProxy waits for them to announce them.
        """
        missing = frozenset(sockets.not_local(addresses))
        if missing:
            self._routing.leave(missing, deadline, settle_seconds=0.0)
            self._loopback.assign(missing, deadline)

    def leading_to(
        self, binds: Collection[tuple[str, int]], deadline: Deadline
    ) -> AbstractContextManager[None]:
        return self._routing.leading_to(binds, deadline)

    def render(self, state: State) -> bytes:
        return "".join(f"{one}\n" for one in sorted(self.assigns(state))).encode()

    def observe(self, deadline: Deadline) -> frozenset[str]:
        return self._loopback.ours()

    def plan(self, state: State, observation: Any) -> tuple[str, ...]:
        wanted = self.assigns(state)
        steps = [f"assign {one}" for one in sockets.not_local(wanted)]
        return (*steps, *(f"release {one}" for one in sorted(observation - wanted)))

    def apply(self, state: State, observation: Any, deadline: Deadline) -> None:
        wanted = self.assigns(state)
        if leaving := observation - wanted:
            self._routing.leave(leaving, deadline)
            self._loopback.release(leaving, deadline)
        self._loopback.assign(sockets.not_local(wanted), deadline)

    def claims(self, state: State) -> tuple[Claim, ...]:
        return (self._claim(state),)

    def _claim(self, state: State) -> Claim:
        if not self._is_on:
            message = "addresses are left to others, by the setting live"
            return Claim(self.condition, "True", "Left", message)
        count = len(self.assigns(state))
        if not count:
            return Claim(self.condition, "True", "NoVips", "there are no VIPs to assign")
        words = f"every VIP is there: {count}"
        other = [f"{key} = {found}" for key, wanted in SYSCTLS if (found := sysctl(key)) != wanted]
        if other:
            advice = "see etc/sysctl.conf of the agent"
            return Claim(
                self.condition,
                "True",
                "Sysctls",
                f"{words}; {', '.join(other)}: {advice}",
                "warning",
            )
        return Claim(self.condition, "True", "Assigned", words)
