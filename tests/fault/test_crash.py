"""The agent killed right before and right after each of its effects, and in between.

Whatever it was doing: restarted, its state is the one before or the one after, and HAProxy agrees
with it.
"""

import contextlib
import itertools
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.engine.ports import Applied, Plan, Proxy
from kinx_loadbalancer_agent.model.intents import Intent
from kinx_loadbalancer_agent.settings import Settings
from kinx_loadbalancer_agent.system.clock import Deadline
from tests.conftest import need
from tests.fault.node import (
    Build,
    Moment,
    Node,
    change,
    delete,
    engine_of,
    intent,
    kill_haproxy,
    listener,
    loadbalancer,
    member,
    pool,
    start_haproxy,
)
from tests.machine import free_port, wait_until

COMMITTED = Moment("store.commit", "after")
STARTS = Moment("run haproxy", "before")
RELOADED = frozenset({"run haproxy", "point conf.d", "haproxy.reload", "store.commit"})
TOLD = frozenset({"write 60-backend-po.cfg", "haproxy.tell", "store.commit"})


@dataclass(frozen=True)
class Scenario:
    """A change of a node: what is there before, the batch that changes it, the way back.

    does: effects that the change has.
    """

    before: tuple[Intent, ...]
    change: tuple[Intent, ...]
    back: tuple[Intent, ...]
    does: frozenset[str] = RELOADED


def scenarios(one: int, two: int, three: int) -> dict[str, Scenario]:
    """Return the changes by name; they use the ports *one*, *two* and *three*."""
    whole = (
        intent(loadbalancer("lb")),
        intent(listener("one", one)),
        intent(pool("po", listener_id="one")),
        intent(member("po", "m", 9001), member("po", "n", 9002)),
    )
    return {
        "the first listener": Scenario(
            (), (intent(listener("one", one)),), (intent(delete("listeners", "one")),)
        ),
        "a listener with its pool and members": Scenario(
            (),
            (intent(*(operation for document in whole for operation in document.operations)),),
            (intent(delete("loadbalancers", "lb", cascade=True)),),
        ),
        "three listeners in one batch": Scenario(
            (),
            tuple(intent(listener(f"li{port}", port)) for port in (one, two, three)),
            tuple(intent(delete("listeners", f"li{port}")) for port in (one, two, three)),
        ),
        "the weight of a member": Scenario(
            whole,
            (intent(change("members", "m", "po", weight=5)),),
            (intent(change("members", "m", "po", weight=1)),),
            TOLD,
        ),
        "a member comes and another one goes": Scenario(
            whole,
            (intent(member("po", "o", 9003), delete("members", "m", "po")),),
            (intent(member("po", "m", 9001), delete("members", "o", "po")),),
            TOLD,
        ),
        "the port of a listener": Scenario(
            whole,
            (intent(change("listeners", "one", protocol_port=two)),),
            (intent(change("listeners", "one", protocol_port=one)),),
        ),
        "the deletion of a listener": Scenario(
            (*whole, intent(listener("two", two))),
            (intent(delete("listeners", "two")),),
            (intent(listener("two", two)),),
        ),
        "the deletion of a load balancer with all it has": Scenario(
            (intent(listener("two", two)), *whole),
            (intent(delete("loadbalancers", "lb", cascade=True)),),
            whole,
        ),
    }


def dies_everywhere(
    node: Node,
    scenario: Scenario,
    ports: Sequence[int],
    *,
    dying: Build = engine_of,
    restarted: Build = engine_of,
) -> list[Moment]:
    """Kill the agent at each moment of a change and judge what a restart finds; return them."""
    before = node.contents()
    node.carry_out(*scenario.change)
    after = node.contents()
    node.carry_out(*scenario.back)
    assert node.contents() == before != after
    for number in itertools.count():
        fork = node.fork(*scenario.change, build=dying)
        died = fork.run_to(number)
        try:
            with node.agent(restarted):
                assert node.contents() == (after if COMMITTED in fork.seen else before)
                node.assert_agrees(ports)
        except AssertionError as error:
            error.add_note(f"the agent died {died}, having done {fork.seen}")
            raise
        if node.contents() != before:
            node.carry_out(*scenario.back)
        if died is None:
            return fork.seen
    raise AssertionError


def refused_everywhere(node: Node, *asked: Intent, dying: Build = engine_of) -> list[str]:
    """Kill the agent at each moment of a refusal: nothing is ever there; return the answers."""
    before, worker, files = node.contents(), node.worker_pid(), node.fragments()
    for number in itertools.count():
        fork = node.fork(*asked, build=dying)
        died = fork.run_to(number)
        assert node.worker_pid() == worker
        assert node.fragments() == files
        with node.agent():
            assert node.contents() == before
            node.assert_agrees()
        assert node.worker_pid() == worker
        if died is None:
            return fork.answers
    raise AssertionError


