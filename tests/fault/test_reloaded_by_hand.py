"""A file edited, HAProxy reloaded by hand, and the file put back, all between two looks."""

import contextlib
from typing import Any

import pytest

from tests.contract import documents
from tests.fault.node import answering
from tests.machine import Machine, free_port, wait_until

FOUND_SECONDS, REPAIRED_SECONDS = 5.0, 10.0
LISTENERS = "/api/haproxy/listeners"


def limit(machine: Machine, id: str) -> str:
    """Return how many connections the running listener *id* takes."""
    lines = [line.split(",") for line in machine.show("show stat -1 1 -1").splitlines() if line]
    row = next(line for line in lines if line[0] == id)
    return row[lines[0].index("slim")]


def drift(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = machine.get("/api/status").json["drift"]
    return found


@pytest.mark.parametrize("put_back", [False, True], ids=["edited", "edited and put back"])
@pytest.mark.parametrize(
    ("line", "edited"),
    [("maxconn 77", "maxconn 5"), ("http-keep-alive 10s", "http-keep-alive 1s")],
    ids=["what HAProxy shows", "what it does not show"],
)
def test_a_hand_edit_that_was_loaded_is_found_in_5_s_and_repaired_in_10(
    shared: Machine, line: str, edited: str, put_back: bool
) -> None:
    id = documents.fresh("web")
    own = {"id": id, "protocol": "HTTP", "protocol_port": free_port()}
    shared.post(LISTENERS, {**own, "vip_address": "127.0.0.1", "connection_limit": 77})
    wait_until(lambda: shared.condition("Drift").get("status") == "False", 5)
    file, worker = shared.conf_d / f"50-frontend-{id}.cfg", shared.worker_pid()
    ours, before = file.read_text(), drift(shared)
    assert line in ours

    file.write_text(ours.replace(line, edited))
    with contextlib.suppress(OSError):
        shared.show("reload", "master")
    theirs = wait_until(lambda: {answering(shared)} - {0, worker}, 5, 0.002)
    if put_back:
        file.write_text(ours)
    wait_until(lambda: drift(shared)["found"] > before["found"], FOUND_SECONDS)
    shown = shared.condition("Drift")
    wait_until(lambda: drift(shared)["repaired"] > before["repaired"], REPAIRED_SECONDS)

    assert shared.worker_pid() not in theirs
    assert limit(shared, id) == "77"
    assert shared.fragments()[f"50-frontend-{id}.cfg"] == ours
    assert (shown["severity"], shown["reason"]) == ("warning", "Foreign")
    assert shared.condition("Drift")["status"] == "False"
    assert drift(shared)["found"] == drift(shared)["repaired"]
