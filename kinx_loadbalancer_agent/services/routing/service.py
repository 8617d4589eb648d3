"""The speaker: what it is to announce, told to the daemon, read back, and kept in its file.

The file holds what is announced now, so that a daemon that starts again announces that. It never
decides what is served: the gate does.
"""

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from kinx_loadbalancer_agent.engine.ports import Claim, Service
from kinx_loadbalancer_agent.errors import (
    AgentError,
    ApplyError,
    NotProven,
    ProgramMissing,
    Unreachable,
    listed,
)
from kinx_loadbalancer_agent.model.resources import Quagga, Resource, Vip, vip_addresses
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.routing import config, facts, view
from kinx_loadbalancer_agent.services.routing.gate import Gate
from kinx_loadbalancer_agent.services.routing.loopback import prefix
from kinx_loadbalancer_agent.services.routing.vtysh import Vtysh
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import RoutingSettings
from kinx_loadbalancer_agent.system import files, sockets
from kinx_loadbalancer_agent.system.clock import Clock, Deadline, SystemClock, timestamp

log = structlog.get_logger()

MARK = b"! kinx_loadbalancer_agent writes this file; edits are undone.\n"
FILES = {"frr": "frr.conf", "quagga": "bgpd.conf"}
NOT_APPLIED = "written, not applied: the routing daemon reads it when it starts"
NETWORK = re.compile(r"^ *network (?P<prefix>(?P<address>\S+)/\d+)\n", re.MULTILINE)
PASSWORD = re.compile(r" password .*")
SPEAKER = re.compile(r"^router bgp \d+$", re.MULTILINE)
ADVICE = "see systemctl status frr"
SETTLE_SECONDS = 0.5
WITHDRAW_SECONDS = 0.5
SOON_SECONDS, LOOK_SECONDS, LONG_SECONDS = 0.5, 3.0, 30.0
LEFT_SECONDS = 0.2  # what the routers took to turn away (measured: 141 ms)


@dataclass(frozen=True)
class Seen:
    """The file, and bgpd; *why* there is no bgpd to be seen.

    profiles: what bfdd tells; None where it is not asked, or does not answer.
    """

    file: bytes
    speaker: facts.Speaker | None
    profiles: str | None
    why: str


