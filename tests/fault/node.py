"""A node whose agent is forked from the test, stands still at every effect and can die there.

The product announces each effect by an audit event, before and after. The fork tells the test of
it and waits, so the test sees the node exactly as it is at that moment, may change it, and goes on
or ends the fork by SIGKILL. What the agent has started, HAProxy above all, lives on.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kinx_loadbalancer_agent import app, settings
from kinx_loadbalancer_agent.engine import store
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.engine.ports import Target
from kinx_loadbalancer_agent.errors import AgentError
from kinx_loadbalancer_agent.model.intents import Create, Delete, Intent, Merge, Operation
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.services.haproxy.service import Haproxy
from kinx_loadbalancer_agent.system import effects, sockets
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.machine import Machine, wait_until

Contents = dict[Ref, Resource]
Build = Callable[[settings.Settings, bool], Engine]


def start_haproxy(machine: Machine) -> None:
    """Start HAProxy as an operator or a service manager would, and wait until it answers."""
    argv = ["haproxy", "-W", "-D", "-S", str(machine.socket("master")), "-f", str(machine.conf_d)]
    machine.socket().parent.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 0, ended.stderr
    wait_until(lambda: answering(machine), 5)


def kill_haproxy(machine: Machine) -> None:
    """Kill every process of HAProxy until none is left, one that was just forked included."""

    def is_gone() -> bool:
        pids = machine.haproxy_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(is_gone, 5)


def answering(machine: Machine) -> int:
    """Return the pid of the worker of HAProxy that answers, 0 when none does."""
    with contextlib.suppress(OSError, StopIteration):
        return machine.worker_pid()
    return 0


def masters(machine: Machine) -> list[int]:
    """Return the pids of the masters: processes of HAProxy whose parent is none."""
    pids = machine.haproxy_pids()
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(status[1]) not in pids:
                found.append(pid)
    return found


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Process *pid* does nothing for the time of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Moment(NamedTuple):
    """Right before or right after an effect of the agent."""

    effect: str
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.effect}"


@dataclass
class Fork:
    """A forked agent: iterate over the moments it stands still at; the next lets it go on."""

    pid: int
    peer: socket.socket
    seen: list[Moment] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    is_killed: bool = False
    _gone_on: int = 0

    def __iter__(self) -> Iterator[Moment]:
        with self.peer, self.peer.makefile("r") as lines:
            for line in lines:
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "answer":
                    self.answers.append(rest)
                    continue
                when, _, effect = rest.partition(" ")
                self.seen.append(Moment(effect, when))
                yield self.seen[-1]
                self.let_go()
        _, status = os.waitpid(self.pid, 0)
        self.is_killed = os.WIFSIGNALED(status)
        assert self.is_killed or os.WEXITSTATUS(status) == 0, "the fork failed: see its output"

    def let_go(self) -> None:
        """Let it go on from where it stands still, if it does."""
        if self._gone_on < len(self.seen) and not self.is_killed:
            self._gone_on = len(self.seen)
            self.peer.sendall(b".")

    def run(self) -> "Fork":
        """Let it go through all of its moments."""
        for _ in self:
            pass
        return self

    def run_to(self, number: int) -> Moment | None:
        """Kill it at its moment *number*, from 0; None when it ends before."""
        died = None
        for found in self:
            if len(self.seen) == number + 1:
                died = found
                self.kill()
        return died

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        self.is_killed = True
        os.kill(self.pid, signal.SIGKILL)


def engine_of(found: settings.Settings, own_haproxy: bool) -> Engine:
    """Build the engine as the product does."""
    return app.build_engine(found, own_haproxy=own_haproxy)


class Node(Machine):
    """A machine whose agent is an engine in this process or in a fork of it."""

    def end(self) -> None:
        with contextlib.suppress(AssertionError):
            kill_haproxy(self)
        super().end()

    @property
    def settings(self) -> settings.Settings:
        return settings.load(root=self.root, environment=self.environment)

    # --- the agent --------------------------------------------------------------------------

    @contextlib.contextmanager
    def agent(self, build: Build = engine_of) -> Iterator[Engine]:
        """An agent that has taken over this node."""
        engine = build(self.settings, self.own_haproxy)
        engine.start()
        try:
            wait_until(lambda: engine.conditions.holds("Ready"), 20, 0.002)
            yield engine
        finally:
            engine.stop(30)

    def carry_out(self, *intents: Intent) -> None:
        """Have an agent carry out *intents*, one after the other."""
        with self.agent() as engine:
            for intent in intents:
                engine.submit(intent)

    def fork(
        self, *intents: Intent, build: Build = engine_of, dies_after: float | None = None
    ) -> Fork:
        """Fork an agent that takes over, with *intents* waiting for it as one batch.

        dies_after: seconds until a signal ends it, wherever it is; it stands still nowhere then.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_the_fork(intents, build, dies_after, theirs)
        theirs.close()
        return Fork(pid, ours)

    def _be_the_fork(
        self,
        intents: Sequence[Intent],
        build: Build,
        dies_after: float | None,
        peer: socket.socket,
    ) -> None:
        status = 1
        try:
            if dies_after is None:
                sys.addaudithook(_Reporter(peer))
            else:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, dies_after)
            engine = build(self.settings, self.own_haproxy)
            callers = [
                threading.Thread(target=_call, args=(engine, intent, peer)) for intent in intents
            ]
            for number, caller in enumerate(callers, 1):
                caller.start()
                while engine._waiting < number:
                    time.sleep(0.0005)
            engine.start()
            for caller in callers:
                caller.join()
            while not engine.conditions.holds("Ready"):
                time.sleep(0.001)
            engine.stop(30)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    # --- what can be seen -------------------------------------------------------------------

    def contents(self) -> Contents:
        """Return every resource of the store."""
        tables = store.read_state(self.settings.agent.store, Kinds()).tables
        return {
            found.ref: found
            for parents in tables.values()
            for table in parents.values()
            for found in table.values()
        }

    def target(self) -> Target:
        """Return the configuration that the store asks for."""
        proxy = Haproxy(self.settings, Kinds(), SystemClock())
        return proxy.render(store.read_state(self.settings.agent.store, Kinds()))

    def planned(self) -> str:
        """Return what a plan made now would do to HAProxy; '' is nothing."""
        proxy = Haproxy(self.settings, Kinds(), SystemClock())
        observation = proxy.observe(Deadline.after(SystemClock(), 10), thorough=True)
        assert observation.is_running, "HAProxy is not running"
        return proxy.plan(self.target(), observation).because

    def assert_agrees(self, ports: Sequence[int] = ()) -> None:
        """Assert that HAProxy is what the store says; of *ports* it serves no other."""
        target = self.target()
        wanted = {name: part.content.decode() for name, part in target.parts.items()}
        bound = set(target.binds.values())

        # An old worker may still answer for some milliseconds on the socket that both have.
        shown = f"description: {target.digest}"
        wait_until(lambda: shown in self.show("show info").splitlines(), 2)
        assert self.fragments() == wanted
        assert self.planned() == ""
        assert len(masters(self)) == 1
        listening = sockets.listening()
        assert [listening[bind] for bind in bound] == [1] * len(bound)
        served = {port for _, port in listening}
        assert served.intersection(ports) == {port for _, port in bound}.intersection(ports)


