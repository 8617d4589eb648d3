"""A state as one nested document, back again, and its digest."""

from collections.abc import Callable
from typing import Any

import pytest

from kinx_loadbalancer_agent.api.documents import DOCUMENTS, Document
from kinx_loadbalancer_agent.api.documents import tree as trees
from kinx_loadbalancer_agent.model import export
from kinx_loadbalancer_agent.model.fold import fold
from kinx_loadbalancer_agent.model.intents import Intent
from kinx_loadbalancer_agent.model.resources import Ref
from tests.unit.desired import Desired

SPEAKER = {
    "hostname": "lbv-1",
    "inter_as_number": 50235,
    "vm_addr": "192.0.2.1",
    "primary_gateway_addr": "192.0.2.254",
    "router_as_number": 60201,
    "vip_addr": "203.0.113.2",
}
CRONTAB = {"agent_addr": "192.0.2.9", "agent_port": 9000, "tenant_id": "t", "vm_id": "v"}
MONITOR = {"type": "TCP", "delay": 3, "timeout": 2}


def member(id: str, port: int, **more: Any) -> dict[str, Any]:
    return {"id": id, "address": "192.0.2.8", "protocol_port": port, **more}


@pytest.fixture
def full(web: Desired) -> Desired:
    """The state of ``web`` with members, a monitor, a peer, a speaker and a crontab."""
    for id, port in (("b", 81), ("a", 80)):
        web.post("members", member(id, port), "po")
    web.post("healthmonitors", MONITOR, id="po")
    web.post("pools", {"id": "empty", "protocol": "TCP", "lb_algorithm": "SOURCE_IP"})
    web.post("peers", {"hostname": "lbv-1", "address": "192.0.2.3"})
    web.post("quagga", SPEAKER)
    web.post("vips", {"vip_addr": "203.0.113.1"})
    web.post("crontab", CRONTAB)
    return web


def whole(desired: Desired) -> dict[str, Any]:
    return export.whole(desired.state, desired.kinds)


def digest(desired: Desired) -> str:
    return export.digest(desired.state, desired.kinds)


def put(desired: Desired, state: dict[str, Any]) -> None:
    """PUT *state* as the whole of it."""
    documents = {
        kind.name: DOCUMENTS.get(kind.name, Document)(
            kind, desired.kinds, refuse_unknown=True, state=lambda: desired.state
        )
        for kind in desired.kinds
    }
    gathering = trees.Gathering(desired.kinds, documents, is_whole=True)
    read = trees.state(gathering, desired.kinds, state)
    desired.state, _ = fold(desired.state, Intent(read.operations), desired.kinds)


# --- operations -----------------------------------------------------------------------------


def test_its_operations_make_it_all_there_is_with_what_is_private(full: Desired) -> None:
    full.put("pools", "po", {"listener_id": None})
    full.post("members", member("c", 82, healthmonitor=MONITOR), "empty")
    wanted = full.state
    full.delete("pools", "po", cascade=True)
    full.delete("quagga", "quagga")
    full.post("pools", {"id": "later", "protocol": "TCP", "lb_algorithm": "SOURCE_IP"})

    intent = Intent(tuple(export.operations(wanted, full.kinds)))
    after, _ = fold(full.state, intent, full.kinds)

    for kind in full.kinds:
        assert list(after.all(kind.name)) == list(wanted.all(kind.name))


# --- documents ------------------------------------------------------------------------------


def test_an_empty_state_names_every_kind_that_nothing_owns() -> None:
    assert whole(Desired()) == {
        "loadbalancers": [],
        "listeners": [],
        "pools": [],
        "peers": [],
        "quagga": None,
        "crontab": None,
    }


def test_what_a_resource_owns_is_in_it_in_the_order_of_ids(full: Desired) -> None:
    found = whole(full)

    empty, pool = found["pools"]
    assert [one["id"] for one in pool["members"]] == ["a", "b"]
    assert pool["members"][0] == full.get("members", "a", "po")
    assert pool["healthmonitor"] == full.get("healthmonitors", "po")
    assert (empty["members"], empty["healthmonitor"]) == ([], None)
    assert [vip["vip_addr"] for vip in found["quagga"]["vips"]] == ["203.0.113.1", "203.0.113.2"]
    assert found["crontab"]["agent_addr"] == "192.0.2.9"
    assert {name for name in found if isinstance(found[name], list)} == {
        *("loadbalancers", "listeners", "pools", "peers")
    }


