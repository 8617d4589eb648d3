"""The smallest document of each kind, with identities and ports of its own, and where it goes."""

import random
import uuid
from dataclasses import dataclass
from typing import Any

from tests.machine import Machine, free_port

Body = dict[str, Any]

ROOT = "/api/haproxy"
LOADBALANCERS = f"{ROOT}/loadbalancers"
LISTENERS = f"{ROOT}/listeners"
POOLS = f"{ROOT}/pools"
HEALTHMONITORS = f"{ROOT}/healthmonitors"
PEERS = f"{ROOT}/peers"
QUAGGA = "/api/quagga"
VIPS = f"{QUAGGA}/vips"
CRONTAB = "/api/crontab"
IDENTITIES = {
    "loadbalancers": "id",
    "listeners": "id",
    "pools": "id",
    "members": "id",
    "healthmonitors": "pool_id",
    "peers": "hostname",
    "quagga": None,
    "vips": "vip_addr",
    "crontab": None,
}
"""The member that identifies a resource of each kind; None: there is one at most."""
NAMES = tuple(IDENTITIES)
SINGLETONS = tuple(kind for kind, identity in IDENTITIES.items() if identity is None)
COLLECTIONS = tuple(kind for kind in NAMES if kind not in SINGLETONS)
NOTHING: Body = {
    "loadbalancers": [],
    "listeners": [],
    "pools": [],
    "peers": [],
    "quagga": None,
    "crontab": None,
}
"""The document of ``/api/state`` of a node that has nothing."""
UNAPPLIED = ("quagga", "vips")
"""Kept, written and not applied to a routing daemon yet: a write of them is answered 202."""
WARNED = ("quagga",)
"""Kinds whose every write is answered with one warning (of AS numbers, see the contract)."""
CHANGE: dict[str, Body] = {
    "loadbalancers": {"name": "other"},
    "listeners": {"name": "other"},
    "pools": {"name": "other"},
    "members": {"name": "other"},
    "healthmonitors": {"url_path": "/other"},
    "peers": {"port": 1025},
    "quagga": {"secondary_gateway_addr": "192.0.2.253"},
    "vips": {},
    "crontab": {"schedule": "*/7 * * * *"},
}
"""A change of each kind that HAProxy need not know; a VIP is what it is."""
CHANGEABLE = tuple(kind for kind in NAMES if CHANGE[kind])
MEMBERS_OF = {
    "loadbalancers": {"id", "name", "description", "enabled", "project_id", "vip_address"},
    "listeners": {
        *("id", "loadbalancer_id", "name", "description", "enabled", "protocol"),
        *("protocol_port", "protocol_mode", "connection_limit", "default_pool_id"),
        *("vip_address", "tls_certificate_id", "sni_containers"),
    },
    "pools": {
        *("id", "listener_id", "loadbalancer_id", "name", "description", "enabled", "protocol"),
        *("protocol_mode", "lb_algorithm", "stick_size", "stick_expire", "session_persistence"),
    },
    "members": {
        *("id", "pool_id", "name", "enabled", "address", "protocol_port", "weight", "type"),
        *("cookie_name", "healthmonitor", "backup", "monitor_address", "monitor_port"),
        "project_id",
    },
    "healthmonitors": {
        *("pool_id", "listener_id", "type", "delay", "timeout", "max_retries"),
        *("max_retries_down", "http_method", "url_path", "expected_codes", "enabled"),
    },
    "peers": {"hostname", "address", "port"},
    "quagga": {
        *("hostname", "inter_as_number", "vm_addr", "primary_gateway_addr"),
        *("secondary_gateway_addr", "router_as_number", "vip_addr", "vips", "sessions", "drain"),
    },
    "vips": {"vip_addr", "assigned", "served", "announced", "since", "reason"},
    "crontab": {"agent_addr", "agent_port", "tenant_id", "vm_id", "schedule"},
}
"""What every answer about a resource holds (the contract's section 2)."""


