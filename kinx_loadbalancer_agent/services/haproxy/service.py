"""The proxy that the engine sees: observe, render, plan, check, activate.

This is where the rooms of this package meet. It must never decide what is wanted.
"""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.ports import (
    Applied,
    Claim,
    Observation,
    Operating,
    Plan,
    Target,
    Written,
)
from kinx_loadbalancer_agent.errors import (
    ApplyError,
    CannotBind,
    NotProven,
    TimedOut,
    Unreachable,
)
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy import check, facts, operating, peers, shape, written
from kinx_loadbalancer_agent.services.haproxy.activate import (
    LISTEN_SECONDS,
    PEERS_FRAGMENT,
    Processes,
)
from kinx_loadbalancer_agent.services.haproxy.confd import ConfD
from kinx_loadbalancer_agent.services.haproxy.counters import Counters
from kinx_loadbalancer_agent.services.haproxy.live import Live
from kinx_loadbalancer_agent.services.haproxy.master import REEXECUTION_SECONDS, Master
from kinx_loadbalancer_agent.services.haproxy.runtime import Runtime
from kinx_loadbalancer_agent.services.haproxy.view import MARK, Node, Renderer
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import Settings
from kinx_loadbalancer_agent.system import files, sockets
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

log = structlog.get_logger()

STARTING_SECONDS = 5.0
RECENT_SECONDS = 1.0
STATISTICS_SECONDS, STATISTICS_SECONDS_A_SERVER = 0.15, 0.0001
REMEMBERED_SECONDS = 2.0
NOT_RUNNING = "HAProxy is not running"


