"""What resources have against each other: addresses, names, protocols."""

from typing import Any

import pytest

from kinx_loadbalancer_agent.errors import Conflict, Unprocessable
from tests.unit.desired import Desired

LISTENER = {"id": "l2", "protocol": "HTTP", "protocol_port": 80}
POOL = {"id": "p2", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
TCP = {"protocol": "TCP"}


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "0.0.0.0"),
        ("0.0.0.0", "192.0.2.1"),
        ("192.0.2.1", "::"),
        ("::", "192.0.2.1"),
        ("::", "0.0.0.0"),
        ("2001:db8::1", "::"),
        ("2001:db8::1", "2001:DB8:0::1"),
    ],
)
@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "disabled"])
def test_two_listeners_that_would_share_clients_conflict(
    desired: Desired, one: str, other: str, enabled: bool
) -> None:
    desired.post("listeners", LISTENER | {"id": "l1", "vip_address": one, "enabled": enabled})

    with desired.refuses(Conflict, "/protocol_port") as caught:
        desired.post("listeners", LISTENER | {"vip_address": other})

    assert "listener l1" in caught.value.detail


@pytest.mark.parametrize(
    ("one", "other", "port"),
    [
        ("192.0.2.1", "192.0.2.2", 80),
        ("192.0.2.1", "192.0.2.1", 81),
        ("0.0.0.0", "0.0.0.0", 81),
        ("2001:db8::1", "0.0.0.0", 80),
        ("2001:db8::1", "192.0.2.1", 80),
    ],
)
def test_two_listeners_on_addresses_of_their_own_do_not(
    desired: Desired, one: str, other: str, port: int
) -> None:
    desired.post("listeners", LISTENER | {"id": "l1", "vip_address": one})

    folded = desired.post("listeners", LISTENER | {"vip_address": other, "protocol_port": port})

    assert folded.status == 201


def test_a_listener_may_be_changed_where_it_is(web: Desired) -> None:
    folded = web.put("listeners", "li", {"connection_limit": 5, "protocol_port": 80})

    assert folded.status == 200


def test_a_listener_cannot_move_onto_another(web: Desired) -> None:
    web.post("listeners", LISTENER | {"protocol_port": 81})

    with web.refuses(Conflict, "/protocol_port"):
        web.put("listeners", "l2", {"protocol_port": 80})


def test_a_load_balancer_cannot_move_its_listeners_onto_another(web: Desired) -> None:
    web.post("listeners", LISTENER | {"vip_address": "192.0.2.2"})

    with web.refuses(Conflict, "/vip_address") as caught:
        web.put("loadbalancers", "lb", {"vip_address": "192.0.2.2", "name": "moved"})

    assert "listener l2" in caught.value.detail


def test_a_listener_has_an_address_or_a_load_balancer_with_one(desired: Desired) -> None:
    desired.post("loadbalancers", {"id": "bare"})

    with desired.refuses(Unprocessable, "/vip_address"):
        desired.post("listeners", LISTENER)
    desired.post("listeners", LISTENER | {"vip_address": "192.0.2.1"})
    desired.put("loadbalancers", "bare", {"vip_address": "192.0.2.2"})
    desired.put("listeners", "l2", {"vip_address": None})

    with desired.refuses(Unprocessable, "/vip_address"):
        desired.put("loadbalancers", "bare", {"vip_address": None})


def test_two_members_of_a_pool_cannot_have_one_address_and_port(web: Desired) -> None:
    web.post("members", {"id": "m", "address": "2001:db8::7", "protocol_port": 80}, "po")
    same = {"address": "2001:db8:0:0::7", "protocol_port": 80}

    with web.refuses(Conflict, "/address") as caught:
        web.post("members", {"id": "n"} | same, "po")
    other_port = web.post("members", {"id": "n"} | same | {"protocol_port": 81}, "po")
    with web.refuses(Conflict, "/address"):
        web.put("members", "n", {"protocol_port": 80}, "po")

    assert "member m" in caught.value.detail
    assert other_port.status == 201


def test_one_member_may_be_in_two_pools(web: Desired) -> None:
    web.post("pools", POOL)
    member = {"id": "m", "address": "192.0.2.7", "protocol_port": 80}

    statuses = [web.post("members", member, pool).status for pool in ("po", "p2")]

    assert statuses == [201, 201]


# --- names ----------------------------------------------------------------------------------


def test_a_backend_is_named_when_its_pool_is_made_and_never_again(web: Desired) -> None:
    web.post("listeners", LISTENER | {"protocol_port": 81})
    web.post("pools", POOL)
    made = {pool: web.backend(pool) for pool in ("po", "p2")}

    web.put("pools", "po", {"listener_id": None})
    web.put("pools", "p2", {"listener_id": "l2"})
    web.delete("listeners", "li")

    assert made == {"po": "backend-li", "p2": "backend-p2"}
    assert {pool: web.backend(pool) for pool in ("po", "p2")} == made


def test_two_backends_never_have_one_name(web: Desired) -> None:
    web.put("pools", "po", {"listener_id": None})

    web.post("pools", POOL | {"listener_id": "li"})

    assert (web.backend("po"), web.backend("p2")) == ("backend-li", "backend-p2")