class _Reporter:
    """The audit hook: tells the test of an effect, and waits for it."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == effects.EVENT:
            name, when = arguments
            self._peer.sendall(f"effect {when} {name}\n".encode())
            if not self._peer.recv(1):
                os.kill(os.getpid(), signal.SIGKILL)  # the test is gone


def _call(engine: Engine, intent: Intent, peer: socket.socket) -> None:
    try:
        answer = engine.submit(intent)
        said = str(answer.folded.status if answer.applied.is_live else 202)
    except AgentError as error:
        said = f"{type(error).__name__}: {error}"
    line = said.replace("\n", " ")
    peer.sendall(f"answer {line}\n".encode())


# --- intents ------------------------------------------------------------------------------------


def intent(*operations: Operation) -> Intent:
    """Return one document's wish."""
    return Intent(operations, who="test")


def loadbalancer(id: str) -> Create:
    return Create("loadbalancers", {"id": id, "vip_address": "127.0.0.1"})


def listener(id: str, port: int, **values: Any) -> Create:
    own = {"id": id, "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    return Create("listeners", own | values)


def pool(id: str, **values: Any) -> Create:
    return Create("pools", {"id": id, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"} | values)


def member(pool: str, id: str, port: int, **values: Any) -> Create:
    own = {"id": id, "address": "127.0.0.1", "protocol_port": port}
    return Create("members", own | values, parent=pool)


def monitor(pool: str, **values: Any) -> Create:
    return Create("healthmonitors", {"pool_id": pool} | values, id=pool)


def change(kind: str, id: str, parent: str = "", **changes: Any) -> Merge:
    return Merge(kind, id, changes, parent)


def delete(kind: str, id: str, parent: str = "", *, cascade: bool = False) -> Delete:
    return Delete(kind, id, parent, cascade)
