"""The master CLI: reload, and the list of processes."""

from pathlib import Path

from kinx_loadbalancer_agent.errors import LoadRefused, NotProven, TimedOut, Unreachable
from kinx_loadbalancer_agent.services.haproxy import facts
from kinx_loadbalancer_agent.services.haproxy.runtime import FRONTENDS
from kinx_loadbalancer_agent.system import sockets
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

REEXECUTION_SECONDS = 1.0


class Master:
    """The master behind the socket *path* (HAProxy 2.6 management guide, 9.4)."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def processes(self, deadline: Deadline, patience_seconds: float = 0.0) -> facts.Master:
        """Return master and workers.

        patience_seconds: how long a refused connection is tried again, as the socket refuses
        for some milliseconds while the master re-executes itself.
        Raises Unreachable, TimedOut, or NotProven if the answer is none of ``show proc``.
        """
        patience = deadline.within(patience_seconds)
        while True:
            try:
                answer = sockets.ask(self._path, "show proc", deadline.remaining(2.0))
            except Unreachable:
                if patience.has_passed:
                    raise
            else:
                found = facts.master(answer)
                if found is not None:
                    return found
                if patience.has_passed:
                    raise NotProven(f"no answer to show proc: {answer[:200]!r}")
            self._clock.sleep(0.005)

    def traffic(self, pid: int, timeout_seconds: float) -> dict[str, facts.Shown]:
        """Return what the worker *pid*, old ones included, shows of its frontends, by name."""
        answer = sockets.ask(self._path, f"@!{pid} {FRONTENDS}", timeout_seconds)
        return {name: shown for (name, _), shown in facts.statistics(answer).items()}

    def is_silent(self, pid: int, timeout_seconds: float) -> bool:
        """True when the worker *pid*, old ones included, does not say who it is in time."""
        try:
            return "Pid:" not in sockets.ask(self._path, f"@!{pid} show info", timeout_seconds)
        except (TimedOut, Unreachable):
            return True

    def shut(self, pid: int, backend: str, server: str, deadline: Deadline) -> None:
        """End the sessions that the old worker *pid* has with a server.

        One by one: of a proxy that is stopped the Runtime API ends no sessions by server.
        """
        said = sockets.ask(self._path, f"@!{pid} show sess", deadline.remaining(1.0))
        for session in facts.sessions(said, backend, server):
            command = f"@!{pid} shutdown session {session}"
            sockets.ask(self._path, command, deadline.remaining(1.0), effect="haproxy.tell")

    def reload(self, deadline: Deadline) -> None:
        """Ask for a reload. Up to 2.6 no answer says whether it works: look for its effect.

        Raises LoadRefused where the master answers that it failed (2.7 and later).
        """
        try:
            answer = sockets.ask(
                self._path, "reload", deadline.remaining(), effect="haproxy.reload"
            )
        except Unreachable as error:
            # The connection may be cut by the re-execution it asked for.
            if "reset" not in str(error).lower():
                raise
            answer = ""
        if "Success=0" in answer:
            raise LoadRefused(f"haproxy refuses to load: {answer.strip()[:500]}")
