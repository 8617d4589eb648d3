"""One thread that turns waiting intents into batches, and batches into proven changes.

fold → plan → check → activate → commit → answer, over one candidate state. The proxy acts first
and the store commits last: before the commit nothing is owed, after it the change is. This module
must never know what the proxy is.
"""

import errno
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine import store as stores
from kinx_loadbalancer_agent.engine.conditions import Conditions
from kinx_loadbalancer_agent.engine.ports import Applied, Observation, Plan, Proxy
from kinx_loadbalancer_agent.errors import (
    AgentError,
    ApplyError,
    CannotBind,
    CheckRefused,
    Conflict,
    Fault,
    LoadRefused,
    Refusal,
    StateError,
    StateFull,
    TimedOut,
    Unavailable,
    Unprocessable,
)
from kinx_loadbalancer_agent.model.intents import Folded, Intent, fold
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Clock, Deadline
from kinx_loadbalancer_agent.system.files import Lock

log = structlog.get_logger()

MAX_WAITING = 48
TAKE_UP_SECONDS = 5.0
BATCH_SECONDS = 10.0
LINGER_SECONDS = 0.005
MAX_LINGER_SECONDS = 0.040
LOOK_SECONDS = 0.5
SCAN_SECONDS = 2.0
MAX_BACK_OFF_SECONDS = 4.0


@dataclass(frozen=True)
class Answer:
    """What became of an accepted intent.

    state: the one the answer is true of, so that it can be published without looking again.
    timing: milliseconds by phase, in order.
    """

    folded: Folded
    state: State
    applied: Applied
    change: int
    timing: dict[str, float]


@dataclass(eq=False)
class _Ticket:
    """An intent that waits, and its answer."""

    intent: Intent
    submitted_at: float
    answered: threading.Event = field(default_factory=threading.Event)
    answer: Answer | AgentError | None = None

    def say(self, answer: Answer | AgentError) -> None:
        if self.answer is None:
            self.answer = answer
            self.answered.set()


@dataclass(frozen=True, eq=False)
class _Step:
    """A ticket folded: the states before and after it."""

    ticket: _Ticket
    before: State
    after: State
    folded: Folded


@dataclass(frozen=True)
class _Settled:
    """What a batch comes to: the steps that may go, the state they end in, the plan for it."""

    steps: tuple[_Step, ...]
    state: State
    plan: Plan
    left_out: frozenset[str]

    def before(self, extra: "_Settled") -> "_Settled":
        """Return both, *extra* having been settled on top of this one."""
        return _Settled(self.steps + extra.steps, extra.state, extra.plan, extra.left_out)


