"""Run a program to its end, bounded in time. Nothing else in the package starts a process."""

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil

from kinx_loadbalancer_agent.errors import ProgramMissing, ProgramTimedOut
from kinx_loadbalancer_agent.system import effects

Completed = subprocess.CompletedProcess[str]
"""How a program ended, and what it said, as far as that is UTF-8."""


def run(argv: Sequence[str], timeout_seconds: float) -> Completed:
    """Run *argv* without a shell, in a session of its own, and return how it ended.

    A session of its own keeps what the program leaves behind (``haproxy -D``) out of reach of
    signals sent to the agent's process group. Its output goes to pipes, so a program that forks
    into the background must close them, as HAProxy does.
    Raises ProgramMissing if it cannot be started, ProgramTimedOut, and kills it, after
    *timeout_seconds*.
    """
    # Debian's users do not have the directories of HAProxy and ip in their PATH.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    program = shutil.which(argv[0], path=path) or argv[0]
    with effects.step(f"run {argv[0].rsplit('/', 1)[-1]}"):
        try:
            return subprocess.run(
                [program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_seconds,
                start_new_session=True,
                # Settings have secrets, and HAProxy shows its environment to who asks ("show env").
                env={name: os.environ[name] for name in os.environ if name[:5] != "KINX_"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ProgramTimedOut(argv[0], timeout_seconds) from error
        except OSError as error:
            raise ProgramMissing(argv[0], error.strerror or str(error)) from error


def with_arguments(*words: str, older_than_seconds: float = 0.0) -> list[int]:
    """Return the processes, alive for that long, that have *words* side by side in theirs."""
    since, wanted = time.time() - older_than_seconds, list(words)
    found = []
    for process in psutil.process_iter(["cmdline", "create_time", "status"]):
        given = process.info["cmdline"] or []
        has_words = any(given[at : at + len(wanted)] == wanted for at in range(len(given)))
        is_alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if has_words and is_alive and process.info["create_time"] <= since:
            found.append(process.pid)
    return found


def is_alive(pid: int) -> bool:
    """True while process *pid* runs; one that has ended and waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    """End process *pid* by SIGKILL; an ended one is fine."""
    with effects.step("kill process"), suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def memory_share(pids: Iterable[int]) -> float:
    """Return which share of the machine's memory *pids* have to themselves, 0 to 1."""
    used = 0
    for pid in pids:
        with suppress(psutil.Error):
            memory = psutil.Process(pid).memory_info()
            used += memory.rss - memory.shared
    return float(used / psutil.virtual_memory().total)


def end(pid: int, timeout_seconds: float) -> None:
    """End process *pid* by SIGTERM, by SIGKILL after *timeout_seconds*; an ended one is fine.

    A pidfd tells when it has ended, even while nobody has reaped it (pidfd_open(2)).
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with effects.step(f"end process by {sent.name}"), suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, sent)
            if ended.poll(1000 * timeout_seconds):
                return
    finally:
        os.close(descriptor)
