"""One thread that turns waiting intents into batches, and batches into proven changes.

fold → plan → check → activate → commit → answer, over one candidate state. The proxy acts first
and the store commits last: before the commit nothing is owed, after it the change is. This module
must never know what the proxy is.
"""

import errno
import threading
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from pathlib import Path

import structlog

from kinx_loadbalancer_agent.engine import outcomes
from kinx_loadbalancer_agent.engine import store as stores
from kinx_loadbalancer_agent.engine.batch import PROXY, Answer, Batch, Laps, Settled, Ticket
from kinx_loadbalancer_agent.engine.conditions import Conditions, Drift
from kinx_loadbalancer_agent.engine.hold import Hold
from kinx_loadbalancer_agent.engine.keeper import Keeper
from kinx_loadbalancer_agent.engine.ports import (
    Applied,
    Network,
    Observation,
    Plan,
    Proxy,
    Service,
)
from kinx_loadbalancer_agent.engine.reports import Reports
from kinx_loadbalancer_agent.engine.trials import Trial
from kinx_loadbalancer_agent.errors import (
    AgentError,
    ApplyError,
    StateError,
    StateFull,
    TimedOut,
    Unavailable,
)
from kinx_loadbalancer_agent.model.intents import WHOLE, Intent
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Clock, Deadline, timestamp
from kinx_loadbalancer_agent.system.files import Lock

log = structlog.get_logger()

MAX_WAITING = 48
TAKE_UP_SECONDS = 5.0
BATCH_SECONDS = 10.0
LINGER_SECONDS = 0.015
MAX_LINGER_SECONDS = 0.040
LOOK_SECONDS = 0.5
SCAN_SECONDS = 3.5
COUNT_SECONDS = 10.0
MAX_BACK_OFF_SECONDS = 4.0
RETRY_SECONDS = 1.0
KEEPER_SECONDS = 2.0
YIELD_SECONDS = 0.00005  # those who were answered go on before this thread writes its log