class _Laps:
    """Milliseconds by phase."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._clock.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + 1000 * (now - self._last)
        self._last = now


class Engine:
    """The one place where a change is decided, made live and kept."""

    def __init__(
        self, *, kinds: Kinds, proxy: Proxy, store: Path, lock: Lock, clock: Clock
    ) -> None:
        self._kinds = kinds
        self._proxy = proxy
        self._path = store
        self._lock = lock
        self._clock = clock
        self._mutex = threading.Condition()
        self._queue: list[_Ticket] = []
        self._waiting = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._store: stores.Store | None = None
        self._state: State | None = None
        self._generation = 0
        self._observed_generation = 0
        self._failures = 0
        self._not_before = 0.0
        self._next_look = 0.0
        self._next_scan = 0.0
        self._last_scan: float | None = None
        self._found = 0
        self._repaired = 0
        self.conditions = Conditions(clock, timestamp)

    # --- what handlers use ------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state as committed; raises Unavailable until this process holds it."""
        state = self._state
        if state is None:
            raise Unavailable(self.conditions.message("Ready") or "taking over the state")
        return state

    @property
    def generation(self) -> int:
        """The number of the last committed change."""
        return self._generation

    def submit(self, intent: Intent) -> Answer:
        """Wait for the answer to *intent*, at most 15 s.

        Raises the Refusal it earned, Unavailable when it was not taken up or not carried out in
        time, StateFull when the disk is.
        """
        ticket = _Ticket(intent, self._clock.monotonic())
        with self._mutex:
            if self._waiting >= MAX_WAITING or self._stopping:
                raise Unavailable("too many changes wait already")
            self._waiting += 1
            self._queue.append(ticket)
            self._mutex.notify_all()
        try:
            if not ticket.answered.wait(TAKE_UP_SECONDS) and self._withdraw(ticket):
                raise Unavailable(f"not taken up in {TAKE_UP_SECONDS:.0f} s; nothing was kept")
            if not ticket.answered.wait(BATCH_SECONDS):
                raise Unavailable(
                    "no answer in time; repeat the request to learn what became of it"
                )
        finally:
            with self._mutex:
                self._waiting -= 1
        if isinstance(ticket.answer, Answer):
            return ticket.answer
        assert ticket.answer is not None
        raise ticket.answer

    def change(self, generation: int) -> dict[str, Any] | None:
        """Return what is known of the change *generation*, None if there is no such one."""
        if not 1 <= generation <= self._generation:
            return None
        found = stores.read_change(self._path, generation)
        if found is None:
            return None
        live = generation <= self._observed_generation
        failed = not live and self._failures > 0
        reason = "" if live else self.conditions.message("Applied")
        return found | {
            "state": "applied" if live else "failed" if failed else "pending",
            "reason": reason,
        }

    def status(self) -> dict[str, Any]:
        """Return ``/api/status`` as far as it is known."""
        last_scan = timestamp(self._last_scan) if self._last_scan else None
        return {
            "ready": self.conditions.holds("Ready"),
            "generation": self._generation,
            "observed_generation": self._observed_generation,
            "conditions": self.conditions.published(),
            "haproxy": self._proxy.status(),
            "drift": {
                "last_scan": last_scan,
                "found": self._found,
                "repaired": self._repaired,
            },
        }

    # --- the thread -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = BATCH_SECONDS) -> None:
        """Finish the batch in hand, answer it, give the state back."""
        with self._mutex:
            self._stopping = True
            self._mutex.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            if self._take_over():
                while not self._stopping:
                    self._turn()
        finally:
            self._give_back()

    def _take_over(self) -> bool:
        self.conditions.set("Ready", "False", "TakingOver", "taking over the state", "warning")
        while not self._lock.take():
            if self._stopping:
                return False
            self._clock.sleep(0.01)
        try:
            self._store = stores.Store(self._path, self._kinds)
            state, self._generation = self._store.load()
        except StateError as error:
            self.conditions.set("Ready", "False", "StateUnusable", str(error), "error")
            log.error("state cannot be used", error=str(error))
            return False
        self._observed_generation = 0
        self._state = state
        self._batch([])
        self.conditions.set("Ready", "True", "Serving", "changes are accepted")
        log.info("state taken over", generation=self._generation)
        return True

    def _give_back(self) -> None:
        with self._mutex:
            queue, self._queue = self._queue, []
        for ticket in queue:
            ticket.say(Unavailable("the agent is stopping; nothing was kept"))
        if self._store is not None:
            self._store.close()
        self._lock.release()

    def _turn(self) -> None:
        """Wait for intents, at most until the next look at the machine, and deal with them."""
        with self._mutex:
            wait = max(0.0, self._next_look - self._clock.monotonic())
            self._mutex.wait_for(lambda: self._queue or self._stopping, wait)
            tickets, self._queue = self._queue, []
        if tickets and self._batch(tickets) and len(tickets) > 1:
            self._linger()
        if self._clock.monotonic() >= self._next_look and not self._stopping:
            self._batch([])

    def _linger(self) -> None:
        """Let callers who wait for their answers before they go on come back together."""
        deadline = Deadline.after(self._clock, MAX_LINGER_SECONDS)
        with self._mutex:
            known = -1
            while len(self._queue) > known and not deadline.has_passed:
                known = len(self._queue)
                self._mutex.wait(deadline.remaining(LINGER_SECONDS))

    def _withdraw(self, ticket: _Ticket) -> bool:
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
                return True
        return False

    # --- a batch ----------------------------------------------------------------------------

    def _batch(self, tickets: Sequence[_Ticket]) -> bool:
        """Carry out *tickets*, or look after the machine when there are none.

        Says whether the proxy was reloaded. Every ticket has its answer afterwards.
        """
        try:
            return self._carry_out(tickets)
        except ApplyError as error:
            self._say(tickets, Unavailable(f"{error}; nothing was kept"))
            self._failed(error)
        except StateError as error:
            self._say(tickets, error)
            self.conditions.set("Applied", "False", "StateUnusable", str(error), "error")
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kept = StateFull(f"cannot write: {error.strerror}") if full else None
            self._say(tickets, kept or Unavailable(f"cannot write: {error.strerror}"))
            self._failed(error)
        except Exception:
            log.exception("batch failed")
            self._say(tickets, AgentError("internal error"))
            self._failed(AgentError("internal error"))
        return False

    def _say(self, tickets: Iterable[_Ticket], answer: AgentError) -> None:
        for ticket in tickets:
            ticket.say(answer)

    def _failed(self, error: Exception) -> None:
        """Wait longer after each failure before the machine is touched again unasked."""
        wait = min(MAX_BACK_OFF_SECONDS, 0.25 * 2**self._failures)
        self._failures += 1
        self._not_before = self._clock.monotonic() + wait
        hung = isinstance(error, TimedOut)
        reason = "NoAnswer" if hung else type(error).__name__
        if self.conditions.set("Applied", "False", reason, str(error), "error"):
            log.warning("cannot apply, will retry", error=str(error), wait_seconds=wait)

    def _carry_out(self, tickets: Sequence[_Ticket]) -> bool:
        now = self._clock.monotonic()
        is_look = not tickets
        thorough = is_look and now >= self._next_scan
        if is_look:
            self._next_look = now + LOOK_SECONDS
            if now < self._not_before:
                return False
        deadline = Deadline.after(self._clock, BATCH_SECONDS)
        laps = _Laps(self._clock)
        observation = self._proxy.observe(deadline, thorough=thorough)
        laps.lap("observe")
        settled = self._settle(self.state, tickets, observation, deadline, laps)
        if thorough:
            self._next_scan = now + SCAN_SECONDS
            self._scanned(settled.plan)
        applied, settled = self._activate(settled, observation, deadline, laps, is_look=is_look)
        self._commit(settled, applied, deadline)
        laps.lap("commit")
        self._conclude(settled, applied, laps, now)
        return applied.by == "reload"

    def _scanned(self, plan: Plan) -> None:
        """Say what a thorough look found; what differs although it was live once is drift."""
        self._last_scan = self._clock.time()
        if plan.is_empty:
            self._repaired = self._found
            self.conditions.set("Drift", "False", "None", "nothing was changed behind the agent")
        elif self.conditions.holds("Applied"):
            self._found += 1
            self.conditions.set("Drift", "True", "Foreign", plan.because, "warning")
            log.warning("drift found", what=plan.because)

    def _fold(self, base: State, tickets: Sequence[_Ticket]) -> tuple[State, tuple[_Step, ...]]:
        """Fold *tickets* over *base* in order; the refused are answered and left out."""
        state, steps = base, []
        for ticket in tickets:
            try:
                after, folded = fold(state, ticket.intent, self._kinds)
            except Refusal as error:
                ticket.say(error)
                continue
            steps.append(_Step(ticket, state, after, folded))
            state = after
        return state, tuple(steps)

    def _settle(
        self,
        base: State,
        tickets: Sequence[_Ticket],
        observation: Observation,
        deadline: Deadline,
        laps: _Laps,
    ) -> _Settled:
        """Fold and check until what is left is accepted; the refused are answered.

        A fragment that is named belongs to the steps that wrote it: they are refused and the
        rest is folded again. When nobody is named, halves are settled one after the other, which
        ends at single steps. A fragment that no step wrote and that cannot be bound is left out.
        """
        left_out: frozenset[str] = frozenset()
        while True:
            state, steps = self._fold(base, tickets)
            plan = self._proxy.plan(self._proxy.render(state, left_out), observation)
            laps.lap("fold")
            try:
                if not plan.is_empty:
                    self._proxy.check(plan, deadline)
                return _Settled(steps, state, plan, left_out)
            except CannotBind as error:
                guilty = self._writers(steps, frozenset(error.reasons))
                for step, names in guilty.items():
                    reasons = "; ".join(error.reasons[name] for name in sorted(names))
                    fault = Fault("/protocol_port", reasons, is_conflict=True)
                    step.ticket.say(Conflict(reasons, [fault]))
                left_out |= frozenset(error.reasons) if not guilty else frozenset()
            except CheckRefused as error:
                guilty = self._writers(steps, error.fragments)
                if not guilty:
                    return self._search(base, steps, error, observation, deadline, laps)
                for step in guilty:
                    step.ticket.say(Unprocessable(str(error), [Fault("", error.words)]))
            finally:
                laps.lap("check")
            tickets = [step.ticket for step in steps if step not in guilty]

    def _search(
        self,
        base: State,
        steps: Sequence[_Step],
        error: CheckRefused,
        observation: Observation,
        deadline: Deadline,
        laps: _Laps,
    ) -> _Settled:
        """Settle *steps* when HAProxy names none of them."""
        tickets = [step.ticket for step in steps]
        if len(tickets) > 1:
            half = len(tickets) // 2
            first = self._settle(base, tickets[:half], observation, deadline, laps)
            rest = self._settle(first.state, tickets[half:], observation, deadline, laps)
            return first.before(rest)
        plan = self._proxy.plan(self._proxy.render(base), observation)
        if not tickets or not plan.is_empty:
            self._proxy.check(plan, deadline)  # without the step: when refused, it is not its fault
        for ticket in tickets:
            ticket.say(Unprocessable(str(error), [Fault("", error.words)]))
        return self._settle(base, [], observation, deadline, laps)

    def _writers(
        self, steps: Sequence[_Step], fragments: frozenset[str]
    ) -> dict[_Step, frozenset[str]]:
        """Return the steps that changed any of *fragments*, with those they changed."""
        writers = {}
        for step in steps if fragments else ():
            before = self._proxy.render(step.before).parts
            after = self._proxy.render(step.after).parts
            names = frozenset(name for name in fragments if before.get(name) != after.get(name))
            if names:
                writers[step] = names
        return writers

    def _activate(
        self,
        settled: _Settled,
        observation: Observation,
        deadline: Deadline,
        laps: _Laps,
        *,
        is_look: bool,
    ) -> tuple[Applied, _Settled]:
        """Make the plan live; after a refusal by load, once more without the new addresses."""
        if settled.plan.is_empty:
            live = observation.is_running
            because = "it is what runs already" if live else "HAProxy is not running"
            return Applied("none", because, observation.worker_pid, live), settled
        try:
            applied = self._proxy.activate(settled.plan, deadline, may_start=is_look)
        except LoadRefused as error:
            added = [step for step in settled.steps if self._adds_bind(step)]
            if not added:
                raise
            for step in added:
                fault = Fault("/protocol_port", str(error), is_conflict=True)
                step.ticket.say(Conflict(str(error), [fault]))
            rest = [step.ticket for step in settled.steps if step not in added]
            settled = self._settle(self.state, rest, observation, deadline, laps)
            if settled.plan.is_empty:
                return Applied("none", str(error), observation.worker_pid, True), settled
            applied = self._proxy.activate(settled.plan, deadline, may_start=False)
        finally:
            laps.lap("activate")
        return applied, settled

    def _adds_bind(self, step: _Step) -> bool:
        before = set(self._proxy.render(step.before).binds.values())
        return not set(self._proxy.render(step.after).binds.values()) <= before

    def _commit(self, settled: _Settled, applied: Applied, deadline: Deadline) -> None:
        """Keep what changed; when that fails, the proxy goes back to what is kept."""
        requested_at = timestamp(self._clock.time())
        records, generation = [], self._generation
        for step in settled.steps:
            if step.folded.changes:
                generation += 1
                intent = step.ticket.intent
                records.append(
                    stores.Record(
                        generation,
                        requested_at,
                        intent.who,
                        intent.remote,
                        intent.request_id,
                        step.folded.changes,
                        applied.published(generation),
                    )
                )
        if not records:
            return
        assert self._store is not None
        try:
            self._store.commit(records)
        except StateError:
            self._put_back(applied, deadline)
            raise
        self._state, self._generation = settled.state, generation

    def _put_back(self, applied: Applied, deadline: Deadline) -> None:
        try:
            observation = self._proxy.observe(deadline)
            plan = self._proxy.plan(self._proxy.render(self.state), observation)
            if not plan.is_empty:
                self._proxy.activate(plan, deadline, may_start=False)
        except ApplyError as error:  # the next look repairs it
            log.error("cannot put back", error=str(error), because=applied.because)

    def _conclude(self, settled: _Settled, applied: Applied, laps: _Laps, taken_at: float) -> None:
        """Say what is true now: conditions, then one answer each."""
        is_live = applied.is_live and not settled.left_out
        if is_live:
            self._observed_generation = self._generation
        self._state_conditions(settled, applied)
        change = self._generation - sum(bool(step.folded.changes) for step in settled.steps)
        for step in settled.steps:
            changed = bool(step.folded.changes)
            change += changed
            done = applied
            if not changed and applied.is_live:
                done = Applied("none", "the same content is there already", applied.pid, True)
            queue = {"queue": 1000 * (taken_at - step.ticket.submitted_at)}
            number = change if changed else self._generation
            done = done if is_live else Applied(done.by, done.because, done.pid, False)
            answer = Answer(step.folded, settled.state, done, number, queue | laps.laps)
            step.ticket.say(answer)

    def _state_conditions(self, settled: _Settled, applied: Applied) -> None:
        state = self.conditions
        if applied.is_live:
            state.set("HaproxyRunning", "True", "Answers", f"worker {applied.pid} answers")
        else:
            state.set("HaproxyRunning", "False", "NotRunning", applied.because, "error")
        if settled.left_out:
            names = ", ".join(sorted(settled.left_out))
            state.set("ListenersBound", "False", "CannotBind", f"left out: {names}", "error")
        else:
            state.set("ListenersBound", "True", "Bound", "every listener can be bound")
        if applied.is_live and not settled.left_out:
            state.set("Applied", "True", "Live", "HAProxy runs what was asked for")
            self._failures = 0
        elif not applied.is_live:
            state.set("Applied", "False", "HaproxyNotRunning", applied.because, "error")
        else:
            state.set("Applied", "False", "CannotBind", "some listeners are left out", "error")


def timestamp(seconds: float) -> str:
    """Return *seconds* since the epoch as RFC 3339, UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
