"""Many clients at once: no change is lost, nobody waits for ever, nobody else is disturbed."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.integration.checks import SlowChecks
from tests.integration.traffic import Client, at_once, by_clients, client, free_ports, timed
from tests.machine import Backend, Machine, Reply, free_port, running, wait_until

ABSENT = "192.0.2.250"  # TEST-NET-1 (RFC 5737): on no host
CLIENTS = 16
LISTENERS = 100
MAX_RELOADS = 10
ROUNDS = 200
HEALTHZ_MS = 100
ANSWER_SECONDS = 15


class PromptBackend(Backend):
    """A back end that does not wait for its client's delayed acknowledgements (tcp(7))."""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (super()._handler(),), {"disable_nagle_algorithm": True})


def listener(id: str, port: int, **more: Any) -> dict[str, Any]:
    """A listener's document on loopback."""
    document = {"id": id, "protocol": "HTTP", "protocol_port": port}
    return {**document, "vip_address": "127.0.0.1", **more}


def post_listener(machine: Machine, id: str, port: int, **more: Any) -> Reply:
    """Make a listener on loopback."""
    return machine.post("/api/haproxy/listeners", listener(id, port, **more))


def serving_listener(machine: Machine, id: str, port: int) -> None:
    """Make a listener whose pool, of the same id, has two members: ``one`` and ``two``."""
    pool = {"id": id, "listener_id": id, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    assert post_listener(machine, id, port).status == 201
    assert machine.post("/api/haproxy/pools", pool).status == 201
    for name in ("one", "two"):
        backend = PromptBackend(f"{id}-{name}")
        machine.backends.append(backend)
        member = {"id": name, "address": backend.address, "protocol_port": backend.port}
        assert machine.post(f"/api/haproxy/pools/{id}/members", member).status == 201


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port that another process than HAProxy holds."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))
        holder.listen()
        yield holder.getsockname()[1]


def answering(machine: Machine, ports: list[int]) -> list[int]:
    """Return those of *ports* where HAProxy answers; 503, without a pool, is its answer."""
    found = []
    for port in ports:
        with contextlib.suppress(OSError):
            if "503 Service Unavailable" in machine.fetch(port):
                found.append(port)
    return found


def weight(machine: Machine, backend: str, server: str) -> int:
    """Return the weight of *server* in the running process."""
    rows = (line.split() for line in machine.show(f"show servers state {backend}").splitlines())
    return next(int(row[7]) for row in rows if row[3:4] == [server])


def assert_prompt(probe: Client) -> None:
    """Assert that ``/healthz`` answered always and in time, the machine's own share aside."""
    assert (probe.seen.failed, probe.seen.failures) == (0, [])
    assert probe.seen.worst_ms - probe.seen.machine_ms <= HEALTHZ_MS, probe.seen


# --- a listener that cannot be -----------------------------------------------------------------


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "one-shot"])
def test_a_listener_that_cannot_be_bound_is_refused_at_once_and_disturbs_nobody(
    shared: Machine, keep_alive: bool
) -> None:
    id, port = f"calm-{keep_alive}", free_port()
    serving_listener(shared, id, port)
    worker, reloads = shared.worker_pid(), shared.reloads()

    with held_port() as taken, client(port, keep_alive=keep_alive) as hammering:
        refused = [
            timed(partial(post_listener, shared, f"bad-{number}", at, vip_address=address))
            for number in range(5)
            for at, address in ((taken, "127.0.0.1"), (free_port(), ABSENT))
        ]
        time.sleep(0.5)  # an outage would last two seconds

    assert [reply.status for reply, _ in refused] == [409] * 10
    in_use, absent = refused[0][0].json["errors"], refused[1][0].json["errors"]
    assert in_use == [
        {
            "pointer": "/protocol_port",
            "detail": f"cannot bind 127.0.0.1:{taken}: address already in use",
        }
    ]
    assert absent[0]["pointer"] == "/vip_address"
    assert "the address is not on this host" in absent[0]["detail"]
    assert max(seconds for _, seconds in refused) < 1
    assert (hammering.seen.failed, hammering.seen.failures) == (0, [])
    assert hammering.seen.requests > 50
    assert (shared.worker_pid(), shared.reloads()) == (worker, reloads)


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "one-shot"])
def test_no_request_to_a_listener_fails_while_others_come_and_go(
    shared: Machine, keep_alive: bool
) -> None:
    id, port = f"steady-{keep_alive}", free_port()
    serving_listener(shared, id, port)
    reloads = shared.reloads()

    with client(port, keep_alive=keep_alive) as hammering:
        for number in range(10):
            other = f"{id}-{number}"
            assert post_listener(shared, other, free_port()).status == 201
            assert shared.delete(f"/api/haproxy/listeners/{other}").status == 204

    assert shared.reloads() == reloads + 20
    assert (hammering.seen.failed, hammering.seen.failures) == (0, [])
    assert hammering.seen.requests > 100


# --- two clients, one resource -----------------------------------------------------------------


