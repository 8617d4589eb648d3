"""The Runtime API: what a worker says of itself, over the agent's own socket."""

from pathlib import Path

from kinx_loadbalancer_agent.services.haproxy import facts
from kinx_loadbalancer_agent.system import sockets

PATIENCE_SECONDS = 2.0
FRONTENDS = "show stat -1 1 -1"


class Runtime:
    """The worker behind the socket *path* (HAProxy 2.6 management guide, 9.3).

    Every method raises Unreachable if no worker listens, TimedOut after *timeout_seconds*.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def worker(self, timeout_seconds: float) -> facts.Worker | None:
        """Return who answers; None when the answer is cut short."""
        return facts.worker(sockets.ask(self._path, "show info", timeout_seconds))

    def shows(self, timeout_seconds: float) -> frozenset[str]:
        """Return the frontends and servers of the worker, a line each."""
        frontends = sockets.ask(self._path, "show stat -1 5 -1", timeout_seconds)
        servers = sockets.ask(self._path, "show servers state", timeout_seconds)
        return facts.frontends(frontends) | facts.servers(servers)

    def statistics(self, timeout_seconds: float) -> dict[tuple[str, str], facts.Shown]:
        """Return what the worker shows of frontends, backends and servers."""
        return facts.statistics(sockets.ask(self._path, "show stat -1 7 -1", timeout_seconds))

    def traffic(self, timeout_seconds: float) -> dict[str, facts.Shown]:
        """Return what the worker shows of its frontends, by name."""
        answer = sockets.ask(self._path, FRONTENDS, timeout_seconds)
        return {name: shown for (name, _), shown in facts.statistics(answer).items()}
