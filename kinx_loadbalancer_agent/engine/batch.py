"""One batch: fold, check, find who is to blame, make live. It keeps and answers nothing itself.

Refused intents get their answers on the way; what is left is for the engine to commit. This
module must never touch the store.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kinx_loadbalancer_agent.engine.ports import Applied, Observation, Plan, Proxy
from kinx_loadbalancer_agent.errors import (
    AgentError,
    CannotBind,
    CheckRefused,
    Conflict,
    Fault,
    LoadRefused,
    Refusal,
    Unprocessable,
    refusal,
)
from kinx_loadbalancer_agent.model.fold import fold
from kinx_loadbalancer_agent.model.intents import Folded, Intent
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

PHASES = ("observe", "fold", "check", "activate", "commit")


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
class Ticket:
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
class Step:
    """A ticket folded: the states before and after it."""

    ticket: Ticket
    before: State
    after: State
    folded: Folded


@dataclass(frozen=True)
class Settled:
    """What a batch comes to: the steps that may go, the state they end in, the plan for it."""

    steps: tuple[Step, ...]
    state: State
    plan: Plan
    left_out: frozenset[str]

    def before(self, extra: "Settled") -> "Settled":
        """Return both, *extra* having been settled on top of this one."""
        return Settled(self.steps + extra.steps, extra.state, extra.plan, extra.left_out)


class Laps:
    """Milliseconds by phase."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()
        self.laps = dict.fromkeys(PHASES, 0.0)

    def lap(self, name: str) -> None:
        now = self._clock.monotonic()
        self.laps[name] += 1000 * (now - self._last)
        self._last = now


class Batch:
    """The work on the tickets of one batch, over the state *base* and one look at the proxy."""

    def __init__(
        self,
        kinds: Kinds,
        proxy: Proxy,
        base: State,
        observation: Observation,
        deadline: Deadline,
        laps: Laps,
    ) -> None:
        self._kinds = kinds
        self._proxy = proxy
        self._base = base
        self._observation = observation
        self._deadline = deadline
        self._laps = laps

    def settle(self, tickets: Sequence[Ticket], base: State | None = None) -> Settled:
        """Fold and check until what is left is accepted; the refused are answered.

        A fragment that is named belongs to the steps that wrote it: they are refused and the
        rest is folded again. When nobody is named, halves are settled one after the other, which
        ends at single steps. A fragment that no step wrote and that cannot be bound is left out.
        """
        base = self._base if base is None else base
        left_out: frozenset[str] = frozenset()
        while True:
            state, steps = self._fold(base, tickets)
            plan = self._proxy.plan(self._proxy.render(state, left_out), self._observation)
            self._laps.lap("fold")
            try:
                if not plan.is_empty:
                    self._proxy.check(plan, self._deadline)
                return Settled(steps, state, plan, left_out)
            except CannotBind as error:
                guilty = self._writers(steps, frozenset(error.reasons))
                for step, names in guilty.items():
                    owners = self._proxy.render(step.after).parts
                    step.ticket.say(
                        refusal(
                            error.reasons[name]
                            if owners[name].owner == step.folded.subject
                            else replace(error.reasons[name], pointer=step.folded.changed_at)
                            for name in sorted(names)
                        )
                    )
                left_out |= frozenset(error.reasons) if not guilty else frozenset()
            except CheckRefused as error:
                guilty = self._writers(steps, error.fragments)
                if not guilty:
                    return self._search(base, steps, error)
                for step in guilty:
                    step.ticket.say(Unprocessable(str(error), [Fault("", error.words)]))
            finally:
                self._laps.lap("check")
            tickets = [step.ticket for step in steps if step not in guilty]

    def activate(self, settled: Settled, *, may_start: bool) -> tuple[Applied, Settled]:
        """Make the plan live; after a refusal by load, once more without the new addresses."""
        observation = self._observation
        if settled.plan.is_empty:
            live = observation.is_running
            because = "it is what runs already" if live else "HAProxy is not running"
            return Applied("none", because, observation.worker_pid, live), settled
        try:
            applied = self._proxy.activate(settled.plan, self._deadline, may_start=may_start)
        except LoadRefused as error:
            added = [step for step in settled.steps if self._adds_bind(step)]
            if not added:
                raise
            for step in added:
                fault = Fault("/protocol_port", str(error), is_conflict=True)
                step.ticket.say(Conflict(str(error), [fault]))
            rest = [step.ticket for step in settled.steps if step not in added]
            settled = self.settle(rest)
            if settled.plan.is_empty:
                return Applied("none", str(error), observation.worker_pid, True), settled
            applied = self._proxy.activate(settled.plan, self._deadline, may_start=False)
        finally:
            self._laps.lap("activate")
        return applied, settled

    def _fold(self, base: State, tickets: Sequence[Ticket]) -> tuple[State, tuple[Step, ...]]:
        """Fold *tickets* over *base* in order; the refused are answered and left out."""
        state, steps = base, []
        for ticket in tickets:
            try:
                after, folded = fold(state, ticket.intent, self._kinds)
            except Refusal as error:
                ticket.say(error)
                continue
            steps.append(Step(ticket, state, after, folded))
            state = after
        return state, tuple(steps)

    def _search(self, base: State, steps: Sequence[Step], error: CheckRefused) -> Settled:
        """Settle *steps* when HAProxy names none of them."""
        tickets = [step.ticket for step in steps]
        if len(tickets) > 1:
            half = len(tickets) // 2
            first = self.settle(tickets[:half], base)
            rest = self.settle(tickets[half:], first.state)
            return first.before(rest)
        plan = self._proxy.plan(self._proxy.render(base), self._observation)
        if not tickets or not plan.is_empty:
            self._proxy.check(
                plan, self._deadline
            )  # without the step: when refused, it is not its fault
        for ticket in tickets:
            ticket.say(Unprocessable(str(error), [Fault("", error.words)]))
        return self.settle([], base)

    def _writers(
        self, steps: Sequence[Step], fragments: frozenset[str]
    ) -> dict[Step, frozenset[str]]:
        """Return the steps that changed any of *fragments*, with those they changed."""
        writers = {}
        for step in steps if fragments else ():
            before = self._proxy.render(step.before).parts
            after = self._proxy.render(step.after).parts
            names = frozenset(name for name in fragments if before.get(name) != after.get(name))
            if names:
                writers[step] = names
        return writers

    def _adds_bind(self, step: Step) -> bool:
        before = set(self._proxy.render(step.before).binds.values())
        return not set(self._proxy.render(step.after).binds.values()) <= before
