"""The floor: the same change to an equal HAProxy by hand, with nothing in between.

``haproxy -c`` on the directory, ``reload`` on the master socket, and looking at ``show info``
until another worker answers. No agent can be faster by reload.
"""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.001
PATIENCE_SECONDS = 30.0
BIND = re.compile(r"(?<=bind 127\.0\.0\.1:)\d+")


@dataclass(frozen=True)
class Floor:
    """A HAProxy under *root* whose configuration is in ``conf.d``."""

    root: Path

    @property
    def conf_d(self) -> Path:
        return self.root / "conf.d"

    def change(self, name: str, content: str | None) -> dict[str, float]:
        """Write the fragment *name* (None: remove it) and reload; return milliseconds by phase."""
        _wait_until(self.is_listening)  # the master may still be starting again
        old, laps, last = self.pid(), {}, time.perf_counter()

        def lap(phase: str) -> None:
            nonlocal last
            now = time.perf_counter()
            laps[phase], last = 1000 * (now - last), now

        if content is None:
            (self.conf_d / name).unlink()
        else:
            (self.conf_d / name).write_text(content)
        lap("write")
        argv = ["haproxy", "-c", "-f", str(self.conf_d)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        lap("check")
        self.ask("master", "reload")
        _wait_until(lambda: self.pid() not in (None, old))
        lap("reload")
        return laps

    def is_listening(self) -> bool:
        """Return whether the master answers."""
        with contextlib.suppress(OSError):
            return "master" in self.ask("master", "show proc")
        return False

    def read(self, name: str) -> str:
        """Return the fragment *name*."""
        return (self.conf_d / name).read_text()

    def pid(self) -> int | None:
        """Return the pid of the worker that answers, None while none does."""
        with contextlib.suppress(OSError):
            found = re.search(r"^Pid: (\d+)$", self.ask("stats", "show info"), re.MULTILINE)
            return int(found[1]) if found else None
        return None

    def ask(self, name: str, command: str) -> str:
        """Return the answer to *command* on one of the sockets."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE_SECONDS)
            peer.connect(str(self.root / f"{name}.sock"))
            peer.sendall(command.encode() + b"\n")
            peer.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: peer.recv(65536), b"")).decode()


@contextlib.contextmanager
def equal_to(fragments: dict[str, str], ports: Sequence[int]) -> Iterator[Floor]:
    """A HAProxy that runs *fragments* with sockets and *ports* of its own, for the block."""
    root = Path(tempfile.mkdtemp(prefix="kinx-floor-"))
    floor, own = Floor(root), iter(ports)
    floor.conf_d.mkdir()
    for name, content in fragments.items():
        content = BIND.sub(lambda _: str(next(own)), content)
        content = re.sub(r"\S+/admin\.sock", f"{root}/admin.sock", content)
        content = re.sub(r"\S+/kinx\.sock", f"{root}/stats.sock", content)
        (floor.conf_d / name).write_text(content)
    # -db: in the foreground, although the fragments say "daemon".
    argv = ["haproxy", "-W", "-db", "-S", f"{root}/master.sock", "-f", str(floor.conf_d)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as master:
        try:
            _wait_until(lambda: floor.pid() is not None)
            yield floor
        finally:
            master.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                master.wait(10)
            master.kill()
            shutil.rmtree(root, ignore_errors=True)


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {PATIENCE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
