"""The file of the state is replaced, damaged or removed while the agent runs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine import Machine, free_port, wait_until

LISTENERS = "/api/haproxy/listeners"


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


def damaged(path: Path) -> None:
    path.write_bytes(os.urandom(30_000))


@pytest.mark.parametrize("harm", [replaced, damaged, Path.unlink])
def test_no_change_is_answered_as_kept_and_the_status_says_what_to_do(
    machine: Machine, harm: Callable[[Path], None]
) -> None:
    path = machine.root / "opt/kinx_loadbalancer_agent/state.db"
    port = free_port()
    listener = {"id": "web", "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    assert machine.post(LISTENERS, listener).status == 201
    wait_until(lambda: machine.condition("StateKept").get("status") == "True", 5)

    harm(path)
    told = wait_until(
        lambda: found if (found := machine.condition("StateKept"))["status"] == "False" else None, 5
    )
    refused = machine.put(f"{LISTENERS}/web", {"connection_limit": 7})
    state = machine.get("/api/state")
    serves = machine.fetch(port)
    shown = machine.cli("status")

    # The way out that is told.
    machine.stop()
    for one in path.parent.glob("state.db*"):
        one.unlink()
    machine.start()
    again = machine.put("/api/state", state.json)

    assert "GET /api/state" in told["message"]
    assert (refused.status, state.status) == (503, 200)
    assert state.json["listeners"][0]["connection_limit"] != 7
    assert serves.startswith("<html>")
    assert shown.returncode == 1
    assert (again.status, again.json["listeners"]) == (200, state.json["listeners"])
    assert machine.fetch(port).startswith("<html>")