def test_a_tree_is_what_belongs_to_its_root(full: Desired) -> None:
    full.post("loadbalancers", {"id": "other"})
    root, other = (full.state.get(Ref("loadbalancers", "", id)) for id in ("lb", "other"))
    assert root is not None
    assert other is not None

    mine, theirs = (export.tree(full.state, full.kinds, one) for one in (root, other))

    assert [one["id"] for one in mine["listeners"]] == ["li"]
    assert [one["id"] for one in mine["pools"]] == ["empty", "po"]
    assert mine["pools"] == whole(full)["pools"]
    assert (theirs["listeners"], theirs["pools"]) == ([], [])
    assert theirs["id"] == "other"


def test_what_is_private_is_in_no_document(full: Desired) -> None:
    text = repr(whole(full))

    for name in ("backend", "is_brought", "speaker"):
        assert f"'{name}'" not in text


# --- and back -------------------------------------------------------------------------------


def test_a_document_makes_the_same_state_of_an_empty_one(full: Desired) -> None:
    other = Desired()

    put(other, whole(full))

    assert whole(other) == whole(full)
    assert digest(other) == digest(full)
    assert refs(other) == refs(full)


def test_a_document_makes_the_same_state_of_any_other(full: Desired) -> None:
    other = Desired()
    other.post("loadbalancers", {"id": "lb", "vip_address": "192.0.2.7", "name": "x"})
    other.post("listeners", {"id": "old", "protocol": "TCP", "protocol_port": 80})
    other.post("pools", {"id": "po", "protocol": "TCP", "lb_algorithm": "SOURCE_IP"})
    other.post("members", member("a", 99, weight=7, type="SOURCE_IP"), "po")
    other.post("quagga", SPEAKER | {"vip_addr": "203.0.113.9"})

    put(other, whole(full))

    assert whole(other) == whole(full)
    assert refs(other) == refs(full)


def test_its_own_document_changes_nothing(full: Desired) -> None:
    before = full.state

    put(full, whole(full))

    assert full.state.tables == before.tables


def refs(desired: Desired) -> set[Ref]:
    return {found.ref for kind in desired.kinds for found in desired.state.all(kind.name)}


# --- the digest -----------------------------------------------------------------------------


def test_the_digest_is_of_what_there_is_not_of_how_it_came(full: Desired) -> None:
    other = Desired()
    other.post("quagga", SPEAKER | {"vip_addr": "203.0.113.1"})
    other.post("vips", {"vip_addr": "203.0.113.2"})
    other.post("peers", {"hostname": "lbv-1", "address": "192.0.2.3"})
    other.post("loadbalancers", {"id": "lb", "vip_address": "192.0.2.1"})
    other.post("pools", {"id": "empty", "protocol": "TCP", "lb_algorithm": "SOURCE_IP"})
    other.post("listeners", {"id": "li", "protocol": "HTTP", "protocol_port": 80})
    pool = {"id": "po", "listener_id": "li", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    other.post("pools", pool)
    other.post("members", member("a", 80, healthmonitor=MONITOR), "po")
    other.post("members", member("b", 81), "po")

    assert digest(other) == digest(full)


CHANGES: dict[str, tuple[bool, Callable[[Desired], object]]] = {
    "a load balancer": (True, lambda d: d.put("loadbalancers", "lb", {"enabled": False})),
    "a description": (True, lambda d: d.put("listeners", "li", {"description": "x"})),
    "a pool": (True, lambda d: d.put("pools", "po", {"enabled": False})),
    "a weight": (True, lambda d: d.put("members", "a", {"weight": 7}, "po")),
    "a monitor": (True, lambda d: d.put("healthmonitors", "po", {"delay": 9})),
    "a member less": (True, lambda d: d.delete("members", "a", "po")),
    "a peer": (True, lambda d: d.put("peers", "lbv-1", {"port": 1025})),
    "a VIP more": (True, lambda d: d.post("vips", {"vip_addr": "203.0.113.3"})),
    "the speaker": (False, lambda d: d.put("quagga", "quagga", {"vm_addr": "192.0.2.2"})),
    "the crontab": (False, lambda d: d.put("crontab", "crontab", {"vm_id": "w"})),
    "no crontab": (False, lambda d: d.delete("crontab", "crontab")),
    "what a member carries": (
        False,
        lambda d: d.put("members", "a", {"healthmonitor": MONITOR}, "po"),
    ),
    "nothing": (False, lambda d: d.put("pools", "po", {"enabled": True})),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_changes_with_what_all_nodes_share(full: Desired, what: str) -> None:
    is_shared, change = CHANGES[what]
    before = digest(full)

    change(full)

    assert (digest(full) != before) == is_shared
