"""Load balancers and listeners (CONTRACT section 2)."""

import os
import socket
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, LOADBALANCERS, POOLS
from tests.machine import Machine, free_port, running

ELSEWHERE = "192.0.2.1"
"""An address that no host has (RFC 5737)."""


def make(machine: Machine, collection: str, body: dict[str, Any]) -> str:
    """Make what *body* says, return its URL."""
    reply = machine.post(collection, body)
    assert reply.status == 201, reply.body
    return f"{collection}/{body['id']}"


def fragment(machine: Machine, listener: str) -> list[str]:
    """Return the lines of the frontend of the listener at the URL *listener*."""
    id = listener.split("/")[-1]
    text = next(found for found in machine.fragments().values() if f"frontend {id}\n" in found)
    return [line.strip() for line in text.splitlines()]


def serving(machine: Machine, name: str, **members: Any) -> tuple[str, int]:
    """Make a listener whose one member answers *name*; return its URL and port."""
    body = documents.listener(protocol_port=free_port(), enabled=False, **members)
    url = make(machine, LISTENERS, body)
    protocol = members.get("protocol", "HTTP")
    own = documents.pool(listener_id=body["id"], protocol=protocol, enabled=False)
    pool = make(machine, POOLS, own)
    make(machine, f"{pool}/members", documents.member(protocol_port=machine.backend(name).port))
    for rendered in (pool, url):
        assert machine.put(rendered, {"enabled": True}).status == 200
    return url, body["protocol_port"]


# --- where it listens -----------------------------------------------------------------------


def test_a_listener_without_an_address_listens_on_its_load_balancers(shared: Machine) -> None:
    address, port = documents.loopback(), free_port()
    owner = make(shared, LOADBALANCERS, documents.loadbalancer(vip_address=address))
    body = {
        **documents.listener(protocol_port=port, loadbalancer_id=owner.split("/")[-1]),
        "vip_address": None,
    }

    url = make(shared, LISTENERS, body)

    assert f"bind {address}:{port}" in fragment(shared, url)
    assert shared.get(url).json["vip_address"] is None


def test_a_listener_without_any_address_is_a_422(shared: Machine) -> None:
    owner = make(shared, LOADBALANCERS, documents.loadbalancer())
    body = {**documents.listener(loadbalancer_id=owner.split("/")[-1]), "vip_address": None}

    reply = shared.post(LISTENERS, body)

    judge.assert_is_problem(reply, 422, "/vip_address")


def test_an_address_this_host_lacks_is_a_409_before_haproxy_is_touched(shared: Machine) -> None:
    before = judge.kept(shared)

    reply = shared.post(LISTENERS, documents.listener(vip_address=ELSEWHERE))

    judge.assert_is_problem(reply, 409)
    assert ELSEWHERE in reply.json["detail"]
    assert judge.kept(shared) == before


def test_every_address_of_the_loopback_prefix_is_of_this_host(shared: Machine) -> None:
    address, port = "127.9.8.7", free_port()

    make(shared, LISTENERS, documents.listener(vip_address=address, protocol_port=port))

    with socket.create_connection((address, port), timeout=5):
        pass


def test_a_listener_may_listen_on_ipv6(shared: Machine) -> None:
    port = free_port()

    url = make(shared, LISTENERS, documents.listener(vip_address="::1", protocol_port=port))

    assert f"bind [::1]:{port}" in fragment(shared, url)
    with socket.create_connection(("::1", port), timeout=5):
        pass


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("::", "127.0.0.1"),
        ("127.0.0.1", "::"),
        ("::", "::1"),
        ("::1", "::"),
        ("::", "0.0.0.0"),
        ("::1", "0:0:0:0:0:0:0:1"),
    ],
)
def test_an_address_and_port_that_a_disabled_listener_has_is_a_409_that_names_it(
    shared: Machine, first: str, second: str
) -> None:
    port = free_port()
    there = documents.listener(vip_address=first, protocol_port=port, enabled=False)
    make(shared, LISTENERS, there)

    enabled = documents.listener(vip_address=second, protocol_port=port)
    disabled = {**enabled, "enabled": False}
    replies = [shared.post(LISTENERS, body) for body in (enabled, disabled)]

    for reply in replies:
        judge.assert_is_problem(reply, 409)
        assert there["id"] in reply.json["detail"]


