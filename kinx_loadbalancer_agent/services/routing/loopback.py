"""The addresses on lo that this node assigned: many at once, and only those taken away again.

Which are ours says a file of ``ip -batch`` that takes them all away. It is in place before an
address is, so that whoever runs it when HAProxy ends leaves none behind. Nothing else writes lo.
"""

import re
import threading
from collections.abc import Collection, Iterable
from pathlib import Path

from kinx_loadbalancer_agent.errors import NotProven, listed
from kinx_loadbalancer_agent.system import files, process, sockets
from kinx_loadbalancer_agent.system.clock import Deadline

OURS = re.compile(r"^addr del (\S+)/(?:32|128) dev lo$", re.MULTILINE)
MODE = 0o640


class Loopback:
    """lo, and the file *release* of what is ours on it."""

    def __init__(self, release: Path) -> None:
        self._release = release
        self._writing = threading.Lock()  # the engine assigns, the keeper does both

    def ours(self) -> frozenset[str]:
        """Return the addresses that this node assigned."""
        try:
            return frozenset(OURS.findall(self._release.read_text()))
        except FileNotFoundError:
            return frozenset()

    def assign(self, addresses: Collection[str], deadline: Deadline) -> None:
        """Assign *addresses*, which no interface has; raises NotProven with ip's words."""
        if not addresses:
            return
        with self._writing:
            self._keep(self.ours() | set(addresses))
            said = self._batch((_addition(address) for address in addresses), deadline)
        if left := sockets.not_local(addresses):
            why = said or "the kernel does not have it"
            raise NotProven(f"cannot assign {listed(left)}: {why}")

    def release(self, addresses: Collection[str], deadline: Deadline) -> None:
        """Take those of *addresses* away that are ours."""
        with self._writing:
            ours = self.ours()
            if leaving := sorted(ours & set(addresses)):
                self._batch((_removal(address) for address in leaving), deadline)
                self._keep(ours - set(leaving))

    def _keep(self, ours: Iterable[str]) -> None:
        files.make_directory(self._release.parent, 0o755)
        content = "".join(f"{_removal(address)}\n" for address in sorted(ours))
        files.write(self._release, content.encode(), mode=MODE)

    def _batch(self, commands: Iterable[str], deadline: Deadline) -> str:
        """Run *commands* of ip, all of them, and return what it has to say."""
        with files.scratch() as directory:
            batch = directory / "batch"
            files.write(batch, "".join(f"{one}\n" for one in commands).encode(), mode=0o600)
            ended = process.run(["ip", "-force", "-batch", str(batch)], deadline.remaining())
        return ended.stderr.strip().splitlines()[0] if ended.stderr.strip() else ""


def prefix(address: str) -> str:
    """Return *address* as the prefix of a host."""
    return f"{address}/{128 if ':' in address else 32}"


def _addition(address: str) -> str:
    # A label is of IPv4 alone; it makes ifconfig(8) show the address.
    return f"addr add {prefix(address)} dev lo{'' if ':' in address else ' label lo:0'}"


def _removal(address: str) -> str:
    return f"addr del {prefix(address)} dev lo"
