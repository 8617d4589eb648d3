"""A running worker is told what changes, and shows that it has it.

A server that still has clients cannot be deleted: it leaves, in maintenance, until they are gone
or their time is over. This module must never decide what is wanted, nor touch a file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from kinx_loadbalancer_agent.engine.ports import Claim, Part
from kinx_loadbalancer_agent.errors import ApplyError, NotProven
from kinx_loadbalancer_agent.services.haproxy import facts, shape
from kinx_loadbalancer_agent.services.haproxy.master import Master
from kinx_loadbalancer_agent.services.haproxy.runtime import Runtime, Shows, refusals
from kinx_loadbalancer_agent.system import process
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

log = structlog.get_logger()

CONDITION = "MembersGone"
MAX_TENDED = 50
HAS_CLIENTS = "still has connections"
"""Why a server is not deleted that is to leave; any other refusal is one."""

Key = tuple[str, str]


class Live:
    """What the worker behind *runtime* is told; *drain_seconds* are given to clients.

    What deleted members leave in old workers is told by *master*.
    """

    def __init__(self, runtime: Runtime, master: Master, clock: Clock, drain_seconds: int) -> None:
        self._runtime = runtime
        self._master = master
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._leaving: dict[Key, tuple[shape.Server, Deadline]] = {}
        self._outlived: dict[tuple[int, Key], Deadline] = {}
        self._agreed: tuple[Mapping[str, Part], int] | None = None

    @property
    def leaving(self) -> tuple[Key, ...]:
        """The servers that wait for their clients to go, by backend and name."""
        return tuple(self._leaving)

    def claim(self) -> Claim:
        """Return which servers wait for their clients to go."""
        if not self._leaving:
            return Claim(CONDITION, "True", "None", "no deleted member has clients")
        names = shape.summary("/".join(key) for key in self._leaving)
        longest = max(limit.remaining() for _, limit in self._leaving.values())
        message = f"deleted, and not gone while clients are connected: {names}"
        return Claim(CONDITION, "False", "Leaving", f"{message}; {longest:.0f} s at most")

    def forget(self) -> None:
        """There is another worker, which has no server that leaves."""
        self._leaving.clear()

    def outlive(self, pid: int, gone: Iterable[Key]) -> None:
        """The worker *pid* is an old one now: the clients of *gone* and of what left are there."""
        for key in gone:
            self._outlived[pid, key] = self._limit()
        for key, (_, limit) in self._leaving.items():
            self._outlived[pid, key] = limit
        self._leaving.clear()

    def _limit(self) -> Deadline:
        return Deadline.after(self._clock, self._drain_seconds)

    def difference(self, before: Iterable[Part], wanted: Iterable[Part]) -> shape.Difference:
        """Return how a worker that has *before* is told to have *wanted*."""
        aims = [one for part in wanted for one in part.live]
        back = [self._leaving[one.key][0] for one in aims if one.key in self._leaving]
        has = [one for part in before for one in part.live]
        return shape.difference([*has, *back], aims)

    def drift(
        self, wanted: Mapping[str, Part], shows: Shows
    ) -> tuple[shape.Difference, str, tuple[str, ...]]:
        """Return how a worker that *shows* other than *wanted* is told, in words, and the parts."""
        digest = hash(shows)
        if self._agreed is not None and self._agreed[0] is wanted and self._agreed[1] == digest:
            return shape.Difference(), "", ()
        names = {part.proxy: name for name, part in wanted.items() if part.proxy}
        aims = {one.key: one for part in wanted.values() for one in part.live}
        has: dict[Key, shape.Live] = {one.key: one for one in shows.frontends}
        for server in (facts.server(row, shows.limits) for row in shows.servers):
            has[server.key] = _known(server, aims.get(server.key))
        has = {key: one for key, one in has.items() if key[0] in names}
        for key in self._leaving.keys() & aims.keys():  # it came back by another worker
            del self._leaving[key]
        for key in self._leaving:
            if (left := has.get(key)) and isinstance(left, shape.Server) and left.mode == "maint":
                del has[key]
        other = [key for key in aims.keys() | has.keys() if aims.get(key) != has.get(key)]
        self._agreed = None if other else (wanted, digest)
        words = [f"HAProxy shows {has[key]}" for key in other if key in has]
        words += [f"HAProxy lacks {aims[key]}" for key in other if key in aims]
        difference = shape.difference(
            [has[key] for key in other if key in has], [aims[key] for key in other if key in aims]
        )
        return difference, shape.summary(words), tuple({names[key[0]] for key in other})

    def tell(
        self,
        commands: Iterable[str],
        before: Iterable[Part],
        wanted: Iterable[Part],
        deadline: Deadline,
    ) -> str:
        """Carry out *commands*, see that what they are about is as *wanted*; return ``show info``.

        What *before* has as well is not looked at again.
        Raises NotProven, with HAProxy's words, when it is not; some of it may be done then.
        """
        gone = {one.key: one for part in before for one in part.live}
        aims: dict[Key, shape.Live] = {}
        questions = ["show info"]
        for part in wanted:
            aims |= {one.key: one for one in part.live}
            is_frontend = any(isinstance(one, shape.Limit) for one in part.live)
            asked = f"show stat {part.proxy} 1 -1"
            questions.append(asked if is_frontend else f"show servers state {part.proxy}")
        said = self._runtime.tell([*commands], questions, deadline)
        rows = {(row[0], row[1]): row for row in facts.servers(said)}
        frontends = {one.key: one for one in facts.frontends(said)}
        said_no = [words for words in refusals(said) if HAS_CLIENTS not in words]
        if said_no:
            raise NotProven(f"the running process does not take it: {'; '.join(said_no)}")
        for key in [key for key, aim in aims.items() if gone.get(key) != aim]:
            row = rows.get(key)
            shown = facts.server(row, {}) if row else frontends.get(key)
            if str(shown) != str(aims[key]):
                raise NotProven(f"HAProxy shows {shown}, not {aims[key]}")
            self._leaving.pop(key, None)
        for key in rows.keys() - aims.keys() - self._leaving.keys():
            left = facts.server(rows[key], {})
            if left.mode != "maint":
                raise NotProven(f"HAProxy shows {left}, which nobody wants")
            known = gone.get(key, left)
            assert isinstance(known, shape.Server)
            self._leaving[key] = (replace(known, mode="maint"), self._limit())
            log.info("server leaves", server="/".join(key), seconds=self._drain_seconds)
        return said

    def tend(self, deadline: Deadline) -> None:
        """Delete the servers that have no clients any more, or had them for too long."""
        self._tend_old(deadline)
        some = list(self._leaving.items())[:MAX_TENDED]
        if not some:
            return
        commands = []
        for (backend, name), (_, limit) in some:
            if limit.has_passed:
                commands.append(f"shutdown sessions server {backend}/{name}")
            commands.append(f"del server {backend}/{name}")
        questions = [f"show servers state {backend}" for backend in {key[0] for key, _ in some}]
        try:
            said = self._runtime.tell(commands, questions, deadline)
        except ApplyError as error:  # the next look says what is the matter
            log.debug("servers not tended", error=str(error))
            return
        present = {(row[0], row[1]) for row in facts.servers(said)}
        for key, kept in some:
            del self._leaving[key]
            if key in present:
                self._leaving[key] = kept  # at the end: the others have their turn first

    def _tend_old(self, deadline: Deadline) -> None:
        """End what is left of deleted members in old workers when its time is over."""
        for (pid, key), limit in list(self._outlived.items()):
            if not process.is_alive(pid):
                del self._outlived[pid, key]
            elif limit.has_passed:
                try:
                    self._master.shut(pid, *key, deadline)
                except ApplyError as error:  # tried again in the next look
                    log.debug("old worker not tended", error=str(error))
                else:
                    del self._outlived[pid, key]


def _known(server: shape.Server, aim: shape.Live | None) -> shape.Server:
    """Return *server* with what a worker does not show of it, which is as it was given."""
    if not isinstance(aim, shape.Server):
        return server
    return replace(
        server, checks=aim.checks, words=aim.words, backup=aim.backup, is_addable=aim.is_addable
    )