def test_an_address_and_port_that_another_listener_has_is_a_409_that_names_it(
    shared: Machine,
) -> None:
    url, port = serving(shared, "first")
    before = judge.kept(shared)

    reply = shared.post(LISTENERS, documents.listener(protocol_port=port))

    judge.assert_is_problem(reply, 409)
    assert url.split("/")[-1] in reply.json["detail"]
    assert judge.kept(shared) == before
    assert shared.fetch(port) == "first"


@pytest.mark.parametrize(
    ("first", "second"), [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "::1"), ("::1", "127.0.0.1")]
)
def test_one_port_on_two_addresses_is_fine(shared: Machine, first: str, second: str) -> None:
    port = free_port()

    for address in (first, second):
        make(shared, LISTENERS, documents.listener(vip_address=address, protocol_port=port))

    judge.assert_haproxy_agrees(shared)


def test_a_port_another_process_holds_is_a_409_before_haproxy_is_touched(
    shared: Machine,
) -> None:
    _, served = serving(shared, "served")
    before = judge.kept(shared)

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        reply = shared.post(LISTENERS, documents.listener(protocol_port=port))

    judge.assert_is_problem(reply, 409, "/protocol_port")
    assert str(port) in reply.json["detail"]
    assert judge.kept(shared) == before
    assert shared.fetch(served) == "served"


def test_a_change_to_a_port_another_process_holds_leaves_the_listener_where_it_is(
    shared: Machine,
) -> None:
    url, served = serving(shared, "stays")
    before = judge.kept(shared)

    with socket.create_server(("127.0.0.1", 0)) as holder:
        reply = shared.put(url, {"protocol_port": holder.getsockname()[1]})

    judge.assert_is_problem(reply, 409, "/protocol_port")
    assert judge.kept(shared) == before
    assert shared.fetch(served) == "stays"


def test_a_disabled_listener_is_proven_when_it_is_enabled(shared: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        body = documents.listener(protocol_port=holder.getsockname()[1], enabled=False)
        url = make(shared, LISTENERS, body)
        refused = shared.put(url, {"enabled": True})
    accepted = shared.put(url, {"enabled": True})

    judge.assert_is_problem(refused, 409)
    assert accepted.status == 200
    judge.assert_haproxy_agrees(shared)


def test_a_listener_that_moves_serves_there_and_no_more_here(shared: Machine) -> None:
    url, before = serving(shared, "moving")
    after = free_port()

    assert shared.put(url, {"protocol_port": after}).status == 200

    assert shared.fetch(after) == "moving"
    with pytest.raises(ConnectionRefusedError):
        shared.fetch(before)
    make(shared, LISTENERS, documents.listener(protocol_port=before))


# --- mode and pool --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "mode", "log"),
    [("HTTP", "http", "httplog"), ("TCP", "tcp", "tcplog"), ("HTTPS", "tcp", "tcplog")],
)
def test_the_protocol_decides_the_mode(shared: Machine, protocol: str, mode: str, log: str) -> None:
    url, port = serving(shared, f"by {protocol}", protocol=protocol)

    lines = fragment(shared, url)

    assert {f"mode {mode}", f"option {log}"} <= set(lines)
    assert ("option idle-close-on-response" in lines) == (mode == "http")
    assert shared.fetch(port) == f"by {protocol}"


