"""FRR's daemons in one namespace, each started and ended by itself, as watchfrr does.

Their files are in a directory of their own; nothing of a system's FRR is read or written.
"""

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.network import Namespace, kill
from tests.machine import wait_until

NAMES = ("zebra", "bfdd", "bgpd")
DAEMON_PATHS = "/usr/lib/frr:/usr/libexec/frr:/usr/sbin"
OWNER = "frr"  # the daemons' user, who makes their sockets
CRASH_LOGS = Path("/var/tmp/frr")  # compiled in: a directory for each daemon, by its pid
START_SECONDS = 10.0


def missing() -> str:
    """Return the first daemon that is not installed, '' when all are."""
    return next((name for name in NAMES if not _program(name)), "")


class Speaker:
    """zebra, bgpd and, where asked, bfdd; ``frr.conf`` in *directory* is read at each start."""

    def __init__(self, namespace: Namespace, directory: Path, *, bfd: bool) -> None:
        self.directory = directory
        self._namespace = namespace
        self._names = NAMES if bfd else tuple(name for name in NAMES if name != "bfdd")
        self._running: dict[str, subprocess.Popen[Any]] = {}
        self._left: list[str] = []
        directory.mkdir()
        shutil.chown(directory, OWNER, OWNER)
        (directory / "vtysh.conf").write_text("service integrated-vtysh-config\n")

    @property
    def config(self) -> Path:
        """The one file that all daemons are configured by."""
        return self.directory / "frr.conf"

    def start(self) -> None:
        """Start those daemons that do not run, and have them read the file."""
        for name in self._names:
            if name not in self._running:
                self._start(name)
        if self.config.exists():
            self.vtysh("-b")

    def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send *sign* to one daemon; after SIGKILL it is gone."""
        kill([self._running[name].pid], sign)
        if sign is signal.SIGKILL:
            self._running.pop(name).wait()

    def vtysh(self, *words: str) -> str:
        """Return what vtysh(1) says."""
        where = str(self.directory)
        own = ["--vty_socket", where, "--config_dir", where, "--histfile", f"{where}/history"]
        return self._namespace.run(["vtysh", *own, *words])

    def clean(self) -> None:
        """Remove the files of the daemons, which have ended, those elsewhere too."""
        shutil.rmtree(self.directory)
        for name in self._left:
            shutil.rmtree(CRASH_LOGS / name, ignore_errors=True)

    def _start(self, name: str) -> None:
        where = self.directory
        program = _program(name)
        assert program, f"{name} is not installed"
        argv = [program, "-i", f"{where}/{name}.pid", "-z", f"{where}/zserv.api", "-P", "0"]
        argv += ["--vty_socket", str(where), "--log", f"file:{where}/{name}.log"]
        argv += ["--bfdctl", f"{where}/bfdd.sock"] if name == "bfdd" else []
        vty = where / f"{name}.vty"
        vty.unlink(missing_ok=True)
        with (where / "output.log").open("ab") as log:
            running = self._namespace.start(argv, stdout=log, stderr=log)
        self._running[name] = running
        self._left.append(f"{name}.{running.pid}")
        wait_until(lambda: vty.exists() or running.poll() is not None, START_SECONDS)
        assert running.poll() is None, (where / "output.log").read_text()


def _program(name: str) -> str | None:
    return shutil.which(name, path=DAEMON_PATHS)
