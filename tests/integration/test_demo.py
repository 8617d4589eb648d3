"""bin/demo as a program: how it ends, and that nothing is left."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.conftest import need
from tests.machine import wait_until
from tests.program import foreground

DEMO = Path(__file__).parents[2] / "bin/demo"
# The running interpreter has the agent: no virtual environment is made.
ENVIRONMENT = {**os.environ, "KINX_DEMO_PYTHON": sys.executable}


def demo(output: Path, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A demo for the time of the block."""
    for program in ("haproxy", "ip", "curl"):
        need(program)
    return foreground([DEMO, *words], output, ENVIRONMENT)


def processes_of(root: str) -> list[bytes]:
    """Return the command lines that name *root*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if root.encode() in line:
                found.append(line)
    return found


def is_listening(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.settimeout(1)
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_a_signal_or_a_closed_terminal_leaves_nothing_of_the_demo(
    tmp_path: Path, sign: signal.Signals
) -> None:
    output = tmp_path / "output"
    with demo(output) as running:
        wait_until(lambda: "Yours until" in output.read_text() or running.poll() is not None, 40)
        shown = output.read_text()
        assert running.poll() is None, shown
        root = re.findall(r"^ROOT=(\S+)", shown, re.MULTILINE)[0]
        ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", shown)}
        ports |= {int(port) for port in re.findall(r'"protocol_port": (\d+)', shown)}
        assert len(ports) == 4
        assert all(map(is_listening, ports))
        assert processes_of(root)

        # Ctrl-C reaches the whole foreground group, and impatient people press it twice.
        os.killpg(running.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(0.1)
            pytest.fail("it ended before the second signal, which then proves nothing")
        os.killpg(running.pid, sign)
        status = running.wait(30)

    assert status == 0, output.read_text()
    assert not any(map(is_listening, ports))
    assert processes_of(root) == []
    assert not Path(root).exists()


def test_once_says_what_failed_and_leaves_nothing_when_the_agent_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text(
        f'#!/bin/sh\ncase "$*" in *" serve "*) exit 3;; esac\nexec {sys.executable} "$@"\n'
    )
    broken.chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "KINX_DEMO_PYTHON", str(broken))
    output = tmp_path / "output"

    with demo(output, "--once") as running:
        status = running.wait(40)

    shown = output.read_text()
    root = re.findall(r"--root (\S+)", shown)[0]
    assert status == 1
    assert "bin/demo: the agent ended by itself" in shown
    assert not Path(root).exists()
    assert processes_of(root) == []


def test_another_word_is_a_usage_error(tmp_path: Path) -> None:
    output = tmp_path / "output"

    with demo(output, "--twice") as running:
        status = running.wait(10)

    assert status == 2
    assert output.read_text() == "bin/demo: usage: bin/demo [--once]\n"
