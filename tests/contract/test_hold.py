"""``/api/hold``: nothing is changed for some minutes, and what others change is reported."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, POOLS
from tests.machine import Machine, wait_until

HOLD = "/api/hold"


@pytest.fixture
def node(shared: Machine) -> Iterator[Machine]:
    """A node that nobody holds afterwards."""
    yield shared
    shared.delete(HOLD)
    wait_until(lambda: shared.condition("Applied")["status"] == "True", 10)


def hold(machine: Machine, minutes: int = 5, reason: str = "at work") -> None:
    reply = machine.put(HOLD, {"minutes": minutes, "reason": reason})
    assert reply.status == 200, reply.body


def test_without_a_hold_there_is_none(node: Machine) -> None:
    assert node.get(HOLD).json == {"held": False, "who": None, "reason": None, "until": None}
    assert node.condition("Held")["status"] == "False"


def test_a_hold_says_who_why_and_until_when(node: Machine) -> None:
    hold(node, reason="new disk")

    shown, condition = node.get(HOLD).json, node.condition("Held")

    assert (shown["held"], shown["who"], shown["reason"]) == (True, "test", "new disk")
    assert condition["status"] == "True"
    assert all(word in condition["message"] for word in ("test", "new disk", shown["until"]))


def test_a_write_gets_a_503_with_the_reason_and_when_to_come_back(node: Machine) -> None:
    hold(node, reason="new disk")
    before = judge.kept(node)

    replies = [
        node.post(POOLS, documents.pool()),
        node.put("/api/state", node.get("/api/state").json),
        node.delete(f"{POOLS}/x"),
    ]

    for reply in replies:
        judge.assert_is_problem(reply, 503)
        assert "new disk" in reply.json["detail"]
        assert 290 < int(reply.headers["Retry-After"]) <= 301
    assert judge.kept(node) == before


def test_reading_and_rehearsing_go_on(node: Machine) -> None:
    hold(node)

    assert node.get(POOLS).status == 200
    assert node.get("/readyz").status == 200
    assert node.post(f"{POOLS}?dry_run=true", documents.pool()).status == 200


def test_a_hold_that_is_ended_lets_writes_through(node: Machine) -> None:
    hold(node)

    ended = node.delete(HOLD)

    assert ended.status == 204
    assert node.post(POOLS, documents.pool()).status == 201
    assert node.delete(HOLD).status == 204


def test_what_others_change_is_reported_and_stays_until_the_end(node: Machine) -> None:
    pool = documents.made(node, "pools", enabled=True)
    members = f"{POOLS}/{pool.body['id']}/members"
    node.post(members, documents.member(id="m", weight=7))
    backend = f"backend-{pool.body['id']}"
    hold(node)

    node.show(f"set server {backend}/m weight 3")
    wait_until(lambda: node.condition("Drift")["status"] == "True", 6)
    wait_until(lambda: node.condition("Applied")["reason"] == "Held", 6)
    left = node.show(f"get weight {backend}/m")
    node.delete(HOLD)
    wait_until(lambda: node.show(f"get weight {backend}/m").startswith("7"), 10)

    assert left.startswith("3")
    wait_until(lambda: node.condition("Applied")["status"] == "True", 10)


def test_a_hold_outlives_the_agent(machine: Machine) -> None:
    listener = documents.made(machine, "listeners", enabled=True)
    hold(machine, reason="new disk")
    machine.stop()
    for pid in machine.haproxy_pids():
        os.kill(pid, signal.SIGKILL)

    machine.start(ready=False)
    wait_until(machine.is_taken_over, 20)
    refused = machine.post(POOLS, documents.pool())
    wait_until(lambda: machine.condition("Applied")["reason"] == "Held", 10)
    running = machine.haproxy_pids()
    machine.delete(HOLD)

    assert (refused.status, running) == (503, [])
    wait_until(lambda: machine.haproxy_pids() != [], 10)
    assert listener.body["id"] in str(machine.get(LISTENERS).json)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"reason": "x"}, "/minutes"),
        ({"minutes": 5}, "/reason"),
        ({"minutes": 0, "reason": "x"}, "/minutes"),
        ({"minutes": 1441, "reason": "x"}, "/minutes"),
        ({"minutes": True, "reason": "x"}, "/minutes"),
        ({"minutes": 5, "reason": ""}, "/reason"),
        ({"minutes": 5, "reason": "a\nb"}, "/reason"),
        ({"minutes": 5, "reason": "x", "who": "y"}, "/who"),
    ],
)
def test_what_is_no_hold_is_a_422(node: Machine, body: dict[str, Any], pointer: str) -> None:
    judge.assert_is_problem(node.put(HOLD, body), 422, pointer)
    assert node.get(HOLD).json["held"] is False
