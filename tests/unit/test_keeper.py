"""The keeper: the latest state wins, a failure is tried again, what others change is undone."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kinx_loadbalancer_agent.engine.conditions import Conditions, Drift
from kinx_loadbalancer_agent.engine.hold import Hold
from kinx_loadbalancer_agent.engine.keeper import Keeper
from kinx_loadbalancer_agent.engine.ports import Claim, Service
from kinx_loadbalancer_agent.errors import Unreachable
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.machine import wait_until
from tests.unit.desired import Desired

SOON = 1.0
"""Seconds; less than the keeper waits until it looks by itself."""


def stays_so(holds: Callable[[], bool], seconds: float) -> bool:
    """Return whether *holds* is true all the time for *seconds*."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not holds():
            return False
        time.sleep(0.01)
    return True


@dataclass
class Shelf(Service):
    """A service that is a text on a shelf: the names of the peers.

    fails: what goes wrong when it is changed. is_deaf: a change changes nothing.
    may_go_on: unset, a change in hand takes until it is set.
    """

    name = "shelf"
    condition = "ShelfKept"
    kinds = awaited = frozenset({"peers"})

    text: bytes = b""
    fails: Exception | None = None
    is_deaf: bool = False
    tried: list[bytes] = field(default_factory=list)
    tried_at: list[float] = field(default_factory=list)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_go_on.set()

    def render(self, state: State) -> bytes:
        return ",".join(sorted(state.table("peers"))).encode()

    def observe(self, deadline: Deadline) -> bytes:
        return self.text

    def plan(self, state: State, observation: Any) -> tuple[str, ...]:
        wanted = self.render(state)
        return () if wanted == observation else (f"put {wanted.decode()}",)

    def apply(self, state: State, observation: Any, deadline: Deadline) -> None:
        self.tried.append(self.render(state))
        self.tried_at.append(time.monotonic())
        assert self.may_go_on.wait(20)
        if self.fails is not None:
            raise self.fails
        if not self.is_deaf:
            self.text = self.render(state)

    def claims(self, state: State) -> tuple[Claim, ...]:
        return (Claim(self.condition, "True", "Kept", f"the shelf has {self.text.decode()}"),)


class Kept:
    """A shelf, its keeper, and the states that callers make."""

    def __init__(self, directory: Path) -> None:
        clock = SystemClock()
        self.shelf = Shelf()
        self.conditions = Conditions(clock)
        self.drift = Drift(self.conditions, clock)
        self.hold = Hold(directory / "hold.json", self.conditions, clock)
        self.keeper = Keeper(self.shelf, self.conditions, self.drift, self.hold, clock)
        self.desired = Desired()
        self.generation = 0

    def post(self, kind: str, **body: Any) -> int:
        """Have a caller make something; return the generation of it."""
        self.desired.post(kind, body)
        self.generation += 1
        self.keeper.wake(self.desired.state, self.generation)
        return self.generation

    def peer(self, name: str) -> int:
        return self.post("peers", hostname=name, address=f"192.0.2.{self.generation + 1}")

    def condition(self, type: str = "ShelfKept") -> dict[str, Any]:
        published = self.conditions.published()
        return next((found for found in published if found["type"] == type), {"status": None})


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    found = Kept(tmp_path)
    yield found
    found.shelf.may_go_on.set()
    found.keeper.stop()


@pytest.fixture
def held(kept: Kept) -> Kept:
    """A shelf that has what its callers asked for, in a hold."""
    kept.peer("a")
    assert kept.keeper.pending(1, SOON) == ""
    kept.hold.begin("admin", "at work", 1)
    return kept


# --- what callers wait for ------------------------------------------------------------------


def test_a_change_is_kept_at_once(kept: Kept) -> None:
    first = kept.peer("a")
    said = kept.keeper.pending(first, SOON)
    second = kept.peer("b")

    assert said == ""
    assert kept.keeper.pending(second, SOON) == ""
    assert kept.shelf.text == b"a,b"
    assert kept.condition()["status"] == "True"


def test_a_change_of_other_kinds_is_not_waited_for_and_touches_nothing(kept: Kept) -> None:
    kept.keeper.pending(kept.peer("a"), SOON)
    kept.shelf.tried.clear()

    generation = kept.post("loadbalancers", id="lb")

    assert kept.keeper.pending(generation, 0) == ""
    assert kept.shelf.tried == []


def test_of_states_that_come_while_it_is_busy_only_the_latest_is_applied(kept: Kept) -> None:
    kept.keeper.pending(kept.peer("a"), SOON)
    kept.shelf.may_go_on.clear()
    kept.peer("b")
    wait_until(lambda: kept.shelf.tried[1:])
    generations = [kept.peer(name) for name in ("c", "d", "e")]

    kept.shelf.may_go_on.set()

    assert [kept.keeper.pending(generation, SOON) for generation in generations] == [""] * 3
    assert kept.shelf.tried == [b"a", b"a,b", b"a,b,c,d,e"]
    assert kept.shelf.text == b"a,b,c,d,e"


def test_who_waits_in_vain_is_told_that_it_has_not_come_to_it(kept: Kept) -> None:
    kept.shelf.may_go_on.clear()
    generation = kept.peer("a")

    said = kept.keeper.pending(generation, 0.1)

    assert said == "shelf has not come to it yet"


