"""``kinx_loadbalancer_agent status``: for a terminal, for a pipe, for a program (CONTRACT, 4)."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.contract import documents
from tests.contract.documents import LISTENERS, POOLS
from tests.machine import COMMAND, Machine, free_port, running, wait_until

ANSI = "\x1b["


@pytest.fixture(scope="module")
def serving() -> Iterator[Machine]:
    """An agent that serves one listener with a member that is up and one that is down."""
    need("haproxy")
    with running() as machine:
        up = machine.backend("up").port
        machine.post("/api/haproxy/loadbalancers", {"id": "lb", "vip_address": "127.0.0.1"})
        machine.post(LISTENERS, {"id": "web", "protocol": "HTTP", "protocol_port": free_port()})
        machine.post(POOLS, documents.pool(id="app", listener_id="web"))
        for id, port in (("a", up), ("b", free_port())):
            member = documents.member(id=id, protocol_port=port)
            assert machine.post(f"{POOLS}/app/members", member).status == 201
        monitor = documents.monitor(pool_id="app", delay=1, timeout=1, max_retries_down=1)
        machine.post(documents.HEALTHMONITORS, monitor)
        wait_until(lambda: "ERROR" in machine.cli("status").stdout, 10)
        yield machine


def on_terminal(
    machine: Machine, *words: str, seconds: float = 10.0, until: str = "", **environment: str
) -> tuple[int, str]:
    """Run the command on a terminal of its own; interrupt it once it has printed *until*.

    Returns its exit status and all it printed.
    """
    ours, theirs = pty.openpty()
    argv = [*COMMAND, "status", *words, "--root", str(machine.root)]
    known = {name: value for name, value in machine.env.items() if name != "NO_COLOR"}
    # A shell has what it starts in the background ignore Ctrl-C, and so does all that this starts.
    hearing = ["env", "--default-signal=INT", *argv]
    process = subprocess.Popen(
        hearing, env=known | environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed, limit = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < limit:
            if select.select([ours], [], [], 0.1)[0]:
                block = b""
                with contextlib.suppress(OSError):  # the other side is closed
                    block = os.read(ours, 65536)
                if not block:
                    break
                printed += block
            if until and re.search(until, printed.decode(errors="replace"), re.DOTALL):
                process.send_signal(signal.SIGINT)
                until = ""
        return process.wait(5), printed.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_pipe_gets_plain_text_with_the_whole_way_of_traffic(serving: Machine) -> None:
    done = serving.cli("status")

    assert (done.returncode, done.stderr) == (0, "")
    assert ANSI not in done.stdout
    words = ("well, ", "CONDITIONS", "TRAFFIC", "vip 127.0.0.1", "listener web", "pool app")
    words += ("member b", "ERROR", "member a", "ONLINE", "HAPROXY", "worker pid")
    places = [done.stdout.find(word) for word in words]
    assert -1 not in places
    assert places == sorted(places)


def test_a_terminal_gets_colours_unless_no_color_is_set(serving: Machine) -> None:
    code, coloured = on_terminal(serving)
    _, plain = on_terminal(serving, NO_COLOR="1")
    _, empty = on_terminal(serving, NO_COLOR="")

    assert code == 0
    assert f"{ANSI}32mONLINE{ANSI}0m" in coloured
    assert f"{ANSI}31mERROR{ANSI}0m" in coloured
    assert "ONLINE" in plain
    assert ANSI not in plain
    assert ANSI in empty  # no-color.org: when present and not an empty string


def test_json_is_api_status_as_it_is(serving: Machine) -> None:
    wait_until(lambda: serving.condition("Drift"))

    done = serving.cli("status", "--json")
    _, shown = on_terminal(serving, "--json")

    answered = serving.get("/api/status").json
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("}\n")
    for text in (done.stdout, shown):
        found = json.loads(text)
        assert found.keys() == answered.keys()
        assert found["haproxy"] == answered["haproxy"]
        assert found["objects"].keys() == answered["objects"].keys()


def test_watch_shows_it_again_until_it_is_interrupted(serving: Machine) -> None:
    began = time.monotonic()

    code, printed = on_terminal(serving, "--watch", until="HAPROXY.*HAPROXY")

    assert code == 0
    assert "Traceback" not in printed
    assert 2 <= time.monotonic() - began < 9


def test_watch_goes_on_when_the_agent_is_gone(machine: Machine) -> None:
    machine.stop()

    code, printed = on_terminal(machine, "--watch", until="cannot.*cannot|sock.*sock")

    assert code == 1
    assert "Traceback" not in printed


def test_it_exits_with_1_and_names_what_is_wrong_first_when_the_node_is_not_well() -> None:
    need("haproxy")
    machine = Machine(own_haproxy=False)
    try:
        machine.start(ready=False)
        wait_until(lambda: "HaproxyRunning" in machine.cli("status").stdout, 20)

        done, asked = machine.cli("status"), machine.cli("status", "--json")
    finally:
        machine.end()

    lines = done.stdout.splitlines()
    assert (done.returncode, asked.returncode) == (1, 1)
    assert lines[0].startswith("not well")
    assert {line.split()[0] for line in lines[3:5]} == {"Applied=False", "HaproxyRunning=False"}
    assert {line.split()[1] for line in lines[3:5]} == {"error"}
    assert lines[-1] == "  was not seen to run"


def test_names_reach_the_terminal_without_what_turns_text_around(serving: Machine) -> None:
    url = f"{POOLS}/app"
    assert serving.put(url, {"name": "good \u202edab"}).status == 200

    _, printed = on_terminal(serving)
    serving.put(url, {"name": ""})

    assert "pool app (good ?dab)" in printed


def test_explain_names_what_is_in_the_way(shared: Machine) -> None:
    pool = documents.made(shared, "pools", enabled=True).body["id"]

    told = shared.cli("explain", pool)

    assert told.returncode == 0
    assert told.stdout.startswith(f"pools {pool}  ONLINE\n")
    assert f"no listener uses pool {pool}" in told.stdout
    assert f"{shared.conf_d}/60-backend-{pool}.cfg" in told.stdout


def test_explain_of_nothing_is_1_and_says_so(shared: Machine) -> None:
    told = shared.cli("explain", "no/body")

    assert (told.returncode, told.stdout) == (1, "")
    assert "no/body" in told.stderr
