"""Which VIPs may be announced: those that HAProxy is seen to serve.

A thread of its own feels HAProxy's pulse. What it has not judged yet is left as it is, so that a
restart of the agent moves no traffic. It never speaks to the routing daemon itself.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from kinx_loadbalancer_agent.engine.ports import Proxy
from kinx_loadbalancer_agent.errors import ApplyError, Unreachable
from kinx_loadbalancer_agent.model import rules
from kinx_loadbalancer_agent.model.resources import Listener, Ref, vip_addresses
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system import sockets
from kinx_loadbalancer_agent.system.clock import Clock, Deadline
from kinx_loadbalancer_agent.system.watch import Watch

log = structlog.get_logger()

BEAT_SECONDS = 0.1
PATIENCE_SECONDS = 0.25
LISTEN_SECONDS = 1.0
FALL, RISE = 2, 2
STEADY_SECONDS = 60.0
MAX_RISE_SECONDS = 60.0
STOPPED = "two processes listen on it, of which one may be stopped"
KINDS = frozenset({"listeners", "loadbalancers", "quagga", "vips"})
UNUSABLE = frozenset({"ERROR", "OFFLINE", "DISABLED"})

Closing = Callable[[frozenset[str]], bool]
"""Told after each change of a verdict which VIPs must not be announced; again until it is done."""


@dataclass
class Pulse:
    """Whether a process serves, by how it answered: *is_up* is None until that is known.

    A refused connection decides at once, FALL missed answers do, RISE answers bring it back: the
    first time as soon as that, then after 1, 2, 4 ... 60 s, until it was steady for a minute.
    """

    is_up: bool | None = None
    why: str = ""
    _answers: int = 0
    _misses: int = 0
    _falls: int = 0
    _since: float = 0.0
    _not_before: float = 0.0

    def answered(self, now: float) -> None:
        """Say that it answered at *now*."""
        self._misses, self._answers = 0, self._answers + 1
        if self.is_up is None or (
            not self.is_up and self._answers >= RISE and now >= self._not_before
        ):
            self.is_up, self.why, self._since = True, "", now

    def missed(self, now: float, why: str) -> None:
        """Say that an answer did not come in time."""
        self._answers, self._misses = 0, self._misses + 1
        if self._misses >= FALL:
            self.refused(now, why)

    def refused(self, now: float, why: str) -> None:
        """Say that nobody is there, or that nobody has been for some time."""
        self._answers = 0
        if self.is_up:
            self._falls = 0 if now - self._since > STEADY_SECONDS else self._falls + 1
            wait = 2.0 ** (self._falls - 2) if self._falls > 1 else 0.0
            self._not_before = now + min(MAX_RISE_SECONDS, wait)
        self.is_up, self.why = False, why


class Gate:
    """The gate of one node; *needs_member*: a VIP also needs a member that takes clients."""

    def __init__(self, proxy: Proxy, clock: Clock, *, needs_member: bool) -> None:
        self._proxy = proxy
        self._clock = clock
        self._needs_member = needs_member
        self._pulse = Pulse()
        self._watch = Watch()
        self._mutex = threading.Condition()
        self._followed: tuple[State, Closing] | None = None
        self._turn = 0
        self._judged = 0
        self._vips: tuple[str, ...] = ()
        self._verdicts: dict[str, str] = {}
        self._withheld: frozenset[str] = frozenset()
        self._coming: tuple[int, frozenset[tuple[str, int]]] = (0, frozenset())
        self._is_owed = False
        self._worker = 0
        self._look_again_at = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.connections = 0

    def follow(self, state: State, closing: Closing) -> None:
        """Judge the VIPs of *state* from now on; returns at once. The first call begins."""
        with self._mutex:
            before, self._followed = self._followed, (state, closing)
            if before is not None and state.shares(before[0], KINDS):
                return
            self._turn += 1
            self._vips = tuple(vip_addresses(state))
        self._watch.ring()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End; nothing is withdrawn."""
        self._stopping = True
        self._watch.ring()
        if self._thread is not None:
            self._thread.join(1.0)

    def allows(self, address: str) -> bool | None:
        """Return whether *address* may be announced; None: as it is, it is not judged yet."""
        if address in self._withheld:
            return False
        reason = self._verdicts.get(address)
        return None if reason is None else not reason

    def reason(self, address: str) -> str:
        """Return why *address* may not be announced, '' if it may."""
        if address in self._withheld:
            return "its last listener is leaving"
        return self._verdicts.get(address, "not looked at yet")

    def settle(self, timeout_seconds: float) -> None:
        """Wait until the VIPs that are followed were judged, as far as they can be."""
        with self._mutex:
            self._mutex.wait_for(lambda: self._judged == self._turn, timeout_seconds)

    @contextmanager
    def changing_to(self, binds: Collection[tuple[str, int]]) -> Iterator[frozenset[str]]:
        """Yield the VIPs that nobody will serve with *binds* alone; none of them is allowed.

        What listens there already is served, though the state that asks for it is yet to come.
        """
        bound = frozenset(address for address, _ in binds)
        self._coming = (self._turn, frozenset(binds))  # until another state is followed
        self._withheld = frozenset(vip for vip in self._vips if not _covers(bound, vip))
        try:
            yield self._withheld
        except BaseException:
            self._coming = (0, frozenset())
            raise
        finally:
            self._withheld = frozenset()
            self._watch.ring()

    def _run(self) -> None:
        has_ended, judged = False, 0
        while not self._stopping:
            with self._mutex:
                assert self._followed is not None
                (state, closing), vips, turn = self._followed, self._vips, self._turn
            try:
                is_new, judged = turn != judged, turn
                self._beat(state, vips, closing, turn, has_ended=has_ended, is_new=is_new)
            except Exception:
                log.exception("gate failed")
            with self._mutex:
                self._judged = turn
                self._mutex.notify_all()
            has_ended = self._watch.wait(BEAT_SECONDS if vips else LISTEN_SECONDS)

    def _beat(
        self,
        state: State,
        vips: Collection[str],
        closing: Closing,
        turn: int,
        *,
        has_ended: bool,
        is_new: bool,
    ) -> None:
        """Judge *vips* once: when something has happened, or some time is over."""
        was_up, worker, now = self._pulse.is_up, self._worker, self._clock.monotonic()
        if vips:
            self._feel(has_ended=has_ended)
        is_same = (was_up, worker) == (self._pulse.is_up, self._worker)
        if is_same and not (is_new or self._is_owed) and now < self._look_again_at:
            return
        self._look_again_at = now + LISTEN_SECONDS
        before, found = self._verdicts, dict.fromkeys(vips, self._pulse.why)
        if self._pulse.is_up:
            found = self._look(state, vips, turn)
        elif self._pulse.is_up is None:
            found = {}
        self._verdicts = found
        if found != before or self._is_owed:
            self._is_owed = not closing(frozenset(vip for vip, why in found.items() if why))

    def _feel(self, *, has_ended: bool) -> None:
        now = self._clock.monotonic
        try:
            try:
                worker = self._proxy.pulse(PATIENCE_SECONDS)
            except Unreachable:
                # A process that takes over the socket may be met in between.
                if not has_ended:
                    self._clock.sleep(0.02)
                worker = self._proxy.pulse(PATIENCE_SECONDS)
        except Unreachable:
            self._pulse.refused(now(), "HAProxy does not run")
        except (ApplyError, OSError):
            if not self._proxy.is_changing:
                self._pulse.missed(now(), "HAProxy does not answer")
        else:
            self._worker, self.connections = worker
            self._watch.follow(self._worker)
            # A silent worker that is being replaced takes clients until it is gone.
            if self._pulse.is_up or not self._proxy.is_changing:
                self._pulse.answered(now())

    def _look(self, state: State, vips: Collection[str], turn: int) -> dict[str, str]:
        """Return of each of *vips* why it is not served, '' where it is."""
        asked = {part.owner: part.bind for part in self._proxy.render(state).parts.values()}
        listeners = (listener.ref for listener in state.all("listeners"))
        binds = {ref: bind for ref in listeners if (bind := asked.get(ref)) is not None}
        there, (at, coming) = sockets.listening(), self._coming
        coming = coming if at == turn else frozenset()
        listening = {owner for owner, bind in binds.items() if there[bind]}
        alone = {owner for owner in listening if there[binds[owner]] == 1}
        served = listening & self._usable(state) if self._needs_member else listening
        stages = (
            (served & alone, ""),
            (served, STOPPED),
            (listening, "no listener that HAProxy serves has a usable member"),
            (binds.keys(), "HAProxy does not listen on it"),
        )
        found = dict.fromkeys(vips, "no enabled listener has it")
        for owners, why in reversed(stages):
            bound = frozenset(binds[owner][0] for owner in owners)
            if owners is listening or not self._needs_member:
                bound |= {address for address, port in coming if there[address, port]}
            found |= {vip: why for vip in vips if _covers(bound, vip)}
        # Two listen for the moment of a reload; who was served then is.
        known = self._verdicts
        return {
            vip: "" if why == STOPPED and not known.get(vip) else why for vip, why in found.items()
        }

    def _usable(self, state: State) -> frozenset[Ref]:
        """Return the listeners of which the pool has a member that takes clients."""
        found = self._proxy.operating(state, Deadline.after(self._clock, LISTEN_SECONDS))
        usable = set()
        for listener in state.all("listeners"):
            assert isinstance(listener, Listener)
            pool = rules.default_pool(state, listener)
            if pool and state.table("members", pool.id) and found[pool.ref].status not in UNUSABLE:
                usable.add(listener.ref)
        return frozenset(usable)


def _covers(bound: frozenset[str], vip: str) -> bool:
    # A socket on :: takes IPv4, too (ipv6(7), bindv6only).
    return vip in bound or "::" in bound or ("0.0.0.0" in bound and ":" not in vip)