def test_an_unrelated_change_does_not_hide_one_that_is_not_kept_yet(kept: Kept) -> None:
    kept.shelf.may_go_on.clear()
    kept.peer("a")
    generation = kept.post("loadbalancers", id="lb")

    early = kept.keeper.pending(generation, 0.1)
    kept.shelf.may_go_on.set()

    assert early
    assert kept.keeper.pending(generation, SOON) == ""


# --- failures -------------------------------------------------------------------------------


def test_a_failure_is_told_and_is_tried_again_with_growing_waits(kept: Kept) -> None:
    kept.shelf.fails = Unreachable("the shelf", "it is too high")
    generation = kept.peer("a")
    said = kept.keeper.pending(generation, SOON)
    failing = kept.condition()

    wait_until(lambda: len(kept.shelf.tried) == 3)
    kept.shelf.fails = None
    kept.peer("b")
    wait_until(lambda: kept.condition()["status"] == "True", SOON)

    first, second, third, last = kept.shelf.tried_at
    assert said == failing["message"] == "cannot reach the shelf: it is too high"
    assert (failing["status"], failing["severity"]) == ("False", "error")
    assert failing["reason"] == "Unreachable"
    assert 1.5 < second - first < 3
    assert 3.5 < third - second < 5
    assert last - third < SOON
    assert kept.shelf.text == b"a,b"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(OSError("no space"), "OSError"), (ZeroDivisionError("ours"), "InternalError")],
)
def test_no_failure_ends_it(kept: Kept, fault: Exception, reason: str) -> None:
    kept.shelf.fails = fault
    kept.keeper.pending(kept.peer("a"), SOON)
    failing = kept.condition()
    kept.shelf.fails = None

    said = kept.keeper.pending(kept.peer("b"), SOON)

    assert (failing["status"], failing["reason"]) == ("False", reason)
    assert "ours" not in failing["message"]
    assert said == ""
    assert kept.shelf.text == b"a,b"


def test_what_was_done_and_cannot_be_seen_is_not_claimed(kept: Kept) -> None:
    kept.shelf.is_deaf = True

    said = kept.keeper.pending(kept.peer("a"), SOON)

    assert said == "still to do: put a"
    assert kept.condition()["reason"] == "NotProven"


# --- others ---------------------------------------------------------------------------------


def test_what_others_change_is_undone_and_shown_as_drift_until_a_look_finds_it_right(
    kept: Kept,
) -> None:
    kept.keeper.pending(kept.peer("a"), SOON)

    kept.shelf.text = b"graffiti"
    wait_until(lambda: kept.shelf.text == b"a", 5)
    wait_until(lambda: kept.condition("Drift")["status"] == "True", SOON)
    told, counted = kept.condition("Drift"), kept.drift.published()
    wait_until(lambda: kept.condition("Drift")["status"] == "False", 5)

    assert told["message"] == "changed by others, to undo: put a"
    assert (counted["found"], counted["repaired"]) == (1, 0)
    after = kept.drift.published()
    assert (after["found"], after["repaired"]) == (1, 1)


def test_what_is_there_when_it_begins_and_what_callers_change_is_no_drift(kept: Kept) -> None:
    kept.shelf.text = b"of before"

    kept.keeper.pending(kept.peer("a"), SOON)
    kept.keeper.pending(kept.peer("b"), SOON)

    assert kept.shelf.text == b"a,b"
    assert kept.drift.published()["found"] == 0


def test_after_it_was_stopped_it_touches_nothing(kept: Kept) -> None:
    kept.keeper.pending(kept.peer("a"), SOON)
    kept.shelf.may_go_on.clear()
    kept.peer("b")
    wait_until(lambda: kept.shelf.tried[1:])
    stopping = threading.Thread(target=kept.keeper.stop)
    stopping.start()

    waits = stopping.is_alive()
    kept.shelf.may_go_on.set()
    stopping.join(SOON)
    kept.shelf.text = b"graffiti"

    assert waits
    assert not stopping.is_alive()
    assert stays_so(lambda: kept.shelf.text == b"graffiti", 2.5)


# --- hold -----------------------------------------------------------------------------------


def test_in_a_hold_what_others_change_is_reported_and_left(held: Kept) -> None:
    held.shelf.text = b"theirs"
    wait_until(lambda: held.drift.published()["found"] == 1, 2 * held.shelf.look_seconds)

    assert stays_so(lambda: held.shelf.text == b"theirs", 0.3)
    assert held.drift.published()["found"] == 1
    assert "at work" in held.conditions.message("ShelfKept")


def test_after_a_hold_what_others_changed_is_undone(held: Kept) -> None:
    held.shelf.text = b"theirs"

    held.hold.end()
    held.keeper.look()

    wait_until(lambda: held.shelf.text == b"a", SOON)


def test_what_the_agent_did_itself_is_no_drift_and_is_put_right_in_a_hold_too(held: Kept) -> None:
    held.shelf.text = b"withdrawn"

    held.keeper.look()

    wait_until(lambda: held.shelf.text == b"a", SOON)
    assert held.drift.published()["found"] == 0
