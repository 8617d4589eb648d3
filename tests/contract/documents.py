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
NAMES = ("loadbalancers", "listeners", "pools", "members", "healthmonitors")
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


@dataclass(frozen=True)
class Place:
    """A collection, and a document that may be sent to it."""

    collection: str
    body: Body

    @property
    def item(self) -> str:
        """The URL of what the document makes."""
        return f"{self.collection}/{self.body.get('id', self.body.get('pool_id'))}"


def place(machine: Machine, kind: str, **members: Any) -> Place:
    """Return where a document of *kind* may go; a pool it needs is made, without a reload.

    What the document makes is not rendered unless *members* enable it.
    """
    match kind:
        case "loadbalancers":
            return Place(LOADBALANCERS, loadbalancer(**members))
        case "listeners":
            return Place(LISTENERS, listener(**{"enabled": False, **members}))
        case "pools":
            return Place(POOLS, pool(**{"enabled": False, **members}))
        case "members":
            return Place(f"{POOLS}/{quiet_pool(machine)}/members", member(**members))
        case "healthmonitors":
            return Place(HEALTHMONITORS, monitor(pool_id=quiet_pool(machine), **members))
    raise AssertionError(kind)


def made(machine: Machine, kind: str, **members: Any) -> Place:
    """Return the place of a resource of *kind* that is there."""
    found = place(machine, kind, **members)
    reply = machine.post(found.collection, found.body)
    assert reply.status == 201, reply.body
    return found


def quiet_pool(machine: Machine) -> str:
    """Make a pool that is not rendered and return its id."""
    body = pool(enabled=False)
    reply = machine.post(POOLS, body)
    assert reply.status == 201, reply.body
    return str(body["id"])
