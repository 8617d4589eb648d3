"""The operating status of objects, from what HAProxy shows of them."""

from typing import Any

import pytest

from kinx_loadbalancer_agent.engine.ports import Operating
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.services.haproxy import operating
from kinx_loadbalancer_agent.services.haproxy.facts import Shown
from tests.unit.desired import Desired

MONITOR = {"type": "TCP", "delay": 3, "timeout": 2}
Rows = dict[tuple[str, str], Shown]


def row(status: str, check: str = "") -> Shown:
    return Shown(status, check, 0, (0, 0, 0, 0))


def shown(members: dict[str, str] | None = None, listener: str = "OPEN") -> Rows:
    """Return what HAProxy shows of the listener ``li``, its pool and *members* of that."""
    servers = {("backend-li", id): row(status) for id, status in (members or {}).items()}
    return {("li", "FRONTEND"): row(listener), ("backend-li", "BACKEND"): row("UP"), **servers}


def add(web: Desired, *ids: str, **members: Any) -> None:
    """Make members of the pool."""
    for port, id in enumerate(ids, 80 + len(web.ids("members"))):
        web.post(
            "members", {"id": id, "address": "192.0.2.9", "protocol_port": port} | members, "po"
        )


def status(web: Desired, rows: Rows | None, absent: str = "") -> dict[str, str]:
    """Return the status of everything, by its id."""
    found = operating.statuses(web.state, rows, absent)
    return {ref.id: operating.status for ref, operating in found.items()}


# --- a member -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("UP", "ONLINE"),
        ("UP 1/3", "ONLINE"),
        ("DOWN", "ERROR"),
        ("DOWN 1/2", "ERROR"),
        ("DOWN (agent)", "ERROR"),
        ("MAINT", "ERROR"),
        ("MAINT (via backend-li/n)", "ERROR"),
        ("DRAIN", "DRAINING"),
        ("DRAIN 1/3", "DRAINING"),
        ("no check", "ONLINE"),
    ],
)
def test_a_member_with_a_monitor_does_as_its_row_says(web: Desired, row: str, wanted: str) -> None:
    web.post("healthmonitors", MONITOR, id="po")
    add(web, "m")

    assert status(web, shown({"m": row}))["m"] == wanted


@pytest.mark.parametrize("enabled", [None, False])
def test_a_member_that_nothing_checks_has_no_monitor(web: Desired, enabled: bool | None) -> None:
    if enabled is not None:
        web.post("healthmonitors", {**MONITOR, "enabled": enabled}, id="po")
    add(web, "m")

    assert status(web, shown({"m": "no check"}))["m"] == "NO_MONITOR"


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("row", ["UP", "DOWN", "DRAIN"])
@pytest.mark.parametrize("enabled", [True, False])
def test_disabled_is_before_error_before_draining_before_no_monitor_before_online(
    web: Desired, enabled: bool, row: str, weight: int, is_checked: bool
) -> None:
    if is_checked:
        web.post("healthmonitors", MONITOR, id="po")
    add(web, "m", weight=weight, enabled=enabled)
    claims = [
        ("DISABLED", not enabled),
        ("ERROR", row == "DOWN"),
        ("DRAINING", weight == 0 or row == "DRAIN"),
        ("NO_MONITOR", not is_checked),
        ("ONLINE", True),
    ]

    found = status(web, shown({"m": row}))["m"]

    assert found == next(name for name, holds in claims if holds)


def test_a_member_that_haproxy_does_not_show_is_in_error(web: Desired) -> None:
    add(web, "m")

    assert status(web, shown())["m"] == "ERROR"


def test_a_member_of_a_disabled_pool_is_disabled(web: Desired) -> None:
    add(web, "m")
    web.put("pools", "po", {"enabled": False})

    found = operating.statuses(web.state, shown(), "")

    assert found[Ref("members", "po", "m")] == Operating("DISABLED", "pool po is disabled")


