"""A clean Debian in a directory, booted as often as a test likes, in namespaces of its own.

It has its own network, processes and /run, so that nothing in it can touch the machine it is on,
and all of it ends with its first process.
"""

import contextlib
import os
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
MOUNTS = """
mount --bind {root} {root}
mount -t proc proc {root}/proc
mount -t sysfs sysfs {root}/sys
mount -t tmpfs -o mode=755 tmpfs {root}/run
cd {root}
pivot_root . mnt
umount -l /mnt
hostname node
ip link set lo up
"""
PLAIN = """
exec chroot . /bin/sh -c '
    {start}
    touch /run/booted
    while :; do sleep 60 & wait; done'
"""
"""A first process that starts what an init would, and reaps whom nobody waits for."""
SYSTEMD = """
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
exec chroot . /usr/bin/env container=lxc /lib/systemd/systemd --log-target=journal --show-status=0
"""
CGROUP = Path("/sys/fs/cgroup/systemd")
"""What systemd needs to tell the processes of its services apart, as a container's does."""


class Root:
    """A Debian at *path*; *before*: what it held before the package came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before: dict[str, bytes | str] = {}
        self._first = 0

    @classmethod
    def make(cls, path: Path) -> "Root":
        """Return a minimal Debian of this machine's release."""
        for program in ("debootstrap", "dpkg-deb", "unshare", "nsenter", "chroot"):
            need(program)
        if os.geteuid() != 0:
            pytest.skip("a Debian of its own takes root")
        pip = subprocess.run(["/usr/bin/python3", "-c", "import ensurepip"], capture_output=True)
        if pip.returncode != 0:
            pytest.skip("python3-venv is not installed")
        release = dict(
            line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines()
        )["VERSION_CODENAME"]
        # Where its packages come from is debootstrap's own default.
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

    def copy(self, path: Path) -> "Root":
        """Return another one like this, at *path*."""
        subprocess.run(["cp", "-a", str(self.path), str(path)], check=True, timeout=120)
        return Root(path)

    @contextlib.contextmanager
    def booted(self, start: str) -> Iterator[None]:
        """Run the block while the machine is up; *start* is what its init does."""
        with self._first_process(PLAIN.format(start=start)):
            wait_until(lambda: self.run("test -e /run/booted").returncode == 0, 60)
            yield

    @contextlib.contextmanager
    def booted_by_systemd(self) -> Iterator[None]:
        """Run the block while the machine is up, with all services that its packages enabled."""
        if not (CGROUP / "cgroup.procs").exists():
            pytest.skip(f"there is no {CGROUP}")
        gettys = self.path / "etc/systemd/system/getty.target"  # /dev has this machine's terminals
        if not gettys.is_symlink():
            gettys.symlink_to("/dev/null")
        own = CGROUP / f"kinx-{os.getpid()}"
        own.mkdir()
        try:
            with self._first_process(SYSTEMD, f"echo $$ >{own}/cgroup.procs"):
                wait_until(lambda: "running" in self.run("systemctl is-system-running").stdout, 60)
                yield
        finally:
            for directory in sorted(own.rglob("*/"), reverse=True):
                directory.rmdir()
            own.rmdir()

    @contextlib.contextmanager
    def _first_process(self, script: str, before: str = "") -> Iterator[None]:
        inner = "set -e" + MOUNTS.format(root=self.path) + script
        spaces = " ".join(("--net", "--cgroup", *SPACES))
        argv = ["sh", "-c", f'{before}\nexec unshare {spaces} sh -c "$0"', inner]
        with Path(f"{self.path}.log").open("ab") as log:
            outer = subprocess.Popen(argv, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            self._first = int(wait_until(children.read_text))
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
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
