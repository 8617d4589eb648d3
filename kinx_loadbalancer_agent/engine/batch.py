"""One batch: fold, check, find who is to blame, make live. It keeps and answers nothing itself.

Refused intents get their answers on the way; what is left is for the engine to commit. This
module must never touch the store.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from kinx_loadbalancer_agent.engine import trials
from kinx_loadbalancer_agent.engine.ports import (
    Applied,
    Network,
    Observation,
    Plan,
    Proxy,
    Service,
    Target,
)
from kinx_loadbalancer_agent.errors import (
    AgentError,
    ApplyError,
    CannotBind,
    CheckRefused,
    Conflict,
    Fault,
    LoadRefused,
    Refusal,
    Unprocessable,
    Unreachable,
    refusal,
)
from kinx_loadbalancer_agent.model.fold import fold
from kinx_loadbalancer_agent.model.intents import Folded, Intent
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

log = structlog.get_logger()

PROXY = "haproxy"
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
    """An intent that waits, and its answer; a trial is answered by a Trial and changes nothing."""

    intent: Intent
    submitted_at: float
    is_trial: bool = False
    answered: threading.Event = field(default_factory=threading.Event)
    answer: Answer | trials.Trial | AgentError | None = None

    def say(self, answer: Answer | trials.Trial | AgentError) -> None:
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
    """What a batch comes to: the state it ends in, and the plan for it.

    tickets: those that nobody blames, in order; each is either a step or refused by the fold.
    left_out: fragments of earlier changes that cannot be bound now.
    """

    tickets: tuple[Ticket, ...]
    steps: tuple[Step, ...]
    refused: tuple[tuple[Ticket, Refusal], ...]
    state: State
    plan: Plan
    left_out: frozenset[str]

    def on(self, ground: "Settled") -> "Settled":
        """Return both, this one having been settled on top of *ground*."""
        return replace(
            self,
            tickets=ground.tickets + self.tickets,
            steps=ground.steps + self.steps,
            refused=ground.refused + self.refused,
        )


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
        services: Sequence[Service],
        base: State,
        observation: Observation,
        deadline: Deadline,
        laps: Laps,
        *,
        network: Network | None = None,
        is_trial: bool = False,
    ) -> None:
        self._network = network
        self._kinds = kinds
        self._proxy = proxy
        self._services = services
        self._base = base
        self._observation = observation
        self._deadline = deadline
        self._laps = laps
        self._is_trial = is_trial

    def settle(self, tickets: Sequence[Ticket], ground: Settled | None = None) -> Settled:
        """Fold and check until what is left is accepted; the blamed are answered.

        A fragment that is named is its writer's fault, who is refused; the rest is folded again,
        so that each gets the answer it would have got without. Where nobody wrote what is named,
        or several did, halves are settled one on top of the other, which ends at single tickets.
        What no ticket wrote and cannot be bound is left out.

        ground: what is settled below; otherwise the base, which nobody has checked.
        Raises CheckRefused if the ground itself is refused.
        """
        base = ground.state if ground else self._base
        left_out = ground.left_out if ground else frozenset()
        tickets = tuple(tickets)
        while True:
            state, steps, refused = self._fold(base, tickets)
            plan = self._plan(self._proxy.render(state, left_out))
            self._laps.lap("fold")
            try:
                self._ask_services(state)
                assigned = self._assigned(plan, state)
                if not plan.is_empty:
                    self._proxy.check(
                        plan, self._deadline, is_trial=self._is_trial, assigned=assigned
                    )
                elif not self._observation.is_running:
                    self._proxy.check_addresses(plan, assigned)
                return Settled(tickets, steps, refused, state, plan, left_out)
            except CannotBind as error:
                found: CannotBind | CheckRefused = error
                left_out |= error.waiting
                writers = self._writers(steps, frozenset(error.reasons) - error.waiting)
                if not writers:
                    left_out |= frozenset(error.reasons)
            except CheckRefused as error:
                found = error
                writers = self._writers(steps, error.fragments)
                if not writers:
                    return self._search(tickets, error, ground)
            finally:
                self._laps.lap("check")
            if any(len(several) > 1 for several in writers.values()):
                return self._search(tickets, found, ground)
            guilty = {step for (step,) in writers.values()}
            for step in guilty:
                names = [name for name in sorted(writers) if writers[name] == [step]]
                step.ticket.say(self._blame(step, names, found))
            tickets = tuple(one for one in tickets if one.answer is None)

    def _plan(self, target: Target) -> Plan:
        """Plan *target*; what is not told, and proven by that, needs a look of its own."""
        plan = self._proxy.plan(target, self._observation)
        if self._observation.is_recent and not plan.is_live:
            self._look()
            plan = self._proxy.plan(target, self._observation)
        return plan

    def _assigned(self, plan: Plan, state: State) -> frozenset[str]:
        """Have the addresses of *state* assigned where HAProxy is to bind them; return them.

        What cannot be assigned is found out by the test of each address.
        """
        if (
            self._network is None
            or plan.is_live
            or (plan.is_empty and self._observation.is_running)
        ):
            return frozenset()
        addresses = self._network.assigns(state)
        if addresses and not self._is_trial:
            try:
                self._network.assign(addresses, self._deadline)
            except (ApplyError, OSError) as error:
                log.warning("addresses not assigned", error=str(error))
        return addresses

    def _look(self) -> None:
        self._observation = self._proxy.observe(self._deadline)
        self._laps.lap("observe")

    def activate(self, settled: Settled, *, may_start: bool) -> tuple[Applied, Settled]:
        """Make the plan live; after a refusal by load, once more without the new addresses."""
        observation = self._observation
        if settled.plan.is_empty:
            live = observation.is_running
            because = "it is what runs already" if live else "HAProxy is not running"
            return Applied("none", because, observation.worker_pid, live), settled
        try:
            applied = self._activate(settled.plan, may_start=may_start)
        except Unreachable:
            if not self._observation.is_recent:
                raise
            self._look()
            settled = self.settle(settled.tickets)
            return self.activate(settled, may_start=may_start)
        except LoadRefused as error:
            added = {step: place for step in settled.steps if (place := self._new_bind(step))}
            if not added:
                raise
            for step, place in added.items():
                step.ticket.say(Conflict(str(error), [Fault(place, str(error), is_conflict=True)]))
            self._look()
            settled = self.settle([one for one in settled.tickets if one.answer is None])
            if settled.plan.is_empty:
                return Applied("none", str(error), observation.worker_pid, True), settled
            applied = self._activate(settled.plan, may_start=False)
        finally:
            self._laps.lap("activate")
        return applied, settled

    def _activate(self, plan: Plan, *, may_start: bool) -> Applied:
        if self._network is None or plan.is_live:
            return self._proxy.activate(plan, self._deadline, may_start=may_start)
        with self._network.leading_to(plan.target.binds.values(), self._deadline):
            return self._proxy.activate(plan, self._deadline, may_start=may_start)

    def put_back(self) -> None:
        """Have the proxy go back to the base, as what was made live cannot be kept."""
        try:
            plan = self._proxy.plan(
                self._proxy.render(self._base), self._proxy.observe(self._deadline)
            )
            if not plan.is_empty:
                self._proxy.activate(plan, self._deadline, may_start=False)
        except ApplyError as error:  # the next look repairs it
            log.error("cannot put back", error=str(error))

    def attempt(self, ticket: Ticket) -> None:
        """Answer *ticket* with what would become of it; nothing is touched."""
        settled = self.settle([ticket])
        for refused, error in settled.refused:
            refused.say(error)
        if settled.steps:
            (step,) = settled.steps
            full = self._proxy.render(settled.state).parts
            ground = trials.Ground(
                self._base,
                self._proxy.render(self._base, settled.left_out),
                self._observation.is_running,
                {full[name].owner: full[name] for name in settled.left_out if name in full},
            )
            ticket.say(
                trials.judge(
                    ground, step.folded, step.after, settled.plan, self._services, self._deadline
                )
            )

    def _fold(
        self, base: State, tickets: Sequence[Ticket]
    ) -> tuple[State, tuple[Step, ...], tuple[tuple[Ticket, Refusal], ...]]:
        """Fold *tickets* over *base* in order: the state, the steps to it, and the refused."""
        state, steps, refused = base, [], []
        for ticket in tickets:
            try:
                after, folded = fold(state, ticket.intent, self._kinds)
            except Refusal as error:
                refused.append((ticket, error))
                continue
            steps.append(Step(ticket, state, after, folded))
            state = after
        return state, tuple(steps), tuple(refused)

    def _ask_services(self, state: State) -> None:
        """Have the services check their part of *state* where it is not that of the base."""
        for service in self._services:
            if not state.shares(self._base, service.kinds) and (content := service.render(state)):
                service.check(content, self._deadline)

    def _search(
        self,
        tickets: Sequence[Ticket],
        error: CannotBind | CheckRefused,
        ground: Settled | None,
    ) -> Settled:
        """Settle *tickets* when what HAProxy says names none of them, or several."""
        if not tickets:
            raise error
        if len(tickets) > 1:
            half = len(tickets) // 2
            first = self.settle(tickets[:half], ground)
            return self.settle(tickets[half:], first).on(first)
        is_ours = isinstance(error, CheckRefused) and error.program != PROXY
        ground = ground or (self.settle([]) if is_ours else self._checked_base())
        tickets[0].say(Unprocessable(str(error), [Fault("", str(error))]))
        return replace(ground, tickets=(), steps=(), refused=())

    def _checked_base(self) -> Settled:
        """Settle nothing: what is refused even so is nobody's fault here."""
        base = self.settle([])
        if base.plan.is_empty:
            self._proxy.check(base.plan, self._deadline, is_trial=self._is_trial)
        return base

    def _writers(self, steps: Sequence[Step], fragments: frozenset[str]) -> dict[str, list[Step]]:
        """Return the steps that changed each of *fragments*, where any did."""
        writers: dict[str, list[Step]] = {}
        for step in steps if fragments else ():
            before = self._proxy.render(step.before).parts
            after = self._proxy.render(step.after).parts
            for name in fragments:
                if before.get(name) != after.get(name):
                    writers.setdefault(name, []).append(step)
        return writers

    def _blame(self, step: Step, names: Sequence[str], error: CannotBind | CheckRefused) -> Refusal:
        """Return the refusal of *step*, which wrote the fragments *names*."""
        if isinstance(error, CheckRefused):
            return Unprocessable(str(error), [Fault("", error.words)])
        parts, nowhere = self._proxy.render(step.after).parts, step.folded.changed_at
        places = {name: step.folded.places.get(parts[name].owner) for name in names}
        return refusal(
            place.of(error.reasons[name])
            if (place := places[name])
            else replace(error.reasons[name], pointer=nowhere)
            for name in names
        )

    def _new_bind(self, step: Step) -> str | None:
        """Return where a document has the port that *step* asks for anew, None if it does not."""
        before = self._proxy.render(step.before).binds.values()
        after = self._proxy.render(step.after).parts.values()
        return next((p.bind_at[1] for p in after if p.bind and p.bind not in before), None)
