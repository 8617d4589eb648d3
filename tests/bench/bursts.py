"""Many changes: one by one, by clients at once, and in one document; and what they cost."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tests.bench.node import API, PER_POOL, Caller, Scale, document, filled, listener, member
from tests.bench.node import reloads as reloads_of
from tests.bench.report import Row, Target
from tests.integration.traffic import at_once, free_ports, timed
from tests.machine import Machine, free_port

NONE = Target(0, "worst")
ONE_BY_ONE, ONE_BY_ONE_TARGET = 100, Target(0.5)
MEMBERS, MEMBER_CLIENTS, MEMBERS_TARGET = 1000, 8, Target(3.0)
LISTENERS, LISTENER_CLIENTS, RELOADS_TARGET = 100, 16, Target(9, "worst")
TREE_LISTENERS = 10
ROUNDS = 3


def bursts(scale: Scale) -> Iterator[Row]:
    """Measure members and listeners, one POST each."""
    yield from _one_by_one()
    yield from _members()
    yield from _listeners()


def lists(scale: Scale) -> Iterator[Row]:
    """Measure as many members, and a tree, in one PUT each."""
    port = free_port()
    with filled(1, 0, [port]) as machine:
        members = [member(number) for number in range(MEMBERS)]
        path = f"{API}/pools/po-0/members"
        yield from _puts(machine, f"{MEMBERS} members in one PUT", path, members, [])
    with filled(0, 0, []) as machine:
        ports = free_ports(TREE_LISTENERS)
        whole = document(TREE_LISTENERS, PER_POOL, ports)
        tree = {name: whole[name] for name in ("listeners", "pools")}
        what = f"{TREE_LISTENERS} listeners with {PER_POOL} members each in one PUT"
        path = f"{API}/loadbalancers/lb/tree"
        yield from _puts(machine, what, path, tree, {"listeners": [], "pools": []})


def _one_by_one() -> Iterator[Row]:
    path = f"{API}/pools/po-0/members"
    took, reloads = [], []
    floor: dict[str, list[float]] = {"empty POSTs": []}
    for _ in range(ROUNDS):
        with filled(1, 0, [free_port()]) as machine:
            caller, before = Caller(machine), reloads_of(machine)
            calls = [caller.empty_post() for _ in range(ONE_BY_ONE)]
            floor["empty POSTs"].append(sum(calls) / 1000)
            members = [member(number) for number in range(ONE_BY_ONE)]
            took.append(timed(partial(_post, caller, path, members))[1])
            reloads.append(reloads_of(machine) - before)
    what = f"{ONE_BY_ONE} members one by one"
    yield Row(what, "s", took, ONE_BY_ONE_TARGET, floor)
    yield Row(f"{what}: reloads", "", reloads, NONE)


def _members() -> Iterator[Row]:
    path = f"{API}/pools/po-0/members"
    took, reloads, lost = [], [], []
    floor: dict[str, list[float]] = {"empty POSTs": []}
    for _ in range(ROUNDS):
        with filled(1, 0, [free_port()]) as machine:
            before = reloads_of(machine)
            members = [member(number) for number in range(MEMBERS)]
            empty, seconds = _by_clients(machine, MEMBER_CLIENTS, path, members)
            floor["empty POSTs"].append(empty)
            took.append(seconds)
            reloads.append(reloads_of(machine) - before)
            lost.append(_lost(machine))
    what = f"{MEMBERS} members by {MEMBER_CLIENTS} clients"
    yield Row(what, "s", took, MEMBERS_TARGET, floor)
    yield Row(f"{what}: reloads", "", reloads, NONE)
    yield Row(f"{what}: lost", "", lost, NONE)


def _listeners() -> Iterator[Row]:
    took, reloads = [], []
    floor: dict[str, list[float]] = {"empty POSTs": []}
    for _ in range(ROUNDS):
        with filled(0, 0, []) as machine:
            before, ports = reloads_of(machine), free_ports(LISTENERS)
            bodies = [listener(f"li-{at}", port) for at, port in enumerate(ports)]
            empty, seconds = _by_clients(machine, LISTENER_CLIENTS, f"{API}/listeners", bodies)
            floor["empty POSTs"].append(empty)
            took.append(seconds)
            reloads.append(reloads_of(machine) - before)
    what = f"{LISTENERS} listeners by {LISTENER_CLIENTS} clients"
    yield Row(what, "s", took, None, floor)
    yield Row(f"{what}: reloads", "", reloads, RELOADS_TARGET)


def _puts(machine: Machine, what: str, path: str, full: Any, empty: Any) -> Iterator[Row]:
    """PUT *full* several times; what is there goes before each, which is not measured."""
    caller = Caller(machine)
    took, reloads = [], []
    for _ in range(ROUNDS):
        before = reloads_of(machine)
        reply, milliseconds = caller.timed("PUT", path, full)
        assert reply.status == 200, reply.body[:1000]
        took.append(milliseconds / 1000)
        reloads.append(reloads_of(machine) - before)
        assert caller.ask("PUT", path, empty).status == 200
    yield Row(what, "s", took)
    yield Row(f"{what}: reloads", "", reloads)


def _by_clients(
    machine: Machine, clients: int, path: str, bodies: Sequence[Any]
) -> tuple[float, float]:
    """Let *clients* POST *bodies*; return how many seconds as many empty ones take, and these."""
    callers = [Caller(machine) for _ in range(clients)]
    shares = [(caller, bodies[at::clients]) for at, caller in enumerate(callers)]
    empty = (partial(_empty_posts, caller, len(share)) for caller, share in shares)
    _, floor_seconds = timed(partial(at_once, *empty))
    posts = (partial(_post, caller, path, share) for caller, share in shares)
    _, seconds = timed(partial(at_once, *posts))
    return floor_seconds, seconds


def _empty_posts(caller: Caller, times: int) -> None:
    for _ in range(times):
        caller.empty_post()


def _post(caller: Caller, path: str, bodies: Sequence[Any]) -> None:
    for body in bodies:
        reply = caller.ask("POST", path, body)
        assert reply.status == 201, reply.body


def _lost(machine: Machine) -> int:
    """Return how many members the agent's list or the running HAProxy lacks."""
    wanted = {member(number)["id"] for number in range(MEMBERS)}
    listed = machine.get(f"{API}/pools/po-0/members").json["members"]
    rows = (line.split() for line in machine.show("show servers state backend-li-0").splitlines())
    running = {row[3] for row in rows if len(row) > 3 and row[0].isdecimal()}
    return len(wanted - ({one["id"] for one in listed} & running))
