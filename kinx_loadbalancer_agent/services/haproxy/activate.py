"""HAProxy's processes: reloaded or started with what conf.d holds, proven, and put back.

This module must never write a fragment.
"""

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.ports import Target
from kinx_loadbalancer_agent.errors import (
    ApplyError,
    LoadRefused,
    NotProven,
    TimedOut,
    Unreachable,
)
from kinx_loadbalancer_agent.services.haproxy import facts, shape
from kinx_loadbalancer_agent.services.haproxy.counters import Counters
from kinx_loadbalancer_agent.services.haproxy.master import REEXECUTION_SECONDS, Master
from kinx_loadbalancer_agent.services.haproxy.runtime import PATIENCE_SECONDS, Runtime
from kinx_loadbalancer_agent.settings import HaproxySettings
from kinx_loadbalancer_agent.system import files, process, sockets
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

log = structlog.get_logger()

PROOF_SECONDS = 6.0
POLL_SECONDS = 0.002
LISTEN_SECONDS = 1.5
LEAVE_SECONDS = 0.5
RELOAD_SECONDS = 5.0  # what is left for the reload itself when it had to wait
PACE_SECONDS = 5.0
MAX_OLD_WORKERS = 8
MAX_MEMORY_SHARE = 0.25
REPLACE_SECONDS = 60.0
PEERS_FRAGMENT = "10-peers.cfg"
GUARD = "kinx-guard"
GUARDING = """(
    PATH=$PATH:/usr/sbin:/sbin
    # A process that has ended and is not reaped yet has a directory, and no exe.
    while [ -e "/proc/$1/exe" ]; do sleep 0.2; done
    exec ip -force -batch "$2"
) </dev/null >/dev/null 2>&1 &"""
"""What ends the announcements when HAProxy ends, the agent or not: without an address on lo, bgpd
withdraws it."""
GUARD_SECONDS = 1.0
NO_STATE = b"1\n"
STATE_MODE = 0o640