class Routing(Service):
    """The speaker of one node; without *gate* only its file is kept (Service of engine.ports).

    companion: is told, too, that a verdict of the gate has changed.
    """

    name = "routing"
    condition = "RoutingApplied"
    kinds = awaited = frozenset({"quagga", "vips"})

    def __init__(
        self,
        settings: RoutingSettings,
        templates: Templates,
        gate: Gate | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._templates = templates
        self._clock = clock or SystemClock()
        self._gate = gate
        history = settings.release_batch.with_name("vtysh.history")
        self._vtysh = Vtysh(settings.vty_socket, history)
        self._path = settings.directory / FILES[settings.dialect]
        self._telling = threading.Lock()
        self._changed: Callable[[], None] = lambda: None
        self.companion: Callable[[], None] = lambda: None
        self._seen = Seen(b"", None, None, "not looked at yet")
        self._announced: dict[str, tuple[bool, str]] = {}
        self._is_settled = True
        self._is_drained = False
        self._is_asked = False
        self._known_until = 0.0
        self._turns = 0
        self._owed: set[str] = set()
        self._unsettled_since = 0.0
        self._accepted: tuple[str, set[str]] = ("", set())

    # --- what is wanted ---------------------------------------------------------------------

    def follow(self, state: State, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._is_asked = True
        speaker, vips = view.speaker(state), frozenset(vip_addresses(state))
        self._is_drained = speaker is not None and speaker.drain
        self._announced = {one: self._announced[one] for one in self._announced.keys() & vips}
        if self._gate is not None:
            self._gate.follow(state, self._verdict)

    def stop(self) -> None:
        if self._gate is not None:
            self._gate.stop()
        if self._settings.drain_on_stop:
            self.withdraw(lambda address: True, self._deadline(WITHDRAW_SECONDS))

    def render(self, state: State) -> bytes:
        speaker = view.speaker(state)
        return self._text(state, lambda address: speaker is None or not speaker.drain)

    def aim(self, state: State) -> bytes:
        """Return the configuration that announces what may be; what is not judged, as it is."""
        gate, speaker = self._gate, view.speaker(state)
        if gate is None or speaker is None or speaker.drain:
            return self.render(state)
        verdicts = {address: gate.allows(address) for address in vip_addresses(state)}
        if None in verdicts.values():
            now = _announced(self._file().decode())
            verdicts |= {one: one in now for one, may in verdicts.items() if may is None}
        return self._text(state, lambda address: bool(verdicts[address]))

    def _text(self, state: State, announces: Callable[[str], bool]) -> bytes:
        shown = view.view(state, self._settings, announces)
        if shown is None:
            return b""
        template = f"routing/{self._settings.dialect}.conf.j2"
        return MARK + self._templates.render(template, {"bgp": shown})

    def readable(self, content: bytes) -> str:
        return PASSWORD.sub(" password ...", content.decode())

    def check(self, content: bytes, deadline: Deadline) -> None:
        """Ask ``vtysh -C``, which knows the syntax of FRR and takes Quagga's; where it is missing
        the configuration goes unchecked.
        """
        text = content.decode()
        frame = NETWORK.sub("", text)
        lines = {found[0] for found in NETWORK.finditer(text)}
        known = self._accepted[1] if frame == self._accepted[0] else set()
        # A thousand VIPs that were accepted before cost 70 ms.
        fresh = NETWORK.sub(lambda found: "" if found[0] in known else found[0], text)
        try:
            self._vtysh.check(fresh.encode(), deadline)
        except ProgramMissing:
            return
        self._accepted = (frame, lines)

    # --- observe, plan, apply ---------------------------------------------------------------

    @property
    def look_seconds(self) -> float:  # type: ignore[override]
        """Soon again while something is to come, as a session or an address."""
        if not self._is_settled and self._clock.monotonic() < self._unsettled_since + LONG_SECONDS:
            return SOON_SECONDS
        return LOOK_SECONDS

    def observe(self, deadline: Deadline) -> Seen:
        if self._gate is None:
            return Seen(self._file(), None, None, NOT_APPLIED)
        self._gate.settle(deadline.remaining(SETTLE_SECONDS))
        if self._is_asked and self._clock.monotonic() < self._known_until:
            return replace(self._seen, file=self._file())
        known_until, turns = self._clock.monotonic() + LOOK_SECONDS, self._turns
        try:
            speaker = facts.speaker(self._vtysh.ask("bgpd", facts.QUESTIONS, deadline))
            self._seen = Seen(self._file(), speaker, self._profiles(deadline), "")
            self._is_asked = False
            self._known_until = known_until if turns == self._turns else 0.0
        except (ApplyError, ValueError) as error:
            self._seen = Seen(self._file(), None, None, f"written, not applied: {error}; {ADVICE}")
            self._known_until = 0.0
        return self._seen

    def _profiles(self, deadline: Deadline) -> str | None:
        if self._settings.bfd == "off":
            return None
        try:
            return self._vtysh.ask("bfdd", facts.QUESTIONS[:1], deadline)
        except ApplyError as error:  # BGP goes on without
            log.debug("bfdd does not tell its profiles", error=str(error))
            return None

    def plan(self, state: State, observation: Any) -> tuple[str, ...]:
        seen: Seen = observation
        aim = self.aim(state)
        steps = []
        if aim != seen.file and (aim or seen.file.startswith(MARK)):
            steps.append(f"write {self._path}" if aim else f"remove {self._path}")
        told = (line for lines in self.difference(aim, seen).values() for line in lines)
        return (*steps, *(self.readable(f" {line[-1]}\n".encode()).strip() for line in told))

    def last_seen(self, deadline: Deadline) -> Seen:
        """Return the last look: bgpd may be silent, and who rehearses must not wait for it."""
        return replace(self._seen, file=self._file())

    def apply(self, state: State, observation: Any, deadline: Deadline) -> None:
        seen: Seen = observation
        with self._turn(deadline):
            self._is_asked, self._known_until = False, 0.0  # what is told now is read back
            aim = self.aim(state)  # the gate may have closed meanwhile
            for daemon, lines in self.difference(aim, seen).items():
                if lines and (said := self._vtysh.load(daemon, config.spoken(lines), deadline)):
                    log.debug("routing daemon complains", daemon=daemon, said=said)
            self._write(aim, seen.file)
            if seen.speaker is not None:
                self._owed.clear()

    def withdraw(self, leaves: Callable[[str], bool], deadline: Deadline) -> bool:
        """Announce no address that *leaves*, now; return whether one was announced.

        Those that may be announced come back in a turn of the keeper. Raises ProgramTimedOut when
        bgpd does not answer: it is owed then, to be tried again.
        """
        with self._turn(deadline):
            self._known_until = 0.0
            content = self._file()
            text = content.decode()
            found = SPEAKER.search(text)
            gone = {m["prefix"] for m in NETWORK.finditer(text) if leaves(m["address"])}
            gone |= {one for one in self._owed if leaves(one.partition("/")[0])}
            if not gone or found is None or self._gate is None:
                return False
            kept = NETWORK.sub(lambda m: "" if m["prefix"] in gone else m[0], text)
            lines = config.spoken(config.withdrawal(found[0], gone))
            self._write(kept.encode(), content)
            self._owed |= gone
            # Who does not run announces nothing, and reads the file when it starts.
            with suppress(Unreachable, ProgramMissing):
                self._vtysh.load("bgpd", lines, deadline)
            self._owed -= gone
        log.info("withdrawn", prefixes=listed(sorted(gone)))
        return True

    def leave(
        self, gone: frozenset[str], deadline: Deadline, settle_seconds: float = LEFT_SECONDS
    ) -> None:
        """Withdraw *gone*, as far as that can be done soon, and let the routers turn away."""
        limit = self._deadline(deadline.remaining(WITHDRAW_SECONDS))
        try:
            if self.withdraw(gone.__contains__, limit):
                self._changed()
                self._clock.sleep(limit.remaining(settle_seconds))
        except (ApplyError, OSError) as error:
            log.warning("not withdrawn in time", error=str(error))

    @contextmanager
    def leading_to(self, binds: Collection[tuple[str, int]], deadline: Deadline) -> Iterator[None]:
        """Announce nothing meanwhile that *binds* alone will not serve (Network)."""
        if self._gate is None:
            yield
            return
        gone: frozenset[str] = frozenset()
        try:
            with self._gate.changing_to(binds) as gone:
                if gone:
                    self.leave(gone, deadline)
                yield
        finally:
            if gone:
                self._changed()

    def _verdict(self, closed: frozenset[str]) -> bool:
        """Follow the gate: withdraw at once, announce in the next turn; False: to be repeated."""
        try:
            if closed:
                self.withdraw(closed.__contains__, self._deadline(2 * WITHDRAW_SECONDS))
            return True
        except (AgentError, OSError) as error:
            log.warning("not withdrawn yet", error=str(error))
            return False
        finally:
            self._changed()
            self.companion()

    def difference(self, aim: bytes, seen: Seen) -> dict[str, list[config.Line]]:
        """Return what to tell each daemon."""
        if seen.speaker is None:
            return {}
        shown = {"bgpd": seen.speaker.running}
        if seen.profiles is not None:
            shown["bfdd"] = seen.profiles
        told = {}
        for daemon, running in shown.items():
            # Every daemon shows prefix lists; bfdd needs none.
            texts = (aim.decode(), running)
            wanted, there = (
                [line for line in config.lines(text) if (line[0] == "bfd") == (daemon == "bfdd")]
                for text in texts
            )
            told[daemon] = config.difference(wanted, there)
        return told

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        if not self._telling.acquire(timeout=deadline.remaining()):
            raise NotProven("the routing daemon is being told something else")
        self._turns += 1
        try:
            yield
        finally:
            self._turns += 1
            self._telling.release()

    def _file(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, content: bytes, before: bytes) -> None:
        if content == before:
            return
        if not content:
            if before.startswith(MARK):
                files.remove(self._path)
            return
        files.make_directory(self._path.parent, 0o750)
        if before and not before.startswith(MARK):
            files.put_aside(self._path, self._path.with_name(f"{self._path.name}.before-kinx"))
        mode = 0o600 if self._settings.password else 0o640
        files.write(self._path, content, mode=mode, owner_of=self._path.parent)

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline.after(self._clock, seconds)

    # --- what is told of it -----------------------------------------------------------------

    def claims(self, state: State) -> tuple[Claim, ...]:
        speaker, seen = view.speaker(state), self._seen
        if speaker is None:
            applied = Claim(self.condition, "True", "NoSpeaker", "there is no BGP speaker")
            words = applied.message
            return (
                applied,
                Claim("Drained", "False", "NoSpeaker", words),
                Claim("SessionsEstablished", "True", "NoSpeaker", words),
                Claim("VipsAnnounced", "True", "NoSpeaker", words),
            )
        if self._gate is None:
            applied = Claim(self.condition, "False", "NotApplied", NOT_APPLIED, "warning")
            return (applied, self._drained(speaker))
        applied = Claim(self.condition, "True", "Applied", "the routing daemon runs what is wanted")
        if seen.speaker is None:
            applied = Claim(self.condition, "False", "NotApplied", seen.why, "error")
        elif seen.profiles is None and self._settings.bfd != "off":
            words = "bfdd does not answer: who is gone is noticed by the hold time only"
            applied = Claim(self.condition, "True", "WithoutBfd", words, "warning")
        sessions = self._sessions(speaker)
        down = [one for one in sessions if not one.is_established]
        vips = vip_addresses(state)
        silent = [self._vip(one) for one in vips if not self._is_announced(one)[0]]
        is_settled = not down and not any(one["served"] for one in silent)
        if self._is_settled and not is_settled:
            self._unsettled_since = self._clock.monotonic()
        self._is_settled = is_settled
        told = (*self._session_claims(sessions, down), *self._vip_claims(silent))
        return (applied, self._drained(speaker), *told)

    def _session_claims(
        self, sessions: Collection[facts.Session], down: Collection[facts.Session]
    ) -> Iterator[Claim]:
        if not down:
            message = f"established with {', '.join(one.gateway for one in sessions)}"
            yield Claim("SessionsEstablished", "True", "Established", message)
            return
        words = "; ".join(
            f"{one.gateway}: {one.state or 'unknown, as bgpd does not answer'}"
            + (f", last error: {one.last_error}" if one.last_error else "")
            for one in down
        )
        yield Claim("SessionsEstablished", "False", "NotEstablished", words, "error")

    def _drained(self, speaker: Quagga) -> Claim:
        if not speaker.drain:
            return Claim("Drained", "False", "NotAsked", "the node announces what it serves")
        seen = self._seen.speaker
        if self._gate is not None and (seen is None or (seen.is_heard and seen.prefixes)):
            words = "asked for, and not seen to be withdrawn yet"
            return Claim("Drained", "False", "NotYet", words, "warning")
        words = "nothing is announced, as asked"
        if self._gate is not None:
            words += f"; connections that are open yet: {self._gate.connections}"
        return Claim("Drained", "True", "Asked", words, "warning")

    def _vip_claims(self, silent: list[dict[str, Any]]) -> Iterator[Claim]:
        if silent:
            words = listed([f"{one['address']}: {one['reason']}" for one in silent], "; ")
            yield Claim("VipsAnnounced", "False", "NotAnnounced", words, "warning")
        else:
            yield Claim("VipsAnnounced", "True", "Announced", "every VIP is announced")

    def shows(self, resource: Resource, shown: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(resource, Vip):
            told = self._vip(resource.vip_addr)
            return {name: told[name] for name in told if name != "address"}
        if not isinstance(resource, Quagga):
            return {}
        return {
            "vips": [self._vip(vip["address"]) for vip in shown["vips"]],
            "sessions": [session._asdict() for session in self._sessions(resource)],
        }

    def _sessions(self, speaker: Quagga) -> list[facts.Session]:
        known = self._seen.speaker.sessions if self._seen.speaker else {}
        gateways = filter(None, (speaker.primary_gateway_addr, speaker.secondary_gateway_addr))
        return [known.get(gateway, facts.Session(gateway)) for gateway in gateways]

    def _vip(self, address: str) -> dict[str, Any]:
        """Return what is known of the VIP *address*, and why it is not announced."""
        is_assigned = sockets.is_local(address)
        if self._gate is None:
            told = {"served": None, "announced": None, "since": None, "reason": NOT_APPLIED}
            return {"address": address, "assigned": is_assigned, **told}
        seen, is_served = self._seen.speaker, self._gate.allows(address)
        is_usable = seen is not None and prefix(address) in seen.prefixes
        is_announced, since = self._is_announced(address)
        reasons = (
            (is_announced, ""),
            (self._is_drained, "the node is drained"),
            (not is_served, self._gate.reason(address)),
            (seen is None, self._seen.why),
            (not is_assigned, "it is not on lo"),
            (not is_usable, "bgpd does not announce it yet"),
            (True, "no session is established"),
        )
        return {
            "address": address,
            "assigned": is_assigned,
            "served": is_served,
            "announced": is_announced,
            "since": since,
            "reason": next(why for holds, why in reasons if holds),
        }

    def _is_announced(self, address: str) -> tuple[bool, str]:
        """Return whether *address* was seen to be announced, and since when that is so."""
        seen = self._seen.speaker
        is_announced = seen is not None and prefix(address) in seen.prefixes and seen.is_heard
        known = self._announced.get(address)
        if known is None or known[0] != is_announced:
            known = self._announced[address] = (is_announced, timestamp(self._clock.time()))
        return known


def _announced(text: str) -> frozenset[str]:
    return frozenset(found["address"] for found in NETWORK.finditer(text))