def test_members_of_one_id_in_two_pools_are_told_apart(web: Desired) -> None:
    web.post("pools", {"id": "other", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"})
    other = {"id": "m", "address": "192.0.2.9", "protocol_port": 80}
    add(web, "m")
    web.post("members", other, "other")

    rows = shown({"m": "UP"}) | {("backend-other", "m"): row("DOWN")}
    found = operating.statuses(web.state, rows, "")

    assert found[Ref("members", "po", "m")].status == "NO_MONITOR"
    assert found[Ref("members", "other", "m")].status == "ERROR"


# --- rolled up ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "pool", "listener", "owner"),
    [
        ({}, "ONLINE", "ONLINE", "ONLINE"),
        ({"a": "UP", "b": "UP"}, "ONLINE", "ONLINE", "ONLINE"),
        ({"a": "UP", "b": "DOWN"}, "DEGRADED", "DEGRADED", "DEGRADED"),
        ({"a": "DOWN", "b": "DOWN"}, "ERROR", "DEGRADED", "ERROR"),
        ({"a": "UP", "b": "DRAIN"}, "ONLINE", "ONLINE", "ONLINE"),
    ],
    ids=str,
)
def test_what_is_below_decides(
    web: Desired, members: dict[str, str], pool: str, listener: str, owner: str
) -> None:
    web.post("healthmonitors", MONITOR, id="po")
    add(web, *members)

    found = status(web, shown(members))

    assert (found["po"], found["li"], found["lb"]) == (pool, listener, owner)


@pytest.mark.parametrize(("other", "pool"), [("UP", "ONLINE"), ("DOWN", "ERROR")])
def test_a_disabled_member_is_no_error_of_its_pool_while_another_serves(
    web: Desired, other: str, pool: str
) -> None:
    add(web, "off", enabled=False)
    add(web, "on")

    assert status(web, shown({"off": "MAINT", "on": other}))["po"] == pool


@pytest.mark.parametrize(
    ("row", "wanted"), [("OPEN", "ONLINE"), ("FULL", "DEGRADED"), ("STOP", "ERROR")]
)
def test_a_listener_does_as_its_row_says(web: Desired, row: str, wanted: str) -> None:
    found = status(web, shown(listener=row))

    assert (found["li"], found["lb"]) == (wanted, wanted)


def test_a_listener_that_haproxy_does_not_serve_is_in_error(web: Desired) -> None:
    found = status(web, {("backend-li", "BACKEND"): row("UP")})

    assert (found["li"], found["lb"]) == ("ERROR", "ERROR")


@pytest.mark.parametrize(
    ("kind", "id", "disabled"),
    [("listeners", "li", {"li"}), ("loadbalancers", "lb", {"li", "lb"}), ("pools", "po", {"po"})],
)
def test_what_is_disabled_is_disabled_whatever_haproxy_shows(
    web: Desired, kind: str, id: str, disabled: set[str]
) -> None:
    web.put(kind, id, {"enabled": False})

    for rows in (shown(), {}, None):
        found = status(web, rows, "it is gone")
        assert {name for name in found if found[name] == "DISABLED"} == disabled


def test_a_pool_that_nobody_uses_counts_for_its_load_balancer(web: Desired) -> None:
    web.post("pools", {"id": "spare", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"})
    web.post("members", {"id": "s", "address": "192.0.2.9", "protocol_port": 80}, "spare")

    found = status(web, shown() | {("backend-spare", "s"): row("DOWN")})

    assert (found["spare"], found["li"], found["lb"]) == ("ERROR", "ONLINE", "ERROR")


def test_the_worst_is_told_with_its_reason(web: Desired) -> None:
    web.post("healthmonitors", MONITOR, id="po")
    add(web, "a", "b")

    rows = shown({"a": "DOWN 1/2", "b": "UP"})
    rows["backend-li", "a"] = row("DOWN 1/2", "L4CON")
    found = operating.statuses(web.state, rows, "")

    assert found[Ref("members", "po", "a")].reason == "DOWN 1/2 L4CON"
    assert found[Ref("pools", "", "po")].reason == "1 of 2 members are in error"
    assert found[Ref("loadbalancers", "", "lb")].reason


# --- HAProxy does not answer ----------------------------------------------------------------


def test_while_haproxy_does_not_answer_everything_enabled_is_offline_and_says_why(
    web: Desired,
) -> None:
    add(web, "m")

    found = operating.statuses(web.state, None, "it hangs")

    for ref in (Ref("loadbalancers", "", "lb"), Ref("listeners", "", "li"), Ref("pools", "", "po")):
        assert found[ref].status == "OFFLINE"
        assert "it hangs" in found[ref].reason
    assert "it hangs" in found[Ref("members", "po", "m")].reason
    assert found[Ref("members", "po", "m")].status in ("ERROR", "OFFLINE")


def test_every_object_has_a_status_and_a_reason_where_it_is_not_online(web: Desired) -> None:
    add(web, "a", "b", "c")

    for rows in (shown({"a": "UP", "b": "DOWN"}), {}, None):
        found = operating.statuses(web.state, rows, "it is gone")
        assert {ref.id for ref in found} == {"lb", "li", "po", "a", "b", "c"}
        assert all(bool(one.reason) == (one.status != "ONLINE") for one in found.values())
