"""What is told of the node: its status, its changes, how its objects do. Changes nothing."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinx_loadbalancer_agent.engine import store as stores
from kinx_loadbalancer_agent.engine.batch import Step
from kinx_loadbalancer_agent.engine.ports import Operating, Proxy, Service, Written
from kinx_loadbalancer_agent.errors import Unavailable
from kinx_loadbalancer_agent.model import export
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

if TYPE_CHECKING:
    from kinx_loadbalancer_agent.engine.engine import Engine

PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Ended:
    """A batch that has ended; or, when nothing was asked, a look at the machine.

    asked, kept: changes. outcome: how HAProxy was changed, or ``failed``.
    timing: milliseconds by phase.
    """

    asked: int
    kept: int
    outcome: str
    timing: Mapping[str, float]


@dataclass(frozen=True)
class Reports:
    """What *engine* and those it drives can tell. Any thread may ask.

    listeners: who is told of each batch, by the engine's thread.
    """

    engine: "Engine"
    kinds: Kinds
    proxy: Proxy
    services: Sequence[Service]
    store: Path
    clock: Clock
    listeners: list[Callable[[Ended], None]] = field(default_factory=list)

    def ended(
        self, asked: int, outcome: str, steps: Sequence[Step], timing: Mapping[str, float]
    ) -> None:
        """Tell the listeners of a batch that has ended, and what of it was kept."""
        kept = sum(bool(step.folded.changes) for step in steps)
        for listener in self.listeners:
            listener(Ended(asked, kept, outcome, timing))

    def published(self, resource: Resource, state: State) -> dict[str, Any]:
        """Return the members of *resource* that callers see, what only services know included."""
        shown = resource.published(state)
        for service in self.services:
            shown |= service.shows(resource, shown)
        return shown

    def status(self) -> dict[str, Any]:
        """Return ``/api/status``."""
        engine = self.engine
        return {
            "ready": engine.conditions.holds("Ready"),
            "generation": engine.generation,
            "observed_generation": engine.observed_generation,
            "conditions": engine.conditions.published(),
            "objects": self._objects(),
            "haproxy": self.proxy.status(),
            "drift": engine.drift.published(),
        }

    def operating(self, state: State) -> Mapping[Ref, Operating]:
        """Return the operating status of the objects of *state*."""
        return self.proxy.operating(state, self._deadline())

    def traffic(self, state: State, loadbalancer: str) -> dict[str, int]:
        """Return the counters of *loadbalancer*, which never go back."""
        return self.proxy.traffic(state, loadbalancer, self._deadline())

    def written(self, state: State, refs: Collection[Ref]) -> Mapping[Ref, Written]:
        """Return how objects of *state* stand in the configuration, and how they run."""
        return self.proxy.written(state, refs, self._deadline())

    def digests(self) -> dict[str, Any]:
        """Return digests: of what all nodes share, and of what each service is asked for."""
        state = self.engine.state
        parts = sorted(self.proxy.render(state).parts.items())
        content = b"".join(part.content for _, part in parts)
        found = {"haproxy": hashlib.sha256(content).hexdigest()}
        for service in self.services:
            found[service.name] = hashlib.sha256(service.render(state)).hexdigest()
        return {"state_digest": export.digest(state, self.kinds), "digests": found}

    def change(self, generation: int) -> dict[str, Any] | None:
        """Return what is known of the change *generation*, None if there is no such one.

        Its objects have what changed of them, too.
        """
        found = self._changes(generation - 1, 1)
        return found[0] if found and found[0]["generation"] == generation else None

    def changes(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return at most *limit* changes that came after the generation *after*, in order."""
        return [change | {"objects": _named(change)} for change in self._changes(after, limit)]

    def _changes(self, after: int, limit: int) -> list[dict[str, Any]]:
        known = self.engine.generation
        found = stores.read_changes(self.store, after, limit) if known else []
        for change in found:
            for one in change["objects"]:
                private = self.kinds[one["kind"]].model.private
                for side in ("before", "after"):
                    if one[side] is not None:
                        one[side] = {k: v for k, v in one[side].items() if k not in private}
        return [change | self._outcome(change) for change in found if change["generation"] <= known]

    def state_at(self, generation: int) -> State | None:
        """Return the state as it was after the change *generation*, None if there is no such."""
        if not 0 < generation <= self.engine.generation:
            return None
        return stores.read_at(self.store, self.kinds, generation)

    def _outcome(self, change: Mapping[str, Any]) -> dict[str, Any]:
        engine = self.engine
        left_out = {(ref.kind, ref.id) for ref in engine.left_out}
        made = [named for named in change["objects"] if named["operation"] != "delete"]
        if any((named["kind"], named["id"]) in left_out for named in made):
            return {"state": "failed", "reason": engine.conditions.message("ListenersBound")}
        if change["generation"] > engine.observed_generation:
            state = "failed" if engine.is_failing else "pending"
            return {"state": state, "reason": engine.conditions.message("Applied")}
        reason = engine.pending({named["kind"] for named in change["objects"]}, 0, 0.0)
        return {"state": "pending" if reason else "applied", "reason": reason}

    def _objects(self) -> dict[str, dict[str, Any]]:
        try:
            found = self.operating(self.engine.state)
        except Unavailable:  # not taken over yet, or given back
            return {"listeners": {}, "pools": {}, "members": {}}
        shown: dict[str, dict[str, Any]] = {"listeners": {}, "pools": {}, "members": {}}
        for ref in sorted(found):
            if ref.kind in shown:
                name = f"{ref.parent}/{ref.id}" if ref.parent else ref.id
                status = {"operating_status": found[ref].status, "reason": found[ref].reason}
                shown[ref.kind][name] = status
        return shown

    def _deadline(self) -> Deadline:
        return Deadline.after(self.clock, PATIENCE_SECONDS)


def _named(change: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of *change* without what changed of them."""
    hidden = ("before", "after")
    return [{name: one[name] for name in one if name not in hidden} for one in change["objects"]]