def each(pids: Sequence[int], sig: signal.Signals) -> None:
    """Send *sig* to those of *pids* that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def settles(holds: Callable[[], None], seconds: float = 8.0) -> None:
    """Wait until *holds* raises no AssertionError any more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return holds()
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("name", scenarios(1, 2, 3))
def test_a_change_is_there_or_not_at_whatever_effect_the_agent_dies(node: Node, name: str) -> None:
    ports = sorted(free_port() for _ in range(3))
    scenario = scenarios(*ports)[name]
    node.carry_out(*scenario.before)

    seen = dies_everywhere(node, scenario, ports)

    done = [moment.effect for moment in seen if moment.when == "after"]
    assert scenario.does <= set(done)
    assert done[-1] == "store.commit"
    assert seen[::2] == [Moment(effect, "before") for effect in done]


def test_an_agent_that_dies_again_while_it_recovers_ends_there_too(node: Node) -> None:
    port = free_port()
    asked, back = intent(listener("one", port)), intent(delete("listeners", "one"))
    node.carry_out()
    moments = len(node.fork(asked).run().seen)
    node.carry_out(back)

    for number in range(moments):
        for again in itertools.count():
            fork = node.fork(asked)
            fork.run_to(number)
            is_kept = COMMITTED in fork.seen
            died = node.fork().run_to(again)
            with node.agent():
                assert bool(node.contents()) == is_kept
                node.assert_agrees([port])
            if is_kept:
                node.carry_out(back)
            if died is None:
                break


@pytest.mark.parametrize("with_haproxy", [False, True], ids=["alone", "with HAProxy"])
def test_a_change_is_there_or_not_whenever_the_agent_dies(node: Node, with_haproxy: bool) -> None:
    port = free_port()
    asked, back = intent(listener("one", port)), intent(delete("listeners", "one"))
    node.carry_out(asked)
    after = node.contents()
    node.carry_out(back)

    found = []
    for milliseconds in range(2, 160, 6):
        node.fork(asked, dies_after=milliseconds / 1000).run()
        if with_haproxy:
            kill_haproxy(node)
        with node.agent():
            found.append(node.contents())
            assert found[-1] in ({}, after)
            node.assert_agrees([port])
        if found[-1]:
            node.carry_out(back)

    assert {} in found


def test_a_first_start_can_die_at_every_effect() -> None:
    need("haproxy")
    for number in itertools.count():
        node = Node()
        try:
            theirs = node.conf_d / "theirs.cfg"
            theirs.parent.mkdir(parents=True)
            theirs.write_text("# as the distribution left it\n")

            died = node.fork().run_to(number)
            with node.agent():
                assert node.contents() == {}
                node.assert_agrees()

            assert [file.read_text() for file in node.root.rglob("theirs.cfg")] == [
                "# as the distribution left it\n"
            ]
        finally:
            node.end()
        if died is None:
            break

    assert number >= 8


def test_a_start_that_has_to_start_haproxy_can_die_at_every_effect(node: Node) -> None:
    port = free_port()
    node.carry_out(intent(listener("one", port)))
    before = node.contents()

    for number in itertools.count():
        kill_haproxy(node)
        died = node.fork().run_to(number)
        with node.agent():
            assert node.contents() == before
            node.assert_agrees([port])
        if died is None:
            break

    assert number >= 4


def test_a_start_that_has_to_start_haproxy_can_die_at_any_time(node: Node) -> None:
    port = free_port()
    node.carry_out(intent(listener("one", port)))
    before = node.contents()

    for milliseconds in range(2, 120, 4):
        kill_haproxy(node)
        node.fork(dies_after=milliseconds / 1000).run()
        with node.agent():
            assert node.contents() == before
            settles(lambda: node.assert_agrees([port]))


def test_an_agent_that_dies_while_haproxy_starts_is_followed_by_no_second_haproxy(
    node: Node,
) -> None:
    port = free_port()
    node.carry_out(intent(listener("one", port)))
    kill_haproxy(node)

    fork = node.fork()
    for moment in fork:
        if moment == STARTS and fork.seen.count(STARTS) == 2:  # the first one is haproxy -c
            fork.let_go()
            starting = wait_until(node.haproxy_pids, every=0)  # it may be a daemon already: two
            each(starting, signal.SIGSTOP)
            fork.kill()
    goes_on = threading.Timer(0.5, each, (starting, signal.SIGCONT))
    goes_on.start()
    with node.agent():
        goes_on.join()
        settles(lambda: node.assert_agrees([port]))

    assert fork.is_killed


