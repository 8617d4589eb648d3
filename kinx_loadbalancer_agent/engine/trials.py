"""Dry runs: what would become of an intent, in words and as a diff. Touches nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff

from kinx_loadbalancer_agent.engine import outcomes
from kinx_loadbalancer_agent.engine.ports import Part, Plan, Service, Target
from kinx_loadbalancer_agent.errors import ApplyError
from kinx_loadbalancer_agent.model.intents import WHOLE, Folded
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Deadline


@dataclass(frozen=True)
class Trial:
    """What would become of an intent: the status, what would be done, and what would change."""

    would: int
    reload: bool
    because: str
    commands: tuple[str, ...]
    diff: str


@dataclass(frozen=True)
class Ground:
    """What there is: the state, the proxy's configuration of it, and whether the proxy runs.

    left_out: what cannot be bound now.
    """

    state: State
    target: Target
    is_running: bool
    left_out: Mapping[Ref, Part]


def judge(
    ground: Ground,
    folded: Folded,
    after: State,
    plan: Plan,
    services: Sequence[Service],
    deadline: Deadline,
) -> Trial:
    """Return what a change to *after*, settled as *plan*, would be."""
    is_same = ground.target.parts == plan.target.parts
    because = plan.because
    if not folded.changes:
        because = "the same content is there already"
    elif is_same:
        because = "it is what runs already"
    if not ground.is_running:
        because = "HAProxy is not running"
    elif folded.subject in ground.left_out:
        because = outcomes.cannot_bind([ground.left_out[folded.subject]])
    kinds = {folded.subject.kind, *(change.ref.kind for change in folded.changes)}
    commands, pending = list(() if is_same else plan.commands), []
    for service in services:
        if service.kinds & kinds or folded.subject == WHOLE:
            try:
                commands += service.plan(after, service.last_seen(deadline))
                claim = service.claims(after)[0]
                pending += [claim.message] if claim.status != "True" else []
            except (ApplyError, OSError) as error:
                pending.append(str(error))
    is_live = ground.is_running and not pending and folded.subject not in ground.left_out
    return Trial(
        would=folded.status if is_live else 202,
        reload=ground.is_running and not is_same and not plan.is_live,
        because="; ".join(pending if ground.is_running and pending else [because, *pending]),
        commands=tuple(commands),
        diff="".join(_diff(ground, after, plan.target, services)),
    )


def _diff(
    ground: Ground, after: State, target: Target, services: Sequence[Service]
) -> Iterator[str]:
    old = {name: part.content.decode() for name, part in ground.target.parts.items()}
    new = {name: part.content.decode() for name, part in target.parts.items()}
    for service in services:
        old[service.name] = service.readable(service.render(ground.state))
        new[service.name] = service.readable(service.render(after))
    for name in sorted(old.keys() | new.keys()):
        before, wanted = old.get(name, ""), new.get(name, "")
        if before != wanted:
            lines = (before.splitlines(keepends=True), wanted.splitlines(keepends=True))
            yield from unified_diff(*lines, f"a/{name}", f"b/{name}")