@pytest.mark.parametrize("protocol", ["TCP", "HTTPS"])
def test_an_http_listener_with_a_tcp_pool_is_a_409_at_the_protocol(
    shared: Machine, protocol: str
) -> None:
    tcp = documents.made(shared, "pools", protocol=protocol).body["id"]
    listener = documents.made(shared, "listeners").body["id"]
    mixed = documents.pool(enabled=False, protocol=protocol, listener_id=listener)

    by_listener = shared.post(LISTENERS, documents.listener(enabled=False, default_pool_id=tcp))
    by_pool = shared.post(POOLS, mixed)

    judge.assert_is_problem(by_listener, 409, "/protocol")
    judge.assert_is_problem(by_pool, 409, "/protocol")


def test_a_pool_that_comes_later_must_fit_the_listener_that_waits_for_it(shared: Machine) -> None:
    id = documents.fresh("po")
    make(shared, LISTENERS, documents.listener(enabled=False, default_pool_id=id))

    reply = shared.post(POOLS, documents.pool(id=id, enabled=False, protocol="TCP"))

    judge.assert_is_problem(reply, 409, "/protocol")


def test_a_tcp_listener_may_have_an_http_pool(shared: Machine) -> None:
    port, backend = free_port(), shared.backend("http behind tcp")
    body = documents.listener(protocol="TCP", protocol_port=port)
    make(shared, LISTENERS, body)
    pool = make(shared, POOLS, documents.pool(listener_id=body["id"]))
    make(shared, f"{pool}/members", documents.member(protocol_port=backend.port))

    assert shared.fetch(port) == "http behind tcp"


@pytest.mark.parametrize(
    ("protocol", "other"), [("HTTP", "TCP"), ("HTTP", "https"), ("TCP", "http"), ("HTTPS", "HTTP")]
)
def test_a_protocol_mode_of_another_mode_is_a_422(
    shared: Machine, protocol: str, other: str
) -> None:
    for collection, body in (
        (LISTENERS, documents.listener(protocol=protocol, protocol_mode=other)),
        (POOLS, documents.pool(protocol=protocol, protocol_mode=other)),
    ):
        judge.assert_is_problem(shared.post(collection, body), 422, "/protocol_mode")


# --- connection limit -----------------------------------------------------------------------


def test_a_connection_limit_of_minus_one_or_null_is_the_setting(shared: Machine) -> None:
    unset = make(shared, LISTENERS, documents.listener())
    negative = make(shared, LISTENERS, documents.listener(connection_limit=-1))
    null = make(shared, LISTENERS, documents.listener(connection_limit=None))
    given = make(shared, LISTENERS, documents.listener(connection_limit=77))

    for url in (unset, negative, null):
        assert "maxconn 12000" in fragment(shared, url)
        assert shared.get(url).json["connection_limit"] == -1
    assert "maxconn 77" in fragment(shared, given)
    assert shared.put(given, {"connection_limit": None}).json["connection_limit"] == -1
    assert "maxconn 12000" in fragment(shared, given)


def test_the_default_connection_limit_can_be_set() -> None:
    with running(environment={"KINX_HAPROXY_DEFAULT_CONNECTION_LIMIT": "345"}) as machine:
        url = make(machine, LISTENERS, documents.listener())

        assert "maxconn 345" in fragment(machine, url)


# --- switches -------------------------------------------------------------------------------


def test_a_disabled_listener_refuses_and_an_enabled_one_serves_again(shared: Machine) -> None:
    url, port = serving(shared, "switched")

    shared.put(url, {"enabled": False})
    with pytest.raises(ConnectionRefusedError):
        shared.fetch(port)
    judge.assert_haproxy_agrees(shared)
    shared.put(url, {"admin_state_up": True})

    assert shared.fetch(port) == "switched"