def fresh(word: str) -> str:
    """Return an id nobody else has."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


def loopback() -> str:
    """Return an address of this host that no other document has."""
    return ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])


def loadbalancer(**members: Any) -> Body:
    return {"id": fresh("lb"), **members}


def listener(**members: Any) -> Body:
    """Return a listener: on 127.0.0.1 when *members* say the port, else on an address of its own.

    Disabled listeners count too when addresses are compared, so that ports alone would run out.
    """
    address = "127.0.0.1" if "protocol_port" in members else loopback()
    own = {"id": fresh("li"), "protocol": "HTTP", "protocol_port": free_port()}
    return {**own, "vip_address": address, **members}


def pool(**members: Any) -> Body:
    return {"id": fresh("po"), "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", **members}


def member(**members: Any) -> Body:
    own = {"id": fresh("me"), "address": "127.0.0.1", "protocol_port": free_port()}
    return {**own, **members}


def monitor(**members: Any) -> Body:
    return {"type": "TCP", "delay": 5, "timeout": 3, **members}


def peer(**members: Any) -> Body:
    """Return a peer of another host, so that no section is rendered."""
    return {"hostname": fresh("lbv"), "address": elsewhere(), **members}


def quagga(**members: Any) -> Body:
    return {
        "hostname": "lbv-1",
        "inter_as_number": 50235,
        "vm_addr": "192.0.2.1",
        "primary_gateway_addr": "192.0.2.254",
        "router_as_number": 60201,
        "vip_addr": "203.0.113.1",
        **members,
    }


def vip(**members: Any) -> Body:
    return {"vip_addr": elsewhere(), **members}


def crontab(**members: Any) -> Body:
    own = {"agent_addr": "192.0.2.9", "agent_port": 9000, "tenant_id": "tenant", "vm_id": "vm"}
    return {**own, **members}


def elsewhere() -> str:
    """Return an address of another host that no other document has (RFC 2544)."""
    return f"198.18.{random.randint(0, 255)}.{random.randint(1, 254)}"


def answered(kind: str, status: int) -> int:
    """Return with what a write of *kind* is answered that is *status* once it is in effect.

    Without a speaker there is nothing to apply.
    """
    return status if kind not in UNAPPLIED or (kind, status) == ("quagga", 204) else 202


@dataclass(frozen=True)
class Place:
    """A collection, and a document that may be sent to it.

    identity: the member that says which one it is; None where there is one at most.
    """

    collection: str
    body: Body
    identity: str | None = "id"

    @property
    def item(self) -> str:
        """The URL of what the document makes."""
        return f"{self.collection}/{self.body[self.identity]}" if self.identity else self.collection


def place(machine: Machine, kind: str, **members: Any) -> Place:
    """Return where a document of *kind* may go; what it needs is made, without a reload.

    What the document makes is not rendered unless *members* enable it. Where there is one at
    most, the one that is there goes.
    """
    match kind:
        case "loadbalancers":
            found = LOADBALANCERS, loadbalancer(**members)
        case "listeners":
            found = LISTENERS, listener(**{"enabled": False, **members})
        case "pools":
            found = POOLS, pool(**{"enabled": False, **members})
        case "members":
            found = f"{POOLS}/{quiet_pool(machine)}/members", member(**members)
        case "healthmonitors":
            found = HEALTHMONITORS, monitor(pool_id=quiet_pool(machine), **members)
        case "peers":
            found = PEERS, peer(**members)
        case "quagga":
            found = QUAGGA, quagga(**members)
        case "vips":
            found = speaker(machine), vip(**members)
        case "crontab":
            found = CRONTAB, crontab(**members)
        case _:
            raise AssertionError(kind)
    if kind in SINGLETONS:
        machine.delete(found[0])
    return Place(*found, IDENTITIES[kind])


def made(machine: Machine, kind: str, **members: Any) -> Place:
    """Return the place of a resource of *kind* that is there."""
    found = place(machine, kind, **members)
    reply = machine.post(found.collection, found.body)
    assert reply.status == answered(kind, 201), reply.body
    return found


def quiet_pool(machine: Machine) -> str:
    """Make a pool that is not rendered and return its id."""
    body = pool(enabled=False)
    reply = machine.post(POOLS, body)
    assert reply.status in (201, 202), reply.body
    return str(body["id"])


def speaker(machine: Machine) -> str:
    """Make the speaker if there is none, with a VIP of its own, and return where VIPs go."""
    if machine.get(QUAGGA).status == 404:
        assert machine.post(QUAGGA, quagga()).status == 202
    return VIPS
