"""bin/lab as a program: how it ends, and that nothing is left."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.integration.routing.conftest import need_a_lab
from tests.lab import frr
from tests.machine import wait_until
from tests.program import foreground

LAB = Path(__file__).parents[3] / "bin/lab"
# The running interpreter has the agent: no virtual environment is made.
ENVIRONMENT = {**os.environ, "KINX_LAB_PYTHON": sys.executable}


def running(output: Path, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """bin/lab for the time of the block."""
    need_a_lab()
    return foreground([LAB, *words], output, ENVIRONMENT, cwd=output.parent)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def namespaces(lab: int) -> list[str]:
    """Return the namespaces of the lab that runs as process *lab*."""
    names = [line.split()[0] for line in ip("netns", "list").splitlines()]
    return [name for name in names if name.startswith(f"klab{lab}-")]


def processes(lab: int) -> dict[int, str]:
    """Return the command line of each process in the namespaces of *lab*."""
    found = {}
    for name in namespaces(lab):
        for pid in map(int, ip("netns", "pids", name).split()):
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def is_running(pid: int) -> bool:
    """Return whether *pid* runs; one that has ended may wait for init to notice."""
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


@pytest.mark.parametrize(
    ("sign", "stage"),
    [(signal.SIGHUP, "zebra"), (signal.SIGTERM, "serve"), (signal.SIGINT, "ask")],
)
def test_ctrl_c_a_signal_or_a_closed_terminal_leaves_nothing_of_the_lab(
    tmp_path: Path, sign: signal.Signals, stage: str
) -> None:
    links = ip("-brief", "link")
    output = tmp_path / "output"
    with running(output, "--only", "spread") as lab:
        wait_until(lambda: any(stage in line for line in processes(lab.pid).values()), 30)
        there = processes(lab.pid)
        (directory,) = set(re.findall(r"/tmp/klab\w+", " ".join(there.values())))
        assert ip("-brief", "link") == links

        # Ctrl-C reaches the whole foreground group, and impatient people press it twice.
        os.killpg(lab.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            lab.wait(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(lab.pid, sign)
        status = lab.wait(30)

    assert status == 128 + sign, output.read_text()
    assert namespaces(lab.pid) == []
    assert not any(map(is_running, there))
    assert not Path(directory).exists()
    assert not [path for pid in there for path in frr.CRASH_LOGS.glob(f"*.{pid}")]
    assert ip("-brief", "link") == links


def test_an_act_ends_in_a_line_and_in_json_beside_who_started_it(tmp_path: Path) -> None:
    output = tmp_path / "output"

    with running(output, "--only", "spread", "--json", "found.json") as lab:
        status = lab.wait(60)

    assert status == 0, output.read_text()
    assert re.search(
        r"^spread +\d+ +0 +\d+  requests lost +0  <= 0 +met$", output.read_text(), re.M
    )
    (act,) = json.loads((tmp_path / "found.json").read_text())["acts"]
    assert (act["name"], act["failure"]) == ("spread", None)
    assert all(figure["is_met"] is not False for figure in act["figures"])
    assert namespaces(lab.pid) == []


def test_an_unknown_act_is_a_usage_error(tmp_path: Path) -> None:
    output = tmp_path / "output"

    with running(output, "--only", "nothing") as lab:
        status = lab.wait(10)

    assert status == 2
    assert "nothing: not one of cold-start, " in output.read_text()