def test_two_clients_who_change_different_members_of_a_listener_both_get_their_way(
    shared: Machine,
) -> None:
    path, port = "/api/haproxy/listeners/twice", free_port()
    assert post_listener(shared, "twice", port).status == 201

    for round in range(ROUNDS):
        name, description = f"name {round}", f"description {round}"
        replies = at_once(
            partial(shared.put, path, {"name": name}),
            partial(shared.put, path, {"description": description}),
        )

        assert [reply.status for reply in replies] == [200, 200]
        found = shared.get(path).json
        assert (found["name"], found["description"]) == (name, description)


def test_two_clients_who_change_different_members_of_a_member_both_get_their_way(
    shared: Machine,
) -> None:
    path = "/api/haproxy/pools/pair/members/one"
    serving_listener(shared, "pair", free_port())

    for round in range(ROUNDS):
        name, wanted = f"name {round}", 1 + round % 256
        replies = at_once(
            partial(shared.put, path, {"name": name}),
            partial(shared.put, path, {"weight": wanted}),
        )

        assert [reply.status for reply in replies] == [200, 200]
        found = shared.get(path).json
        assert (found["name"], found["weight"]) == (name, wanted)
        assert weight(shared, "backend-pair", "one") == wanted


def test_two_changes_of_one_member_in_one_batch_are_both_made(shared: Machine) -> None:
    path = "/api/haproxy/pools/batch/members"
    serving_listener(shared, "batch", free_port())
    together = 0

    for round in range(ROUNDS // 4):
        wanted, backup = 1 + round % 256, bool(round % 2)
        # The reload that the first one takes makes the other two wait, and go together.
        _, *replies = at_once(
            partial(shared.put, f"{path}/two", {"weight": wanted}),
            partial(shared.put, f"{path}/one", {"weight": wanted}),
            partial(shared.put, f"{path}/one", {"backup": backup}),
        )

        assert [reply.status for reply in replies] == [200, 200]
        found = shared.get(f"{path}/one").json
        assert (found["weight"], found["backup"]) == (wanted, backup)
        assert weight(shared, "backend-batch", "one") == wanted
        pids = {reply.json["applied"]["pid"] for reply in replies}
        together += len(pids) == 1

    assert together > ROUNDS // 40


# --- a hundred listeners -----------------------------------------------------------------------


def test_a_hundred_listeners_by_sixteen_clients_are_all_live_after_ten_reloads_at_most(
    machine: Machine, record_property: Callable[[str, object], None]
) -> None:
    ids, ports = [f"li-{number}" for number in range(LISTENERS)], free_ports(LISTENERS)
    before = machine.reloads()

    with client(machine.port, "/healthz", keep_alive=True) as probe:
        calls = [partial(post_listener, machine, *pair) for pair in zip(ids, ports, strict=True)]
        replies, seconds = timed(partial(by_clients, CLIENTS, calls))

    reloads = machine.reloads() - before
    record_property("reloads", reloads)
    record_property("seconds", round(seconds, 2))
    record_property("healthz", str(probe.seen))
    assert [reply.status for reply in replies] == [201] * LISTENERS
    assert [reply.json["id"] for reply in replies] == ids
    assert [reply.headers["Location"] for reply in replies] == [
        f"/api/haproxy/listeners/{id}" for id in ids
    ]
    assert len({reply.json["applied"]["change"] for reply in replies}) == LISTENERS
    assert answering(machine, ports) == ports
    assert reloads <= MAX_RELOADS
    assert_prompt(probe)


def test_bad_documents_among_a_hundred_listeners_are_refused_alone_each_in_its_own_words(
    machine: Machine, record_property: Callable[[str, object], None]
) -> None:
    ports = free_ports(LISTENERS + 2)
    assert post_listener(machine, "first", ports[0]).status == 201
    good = {f"li-{number}": port for number, port in enumerate(ports[2:])}
    before = machine.reloads()

    with held_port() as taken, client(machine.port, "/healthz", keep_alive=True) as probe:
        pool = {"id": "child", "listener_id": "taken", "protocol": "HTTP"}
        bad: dict[str, Callable[[], Reply]] = {
            "taken": partial(post_listener, machine, "taken", taken),
            "child": partial(
                machine.post, "/api/haproxy/pools", {**pool, "lb_algorithm": "ROUND_ROBIN"}
            ),
            "astray": partial(post_listener, machine, "astray", ports[1], vip_address=ABSENT),
            "double": partial(post_listener, machine, "double", ports[0]),
            "wrong": partial(post_listener, machine, "wrong", 70_000),
        }
        calls: list[tuple[str, Callable[[], Reply]]] = [
            (id, partial(post_listener, machine, id, port)) for id, port in good.items()
        ]
        calls[50:50] = bad.items()
        replies = dict(
            zip(
                [id for id, _ in calls],
                by_clients(CLIENTS, [call for _, call in calls]),
                strict=True,
            )
        )

    reloads = machine.reloads() - before
    record_property("reloads", reloads)
    record_property("healthz", str(probe.seen))
    assert {replies[id].status for id in good} == {201}
    assert [replies[id].json["id"] for id in good] == list(good)
    assert answering(machine, [*good.values()]) == [*good.values()]
    assert {id: (replies[id].status, replies[id].json["errors"]) for id in bad} == {
        "taken": (
            409,
            [
                {
                    "pointer": "/protocol_port",
                    "detail": f"cannot bind 127.0.0.1:{taken}: address already in use",
                }
            ],
        ),
        "child": (422, [{"pointer": "/listener_id", "detail": "there is no listener taken"}]),
        "astray": (
            409,
            [
                {
                    "pointer": "/vip_address",
                    "detail": f"cannot bind {ABSENT}:{ports[1]}: the address is not on this host",
                }
            ],
        ),
        "double": (
            409,
            [
                {
                    "pointer": "/protocol_port",
                    "detail": f"127.0.0.1:{ports[0]} overlaps listener first "
                    f"on 127.0.0.1:{ports[0]}",
                }
            ],
        ),
        "wrong": (
            422,
            [
                {
                    "pointer": "/protocol_port",
                    "detail": "must be less than or equal to 65535",
                }
            ],
        ),
    }
    kept = machine.get("/api/haproxy/listeners").json["listeners"]
    assert {found["id"] for found in kept} == {"first", *good}
    assert machine.get("/api/haproxy/pools").json["pools"] == []
    assert reloads <= MAX_RELOADS
    assert_prompt(probe)


# --- more than can wait ------------------------------------------------------------------------


def test_writers_beyond_the_limit_are_told_to_come_back_and_then_succeed(machine: Machine) -> None:
    ids, ports = [f"li-{number}" for number in range(LISTENERS)], free_ports(LISTENERS)
    waiting = dict(zip(ids, ports, strict=True))
    told = 0

    for _ in range(20):
        calls = [partial(timed, partial(post_listener, machine, *pair)) for pair in waiting.items()]
        for id, (reply, seconds) in zip([*waiting], at_once(*calls), strict=True):
            assert seconds < ANSWER_SECONDS
            assert reply.status in (201, 503), reply.body
            if reply.status == 201:
                del waiting[id]
            else:
                told += 1
                assert int(reply.headers["Retry-After"]) > 0
                assert reply.json["detail"] == "too many changes wait already"
        if not waiting:
            break

    assert waiting == {}
    assert told > 0
    assert answering(machine, ports) == ports


def test_every_writer_is_answered_while_haproxy_hangs_and_nothing_of_them_is_kept(
    machine: Machine,
) -> None:
    port = free_port()
    assert post_listener(machine, "before", port).status == 201
    worker = machine.worker_pid()
    calls = [
        partial(timed, partial(post_listener, machine, f"li-{number}", at))
        for number, at in enumerate(free_ports(90))
    ]

    with client(machine.port, "/healthz", keep_alive=True) as probe:
        os.kill(worker, signal.SIGSTOP)
        try:
            answers = at_once(*calls)
        finally:
            os.kill(worker, signal.SIGCONT)

    assert {reply.status for reply, _ in answers} == {503}
    assert all(int(reply.headers["Retry-After"]) > 0 for reply, _ in answers)
    assert max(seconds for _, seconds in answers) < ANSWER_SECONDS
    assert_prompt(probe)
    listeners = machine.get("/api/haproxy/listeners").json["listeners"]
    assert [found["id"] for found in listeners] == ["before"]
    wait_until(lambda: machine.condition("Applied")["status"] == "True")
    assert machine.worker_pid() == worker
    assert post_listener(machine, "after", free_port()).status == 201


def test_nobody_waits_longer_than_fifteen_seconds_for_a_check_that_does_not_end(
    tmp_path: Path,
) -> None:
    need("haproxy")
    checks, ports = SlowChecks(tmp_path), free_ports(12)
    with running(environment=checks.environment) as machine, ThreadPoolExecutor(11) as pool:

        def post(number: int) -> Future[tuple[Reply, float]]:
            call = partial(post_listener, machine, f"li-{number}", ports[number])
            return pool.submit(timed, call)

        checks.take(4.5)
        slow = post(0)
        checks.wait_for_one()
        checks.take(60)
        taken_up = [post(number) for number in range(1, 6)]
        assert slow.result()[0].status == 201
        checks.wait_for_one()
        too_late = [post(number) for number in range(6, 11)]
        answers = [one.result() for one in (*taken_up, *too_late)]
        checks.take(0)

        assert {reply.status for reply, _ in answers} == {503}
        assert all(int(reply.headers["Retry-After"]) > 0 for reply, _ in answers)
        assert max(seconds for _, seconds in answers) < ANSWER_SECONDS
        assert {one.result()[0].json["detail"] for one in too_late} == {
            "not taken up in 5 s; nothing was kept"
        }
        listeners = machine.get("/api/haproxy/listeners").json["listeners"]
        assert [found["id"] for found in listeners] == ["li-0"]
        assert post_listener(machine, "after", ports[11]).status == 201
        assert answering(machine, ports) == [ports[0], ports[11]]