class Processes:
    """The master and the workers of one HAProxy.

    worker: who answered last; proven: the one that was seen to be as it should.
    master: what the master said last of itself and the workers.
    """

    def __init__(
        self,
        settings: HaproxySettings,
        runtime: Runtime,
        master: Master,
        counters: Counters,
        clock: Clock,
        release: Path | None,
    ) -> None:
        self._settings = settings
        self._release = release
        self._guarded = 0
        self._runtime = runtime
        self._master = master
        self._counters = counters
        self._clock = clock
        self._not_before = 0.0
        self._changing = threading.Lock()
        self.worker: facts.Worker | None = None
        self.proven: facts.Worker | None = None
        self.master: facts.Master | None = None

    @property
    def is_running(self) -> bool:
        """True when a worker or a master answered last."""
        return self.worker is not None or self.master is not None

    @property
    def is_changing(self) -> bool:
        """True while HAProxy is reloaded, started or replaced."""
        return self._changing.locked()

    def look(self, deadline: Deadline, patience_seconds: float = 0.0) -> facts.Master:
        """Ask the master; raises Unreachable, TimedOut or NotProven."""
        self.master = self._master.processes(deadline, patience_seconds)
        return self.master

    def found(self, older_than_seconds: float = 0.0) -> list[int]:
        """Return the processes that load our directory, whether they answer or not."""
        words = ("-f", str(self._settings.conf_d))
        return process.with_arguments(*words, older_than_seconds=older_than_seconds)

    def guard(self) -> None:
        """Have the addresses on lo released when the master ends, whether the agent lives or not.

        This is what ``ExecStopPost`` does where systemd starts HAProxy.
        """
        if self._release is None or self.master is None or self.master.pid == self._guarded:
            return
        words = (GUARD, str(self.master.pid), str(self._release))
        if not process.with_arguments(*words):
            process.run(["sh", "-c", GUARDING, *words], GUARD_SECONDS)
        self._guarded = self.master.pid

    def await_guards(self, deadline: Deadline) -> None:
        """Wait until the addresses of a HAProxy that has ended are released, not to be so later."""

        def has_released() -> bool:
            return not (self._guarded and process.with_arguments(GUARD, str(self._guarded)))

        if not deadline.within(GUARD_SECONDS).wait_for(has_released, 0.02):
            raise NotProven("the addresses of the haproxy that ended are not released yet")
        self._guarded = 0

    # --- reload, start, put back ------------------------------------------------------------

    def reload(self, target: Target, deadline: Deadline) -> None:
        """Have what conf.d holds loaded, and prove that it is *target*."""
        self._await_old_workers(deadline)
        self._await_tables(target, deadline)
        self._counters.take(deadline)
        assert self.master is not None
        reloads, old = self.master.reloads, self.worker
        self._keep_down(target, deadline)
        try:
            with self._changing:
                self._master.reload(deadline)
                self._prove(target, old.pid if old else 0, reloads, deadline)
        finally:
            # A later start of HAProxy must not find what was true now.
            self._write_state(NO_STATE)

    def start(self, target: Target, deadline: Deadline) -> None:
        """Start a HAProxy that is nobody's child, and prove that it runs *target*."""
        settings = self._settings
        for socket in (settings.admin_socket, settings.agent_socket, settings.master_socket):
            files.make_directory(socket.parent, 0o755)
        self._write_state(NO_STATE)
        argv = [settings.program, "-W", "-D", "-S", f"{settings.master_socket},mode,600"]
        argv += ["-f", str(settings.conf_d)]
        argv += ["-f", str(settings.extra_config)] if settings.extra_config else []
        # An agent that was killed may have left one that does not answer yet. Two of them would
        # share every port. One that is just forking is missed by a look (measured), not by two.
        if self.found() or self.found():
            raise NotProven("haproxy is starting already")
        with self._changing:
            ended = process.run(argv, deadline.remaining())
            if ended.returncode != 0:
                raise LoadRefused(f"haproxy does not start: {ended.stderr.strip()[-500:]}")
            self._prove(target, 0, -1, deadline)
        self.guard()

    def put_back(self, before: Target | None, deadline: Deadline) -> None:
        """Make the process what it was before an activation that failed."""
        worker = self._worker_now(deadline)
        if before is None or worker is None or worker.description == before.digest:
            return
        try:
            self.look(deadline, REEXECUTION_SECONDS)
            self.reload(before, deadline)
        except ApplyError as second:
            log.error("cannot put haproxy back", error=str(second))

    def replace_silent(self, deadline: Deadline) -> str:
        """Replace a worker that does not answer; return in words what was done, '' for nothing.

        A reload first, then SIGKILL: the master outlives the end of an old worker, not that of its
        worker. Over a stopped worker a reload succeeds, and the old one goes on to take
        connections that it never serves (measured). At most once a minute.
        """
        now = self._clock.monotonic()
        if now < self._not_before or self._worker_now(deadline, PATIENCE_SECONDS):
            return ""
        silent = self.look(deadline).workers
        self._not_before = now + REPLACE_SECONDS
        with self._changing:
            self._master.reload(deadline)
            limit = deadline.within(PROOF_SECONDS)
            while not limit.has_passed:
                with suppress(ApplyError):
                    workers = self.look(limit, REEXECUTION_SECONDS).workers
                    if workers and not set(silent) & set(workers):
                        break
                self._clock.sleep(0.02)
            else:
                raise NotProven("haproxy starts no other worker")
            self._kill_silent(silent, deadline)
            self.worker = self.proven = self._worker_now(limit)
        words = f"worker {', '.join(map(str, silent))} did not answer and was replaced"
        log.warning("worker replaced", silent=silent, workers=workers)
        return words

    def _kill_silent(self, pids: Iterable[int], deadline: Deadline) -> None:
        for pid in pids:
            if self._master.is_silent(pid, deadline.remaining(1.0)):
                log.warning("silent worker killed", pid=pid)
                process.kill(pid)

    # --- before a reload --------------------------------------------------------------------

    def _await_old_workers(self, deadline: Deadline) -> None:
        """Give old workers time to end where they are many or large: each keeps its memory."""
        limit = deadline.within(min(PACE_SECONDS, deadline.remaining() - RELOAD_SECONDS))
        while (old := self.master.old_workers if self.master else ()) and not limit.has_passed:
            if len(old) <= MAX_OLD_WORKERS and process.memory_share(old) <= MAX_MEMORY_SHARE:
                return
            self._clock.sleep(0.1)
            with suppress(ApplyError):
                self.look(deadline, REEXECUTION_SECONDS)

    def _await_tables(self, target: Target, deadline: Deadline) -> None:
        """Wait until the worker would hand its stick tables on, where there is something in them.

        A first worker does so only when it has given up to be taught by others.
        """
        if PEERS_FRAGMENT not in target.parts or self.worker is None:
            return
        try:
            if not facts.has_entries(self._runtime.ask("show table", deadline)):
                return
            while not facts.is_resynced(self._runtime.ask("show peers", deadline)):
                if deadline.remaining() < RELOAD_SECONDS:
                    log.warning("stick tables may be lost: the worker was not resynchronized yet")
                    return
                self._clock.sleep(0.05)
        except (Unreachable, TimedOut) as error:
            log.debug("tables not looked at", error=str(error))

    def _keep_down(self, target: Target, deadline: Deadline) -> None:
        """Tell the next worker which servers are down: it would take them for up.

        Only of servers that stay as they are: what HAProxy reads there overrides the configuration.
        """
        lines = []
        wanted = {
            (one.backend, one.name): one
            for part in target.parts.values()
            for one in part.live
            if isinstance(one, shape.Server) and one.check and one.mode == "ready"
        }
        with suppress(Unreachable, TimedOut):
            text = self._runtime.ask("show servers state", deadline) if wanted else ""
            for row, line in facts.down(text):
                if str(wanted.get(row[:2])) == str(facts.server(row, {})):
                    lines.append(line)
        self._write_state(NO_STATE + "".join(f"{line}\n" for line in lines).encode())

    def _write_state(self, content: bytes) -> None:
        path = self._settings.state_file
        if not path.is_file() or path.read_bytes() != content:  # a disk may be full
            files.write(path, content, mode=STATE_MODE)

    # --- proof ------------------------------------------------------------------------------

    def _prove(self, target: Target, old_pid: int, reloads: int, deadline: Deadline) -> None:
        """Wait for a new worker of the wanted shape that alone listens where it should."""
        limit = deadline.within(PROOF_SECONDS)
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

        def is_alone() -> bool:
            found = sockets.listening()
            return all(found[at] == 1 for at in wanted)

        if not limit.within(LISTEN_SECONDS).wait_for(is_alone, POLL_SECONDS):
            # A stopped worker goes on to take connections that it never serves.
            master = self.look(limit, REEXECUTION_SECONDS)
            self._kill_silent({*master.workers, *master.old_workers} - {worker.pid}, limit)
            if not limit.within(LISTEN_SECONDS).wait_for(is_alone, POLL_SECONDS):
                raise NotProven("haproxy does not listen once on every address of its listeners")
        self.worker = self.proven = worker
        self.look(limit, REEXECUTION_SECONDS)

    def _worker_now(self, limit: Deadline, at_most: float = 0.5) -> facts.Worker | None:
        with suppress(ApplyError):
            return self._runtime.worker(limit, at_most)
        return None

    def _find_failure(self, reloads: int, limit: Deadline) -> None:
        try:
            processes = self._master.processes(limit)
        except ApplyError:
            # A master that re-executes itself keeps its pid.
            if self.master is not None and not process.is_alive(self.master.pid):
                raise NotProven("haproxy has ended") from None
            return
        if processes.failed and processes.reloads > reloads:
            raise LoadRefused(
                "haproxy refuses to load a configuration that its check accepted; most likely "
                "it cannot bind an address; its log says more"
            )

    def await_release(self, gone: frozenset[sockets.Endpoint], deadline: Deadline) -> None:
        """Wait until the old worker has left the addresses that nobody wants any more."""

        def has_left() -> bool:
            return gone.isdisjoint(sockets.listening())

        if gone and not deadline.within(LEAVE_SECONDS).wait_for(has_left, POLL_SECONDS):
            log.warning("address still taken", addresses=sorted(map(str, gone)))

    def status(self) -> dict[str, Any]:
        """Return what was observed last."""
        master, worker = self.master, self.worker
        return {
            "pid": master.pid if master else None,
            "worker_pid": worker.pid if worker else None,
            "version": worker.version if worker else None,
            "reloads": master.reloads if master else None,
            "failed_reloads": master.failed if master else None,
            "old_workers": len(master.old_workers) if master else None,
        }
