"""Every line of the log says at which generation, and by which request, it came to be."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import wire
from tests.contract.documents import (
    CRONTAB,
    LISTENERS,
    POOLS,
    QUAGGA,
    crontab,
    listener,
    member,
    pool,
    quagga,
)
from tests.machine import Machine, running, wait_until

CHANGED = "condition changed"
TAKEN_OVER = "state taken over"


@pytest.fixture
def haproxy(tmp_path: Path) -> Path:
    """The program that the agent starts, which a test may take away."""
    need("haproxy")
    path = tmp_path / "haproxy"
    path.symlink_to(str(shutil.which("haproxy")))
    return path


@pytest.fixture
def machine(haproxy: Path) -> Iterator[Machine]:
    with running(environment={"KINX_HAPROXY_PROGRAM": str(haproxy)}) as found:
        yield found


def events(machine: Machine) -> list[dict[str, Any]]:
    """Return what the agent has written to its log."""
    path = machine.root / "var/log/kinx-loadbalancer-agent.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(machine: Machine) -> list[str]:
    return [one["event"] for one in events(machine)]


def brought(machine: Machine, *request: Any) -> tuple[str, list[dict[str, Any]]]:
    """Send a request that is kept; return its id and the lines it brought."""
    before = len(events(machine))
    reply = machine.request(*request)
    wait_until(lambda: "change kept" in names(machine)[before:])
    return reply.headers["X-Request-Id"], events(machine)[before:]


def test_lines_between_a_request_and_its_answer_name_it_and_its_generation(
    machine: Machine,
) -> None:
    one, two = listener(id="li"), pool(id="po", listener_id="li")
    requests = (
        ("POST", LISTENERS, one, {"haproxy reloaded": 0, "change kept": 1}),
        ("POST", POOLS, two, {"haproxy reloaded": 1, "change kept": 2}),
        ("POST", f"{POOLS}/po/members", member(), {"change kept": 3}),
        ("POST", QUAGGA, quagga(), {"service changed": 4, "change kept": 4}),
        ("POST", CRONTAB, crontab(), {"service changed": 5, "change kept": 5}),
        ("DELETE", CRONTAB, None, {"service changed": 6, "change kept": 6}),
        ("DELETE", f"{LISTENERS}/li", None, {"haproxy reloaded": 6, "change kept": 7}),
    )

    for method, path, body, expected in requests:
        id, lines = brought(machine, method, path, body)

        found = {one["event"]: one["generation"] for one in lines}
        found.pop(CHANGED, None)
        assert found == expected
        assert {one["request_id"] for one in lines} == {id}


def test_what_goes_wrong_and_ends_is_told_as_a_condition(machine: Machine, haproxy: Path) -> None:
    def told() -> list[tuple[str, str]]:
        changed = [one for one in events(machine) if one["event"] == CHANGED]
        return [(one["status"], one["level"]) for one in changed if one["type"] == "Applied"]

    haproxy.rename(haproxy.with_name("gone"))
    machine.post(LISTENERS, listener())
    haproxy.with_name("gone").rename(haproxy)
    wait_until(lambda: len(told()) == 2, 20)

    assert told() == [("False", "error"), ("True", "info")]


def test_every_line_after_the_state_is_taken_over_has_a_generation(
    machine: Machine, haproxy: Path
) -> None:
    crontabs = machine.root / "var/spool/cron/crontabs"
    crontabs.parent.mkdir(parents=True, exist_ok=True)

    crontabs.touch()  # no directory: the keeper of the schedule fails
    machine.post(CRONTAB, crontab())
    crontabs.unlink()
    wait_until(lambda: machine.condition("Scheduled")["status"] == "True")
    haproxy.rename(haproxy.with_name("gone"))
    refused = machine.post(LISTENERS, listener())
    wait_until(lambda: "cannot apply, will retry" in names(machine))
    id = refused.headers["X-Request-Id"]
    assert (refused.status, events(machine)[-1]["request_id"]) == (503, id)
    haproxy.with_name("gone").rename(haproxy)
    wait_until(lambda: machine.condition("Applied")["status"] == "True", 20)
    (machine.conf_d / "99-foreign.cfg").touch()
    wait_until(lambda: machine.condition("Drift").get("reason") == "Repaired", 20)
    wire.raw(machine, b"nonsense\r\n\r\n")
    machine.stop()
    machine.start()
    assert machine.process is not None
    machine.process.send_signal(signal.SIGHUP)
    wait_until(lambda: names(machine).count(TAKEN_OVER) == 3, 20)

    lines = events(machine)[names(machine).index(TAKEN_OVER) :]
    assert [one for one in lines if not isinstance(one.get("generation"), int)] == []
    assert {
        *("cannot keep service, will retry", "cannot apply, will retry"),
        *("drift found", "request unreadable", "service changed"),
    } <= set(names(machine))