@pytest.mark.parametrize(
    ("pool", "pointer"),
    [
        ({"id": "li"}, "/id"),
        ({"id": "p2", "listener_id": "po"}, "/listener_id"),
        ({"id": "p2", "listener_id": "li"}, "/listener_id"),
    ],
    ids=["a pool's listener", "another pool", "the listener of another pool"],
)
def test_an_id_that_would_name_two_pools_conflicts(
    web: Desired, pool: dict[str, str], pointer: str
) -> None:
    web.post("listeners", LISTENER | {"id": "po", "protocol_port": 81})

    with web.refuses(Conflict, pointer) as caught:
        web.post("pools", POOL | pool)

    assert "pool po" in caught.value.detail


def test_a_pool_whose_listener_changed_keeps_both_names_from_others(web: Desired) -> None:
    web.post("listeners", LISTENER | {"protocol_port": 81})
    web.put("pools", "po", {"listener_id": "l2"})

    with web.refuses(Conflict, "/id"):  # in URLs it would be either pool
        web.post("pools", POOL | {"id": "l2"})
    with web.refuses(Conflict, "/id"):  # backend-li is the backend of po for life
        web.post("pools", POOL | {"id": "li"})


def test_the_longest_id_can_be_that_of_everything(desired: Desired) -> None:
    longest = "x" * 64
    desired.post("listeners", LISTENER | {"id": longest, "vip_address": "192.0.2.1"})
    desired.post("pools", POOL | {"id": longest, "listener_id": longest})

    folded = desired.post(
        "members", {"id": longest, "address": "192.0.2.7", "protocol_port": 80}, longest
    )

    assert folded.status == 201
    assert desired.backend(longest) == f"backend-{longest}"


def test_the_same_names_conflict_when_a_put_brings_them_about(web: Desired) -> None:
    web.post("pools", POOL)

    with web.refuses(Conflict, "/listener_id"):
        web.put("pools", "p2", {"listener_id": "li"})


def test_a_listener_and_a_pool_cannot_disagree_about_the_default(web: Desired) -> None:
    web.post("listeners", LISTENER | {"protocol_port": 81, "default_pool_id": "later"})
    web.post("pools", POOL)

    with web.refuses(Conflict, "/listener_id"):
        web.post("pools", POOL | {"id": "p3", "listener_id": "l2"})
    with web.refuses(Conflict, "/listener_id"):
        web.put("pools", "p2", {"listener_id": "l2"})
    with web.refuses(Conflict, "/default_pool_id"):
        web.put("listeners", "li", {"default_pool_id": "p2"})
    agreed = web.put("listeners", "li", {"default_pool_id": "po"})

    assert agreed.status == 200


def test_a_pool_cannot_belong_elsewhere_than_its_listener(web: Desired) -> None:
    web.post("loadbalancers", {"id": "other"})
    web.put("pools", "po", {"listener_id": None})

    with web.refuses(Unprocessable, "/loadbalancer_id"):
        web.post("pools", POOL | {"listener_id": "li", "loadbalancer_id": "other"})


# --- protocols ------------------------------------------------------------------------------


def test_an_http_listener_cannot_have_a_tcp_pool_however_they_meet(web: Desired) -> None:
    web.post("listeners", LISTENER | {"protocol_port": 81, "default_pool_id": "later"})
    web.post("pools", POOL | {"id": "tcp"} | TCP)
    web.post("listeners", LISTENER | {"id": "l3", "protocol_port": 82} | TCP)
    web.post("pools", POOL | {"id": "p3", "listener_id": "l3"} | TCP)

    with web.refuses(Conflict, "/protocol"):
        web.put("pools", "po", TCP)
    with web.refuses(Conflict, "/protocol"):
        web.post("pools", POOL | {"id": "later"} | TCP)
    with web.refuses(Conflict, "/protocol"):
        web.post(
            "listeners", LISTENER | {"id": "l4", "protocol_port": 83, "default_pool_id": "tcp"}
        )
    with web.refuses(Conflict, "/protocol"):
        web.put("listeners", "l3", {"protocol": "HTTP"})


def test_a_tcp_listener_may_have_an_http_pool(web: Desired) -> None:
    folded = web.put("listeners", "li", TCP)

    assert folded.status == 200


@pytest.mark.parametrize(
    ("persistence", "pointer"),
    [
        ({"type": "HTTP_COOKIE"}, "/session_persistence/type"),
        ({"type": "APP_COOKIE", "cookie_name": "SID"}, "/session_persistence/type"),
    ],
)
def test_a_tcp_pool_cannot_keep_clients_by_cookie(
    desired: Desired, persistence: dict[str, Any], pointer: str
) -> None:
    with desired.refuses(Unprocessable, pointer):
        desired.post("pools", POOL | TCP | {"session_persistence": persistence})
    by_address = desired.post("pools", POOL | TCP | {"session_persistence": {"type": "SOURCE_IP"}})

    assert by_address.status == 201