def test_the_frontends_of_a_disabled_load_balancer_are_not_rendered(shared: Machine) -> None:
    owner = documents.loadbalancer()
    make(shared, LOADBALANCERS, owner)
    _, port = serving(shared, "owned", loadbalancer_id=owner["id"])
    _, other = serving(shared, "not owned")

    shared.put(f"{LOADBALANCERS}/{owner['id']}", {"enabled": False})

    with pytest.raises(ConnectionRefusedError):
        shared.fetch(port)
    assert shared.fetch(other) == "not owned"
    judge.assert_haproxy_agrees(shared)
    assert shared.put(f"{LOADBALANCERS}/{owner['id']}", {"enabled": True}).status == 200
    assert shared.fetch(port) == "owned"


# --- a load balancer's address --------------------------------------------------------------


@pytest.fixture
def owned(shared: Machine) -> tuple[str, str, int]:
    """A load balancer, the listener on its address, and the port."""
    body = documents.loadbalancer(vip_address=documents.loopback())
    owner = make(shared, LOADBALANCERS, body)
    listener = documents.listener(protocol_port=free_port(), loadbalancer_id=body["id"])
    url = make(shared, LISTENERS, {**listener, "vip_address": None})
    return owner, url, listener["protocol_port"]


def test_listeners_follow_the_address_of_their_load_balancer(
    shared: Machine, owned: tuple[str, str, int]
) -> None:
    owner, listener, port = owned
    address = documents.loopback()

    assert shared.put(owner, {"vip_address": address}).status == 200

    assert f"bind {address}:{port}" in fragment(shared, listener)
    with socket.create_connection((address, port), timeout=5):
        pass


def test_an_address_that_listeners_need_cannot_be_taken_away(
    shared: Machine, owned: tuple[str, str, int]
) -> None:
    before = judge.kept(shared)

    reply = shared.put(owned[0], {"vip_address": None})

    judge.assert_is_problem(reply, 422, "/vip_address")
    assert judge.kept(shared) == before


def test_a_load_balancers_address_that_this_host_lacks_is_a_409_in_its_own_document(
    shared: Machine, owned: tuple[str, str, int]
) -> None:
    before = judge.kept(shared)

    reply = shared.put(owned[0], {"vip_address": ELSEWHERE})

    judge.assert_is_problem(reply, 409)
    assert judge.pointers(reply) <= {"/vip_address", ""}
    assert judge.kept(shared) == before


def test_a_load_balancers_address_on_which_a_port_is_taken_is_a_409_in_its_own_document(
    shared: Machine, owned: tuple[str, str, int]
) -> None:
    owner, _, port = owned
    there = documents.listener(protocol_port=port, vip_address=documents.loopback())
    make(shared, LISTENERS, there)

    reply = shared.put(owner, {"vip_address": there["vip_address"]})

    judge.assert_is_problem(reply, 409)
    assert there["id"] in reply.json["detail"]
    assert judge.pointers(reply) <= {"/vip_address", ""}


def test_a_load_balancer_may_have_an_address_of_another_host_while_nothing_listens(
    shared: Machine,
) -> None:
    make(shared, LOADBALANCERS, documents.loadbalancer(vip_address=ELSEWHERE))


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["GLOBAL", "MASTER", "defaults", "x" * 64, "a:b"])
def test_a_listener_may_have_any_id_that_is_one(shared: Machine, id: str) -> None:
    url = make(shared, LISTENERS, documents.listener(id=id, enabled=False))
    pool = make(shared, POOLS, documents.pool(listener_id=id, enabled=False))
    make(shared, f"{pool}/members", documents.member(id=id))

    enabled = [shared.put(at, {"enabled": True}).status for at in (pool, url)]

    assert enabled == [200, 200]
    assert f"default_backend backend-{id}" in fragment(shared, url)
    judge.assert_haproxy_agrees(shared)


def test_the_agents_own_port_is_held_by_another_process_too(shared: Machine) -> None:
    assert os.getpid() not in shared.haproxy_pids()

    reply = shared.post(LISTENERS, documents.listener(protocol_port=shared.port))

    judge.assert_is_problem(reply, 409, "/protocol_port")
