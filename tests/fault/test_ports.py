"""A port that somebody else took: all other listeners are served, and that one once it is free."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from tests.conftest import need
from tests.fault.load import frontends
from tests.fault.node import (
    Moment,
    Node,
    intent,
    kill_haproxy,
    listener,
    loadbalancer,
    pool,
    start_haproxy,
)
from tests.machine import Machine, Reply, free_port, wait_until

RELOAD = Moment("haproxy.reload", "before")


@contextlib.contextmanager
def held(port: int) -> Iterator[None]:
    """Another process holds *port* for the time of the block."""
    with wait_until(lambda: _server(port), 5):  # a killed process lets go of it a little later
        yield


def _server(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


def post_listener(machine: Machine, id: str, port: int) -> Reply:
    own = {"id": id, "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    return machine.post("/api/haproxy/listeners", own)


def test_a_listener_whose_port_was_taken_is_left_out_until_the_port_is_free(
    machine: Machine,
) -> None:
    good, bad, new = free_port(), free_port(), free_port()
    for id, port in (("good", good), ("bad", bad)):
        assert post_listener(machine, id, port).status == 201
    machine.stop()
    kill_haproxy(machine)

    with held(bad):
        machine.start()
        served, condition = frontends(machine), machine.condition("ListenersBound")
        beside = post_listener(machine, "new", new)
        left_out = machine.put("/api/haproxy/listeners/bad", {"name": "renamed"})
        change = machine.get(left_out.headers.get("Location", "/api/changes/1")).json
        still = frontends(machine)
    wait_until(lambda: "bad" in frontends(machine), 5)
    wait_until(lambda: machine.condition("ListenersBound")["status"] == "True", 5)

    assert served == {"good"}
    assert (condition["status"], condition["severity"]) == ("False", "error")
    assert "bad" in condition["message"]
    assert "good" not in condition["message"]
    assert beside.status == 201
    assert left_out.status == 202
    assert change["state"] in ("pending", "failed")
    assert "bad" in change["reason"]
    assert still == {"good", "new"}
    assert frontends(machine) == {"good", "bad", "new"}
    assert machine.get(left_out.headers["Location"]).json["state"] == "applied"


def test_a_listener_that_is_left_out_costs_no_reload_and_is_no_drift(machine: Machine) -> None:
    bad = free_port()
    assert post_listener(machine, "good", free_port()).status == 201
    assert post_listener(machine, "bad", bad).status == 201
    machine.stop()
    kill_haproxy(machine)

    with held(bad):
        machine.start()
        worker = machine.worker_pid()
        last = machine.get("/api/status").json["drift"]["last_scan"]
        drift = wait_until(lambda: _drift_after(machine, last), 10, 0.2)

        assert machine.worker_pid() == worker
        assert drift["found"] == 0


def test_a_port_taken_while_haproxy_is_down_keeps_no_service_manager_from_starting_it() -> None:
    need("haproxy")
    good, bad = free_port(), free_port()
    machine = Machine(own_haproxy=False)
    try:
        machine.start(ready=False)
        wait_until(lambda: machine.conf_d.exists(), 20)
        start_haproxy(machine)
        wait_until(machine.is_ready)
        for id, port in (("good", good), ("bad", bad)):
            assert post_listener(machine, id, port).status == 201
        kill_haproxy(machine)

        with held(bad):
            wait_until(lambda: "50-frontend-bad.cfg" not in machine.fragments(), 5)
            start_haproxy(machine)
            wait_until(machine.is_ready, 5)
            served, condition = frontends(machine), machine.condition("ListenersBound")
        wait_until(lambda: "bad" in frontends(machine), 5)

        assert served == {"good"}
        assert condition["status"] == "False"
    finally:
        machine.end()


def test_a_port_taken_in_the_moment_haproxy_starts_does_not_keep_it_down() -> None:
    need("haproxy")
    good, bad = free_port(), free_port()
    node = Node()
    try:
        node.carry_out(intent(listener("good", good)), intent(listener("bad", bad)))
        kill_haproxy(node)

        with contextlib.ExitStack() as stack:
            starts = 0
            for moment in node.fork():
                starts += moment == Moment("run haproxy", "before")
                if starts == 2 and moment == Moment("run haproxy", "before"):
                    stack.enter_context(held(bad))  # it was free when it was checked
            with node.agent():
                wait_until(lambda: frontends(node) == {"good"}, 5)
            stack.close()
            with node.agent():
                wait_until(lambda: frontends(node) == {"good", "bad"}, 5)
    finally:
        node.end()


def test_a_port_taken_in_the_last_moment_refuses_only_who_adds_an_address() -> None:
    need("haproxy")
    stable, wanted, other = free_port(), free_port(), free_port()
    node = Node()
    try:
        node.carry_out(intent(listener("stable", stable)))

        fork = node.fork(
            intent(listener("wanted", wanted)),
            intent(pool("po", listener_id="stable")),
            intent(listener("unlucky", other)),
            intent(loadbalancer("lb")),
        )
        with contextlib.ExitStack() as stack:
            for moment in fork:
                if moment == RELOAD and fork.seen.count(moment) == 1:
                    stack.enter_context(held(wanted))  # it was free when it was checked

        refusals = [answer for answer in fork.answers if answer != "201"]
        assert len(refusals) == len(fork.answers) - 2 == 2
        assert all(refusal.startswith("Conflict: ") for refusal in refusals)
        assert all("haproxy refuses to load" in refusal for refusal in refusals)
        assert sorted(ref.id for ref in node.contents()) == ["lb", "po", "stable"]
        node.assert_agrees([stable, wanted, other])
    finally:
        node.end()


def _drift_after(machine: Machine, scan: str) -> dict[str, Any] | None:
    """Return the counters of a scan after *scan*, None before it."""
    counters: dict[str, Any] = machine.get("/api/status").json["drift"]
    return counters if counters["last_scan"] > scan else None
