"""A clean Debian in a directory, booted as often as a test likes, in namespaces of its own.

It has its own network, processes and /run, so that nothing in it can touch the machine it is on, and
all of it ends with its first process.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.machine import wait_until

CHECKOUT = Path(__file__).parents[2]
SPACES = ("--mount", "--pid", "--fork", "--uts", "--ipc")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
FIRST = """
mount -t proc proc {root}/proc
mount -t tmpfs tmpfs {root}/run
mount -t sysfs sysfs {root}/sys
hostname node
exec chroot {root} /bin/sh -c '
    ip link set lo up
    {start}
    touch /run/booted
    while :; do sleep 60 & wait; done'
"""
"""The first process starts what an init would, and reaps whom nobody waits for."""


class Root:
    """A Debian at *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = 0

    @classmethod
    def make(cls, path: Path) -> "Root":
        """Return a minimal Debian of this machine's release."""
        for program in ("debootstrap", "dpkg-deb", "unshare", "nsenter", "chroot"):
            need(program)
        if os.geteuid() != 0:
            pytest.skip("a Debian of its own takes root")
        release = dict(
            line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines()
        )["VERSION_CODENAME"]
        argv = ["debootstrap", "--variant=minbase", release, str(path)]
        subprocess.run(argv, check=True, capture_output=True, timeout=280)
        # Nothing is to be started while the packages are installed.
        policy = path / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        return cls(path)

    def apt(self, *words: str) -> str:
        """Run apt-get with the network of this machine, and nothing else of it."""
        command = f"mount -t proc proc {self.path}/proc; exec chroot {self.path} apt-get -y {{}}"
        argv = ["unshare", *SPACES, "sh", "-c", command.format(" ".join(words))]
        ended = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
        return ended.stdout

    @contextlib.contextmanager
    def booted(self, start: str) -> Iterator[None]:
        """Run the block while the machine is up; *start* is what its init does."""
        script = FIRST.format(root=self.path, start=start)
        argv = ["unshare", "--net", *SPACES, "sh", "-c", script]
        with (self.path / "root/boot.log").open("ab") as log:
            outer = subprocess.Popen(argv, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            self._first = int(wait_until(children.read_text))
            wait_until(lambda: self.run("test -e /run/booted").returncode == 0, 60)
            yield
        finally:
            if self._first:
                os.kill(self._first, 9)
            outer.wait(20)
            self._first = 0

    def run(self, command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run *command* by the shell of the booted machine."""
        spaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--root", "--wd")
        argv = ["nsenter", "--target", str(self._first), *spaces, "/bin/sh", "-c", command]
        return subprocess.run(
            argv, env=ENVIRONMENT, input=given, capture_output=True, text=True, timeout=120
        )

    def said(self, command: str, given: str = "") -> str:
        """Return what *command* prints; it must succeed."""
        ended = self.run(command, given)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def remove(self) -> None:
        """Remove the Debian."""
        shutil.rmtree(self.path)
