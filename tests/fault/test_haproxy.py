"""HAProxy killed and hung: what is kept is in effect once it is back, what is refused never is."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import need
from tests.fault.load import frontends, load
from tests.fault.node import (
    Moment,
    Node,
    answering,
    intent,
    kill_haproxy,
    listener,
    masters,
    start_haproxy,
    stopped,
)
from tests.machine import Machine, Reply, free_port, running, wait_until

RELOAD = "haproxy.reload"


@pytest.fixture
def service() -> Iterator[Machine]:
    """An agent beside a HAProxy that somebody else starts, as a service manager does."""
    need("haproxy")
    with running(own_haproxy=False) as found:
        start_haproxy(found)
        wait_until(found.is_ready, 5)
        yield found


def serve(machine: Machine, id: str, port: int) -> list[Reply]:
    """Make the listener *id* with a pool of one member; return the answers."""
    backend = machine.backend(id)
    pool = {"id": f"{id}-pool", "listener_id": id, "protocol": "HTTP"}
    member = {"id": "m", "address": "127.0.0.1", "protocol_port": backend.port}
    return [
        post_listener(machine, id, port),
        machine.post("/api/haproxy/pools", {**pool, "lb_algorithm": "ROUND_ROBIN"}),
        machine.post(f"/api/haproxy/pools/{id}/members", member),
    ]


def post_listener(machine: Machine, id: str, port: int) -> Reply:
    own = {"id": id, "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    return machine.post("/api/haproxy/listeners", own)


def is_served(machine: Machine, id: str, port: int) -> bool:
    """True when *port* leads to the back end *id*."""
    with contextlib.suppress(OSError):
        return machine.fetch(port) == id
    return False


def change_of(machine: Machine, reply: Reply) -> Any:
    """Return the change that a 202 points to."""
    return machine.get(reply.headers["Location"]).json


def test_writes_without_haproxy_are_accepted_and_in_effect_once_it_returns(
    service: Machine,
) -> None:
    one, two = free_port(), free_port()
    assert [reply.status for reply in serve(service, "one", one)] == [201] * 3
    kill_haproxy(service)

    replies = [
        *serve(service, "two", two),
        service.put("/api/haproxy/pools/one/members/m", {"weight": 7}),
        service.put("/api/haproxy/listeners/one", {"name": "no word of it in any file"}),
        service.delete("/api/haproxy/pools/one/members/m"),
    ]
    again = post_listener(service, "two", two)
    refused = [
        post_listener(service, "two", one),
        post_listener(service, "three", two),
        post_listener(service, "four", 70_000),
    ]
    changes = [change_of(service, reply) for reply in [*replies, again]]
    condition = service.condition("HaproxyRunning")
    ready = service.get("/readyz")
    start_haproxy(service)
    wait_until(lambda: is_served(service, "two", two), 5)
    wait_until(lambda: service.is_ready(), 5)

    assert [reply.status for reply in replies] == [202] * 6
    assert again.status == 202
    assert [reply.json["applied"]["because"] for reply in replies] == ["HAProxy is not running"] * 6
    assert [reply.status for reply in refused] == [409, 409, 422]
    assert {change["state"] for change in changes} == {"pending"}
    assert all(change["reason"] == "HAProxy is not running" for change in changes)
    assert (condition["status"], condition["severity"]) == ("False", "error")
    assert ready.status == 503
    assert "HAProxy is not running" in ready.json["detail"]
    wait_until(lambda: {change_of(service, reply)["state"] for reply in replies} == {"applied"}, 5)
    assert service.condition("HaproxyRunning")["status"] == "True"
    assert frontends(service) == {"one", "two"}
    assert service.get("/api/haproxy/pools/one/members").json["members"] == []


def test_an_agent_that_starts_without_haproxy_accepts_writes(service: Machine) -> None:
    port = free_port()
    kill_haproxy(service)
    service.stop()
    service.start()

    replies = serve(service, "one", port)
    start_haproxy(service)

    assert [reply.status for reply in replies] == [202] * 3
    wait_until(lambda: is_served(service, "one", port), 5)


@pytest.mark.parametrize("killed", ["all", "master", "worker"])
def test_a_killed_haproxy_is_back_by_itself(machine: Machine, killed: str) -> None:
    port = free_port()
    assert [reply.status for reply in serve(machine, "one", port)] == [201] * 3
    (master,), worker = masters(machine), machine.worker_pid()
    victims = {"all": machine.haproxy_pids(), "master": [master], "worker": [worker]}[killed]

    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: answering(machine) not in (0, worker), 3)

    wait_until(lambda: is_served(machine, "one", port), 2)
    assert len(masters(machine)) == 1
    assert master not in machine.haproxy_pids()
    written = machine.put("/api/haproxy/pools/one/members/m", {"weight": 3})
    assert written.status == 200


def test_a_haproxy_killed_again_and_again_under_load_makes_no_answer_a_lie(
    machine: Machine,
) -> None:
    with load(machine) as callers:
        for _ in range(3):
            callers.go_on()
            for pid in machine.haproxy_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: answering(machine), 5)
    wait_until(machine.is_ready, 5)

    assert callers.cut == []
    callers.assert_all_true(haproxy_died=True)


@pytest.mark.parametrize("own_haproxy", [True, False])
@pytest.mark.parametrize("moment", [Moment(RELOAD, "before"), Moment(RELOAD, "after")], ids=str)
def test_a_change_in_whose_midst_haproxy_dies_is_refused_and_not_kept(
    node: Node, moment: Moment, own_haproxy: bool
) -> None:
    one, two = free_port(), free_port()
    node.carry_out(intent(listener("one", one)))
    before = node.contents()
    node.own_haproxy = own_haproxy

    fork, since = node.fork(intent(listener("two", two))), 0.0
    for found in fork:
        if found == moment:
            kill_haproxy(node)
            since = time.monotonic()
    took = time.monotonic() - since
    if not own_haproxy:
        start_haproxy(node)
    with node.agent():
        assert node.contents() == before
        node.assert_agrees([one, two])

    assert fork.answers[0].startswith("Unavailable: ")
    assert fork.answers[0].endswith("nothing was kept")
    assert took < 2  # nobody starts it again, and nobody else is answered, before that


def test_a_hung_worker_refuses_writes_in_time_and_keeps_nothing(machine: Machine) -> None:
    one, two = free_port(), free_port()
    assert [reply.status for reply in serve(machine, "one", one)] == [201] * 3

    with stopped(machine.worker_pid()):
        since = time.monotonic()
        with ThreadPoolExecutor(8) as callers:
            writes = [
                callers.submit(post_listener, machine, f"hung{number}", two) for number in range(5)
            ]
            writes.append(
                callers.submit(machine.put, "/api/haproxy/pools/one/members/m", {"weight": 9})
            )
            writes.append(callers.submit(machine.delete, "/api/haproxy/pools/one/members/m"))
            reads = [_timed(machine, path) for path in ("/healthz", "/api/status") for _ in "12345"]
            replies = [write.result() for write in writes]
        took = time.monotonic() - since
        condition = machine.condition("HaproxyRunning")
    written = wait_until(lambda: _written(machine, "after", free_port()), 15)

    assert [reply.status for reply in replies] == [503] * 7
    assert all(int(reply.headers["Retry-After"]) > 0 for reply in replies)
    assert all("nothing was kept" in reply.json["detail"] for reply in replies)
    assert took < 15
    assert max(reads) < 0.2
    assert condition["status"] != "True"
    assert written.status == 201
    assert frontends(machine) == {"one", "after"}
    (member,) = machine.get("/api/haproxy/pools/one/members").json["members"]
    assert member["weight"] == 1
    assert is_served(machine, "one", one)
    assert machine.condition("HaproxyRunning")["status"] == "True"


def test_a_hung_master_refuses_writes_in_time_and_keeps_nothing(machine: Machine) -> None:
    one, two = free_port(), free_port()
    assert [reply.status for reply in serve(machine, "one", one)] == [201] * 3
    (master,) = masters(machine)

    with stopped(master):
        since = time.monotonic()
        reply = post_listener(machine, "two", two)
        took = time.monotonic() - since
        is_fine_meanwhile = is_served(machine, "one", one)
    written = wait_until(lambda: _written(machine, "after", free_port()), 15)

    assert reply.status == 503
    assert took < 15
    assert is_fine_meanwhile
    assert written.status == 201
    assert frontends(machine) == {"one", "after"}


def test_a_master_that_hangs_in_the_midst_of_a_change_leaves_nothing_of_it(node: Node) -> None:
    one, two = free_port(), free_port()
    node.carry_out(intent(listener("one", one)))
    before = node.contents()
    (master,) = masters(node)

    since = time.monotonic()
    fork = node.fork(intent(listener("two", two)))
    with contextlib.ExitStack() as stack:
        for moment in fork:
            if moment == Moment(RELOAD, "before") and fork.seen.count(moment) == 1:
                stack.enter_context(stopped(master))
        took = time.monotonic() - since
    with node.agent():
        wait_until(lambda: not node.planned(), 10, 0.2)

        assert node.contents() == before
        node.assert_agrees([one, two])
    assert fork.answers[0].startswith("Unavailable: ")
    assert took < 15


def _timed(machine: Machine, path: str) -> float:
    since = time.monotonic()
    assert machine.get(path).status == 200
    return time.monotonic() - since


def _written(machine: Machine, id: str, port: int) -> Reply | None:
    reply = post_listener(machine, id, port)
    return reply if reply.status != 503 else None
