"""The proxy that the engine sees: observe, render, plan, check, activate.

This is where the rooms of this package meet. It must never decide what is wanted.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.ports import Applied, Observation, Operating, Plan, Target
from kinx_loadbalancer_agent.errors import (
    ApplyError,
    CannotBind,
    LoadRefused,
    NotProven,
    TimedOut,
    Unreachable,
)
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy import check, facts, operating, peers, shape
from kinx_loadbalancer_agent.services.haproxy.confd import ConfD
from kinx_loadbalancer_agent.services.haproxy.counters import Counters
from kinx_loadbalancer_agent.services.haproxy.master import REEXECUTION_SECONDS, Master
from kinx_loadbalancer_agent.services.haproxy.runtime import PATIENCE_SECONDS, Runtime
from kinx_loadbalancer_agent.services.haproxy.view import MARK, Node, Renderer, proxy_of
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import Settings
from kinx_loadbalancer_agent.system import files, process, sockets
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

log = structlog.get_logger()

PROOF_SECONDS = 6.0
POLL_SECONDS = 0.002
LISTEN_SECONDS = 1.5
STARTING_SECONDS = 5.0
STATISTICS_SECONDS, STATISTICS_SECONDS_A_SERVER = 0.15, 0.0001
REMEMBERED_SECONDS = 2.0
PEERS_FRAGMENT = "10-peers.cfg"
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
        self._shown: tuple[Mapping[tuple[str, str], facts.Shown], Deadline] | None = None
        self._live: Target | None = None
        self._staged: Target | None = None
        self._worker: facts.Worker | None = None
        self._proven: facts.Worker | None = None
        self._processes: facts.Master | None = None

    # --- observe ----------------------------------------------------------------------------

    def observe(self, deadline: Deadline, *, thorough: bool = False) -> Observation:
        """Return what HAProxy is; raises TimedOut when it runs and does not answer."""
        try:
            self._worker = self._runtime.worker(deadline.remaining(PATIENCE_SECONDS))
        except Unreachable:
            return self._without_worker(deadline)
        if self._worker is None:
            raise NotProven("haproxy's answer to show info was cut short")
        if not thorough:
            return Observation(True, self._worker.pid, self._worker.description)
        try:
            self._processes = self._master.processes(deadline)
        except ApplyError as error:
            log.debug("master silent", error=str(error))
        return Observation(
            True,
            self._worker.pid,
            self._worker.description,
            self._confd.read(),
            self._runtime.shows(deadline.remaining(PATIENCE_SECONDS)),
        )

    def _without_worker(self, deadline: Deadline) -> Observation:
        """Tell a process that runs something else, without our socket, from none at all."""
        self._worker = None
        try:
            self._processes = self._master.processes(deadline)
        except (Unreachable, NotProven):
            self._processes = None
            self._proven = None
            if self._found(older_than_seconds=STARTING_SECONDS):
                raise NotProven("haproxy runs and its sockets are gone: restart it") from None
            return Observation(False, files=self._confd.read())
        pid = next(iter(self._processes.workers), None)
        return Observation(True, pid, None, self._confd.read())

    def status(self) -> dict[str, Any]:
        """Return what was observed last."""
        processes, worker = self._processes, self._worker
        return {
            "pid": processes.pid if processes else None,
            "worker_pid": worker.pid if worker else None,
            "version": worker.version if worker else None,
            "reloads": processes.reloads if processes else None,
            "failed_reloads": processes.failed if processes else None,
            "old_workers": len(processes.old_workers) if processes else None,
        }

    def operating(self, state: State, deadline: Deadline) -> dict[Ref, Operating]:
        """Return how the objects of *state* do, asked of the worker, or as it was a moment ago.

        Who asks how the node does must not wait for a HAProxy that is silent.
        """
        count = sum(map(len, state.tables.get("members", {}).values()))
        patience = STATISTICS_SECONDS + count * STATISTICS_SECONDS_A_SERVER
        absent = ""
        try:
            shown = self._runtime.statistics(deadline.remaining(patience))
            self._shown = (shown, Deadline.after(self._clock, REMEMBERED_SECONDS))
        except Unreachable:
            absent = NOT_RUNNING
        except TimedOut as error:
            absent = str(error)
            if self._shown is not None and not self._shown[1].has_passed:
                return operating.statuses(state, self._shown[0], "")
        return operating.statuses(state, None if absent else shown, absent)

    def traffic(self, state: State, owner: str, deadline: Deadline) -> dict[str, int]:
        """Return what *owner* carried so far, by all processes of HAProxy there were."""
        return self._counters.of(state, owner, deadline)

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
        """Return why HAProxy must be changed for *target*, if it must."""
        because = self._because(target, observation)
        return Plan(target, because, ("reload",) if because and observation.is_running else ())

    def _because(self, target: Target, observation: Observation) -> str:
        words = []
        if observation.files is not None:
            wanted = {name: part.content for name, part in target.parts.items()}
            words.append(shape.drift(wanted, observation.files))
        if not observation.is_running:
            return NOT_RUNNING if self._own else "; ".join(words)
        if observation.digest != target.digest:
            live = self._live
            if live is not None and observation.digest == live.digest:
                return shape.changes(live.parts, target.parts)
            words.append("HAProxy runs another configuration")
        else:
            words += self._foreign(target, observation)
            self._live = target
        return "; ".join(filter(None, words))

    def _foreign(self, target: Target, observation: Observation) -> Iterator[str]:
        """Yield what others have done to a process of the wanted shape."""
        worker = self._worker
        if self._proven is None or worker is None:
            self._proven = worker
        elif self._proven.pid != worker.pid:
            # Its files may have been others for the moment it took to load them.
            yield "HAProxy was reloaded behind the agent"
        elif self._proven.limits != worker.limits:
            yield f"HAProxy shows limits {worker.limits}, had {self._proven.limits}"
        if observation.shows is not None:
            ours = {part.proxy for part in target.parts.values()}
            shows = {line for line in observation.shows if proxy_of(line) in ours}
            yield shape.summary(
                [f"HAProxy shows {line}" for line in shows - target.shows]
                + [f"HAProxy lacks {line}" for line in target.shows - shows]
            )

    def check(self, plan: Plan, deadline: Deadline, *, is_trial: bool = False) -> None:
        """Prove addresses, then stage the target and ask ``haproxy -c``."""
        self.check_addresses(plan)
        if is_trial:
            with files.scratch() as directory:
                self.check_in(directory, plan.target, deadline)
            return
        staged = self._stage(plan.target)
        extra = self._settings.extra_config
        check.configuration(self._settings.program, staged, extra, deadline)

    def check_addresses(self, plan: Plan) -> None:
        """Prove that the target's addresses are of this host, and free or HAProxy's own."""
        try:
            check.addresses(plan.target.parts, self._held())
        except CannotBind:
            if self._worker is not None or not (held := self._starting()):
                raise
            check.addresses(plan.target.parts, held)

    def check_in(self, directory: Path, target: Target, deadline: Deadline) -> None:
        """Write *target* into *directory* and ask ``haproxy -c``; nothing else is touched."""
        for name, part in target.parts.items():
            files.write(directory / name, part.content, mode=0o600)
        extra = self._settings.extra_config
        check.configuration(self._settings.program, directory, extra, deadline)

    def _held(self) -> frozenset[sockets.Endpoint]:
        """Return what the running worker has bound."""
        if self._worker is None:
            pids = self._processes.workers if self._processes else ()
            return frozenset(held for pid in pids for held in sockets.held_by(pid))
        if self._live is not None and self._live.digest == self._worker.description:
            return frozenset(self._live.binds.values())
        return sockets.held_by(self._worker.pid)

    def _starting(self) -> frozenset[sockets.Endpoint]:
        """Return what a HAProxy of this directory has bound that does not answer yet."""
        return frozenset(held for pid in self._found() for held in sockets.held_by(pid))

    def _found(self, older_than_seconds: float = 0.0) -> list[int]:
        """Return the processes that load our directory, whether they answer or not."""
        words = ("-f", str(self._settings.conf_d))
        return process.with_arguments(*words, older_than_seconds=older_than_seconds)

    def _stage(self, target: Target) -> Path:
        self._staged = None
        staged = self._confd.stage(target.parts)
        self._staged = target
        return staged

    # --- activate ---------------------------------------------------------------------------

    def activate(self, plan: Plan, deadline: Deadline, *, may_start: bool) -> Applied:
        """Swap the target in, reload or start HAProxy, prove it; otherwise put all back."""
        if deadline.remaining() < LISTEN_SECONDS:
            raise NotProven("no time is left to see haproxy change")
        target, before = plan.target, self._worker
        is_running = before is not None or self._processes is not None
        if is_running:
            # Not to be found out after the files have changed.
            self._processes = self._master.processes(deadline, REEXECUTION_SECONDS)
        if self._staged is not target:
            self._stage(target)
        aside = self._put_aside(target)
        swap_back = self._confd.swap()
        self._staged = None
        try:
            if is_running:
                self._reload(target, deadline)
            elif self._own and may_start:
                self._start(target, deadline)
        except (ApplyError, OSError) as error:
            log.warning("putting haproxy back", error=str(error))
            swap_back()
            self._put_back(deadline)
            raise
        if self._worker is None:
            return Applied("none", NOT_RUNNING, None, is_live=False, put_aside=aside)
        gone = frozenset(self._live.binds.values() if self._live else ())
        self._await_release(gone - frozenset(target.binds.values()), deadline)
        self._live = target
        log.info("haproxy reloaded", because=plan.because, pid=self._worker.pid)
        return Applied("reload", plan.because, self._worker.pid, is_live=True, put_aside=aside)

    def prepare(self, target: Target) -> None:
        """Write *target* where the next start of HAProxy finds it."""
        self._stage(target)
        self._put_aside(target)
        self._confd.swap()

    def _put_aside(self, target: Target) -> tuple[str, ...]:
        """Keep what others have put into conf.d; what the agent wrote there is not theirs."""
        before = self._live.parts.keys() if self._live else None
        return self._confd.put_foreign_aside(
            None if before is None else before | target.parts.keys()
        )

    def _reload(self, target: Target, deadline: Deadline) -> None:
        assert self._processes is not None
        self._counters.take(deadline)
        reloads, old = self._processes.reloads, self._worker
        self._master.reload(deadline)
        self._prove(target, old.pid if old else 0, reloads, deadline)

    def _start(self, target: Target, deadline: Deadline) -> None:
        settings = self._settings
        for socket in (settings.admin_socket, settings.agent_socket, settings.master_socket):
            files.make_directory(socket.parent, 0o755)
        argv = [settings.program, "-W", "-D", "-S", f"{settings.master_socket},mode,600"]
        argv += ["-f", str(settings.conf_d)]
        argv += ["-f", str(settings.extra_config)] if settings.extra_config else []
        # An agent that was killed may have left one that does not answer yet. Two of them would
        # share every port.
        if self._found():
            raise NotProven("haproxy is starting already")
        ended = process.run(argv, deadline.remaining())
        if ended.status != 0:
            raise LoadRefused(f"haproxy does not start: {ended.stderr.strip()[-500:]}")
        self._prove(target, 0, -1, deadline)

    def _prove(self, target: Target, old_pid: int, reloads: int, deadline: Deadline) -> None:
        """Wait for a new worker of the wanted shape that alone listens where it should."""
        limit = Deadline.after(self._clock, min(PROOF_SECONDS, deadline.remaining()))
        looks = 0
        while True:
            worker = self._worker_now(limit)
            if worker and worker.pid != old_pid and worker.description == target.digest:
                break
            if looks % 10 == 9:
                self._find_failure(reloads, limit)
            if limit.has_passed:
                raise NotProven("haproxy shows no new worker with the wanted configuration")
            looks += 1
            self._clock.sleep(POLL_SECONDS)
        wanted = frozenset(target.binds.values())
        if not self._await_listening(lambda found: all(found[at] == 1 for at in wanted), limit):
            raise NotProven("haproxy does not listen once on every address of its listeners")
        self._worker = self._proven = worker
        self._processes = self._master.processes(limit, REEXECUTION_SECONDS)

    def _worker_now(self, limit: Deadline) -> facts.Worker | None:
        try:
            return self._runtime.worker(limit.remaining(0.5))
        except (Unreachable, TimedOut):
            return None

    def _find_failure(self, reloads: int, limit: Deadline) -> None:
        try:
            processes = self._master.processes(limit)
        except ApplyError:
            # A master that re-executes itself keeps its pid.
            if self._processes is not None and not process.is_alive(self._processes.pid):
                raise NotProven("haproxy has ended") from None
            return
        if processes.failed and processes.reloads > reloads:
            raise LoadRefused(
                "haproxy refuses to load a configuration that its check accepted; most likely "
                "it cannot bind an address; its log says more"
            )

    def _await_listening(
        self, holds: Callable[[Any], bool], limit: Deadline, seconds: float = LISTEN_SECONDS
    ) -> bool:
        patience = Deadline.after(self._clock, min(seconds, limit.remaining()))
        while not holds(sockets.listening()):
            if patience.has_passed:
                return False
            self._clock.sleep(POLL_SECONDS)
        return True

    def _await_release(self, gone: frozenset[sockets.Endpoint], deadline: Deadline) -> None:
        """Wait until the old worker has left the addresses that nobody wants any more."""
        if gone and not self._await_listening(
            lambda found: not any(found[at] for at in gone), deadline, seconds=0.5
        ):
            log.warning("address still taken", addresses=sorted(map(str, gone)))

    def _put_back(self, deadline: Deadline) -> None:
        """Make the process what it was before an activation that failed."""
        before = self._live
        worker = self._worker_now(deadline)
        if before is None or worker is None or worker.description == before.digest:
            return
        try:
            self._processes = self._master.processes(deadline, REEXECUTION_SECONDS)
            self._reload(before, deadline)
        except ApplyError as second:
            log.error("cannot put haproxy back", error=str(second))
