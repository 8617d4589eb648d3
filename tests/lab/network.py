"""Network namespaces and the links between them, and their end with all that runs in them.

The machine's own network is never touched: even a veth is made inside the namespaces it joins.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 20.0
SWITCH, BRIDGE, PORT = "sw", "br0", "eth0"


class Namespace:
    """A network of its own; *name* is short, and known to ``ip netns`` behind a prefix."""

    def __init__(self, prefix: str, name: str) -> None:
        self.name = name
        self.full_name = f"{prefix}{name}"
        self._started: list[subprocess.Popen[Any]] = []
        run(["ip", "netns", "add", self.full_name])
        self.ip("link set lo up")

    def ip(self, words: str) -> str:
        """Return what ip(8) says to *words* here."""
        return run(["ip", "-n", self.full_name, *words.split()])

    def sysctl(self, **values: int) -> None:
        """Set those settings below ``net.ipv4`` that this kernel has; ``__`` stands for a dot."""
        words = [f"net.ipv4.{key.replace('__', '.')}={value}" for key, value in values.items()]
        self.run(["sysctl", "-q", "-e", *words])

    def run(self, argv: Sequence[str]) -> str:
        """Return the output of a program that ran here."""
        return run([*self._enter, *argv])

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here, in a session of its own: a Ctrl-C is not for it."""
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        started: subprocess.Popen[Any] = subprocess.Popen([*self._enter, *argv], **options)
        self._started.append(started)
        return started

    def pids(self) -> list[int]:
        """Return the processes here."""
        return _pids(self.full_name)

    def pids_of(self, program: str) -> list[int]:
        """Return the processes here that run *program*, as the kernel names it."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                    found.append(pid)
        return found

    def end(self) -> None:
        """End what runs here, whoever started it, and take the namespace away."""
        _end(self.full_name)
        self.reap()

    def reap(self) -> None:
        """Forget the processes that were started here and have ended."""
        for started in self._started:
            started.wait(COMMAND_SECONDS)

    @property
    def _enter(self) -> list[str]:
        return ["ip", "netns", "exec", self.full_name]


class Network:
    """Namespaces on one Ethernet segment; *prefix* begins the name of each."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._namespaces: list[Namespace] = []

    def begin(self) -> None:
        """Make the segment."""
        self._switch = self.namespace(SWITCH)
        self._switch.ip(f"link add {BRIDGE} type bridge")
        self._switch.ip(f"link set {BRIDGE} up")

    def namespace(self, name: str) -> Namespace:
        """Add a namespace that has nothing but a loopback interface."""
        found = Namespace(self._prefix, name)
        self._namespaces.append(found)
        return found

    def station(self, name: str, *addresses: str) -> Namespace:
        """Add a namespace with an interface on the segment; *addresses* with their lengths."""
        found = self.namespace(name)
        self._switch.ip(f"link add {name} type veth peer name {PORT} netns {found.full_name}")
        self._switch.ip(f"link set {name} master {BRIDGE} up")
        for address in addresses:
            found.ip(f"addr add {address} dev {PORT}")
        found.ip(f"link set {PORT} up")
        return found

    def unplug(self, station: Namespace) -> None:
        """Take *station* off the segment; neither it nor any other sees a link go down."""
        self._switch.ip(f"link set {station.name} nomaster")

    def plug(self, station: Namespace) -> None:
        """Put *station* back on the segment."""
        self._switch.ip(f"link set {station.name} master {BRIDGE}")

    def remove(self, namespace: Namespace) -> None:
        """End the station *namespace* and its link, which would outlive it by a moment."""
        self._switch.ip(f"link del {namespace.name}")
        namespace.end()
        self._namespaces.remove(namespace)

    def end(self) -> None:
        """End all namespaces, those too that an interrupt kept us from knowing."""
        for line in run(["ip", "netns", "list"]).splitlines():
            name = line.partition(" ")[0]
            if name.startswith(self._prefix):
                _end(name)
        for namespace in self._namespaces:
            namespace.reap()


def join(one: Namespace, address: str, other: Namespace, other_address: str) -> None:
    """Link two namespaces directly; each end bears the name of the other namespace."""
    one.ip(f"link add {other.name} type veth peer name {one.name} netns {other.full_name}")
    for here, there, mine in ((one, other, address), (other, one, other_address)):
        here.ip(f"addr add {mine} dev {there.name}")
        here.ip(f"link set {there.name} up")


def kill(pids: Sequence[int], sign: signal.Signals = signal.SIGKILL) -> None:
    """Send *sign* to those of *pids* that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


def parent(pid: int) -> int:
    """Return who started *pid*, 0 when it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def run(argv: Sequence[str]) -> str:
    """Return the output of a program; raises OSError with what it said."""
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).strip()
        raise OSError(f"cannot run {' '.join(argv)!r}: {said}")
    return ended.stdout


def _pids(full_name: str) -> list[int]:
    return [int(pid) for pid in run(["ip", "netns", "pids", full_name]).split()]


def _end(full_name: str) -> None:
    while pids := _pids(full_name):  # until one that was just being forked is gone too
        kill(pids)
        time.sleep(0.01)
    run(["ip", "netns", "del", full_name])