class Engine:
    """The one place where a change is decided, made live and kept."""

    def __init__(
        self,
        *,
        kinds: Kinds,
        proxy: Proxy,
        services: Sequence[Service] = (),
        network: Network | None = None,
        store: Path,
        lock: Lock,
        clock: Clock,
    ) -> None:
        self._kinds = kinds
        self._proxy = proxy
        self._services = services
        self._network = network
        self._path = store
        self._lock = lock
        self._clock = clock
        self._mutex = threading.Condition()
        self._queue: list[Ticket] = []
        self._waiting = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._store: stores.Store | None = None
        self._state: State | None = None
        self.generation = 0
        self.observed_generation = 0
        self.left_out: frozenset[Ref] = frozenset()
        self._failures = 0
        self._not_before = self._next_look = self._next_scan = self._next_count = 0.0
        self.conditions = Conditions(clock)
        self.drift = Drift(self.conditions, clock)
        self.hold = Hold(store.with_name("hold.json"), self.conditions, clock)
        self.reports = Reports(self, kinds, proxy, services, store, clock)
        self.keepers = [
            Keeper(found, self.conditions, self.drift, self.hold, clock) for found in services
        ]

    # --- what handlers use ------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state as committed; raises Unavailable until this process holds it."""
        state = self._state
        if state is None:
            raise Unavailable(self.conditions.message("Ready") or "taking over the state")
        return state

    @property
    def is_failing(self) -> bool:
        """True when the proxy was tried since it last agreed, in vain."""
        return bool(self._failures)

    def submit(self, intent: Intent) -> Answer:
        """Wait for the answer to *intent*, at most 15 s.

        Raises the Refusal it earned, Unavailable when it was not taken up or not carried out in
        time, StateFull when the disk is.
        """
        self.hold.refuse()
        outcomes.need_space(self._path.parent)
        limit = Deadline.after(self._clock, TAKE_UP_SECONDS + BATCH_SECONDS)
        answer = self._await(Ticket(intent, self._clock.monotonic()))
        assert isinstance(answer, Answer)
        return self._kept(answer, limit.remaining(KEEPER_SECONDS))

    def attempt(self, intent: Intent) -> Trial:
        """Return what would become of *intent*; nothing is kept. Raises as submit."""
        answer = self._await(Ticket(intent, self._clock.monotonic(), is_trial=True))
        assert isinstance(answer, Trial)
        return answer

    def _await(self, ticket: Ticket) -> Answer | Trial:
        with self._mutex:
            if self._stopping:
                raise Unavailable("the agent is stopping; nothing was kept")
            if self._waiting >= MAX_WAITING:
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
        if isinstance(ticket.answer, Answer | Trial):
            return ticket.answer
        assert ticket.answer is not None
        raise ticket.answer

    def _kept(self, answer: Answer, seconds: float) -> Answer:
        """Return *answer* with what the keepers have to say of it, which they get *seconds* for."""
        folded = answer.folded
        kinds = {folded.subject.kind, *(change.ref.kind for change in folded.changes)}
        if folded.subject == WHOLE:
            kinds |= {kind.name for kind in self._kinds}
        because = self.pending(kinds, answer.change, seconds, is_live=answer.applied.is_live)
        if not because:
            return answer
        if not answer.applied.is_live:
            because = f"{answer.applied.because}; {because}"
        return replace(answer, applied=replace(answer.applied, because=because, is_live=False))

    def pending(
        self, kinds: Set[str], generation: int, seconds: float, *, is_live: bool = True
    ) -> str:
        """Return what keepers have not done for resources of *kinds*, '' when all is done.

        What is not live in the proxy may be so for want of what any of them does.
        """
        limit = Deadline.after(self._clock, seconds)
        concerned = [
            one
            for one in self.keepers
            if kinds & (one.service.awaited if is_live else one.service.kinds)
        ]
        words = [one.pending(generation, limit.remaining(seconds)) for one in concerned]
        return "; ".join(filter(None, words))

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
            while self._state is None and not self._stopping:
                self._take_over()
            while self._queue or not self._stopping:
                self._turn()
        finally:
            self._give_back()

    def _take_over(self) -> None:
        if not self.conditions.published():
            self.conditions.set("Ready", "False", "TakingOver", "taking over the state", "warning")
        while not self._lock.take():
            if self._stopping:
                return
            self._clock.sleep(0.01)
        try:
            self._store = stores.Store(self._path, self._kinds)
            self._state, self.generation = self._store.load()
        except (StateError, OSError) as error:
            self.conditions.set("Ready", "False", "StateUnusable", str(error), "error")
            self._clock.sleep(RETRY_SECONDS)
            return
        self.hold.load()
        self._batch([])
        self._wake()
        self.conditions.set("Ready", "True", "Serving", "changes are accepted")
        log.info("state taken over", generation=self.generation)

    def _wake(self) -> None:
        assert self._state is not None
        for keeper in self.keepers:
            keeper.wake(self._state, self.generation)

    def _give_back(self) -> None:
        for keeper in self.keepers:
            keeper.stop()
        with self._mutex:
            queue, self._queue = self._queue, []
        for ticket in queue:
            ticket.say(Unavailable("the agent is stopping; nothing was kept"))
        if self._store is not None:
            self._store.close()
        self._state = None  # another process decides from here on
        self._lock.release()

    def _turn(self) -> None:
        """Wait for intents, at most until the next look at the machine, and deal with them."""
        with self._mutex:
            wait = max(0.0, self._next_look - self._clock.monotonic())
            self._mutex.wait_for(lambda: self._queue or self._stopping, wait)
            tickets, self._queue = self._queue, []
        wishes = [ticket for ticket in tickets if not ticket.is_trial]
        if wishes and self.hold.is_on:
            self._say(wishes, Unavailable(f"{self.hold.words()}; nothing was kept"))
            wishes = []
        if wishes and self._batch(wishes) and len(wishes) > 1:
            self._linger(len(wishes))
        for ticket in tickets:
            if ticket.is_trial:
                self._batch([ticket])
        if self._clock.monotonic() >= self._next_look and not self._stopping:
            self._batch([])

    def _linger(self, answered: int) -> None:
        """Let callers who wait for their answers before they go on come back together."""
        deadline = Deadline.after(self._clock, MAX_LINGER_SECONDS)
        with self._mutex:
            known, expected = -1, len(self._queue) + answered
            while known < len(self._queue) < expected and not deadline.has_passed:
                known = len(self._queue)
                self._mutex.wait(deadline.remaining(LINGER_SECONDS))

    def _withdraw(self, ticket: Ticket) -> bool:
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
                return True
        return False

    # --- a batch ----------------------------------------------------------------------------

    def _batch(self, tickets: Sequence[Ticket]) -> bool:
        """Carry out *tickets*, or look after the machine when there are none.

        Says whether the proxy was reloaded. Every ticket has its answer afterwards.
        """
        ids = ",".join(ticket.intent.request_id for ticket in tickets)
        with structlog.contextvars.bound_contextvars(**({"request_id": ids} if ids else {})):
            return self._tried(tickets)

    def _tried(self, tickets: Sequence[Ticket]) -> bool:
        try:
            return self._carry_out(tickets)
        except ApplyError as error:
            self._say(tickets, Unavailable(f"{error}; nothing was kept"))
            self._failed(error, is_look=not tickets)
            if isinstance(error, TimedOut) and not tickets and not self.hold.is_on:
                self._recover()
        except StateError as error:
            self._say(tickets, error)
            self.conditions.set("Applied", "False", "StateUnusable", str(error), "error")
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            words = f"the machine refuses: {error.strerror or error}{where}; nothing was kept"
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._say(tickets, StateFull(words) if is_full else Unavailable(words))
            self._failed(error, is_look=not tickets)
        except Exception:
            log.exception("batch failed")
            self._say(tickets, AgentError("internal error"))
            self._failed(AgentError("internal error"), is_look=not tickets)
        self.reports.ended(sum(not one.is_trial for one in tickets), "failed", (), {})
        return False

    def _say(self, tickets: Iterable[Ticket], answer: AgentError) -> None:
        for ticket in tickets:
            ticket.say(answer)

    def _failed(self, error: Exception, *, is_look: bool) -> None:
        """Wait longer after each look that failed before the machine is touched again unasked.

        After a change that failed it is looked at next, however many changes wait.
        """
        wait = min(MAX_BACK_OFF_SECONDS, 0.25 * 2**self._failures)
        if is_look:
            self._failures += 1
            self._not_before = self._clock.monotonic() + wait
        else:
            self._next_look = self._next_scan = 0.0
        reason = type(error).__name__
        if isinstance(error, TimedOut):
            self.conditions.set("HaproxyRunning", "Unknown", reason, str(error), "error")
        if self.conditions.set("Applied", "False", reason, str(error), "error"):
            log.warning("cannot apply, will retry", error=str(error), wait_seconds=wait)

    def _recover(self) -> None:
        """Have a process replaced that did not answer."""
        try:
            done = self._proxy.recover(Deadline.after(self._clock, BATCH_SECONDS))
        except (ApplyError, OSError) as error:
            message = f"a process that did not answer cannot be replaced: {error}"
            self.conditions.set("WorkerHealthy", "False", type(error).__name__, message, "error")
            return
        if done:
            message = f"{done} at {timestamp(self._clock.time())}"
            self.conditions.set("WorkerHealthy", "True", "Replaced", message)
            self._next_look = self._not_before = 0.0

    def _carry_out(self, tickets: Sequence[Ticket]) -> bool:
        now = self._clock.monotonic()
        is_look = not tickets
        thorough = is_look and now >= self._next_scan
        if is_look:
            self._next_look = now + LOOK_SECONDS
            if now < self._not_before:
                return False
        deadline = Deadline.after(self._clock, BATCH_SECONDS)
        laps = Laps(self._clock)
        observation = self._proxy.recent() if tickets else None
        if observation is None:
            observation = self._proxy.observe(deadline, thorough=thorough)
            laps.lap("observe")
        is_trial = any(ticket.is_trial for ticket in tickets)
        if tickets and not is_trial and observation.is_running and observation.files is not None:
            # HAProxy may be otherwise than the state says, which is not the doing of these.
            self._carry_out(())
            observation = self._proxy.observe(deadline)
        batch = Batch(
            self._kinds,
            self._proxy,
            self._services,
            self.state,
            observation,
            deadline,
            laps,
            network=self._network,
            is_trial=is_trial or (is_look and self.hold.is_on),
        )
        if is_trial:
            batch.attempt(tickets[0])
            return False
        settled = batch.settle(tickets)
        if is_look and self._finds_drift(settled.plan, observation, thorough=thorough):
            # What a quick look finds, a thorough one can name.
            self._next_scan = 0.0
            return self._carry_out(tickets)
        if is_look and self.hold.is_on and self._leaves(settled.plan, observation):
            return False
        applied, settled = batch.activate(settled, may_start=is_look)
        try:
            self._commit(settled, applied)
        except StateError:
            batch.put_back()
            raise
        laps.lap("commit")
        self._conclude(settled, applied, laps, now)
        self.reports.ended(len(tickets), applied.by, settled.steps, laps.laps)
        if is_look:
            self.hold.look()
            self.conditions.state(self._proxy.tend(deadline))
        if is_look and now >= self._next_count:
            self._next_count = now + COUNT_SECONDS
            self._proxy.traffic(settled.state, "", deadline)
        return applied.by == "reload"

    def _leaves(self, plan: Plan, observation: Observation) -> bool:
        """Say what is otherwise than it should be, in a hold; True when something is."""
        if not plan.is_empty:
            self.drift.found(PROXY, plan.because, is_left=True)
            words = f"{plan.because}; {self.hold.words()}"
            outcomes.left(self.conditions, observation, words)
        return not plan.is_empty or self.drift.is_open(PROXY)

    def _finds_drift(self, plan: Plan, observation: Observation, *, thorough: bool) -> bool:
        """Say what a look found, and return whether a thorough one must follow.

        What differs in a running process although it was live once is drift.
        """
        is_drift = not plan.is_empty and observation.is_running and self.conditions.holds("Applied")
        if not thorough:
            return is_drift
        self._next_scan = self._clock.monotonic() + SCAN_SECONDS
        self.drift.scanned()
        assert self._store is not None
        outcomes.stored(self.conditions, self._store)
        if is_drift:
            self.drift.found(PROXY, plan.because, is_left=self.hold.is_on)
        elif plan.is_empty:
            self.drift.ended(PROXY)
        return False

    def _commit(self, settled: Settled, applied: Applied) -> None:
        """Keep what changed."""
        requested_at = timestamp(self._clock.time())
        records, generation = [], self.generation
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
        self._store.commit(records)
        self._state, self.generation = settled.state, generation
        self._wake()

    def _conclude(self, settled: Settled, applied: Applied, laps: Laps, taken_at: float) -> None:
        """Say what is true now: conditions, then one answer each."""
        if applied.is_live:
            self.observed_generation, self._failures = self.generation, 0
        full = self._proxy.render(settled.state).parts
        left_out = [full[name] for name in settled.left_out if name in full]
        self.left_out = frozenset(part.owner for part in left_out)
        outcomes.concluded(self.conditions, applied, settled.plan.target, left_out)
        if applied.put_aside and settled.steps:  # a look has said so already
            self.drift.found(PROXY, f"put aside: {', '.join(applied.put_aside)}")
        for ticket, refusal in settled.refused:
            ticket.say(refusal)
        change = self.generation - sum(bool(step.folded.changes) for step in settled.steps)
        kept = []
        for step in settled.steps:
            changed = bool(step.folded.changes)
            change += changed
            done = applied
            if not changed and applied.is_live:
                done = Applied("none", "the same content is there already", applied.pid, True)
            queue = {"queue": 1000 * (taken_at - step.ticket.submitted_at)}
            number = change if changed else self.generation
            if step.folded.subject in self.left_out:
                done = Applied("none", self.conditions.message("ListenersBound"), None, False)
            # A later change of the batch may have deleted it.
            is_there = settled.state.get(step.folded.subject) is not None
            state = settled.state if is_there else step.after
            answer = Answer(step.folded, state, done, number, queue | laps.laps)
            step.ticket.say(answer)
            if changed:
                kept.append((step, number, done.by))
        if kept:
            self._clock.sleep(YIELD_SECONDS)
        for step, number, by in kept:
            intent, subject = step.ticket.intent, str(step.folded.subject)
            ids = {"request_id": intent.request_id, "generation": number}
            log.info("change kept", **ids, subject=subject, who=intent.who, by=by)