def test_a_change_without_haproxy_is_there_or_not_when_haproxy_returns(node: Node) -> None:
    one, two = free_port(), free_port()
    node.own_haproxy = False
    node.carry_out(intent(listener("one", one)))
    before = node.contents()

    for number in itertools.count():
        fork = node.fork(intent(listener("two", two)))
        died = fork.run_to(number)
        with node.agent():
            start_haproxy(node)
            assert (node.contents() != before) == (COMMITTED in fork.seen)
            node.assert_agrees([one, two])
        kill_haproxy(node)
        if node.contents() != before:
            node.carry_out(intent(delete("listeners", "two")))
        if died is None:
            break

    assert fork.answers == ["202"]
    assert number >= 4


def test_a_listener_on_a_taken_port_is_never_kept_wherever_the_agent_dies(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        node.carry_out(intent(loadbalancer("lb")))

        answers = refused_everywhere(node, intent(listener("one", port)))

    assert "cannot bind" in answers[0]


def test_a_document_that_haproxy_refuses_is_never_kept_wherever_the_agent_dies(node: Node) -> None:
    extra = node.root / "extra.cfg"
    extra.write_text("backend backend-po\n    mode http\n")
    node.environment["KINX_HAPROXY_EXTRA_CONFIG"] = str(extra)
    node.carry_out(intent(loadbalancer("lb")))

    answers = refused_everywhere(node, intent(pool("po")))

    assert answers[0].startswith("Unprocessable: haproxy refuses the configuration")
    assert "backend-po" in answers[0]


def test_a_document_that_haproxy_cannot_load_is_never_kept_wherever_the_agent_dies(
    node: Node,
) -> None:
    one, two = free_port(), free_port()
    node.carry_out(intent(listener("one", one)))
    before = node.contents()

    for number in itertools.count():
        fork, since = node.fork(intent(listener("two", two))), None
        with socket.socket() as holder:
            for moment in fork:
                if moment == Moment("haproxy.reload", "before") and since is None:
                    # Free when it was checked, taken when HAProxy wants it.
                    holder.bind(("127.0.0.1", two))
                    holder.listen()
                    since = len(fork.seen)
                if since is not None and len(fork.seen) == since + number:
                    fork.kill()
            with node.agent():
                assert node.contents() == before
                settles(lambda: node.assert_agrees([one]))
        if not fork.is_killed:
            break

    assert fork.answers[0].startswith("Conflict: haproxy refuses to load")
    # Put back at once, by a link, and not by a look that finds drift.
    assert fork.seen.count(Moment("haproxy.reload", "after")) == 1
    assert fork.seen[-1] == Moment("point conf.d", "after")


def test_a_change_that_cannot_be_kept_is_taken_back_from_haproxy(node: Node) -> None:
    one, two = free_port(), free_port()
    node.carry_out(intent(listener("one", one)))
    before = node.contents()

    fork = node.fork(intent(listener("two", two)))
    for moment in fork:
        is_full = moment == Moment("store.commit", "before")
        if is_full or moment.effect == "point conf.d":
            # As on a full disk, while the change is committed.
            limit = 0 if is_full else resource.RLIM_INFINITY
            resource.prlimit(fork.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    assert fork.answers[0].startswith("State")
    assert node.contents() == before
    node.assert_agrees([one, two])


# --- the harness can fail -----------------------------------------------------------------------


class Late:
    """A proxy that agrees to everything and does nothing, so that the store comes first."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proxy, name)

    def check(self, plan: Plan, deadline: Deadline, **_: Any) -> None:
        pass

    def activate(self, plan: Plan, deadline: Deadline, *, may_start: bool) -> Applied:
        return Applied("reload", plan.because, 1, is_live=True)


def storing_first(found: Settings, own_haproxy: bool) -> Engine:
    """Build an engine that keeps a change before HAProxy has accepted it."""
    engine = engine_of(found, own_haproxy)
    engine._proxy = Late(engine._proxy)
    return engine


class Blind(Engine):
    """An engine that is ready without a look at the machine."""

    def _batch(self, tickets: Sequence[Any]) -> bool:
        return bool(tickets) and super()._batch(tickets)


def blind(found: Settings, own_haproxy: bool) -> Engine:
    """Build the product's engine with that fault."""
    engine = engine_of(found, own_haproxy)
    engine.__class__ = Blind
    return engine


def test_an_engine_that_keeps_before_it_acts_is_caught(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        asked = intent(listener("one", holder.getsockname()[1]))
        node.carry_out()

        with pytest.raises(AssertionError):
            refused_everywhere(node, asked, dying=storing_first)


def test_an_engine_that_does_not_look_before_it_is_ready_is_caught(node: Node) -> None:
    port = free_port()
    scenario = scenarios(port, 0, 0)["the first listener"]
    node.carry_out()

    with pytest.raises(AssertionError):
        dies_everywhere(node, scenario, [port], restarted=blind)