class Haproxy:
    """HAProxy of one node (Proxy of engine.ports).

    own: the agent starts the process when none runs; it never is its parent.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Kinds,
        clock: Clock,
        *,
        own: bool = False,
        templates: Templates | None = None,
    ) -> None:
        haproxy = settings.haproxy
        node = Node(settings.agent.node_name, os.geteuid() == 0, haproxy)
        self._agent = settings.agent
        self._settings = haproxy
        self._own = own
        self._clock = clock
        self._runtime = Runtime(haproxy.agent_socket)
        self._master = Master(haproxy.master_socket, clock)
        self._confd = ConfD(haproxy.conf_d, MARK)
        self._renderer = Renderer(kinds, templates or Templates(), node)
        counters = settings.agent.state_directory / "counters.json"
        self._counters = Counters(counters, self._runtime, self._master)
        release = settings.routing.release_batch if own and settings.routing.live else None
        self._processes = Processes(
            haproxy, self._runtime, self._master, self._counters, clock, release
        )
        drain_seconds = haproxy.member_drain_seconds
        self._told = Live(self._runtime, self._master, clock, drain_seconds)
        self._shown: tuple[dict[tuple[str, str], facts.Shown], Deadline] | None = None
        self._live: Target | None = None
        self._looked_at = 0.0

    # --- observe ----------------------------------------------------------------------------

    def observe(self, deadline: Deadline, *, thorough: bool = False) -> Observation:
        """Return what HAProxy is; raises TimedOut when it runs and does not answer.

        Until it was seen to be as it should, every look is a thorough one.
        """
        processes = self._processes
        try:
            worker = processes.worker = self._runtime.worker(deadline)
        except Unreachable:
            return self._without_worker(deadline)
        if not thorough and self._live is not None:
            self._looked_at = self._clock.monotonic()
            return Observation(True, worker.pid, worker.description)
        try:
            processes.look(deadline)
        except ApplyError as error:
            log.debug("master silent", error=str(error))
        backends = sorted({backend for backend, _ in _servers(self._live)})
        shows = self._runtime.shows(backends, deadline)
        return Observation(True, worker.pid, worker.description, self._confd.read(), shows)

    def recent(self) -> Observation | None:
        """Return what HAProxy was a moment ago, where it was as it should be."""
        worker = self._processes.proven
        if worker is None or worker != self._processes.worker or self._live is None:
            return None
        if self._clock.monotonic() - self._looked_at > RECENT_SECONDS:
            return None
        return Observation(True, worker.pid, worker.description, is_recent=True)

    def _without_worker(self, deadline: Deadline) -> Observation:
        """Tell a process that runs something else, without our socket, from none at all."""
        processes = self._processes
        processes.worker = self._live = None
        self._told.forget()
        try:
            master = processes.look(deadline)
        except (Unreachable, NotProven):
            processes.master = processes.proven = None
            if processes.found(older_than_seconds=STARTING_SECONDS):
                raise NotProven("haproxy runs and its sockets are gone: restart it") from None
            processes.await_guards(deadline)
            return Observation(False, files=self._confd.read())
        pid = next(iter(master.workers), None)
        return Observation(True, pid, None, self._confd.read())

    def tend(self, deadline: Deadline) -> Claim:
        """Delete the servers that wait for their last clients; return which are left."""
        self._told.tend(deadline)
        self._processes.guard()
        return self._told.claim()

    def recover(self, deadline: Deadline) -> str:
        """Replace a worker that is silent; return in words what was done, '' for nothing."""
        self._live = None
        done = self._processes.replace_silent(deadline)
        if done:
            self._told.forget()
        return done

    @property
    def is_changing(self) -> bool:
        """True while HAProxy is reloaded, started or replaced."""
        return self._processes.is_changing

    def pulse(self, timeout_seconds: float) -> tuple[int, int]:
        """Return the worker that answers, and how many clients it has."""
        worker = self._runtime.worker(Deadline.after(self._clock, timeout_seconds))
        return worker.pid, worker.connections

    def status(self) -> dict[str, Any]:
        """Return what was observed last."""
        return self._processes.status()

    def operating(self, state: State, deadline: Deadline) -> dict[Ref, Operating]:
        """Return how the objects of *state* do, asked of the worker, or as it was a moment ago.

        Who asks how the node does must not wait for a HAProxy that is silent.
        """
        count = sum(map(len, state.tables.get("members", {}).values()))
        patience = STATISTICS_SECONDS + count * STATISTICS_SECONDS_A_SERVER
        shown, absent = None, ""
        try:
            shown = self._runtime.statistics(deadline, patience)
            self._shown = (shown, Deadline.after(self._clock, REMEMBERED_SECONDS))
        except Unreachable:
            absent = NOT_RUNNING
        except TimedOut as error:
            absent = str(error)
            if self._shown is not None and not self._shown[1].has_passed:
                shown = self._shown[0]
        gone = operating.leaving(state, self._told.leaving)
        return gone | operating.statuses(state, shown, absent)

    def traffic(self, state: State, owner: str, deadline: Deadline) -> dict[str, int]:
        """Return what *owner* carried so far, by all processes of HAProxy there were."""
        return self._counters.of(state, owner, deadline)

    def written(
        self, state: State, refs: Collection[Ref], deadline: Deadline
    ) -> dict[Ref, Written]:
        """Return how objects of *state* are configured, and what the worker shows of them."""
        parts, directory = self.render(state).parts, self._settings.conf_d
        return written.written(parts, directory, refs, lambda q: self._runtime.ask(q, deadline))

    def master_pid(self, deadline: Deadline) -> int | None:
        """Return the pid of the master, None when none answers."""
        try:
            return self._master.processes(deadline).pid
        except Unreachable:
            return None

    # --- render, plan, check ----------------------------------------------------------------

    def render(self, state: State, leave_out: frozenset[str] = frozenset()) -> Target:
        """Return the configuration of *state* without the fragments *leave_out*.

        Which peer is this node's is asked of the kernel each time: addresses come and go.
        """
        table = state.table("peers")
        is_named = self._agent.is_named
        local = peers.local(table, self._agent.node_name, sockets.is_local, is_named=is_named)
        is_left_out = local != "" and PEERS_FRAGMENT in leave_out
        target = self._renderer.render(state, leave_out, "" if is_left_out else local)
        return replace(target, claims=(peers.claim(table, local, is_left_out),))

    def plan(self, target: Target, observation: Observation) -> Plan:
        """Return what HAProxy must be told or reloaded for to be *target*, and why."""
        because = self._reload_because(target, observation)
        if because or not observation.is_running:
            return Plan(target, because, ("reload",) if observation.is_running else ())
        if observation.shows is not None:
            difference, because, concerns = self._told.drift(target.parts, observation.shows)
            if not because:
                self._live = target
        else:
            assert self._live is not None
            before, after = self._live.parts, target.parts
            other = shape.others(before, after)
            concerns = tuple(name for name in other if before[name] != after[name])
            difference = self._told.difference(
                (before[name] for name in concerns), (after[name] for name in concerns)
            )
            because = shape.summary(f"{name} changes" for name in concerns)
        if difference.reload:
            return Plan(target, f"{because}: {difference.reload}", ("reload",))
        return Plan(target, because, difference.commands, is_live=bool(because), concerns=concerns)

    def _reload_because(self, target: Target, observation: Observation) -> str:
        """Return why *target* cannot be told to the process that runs, or why none does."""
        words = []
        if observation.files is not None:
            wanted = {name: part.content for name, part in target.parts.items()}
            words.append(shape.drift(wanted, observation.files))
        if not observation.is_running:
            return NOT_RUNNING if self._own else "; ".join(words)
        worker, proven = self._processes.worker, self._processes.proven
        if observation.digest != target.digest:
            live = self._live
            if live is not None and observation.digest == live.digest:
                return shape.changes(live.parts, target.parts)
            words.append("HAProxy runs another configuration")
        elif proven is None or worker is None:
            self._processes.proven = worker
        elif proven.pid != worker.pid:
            # Its files may have been others for the moment it took to load them.
            words.append("HAProxy was reloaded behind the agent")
        elif proven.limits != worker.limits:
            words.append(f"HAProxy shows limits {worker.limits}, had {proven.limits}")
        return "; ".join(filter(None, words))

    def check(
        self,
        plan: Plan,
        deadline: Deadline,
        *,
        is_trial: bool = False,
        assigned: frozenset[str] = frozenset(),
    ) -> None:
        """Prove addresses, then stage the target and ask ``haproxy -c``; not what is only told."""
        if plan.is_live:
            return
        self.check_addresses(plan, assigned, is_trial=is_trial)
        if is_trial:
            with files.scratch() as directory:
                self.check_in(directory, plan.target, deadline)
        else:
            staged = self._confd.stage(plan.target.parts)
            check.configuration(self._settings, staged, deadline)

    def check_addresses(
        self, plan: Plan, assigned: frozenset[str] = frozenset(), *, is_trial: bool = False
    ) -> None:
        """Prove that the target's addresses are of this host, and free or HAProxy's own."""
        try:
            check.addresses(plan.target.parts, self._held(), assigned, is_trial=is_trial)
        except CannotBind:
            if self._processes.worker is not None:
                raise
            # One that starts holds them and does not answer yet.
            held = sockets.held_by(self._processes.found())
            if not held:
                raise
            check.addresses(plan.target.parts, held, assigned, is_trial=is_trial)

    def check_in(self, directory: Path, target: Target, deadline: Deadline) -> None:
        """Write *target* into *directory* and ask ``haproxy -c``; nothing else is touched."""
        for name, part in target.parts.items():
            files.write(directory / name, part.content, mode=0o600)
        check.configuration(self._settings, directory, deadline)

    def _held(self) -> frozenset[sockets.Endpoint]:
        """Return what the running worker has bound."""
        worker, master = self._processes.worker, self._processes.master
        if worker is None:
            return sockets.held_by(master.workers if master else ())
        if self._live is not None and self._live.digest == worker.description:
            return frozenset(self._live.binds.values())
        return sockets.held_by([worker.pid])

    # --- activate ---------------------------------------------------------------------------

    def activate(self, plan: Plan, deadline: Deadline, *, may_start: bool) -> Applied:
        """Tell HAProxy, or swap the target in, reload or start it; prove it, or put all back."""
        before = self._live
        if plan.is_live:
            try:
                return self._tell(plan, deadline)
            except NotProven as error:
                because = f"{plan.because}: {error}"
                plan = Plan(plan.target, because, ("reload",))
                self.check(plan, deadline)
        if deadline.remaining() < LISTEN_SECONDS:
            raise NotProven("no time is left to see haproxy change")
        target, processes = plan.target, self._processes
        is_running, old = processes.is_running, processes.worker
        if is_running:
            # Not to be found out after the files have changed.
            processes.look(deadline, REEXECUTION_SECONDS)
        self._confd.stage(target.parts)
        ours = {*before.parts, *target.parts} if before else None
        aside = self._confd.put_foreign_aside(ours)
        swap_back = self._confd.swap()
        self._live = None
        try:
            if is_running:
                processes.reload(target, deadline)
            elif self._own and may_start:
                processes.start(target, deadline)
        except (ApplyError, OSError) as error:
            log.warning("putting haproxy back", error=str(error))
            swap_back()
            processes.put_back(before, deadline)
            raise
        worker = processes.worker
        if worker is None:
            return Applied("none", NOT_RUNNING, None, is_live=False, put_aside=aside)
        if old is not None:
            self._told.outlive(old.pid, _servers(before) - _servers(target))
        gone = frozenset(before.binds.values() if before else ())
        processes.await_release(gone - frozenset(target.binds.values()), deadline)
        self._live = target
        log.info("haproxy reloaded", because=plan.because, pid=worker.pid)
        return Applied("reload", plan.because, worker.pid, is_live=True, put_aside=aside)

    def _tell(self, plan: Plan, deadline: Deadline) -> Applied:
        """Write what changes and tell it; after NotProven only the files are as before."""
        before = self._live.parts if self._live else {}
        wanted = {name: plan.target.parts[name] for name in plan.concerns}
        put_back = self._confd.rewrite(wanted)
        self._live = None
        try:
            # What a scan found otherwise is wanted as before, and looked at nevertheless.
            old = (
                before[name]
                for name, part in wanted.items()
                if name in before and before[name] is not part
            )
            said = self._told.tell(plan.commands, old, wanted.values(), deadline)
            worker = facts.worker(said)
            if worker is None or worker != self._processes.proven:
                raise NotProven("another process answers")
        except (ApplyError, OSError):
            put_back()
            raise
        self._live, self._looked_at = plan.target, self._clock.monotonic()
        return Applied("runtime", plan.because, worker.pid, is_live=True)

    def prepare(self, target: Target) -> None:
        """Write *target* where the next start of HAProxy finds it."""
        self._confd.stage(target.parts)
        self._confd.put_foreign_aside(None)
        self._confd.swap()


def _servers(target: Target | None) -> frozenset[tuple[str, str]]:
    """Return the servers of *target*, by backend and name."""
    live = (one for part in target.parts.values() for one in part.live) if target else ()
    return frozenset(one.key for one in live if isinstance(one, shape.Server))
