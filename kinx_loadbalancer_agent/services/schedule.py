"""Our one line in root's crontab, spliced into the file's bytes: all other lines stay as they are.

A line is ours when its command is. python-crontab validates the schedule (model.types); if it wrote
the file, it would change other lines, and ours to what it holds for the same (doc/decisions/0005).
This module must never run anything.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple, cast

from kinx_loadbalancer_agent.engine.ports import Claim, Service
from kinx_loadbalancer_agent.errors import NotProven
from kinx_loadbalancer_agent.model.resources import Crontab, Ref
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.settings import ScheduleSettings
from kinx_loadbalancer_agent.system import files
from kinx_loadbalancer_agent.system.clock import Deadline

REPORTED = "Reported"
MODE = 0o600  # Debian's cron takes no crontab of another mode, or of another owner
FIELD = rb"[0-9A-Za-z*/,-]+"
LINE = re.compile(rb"[ \t]*(?:@[a-z]+|(?:%s[ \t]+){4}%s)[ \t]+(?P<command>.*?)\s*" % (FIELD, FIELD))
LINES = re.compile(rb"[^\n]*\n|[^\n]+")


class Found(NamedTuple):
    """The file: what is in it, whether cron would take it, and what changes when it does."""

    content: bytes
    is_taken: bool
    signature: files.Signature | None = None


class Schedule(Service):
    """The crontab of one node (Service of engine.ports).

    outcome: where ``check_vlb`` leaves why its last report was not taken, '' if it was.
    """

    name = "schedule"
    condition = "Scheduled"
    kinds = awaited = frozenset({"crontab"})

    def __init__(self, settings: ScheduleSettings, outcome: Path | None = None) -> None:
        self._path = settings.crontab
        self._command = settings.command
        self._outcome = outcome

    def render(self, state: State) -> bytes:
        wanted = cast(Crontab | None, state.get(Ref("crontab", "", "crontab")))
        if wanted is None:
            return b""
        return f"{wanted.schedule} {self._command}\n".encode()

    def observe(self, deadline: Deadline) -> Found:
        signature = files.signature(self._path)
        try:
            status, content = self._path.lstat(), self._path.read_bytes()
        except FileNotFoundError:
            return Found(b"", True)
        is_plain = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == MODE
        return Found(content, is_plain and status.st_uid == os.geteuid(), signature)

    def plan(self, state: State, observation: Any) -> tuple[str, ...]:
        wanted = self.render(state)
        spliced = self._spliced(wanted, observation.content)
        if spliced == observation.content and (observation.is_taken or not wanted):
            return ()
        return (f"write {self._path}" if wanted else f"remove our line of {self._path}",)

    def apply(self, state: State, observation: Any, deadline: Deadline) -> None:
        content = self._spliced(self.render(state), observation.content)
        files.make_directory(self._path.parent, 0o700)
        if self.observe(deadline) != observation:  # somebody edits it: look again, then write
            raise NotProven(f"{self._path} changes")
        beside, known = self._path.parent, observation.signature
        files.write(self._path, content, mode=MODE, owner_of=beside, replacing=known)

    def claims(self, state: State) -> tuple[Claim, ...]:
        if not self.render(state):
            words = "no report is asked for"
            return (
                Claim(self.condition, "True", "NotAsked", words),
                Claim(REPORTED, "True", "NotAsked", words),
            )
        line = Claim(self.condition, "True", "Scheduled", f"{self._path} has the line")
        return (line, self._reported())

    def _reported(self) -> Claim:
        try:
            why = self._outcome.read_text() if self._outcome else None
        except OSError:
            why = None
        if why is None:
            return Claim(REPORTED, "Unknown", "NotYet", "no report was sent yet: cron sends it")
        if why:
            words = f"the last report was not taken: {why}; see agent_addr in /api/crontab"
            return Claim(REPORTED, "False", "NotTaken", words, "warning")
        return Claim(REPORTED, "True", "Taken", "the last report was taken")

    def _spliced(self, wanted: bytes, present: bytes) -> bytes:
        """Return *present* with *wanted* as our only line, where it is or else at the end."""
        lines = LINES.findall(present)
        ours = [at for at, line in enumerate(lines) if self._is_ours(line)]
        if wanted and not ours:
            gap = b"\n" if present and not present.endswith(b"\n") else b""
            return present + gap + wanted
        for at in ours:
            lines[at] = wanted if at == ours[0] else b""
        return b"".join(lines)

    def _is_ours(self, line: bytes) -> bool:
        match = LINE.fullmatch(line)
        return match is not None and match["command"] == self._command.encode()
