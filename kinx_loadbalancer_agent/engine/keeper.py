"""A thread that keeps one service as the state says: a promise where the proxy is a transaction.

Woken by a commit or a timer: observe, plan, apply, look again. The latest state wins, a failure is
tried again with growing waits. This module must never know what the service is.
"""

import threading
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.conditions import Conditions, Drift
from kinx_loadbalancer_agent.engine.hold import Hold
from kinx_loadbalancer_agent.engine.ports import Claim, Service
from kinx_loadbalancer_agent.errors import ApplyError, Held, NotProven, listed
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

log = structlog.get_logger()

SHORTEST_WAIT_SECONDS = 2.0
TURN_SECONDS = 10.0
MAX_BACK_OFF_SECONDS = 4.0  # what others break is put right within 10 s of its cause being gone


class Keeper:
    """The keeper of *service*."""

    def __init__(
        self,
        service: Service,
        conditions: Conditions,
        drift: Drift,
        hold: Hold,
        clock: Clock,
    ) -> None:
        self.service = service
        self._conditions = conditions
        self._drift = drift
        self._hold = hold
        self._clock = clock
        self._mutex = threading.Condition()
        self._wanted: tuple[State, int] | None = None
        self._looked_at = -1
        self._kept: bytes | None = None
        self._pending = "not looked at yet"
        self._failures = 0
        self.turns = self.failed_turns = 0  # since the process began
        self._asked: dict[str, Any] = {}
        self._stopping = False
        self._is_due = self._is_ours = False
        self._thread: threading.Thread | None = None

    def wake(self, state: State, generation: int) -> None:
        """Keep *state* from now on; returns at once. The first call begins."""
        self.service.follow(state, self.look)
        with self._mutex:
            before, self._wanted = self._wanted, (state, generation)
            if before is not None and state.shares(before[0], self.service.kinds):
                if self._looked_at == before[1]:
                    self._looked_at = generation
            else:
                self._asked = structlog.contextvars.get_contextvars()
                self._mutex.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.service.name, daemon=True)
            self._thread.start()

    def look(self) -> None:
        """Look at the service soon: something of ours has happened to it. Any thread may say so.

        What is not as it should be then is not the doing of others.
        """
        with self._mutex:
            self._is_due = self._is_ours = True
            self._mutex.notify_all()

    def stop(self) -> None:
        """End after the turn in hand: another process keeps the service from here on."""
        with self._mutex:
            self._stopping = True
            self._mutex.notify_all()
        if self._thread is not None:
            self._thread.join(TURN_SECONDS)
        try:
            self.service.stop()
        except (ApplyError, OSError) as error:
            log.warning("service not stopped well", service=self.service.name, error=str(error))

    def pending(self, generation: int, timeout_seconds: float) -> str:
        """Return why the service is not as *generation* says, '' when it is.

        Waits *timeout_seconds* for the keeper to have tried.
        """
        with self._mutex:
            tried = self._mutex.wait_for(lambda: self._looked_at >= generation, timeout_seconds)
            return self._pending if tried else f"{self.service.name} has not come to it yet"

    def _run(self) -> None:
        while True:
            with self._mutex:
                wanted = self._wanted
                if self._stopping or wanted is None:
                    return
                is_ours = self._is_ours
                self._is_due = self._is_ours = False
                asked = self._asked if wanted[1] > self._looked_at else {}
            with structlog.contextvars.bound_contextvars(**asked):
                self._turn(*wanted, is_ours=is_ours)
            self._rest(wanted)

    def _rest(self, known: tuple[State, int]) -> None:
        """Wait for another state, at most until the next look or try."""
        wait = self.service.look_seconds
        if self._failures:
            wait = min(MAX_BACK_OFF_SECONDS, SHORTEST_WAIT_SECONDS * 2 ** (self._failures - 1))
        with self._mutex:
            self._mutex.wait_for(
                lambda: self._stopping or self._is_due or self._wanted is not known, wait
            )

    def _turn(self, state: State, generation: int, *, is_ours: bool) -> None:
        """Make the service agree with *state* once, and say how that went."""
        self.turns += 1
        try:
            self._converge(state, is_ours=is_ours)
            claims = self.service.claims(state)
            self._failures = 0
        except Held as error:
            claims = (Claim(self.service.condition, "False", "Held", str(error), "warning"),)
        except (ApplyError, OSError) as error:
            self._failures += 1
            claims = self._failed(str(error), type(error).__name__)
        except Exception:
            self._failures += 1
            log.exception("keeper failed", service=self.service.name)
            claims = self._failed("internal error", "InternalError")
        for claim in claims:
            self._conditions.state(claim)
        with self._mutex:
            self._looked_at = generation
            self._pending = "" if claims[0].status == "True" else claims[0].message
            self._mutex.notify_all()

    def _converge(self, state: State, *, is_ours: bool) -> None:
        deadline = Deadline.after(self._clock, TURN_SECONDS)
        seen = self.service.observe(deadline)
        steps = self.service.plan(state, seen)
        wanted = self.service.aim(state)
        if not steps:
            self._kept = wanted
            self._drift.ended(self.service.name)
            return
        name, words = self.service.name, listed(steps, "; ")
        if self._hold.is_on and self._kept in (None, wanted) and not is_ours:
            self._drift.found(name, f"changed by others: {words}", is_left=True)
            raise Held(self._hold.words())
        if self._kept == wanted and not is_ours:  # it was so before
            self._drift.found(name, f"changed by others, to undo: {words}")
        self._kept = None
        self.service.apply(state, seen, deadline)
        left = self.service.plan(state, self.service.observe(deadline))
        if left:
            raise NotProven(f"still to do: {listed(left, '; ')}")
        self._kept = wanted
        log.info("service changed", service=name, steps=words)

    def _failed(self, message: str, reason: str) -> tuple[Claim, ...]:
        self.failed_turns += 1
        log.warning("cannot keep service, will retry", service=self.service.name, error=message)
        return (Claim(self.service.condition, "False", reason, message, "error"),)
