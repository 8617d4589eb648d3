"""The command: what each sub-command does, says and exits with (CONTRACT section 4)."""

import contextlib
import http.client
import json
import os
import socket
import sqlite3
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from kinx_loadbalancer_agent import cli
from kinx_loadbalancer_agent.engine import store
from kinx_loadbalancer_agent.model.kinds import Kinds
from tests.conftest import need
from tests.machine import COMMAND, Machine, free_port, wait_until

LISTENERS = "/api/haproxy/listeners"
POOLS = "/api/haproxy/pools"


def listener(**members: Any) -> dict[str, Any]:
    own = {"id": "li", "protocol": "HTTP", "protocol_port": free_port()}
    return {**own, "vip_address": "127.0.0.1", **members}


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command with exactly *words*."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("KINX_")}
    return subprocess.run(
        [*COMMAND, *words], env=found | (env or {}), capture_output=True, text=True, timeout=60
    )


def inside(*words: str, **environment: str) -> click.testing.Result:
    """Run the command with exactly *words* in this process, which is quick; never ``serve``."""
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("KINX_")}
    return click.testing.CliRunner(env=unset | environment).invoke(cli.main, words)


def serve(root: Path, *words: str, listen: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``serve`` where it should not stay."""
    at = listen or f"127.0.0.1:{free_port()}"
    return run("serve", "--root", str(root), "--listen", at, *words)


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file below *directory*."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def empty() -> Iterator[Machine]:
    """A root where nothing was ever started."""
    machine = Machine()
    yield machine
    machine.end()


@pytest.fixture(scope="module")
def serving(shared: Machine) -> Machine:
    """An agent that serves one listener, for tests that only look."""
    assert shared.post(LISTENERS, listener()).status == 201
    return shared


# --- while an agent serves ------------------------------------------------------------------


def test_status_prints_what_the_api_says_and_is_0_when_all_is_well(serving: Machine) -> None:
    wait_until(lambda: serving.condition("Drift"))

    done = serving.cli("status", "--json")

    shown, answered = json.loads(done.stdout), serving.get("/api/status").json
    assert (done.returncode, done.stderr) == (0, "")
    assert shown["generation"] == answered["generation"] == 1
    assert shown["haproxy"] == answered["haproxy"]
    assert done.stdout.endswith("}\n")


def test_status_needs_no_credential(serving: Machine) -> None:
    assert serving.cli("status").returncode == 0
    assert serving.get("/api/status", auth=False).status == 401


def test_check_says_that_haproxy_accepts_the_state_and_touches_nothing(serving: Machine) -> None:
    before = contents(serving.root / "etc")

    done = serving.cli("check")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "haproxy accepts the stored state\n"
    assert contents(serving.root / "etc") == before


def test_plan_has_nothing_to_do_beside_a_serving_agent(serving: Machine) -> None:
    done = serving.cli("plan")

    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to do\n", "")


def test_render_is_refused_while_an_agent_serves(serving: Machine) -> None:
    before = contents(serving.root / "etc/haproxy")

    done = serving.cli("render")

    assert (done.returncode, done.stdout) == (1, "")
    assert "serving agent" in done.stderr
    assert contents(serving.root / "etc/haproxy") == before


def test_stop_haproxy_is_refused_while_an_agent_serves(serving: Machine) -> None:
    before = serving.haproxy_pids()

    done = serving.cli("stop-haproxy")

    assert (done.returncode, done.stdout) == (1, "")
    assert "serving agent" in done.stderr
    assert serving.haproxy_pids() == before


def test_a_second_agent_on_the_same_state_exits_with_2(serving: Machine) -> None:
    done = serve(serving.root)

    assert done.returncode == 2
    assert "another agent" in done.stderr
    assert serving.get("/healthz").status == 200


def test_an_api_port_that_is_taken_exits_with_2(serving: Machine, empty: Machine) -> None:
    done = serve(empty.root, listen=f"127.0.0.1:{serving.port}")

    assert done.returncode == 2
    assert f"127.0.0.1:{serving.port}" in done.stderr
    assert "in use" in done.stderr
    assert empty.haproxy_pids() == []


def test_an_api_address_this_host_lacks_exits_with_2(empty: Machine) -> None:
    done = serve(empty.root, listen=f"192.0.2.1:{free_port()}")

    assert done.returncode == 2
    assert "192.0.2.1" in done.stderr


# --- the life of haproxy --------------------------------------------------------------------


def test_haproxy_outlives_the_agent_is_adopted_and_ends_with_stop_haproxy(
    machine: Machine,
) -> None:
    port, one = free_port(), machine.backend("one")
    machine.post(LISTENERS, listener(protocol_port=port))
    machine.post(POOLS, {"id": "po", "listener_id": "li", "protocol": "HTTP"} | ROUND_ROBIN)
    member = {"id": "me", "address": "127.0.0.1", "protocol_port": one.port}
    machine.post(f"{POOLS}/po/members", member)
    pids = machine.haproxy_pids()

    assert machine.stop() == 0
    alone = machine.fetch(port)
    planned, refused = machine.cli("plan"), machine.cli("status")
    machine.start()
    adopted = machine.haproxy_pids()
    machine.stop()
    stopped, again = machine.cli("stop-haproxy"), machine.cli("stop-haproxy")

    assert (alone, planned.stdout) == ("one", "nothing to do\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr
    assert adopted == pids
    assert (stopped.returncode, again.returncode) == (0, 0)
    assert machine.haproxy_pids() == []
    with pytest.raises(ConnectionRefusedError):
        machine.fetch(port)


ROUND_ROBIN = {"lb_algorithm": "ROUND_ROBIN"}


def test_render_writes_the_stored_state_for_the_next_start(machine: Machine) -> None:
    machine.post(LISTENERS, listener())
    wanted = machine.fragments()
    machine.stop()
    assert machine.cli("stop-haproxy").returncode == 0
    for path in machine.conf_d.glob("*"):
        path.unlink()

    planned, rendered = machine.cli("plan"), machine.cli("render")

    assert planned.returncode == 0
    assert "+frontend li" in planned.stdout
    assert (rendered.returncode, rendered.stderr) == (0, "")
    assert machine.fragments() == wanted
    checked = ["haproxy", "-c", "-f", str(machine.conf_d)]
    assert subprocess.run(checked, capture_output=True, timeout=30, check=False).returncode == 0


def test_plan_shows_what_a_hand_edit_changed_and_undoes_nothing(machine: Machine) -> None:
    machine.post(LISTENERS, listener())
    machine.stop()
    name = next(name for name in machine.fragments() if "frontend" in name)
    edited = machine.fragments()[name].replace("maxconn 12000", "maxconn 7")
    (machine.conf_d / name).write_text(edited)
    pid = machine.worker_pid()

    done = machine.cli("plan")

    assert done.returncode == 0
    assert "-    maxconn 7\n+    maxconn 12000\n" in done.stdout
    assert machine.fragments()[name] == edited
    assert machine.worker_pid() == pid


def test_kill_minus_9_of_the_agent_does_not_take_haproxy_along(machine: Machine) -> None:
    port = free_port()
    machine.post(LISTENERS, listener(protocol_port=port))
    workers = machine.worker_pids()
    assert machine.process is not None

    for pid in (machine.process.pid, *workers):
        os.kill(pid, 9)
    machine.process.wait(10)
    machine.process = None

    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    machine.start()
    assert machine.get(f"{LISTENERS}/li").status == 200


# --- without anything running ---------------------------------------------------------------


def test_stop_haproxy_is_0_when_nothing_runs(empty: Machine) -> None:
    done = empty.cli("stop-haproxy")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_status_is_1_when_no_agent_serves(empty: Machine) -> None:
    done = empty.cli("status")

    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_check_and_plan_of_a_node_that_never_ran_are_no_error(empty: Machine) -> None:
    checked, planned = empty.cli("check"), empty.cli("plan")

    assert checked.returncode == 0, checked.stderr
    assert planned.returncode == 0, planned.stderr
    assert contents(empty.root) == {}


# --- credentials ----------------------------------------------------------------------------


def test_credentials_add_prints_the_secret_alone_and_once(empty: Machine) -> None:
    added = empty.cli("credentials", "add", "driver")
    path = empty.root / "etc/kinx_loadbalancer_agent/credentials"

    secret = added.stdout.removesuffix("\n")
    assert (added.returncode, added.stderr) == (0, "")
    assert len(secret) >= 32
    assert len(secret.split()) == 1
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_credentials_list_shows_names_and_roles_and_no_secret(empty: Machine) -> None:
    secrets = [
        empty.cli("credentials", "add", "driver").stdout.strip(),
        empty.cli("credentials", "add", "monitoring", "--role", "read").stdout.strip(),
    ]

    listed = empty.cli("credentials", "list")

    assert (listed.returncode, listed.stdout) == (0, "driver write\nmonitoring read\n")
    assert len(set(secrets)) == 2


def test_a_credential_that_is_there_is_not_replaced(empty: Machine) -> None:
    empty.cli("credentials", "add", "driver")
    path = empty.root / "etc/kinx_loadbalancer_agent/credentials"
    before = path.read_bytes()

    again = empty.cli("credentials", "add", "driver")

    assert (again.returncode, again.stdout) == (1, "")
    assert "driver" in again.stderr
    assert path.read_bytes() == before


def test_credentials_remove_takes_one_away(empty: Machine) -> None:
    empty.cli("credentials", "add", "one")
    empty.cli("credentials", "add", "two")

    removed, again = (empty.cli("credentials", "remove", "one") for _ in range(2))

    assert (removed.returncode, again.returncode) == (0, 1)
    assert empty.cli("credentials", "list").stdout == "two write\n"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\nb", "-", "x" * 65, "\u00e9"])
def test_a_name_that_is_none_exits_with_2(empty: Machine, name: str) -> None:
    done = inside("credentials", "add", "--root", str(empty.root), "--", name)

    assert (done.exit_code, done.stdout) == (2, "")
    assert contents(empty.root) == {}


# --- settings and usage ---------------------------------------------------------------------


def settings(machine: Machine, text: str) -> Path:
    """Write the settings file of *machine*."""
    path = machine.root / "etc/kinx_loadbalancer_agent/agent.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[agent]\ncolour = 1\n", "colour"),
        ("[colour]\nname = 1\n", "colour"),
        ("colour = 1\n", "colour"),
        ("agent = 1\n", "agent"),
        ('[agent]\nlisten = "nowhere"\n', "listen"),
        ('[agent]\nunknown_members = "maybe"\n', "unknown_members"),
        ("[haproxy]\ndefault_connection_limit = 0\n", "default_connection_limit"),
        ('[haproxy]\nconf_d = "relative"\n', "conf_d"),
        ('[haproxy]\nconf_d = "/tmp/a b"\n', "conf_d"),
        ("[agent\n", "agent.toml"),
        ("\x00", "agent.toml"),
    ],
)
def test_settings_that_are_wrong_exit_with_2_and_name_the_key(
    empty: Machine, text: str, named: str
) -> None:
    settings(empty, text)

    for environment in ({}, {"KINX_AGENT_NODE_NAME": "node"}):
        done = inside("check", "--root", str(empty.root), **environment)
        assert (done.exit_code, done.stdout) == (2, "")
        assert named in done.stderr


def test_every_sub_command_minds_the_settings(empty: Machine) -> None:
    settings(empty, "[agent]\ncolour = 1\n")
    commands = ("status", "check", "plan", "render", "stop-haproxy")

    for words in (*((word,) for word in commands), ("credentials", "list")):
        done = inside(*words, "--root", str(empty.root))
        assert (done.exit_code, done.stdout) == (2, "")
        assert "colour" in done.stderr
    served = serve(empty.root)
    assert (served.returncode, served.stdout) == (2, "")
    assert "colour" in served.stderr


@pytest.mark.parametrize(
    "listen",
    [
        *("", "127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1"),
        *("127.0.0.1:http", "127.0.0.1:\u0663", "::1:80", "[::1]", "[::1]:", "[::1:80", "a b:80"),
    ],
)
def test_a_listen_that_is_no_address_and_port_exits_with_2(empty: Machine, listen: str) -> None:
    done = inside("check", "--root", str(empty.root), KINX_AGENT_LISTEN=listen)

    assert (done.exit_code, done.stdout) == (2, "")
    assert "listen" in done.stderr


def test_the_api_may_listen_on_ipv6(empty: Machine) -> None:
    need("haproxy")
    empty.environment["KINX_AGENT_LISTEN"] = f"[::1]:{empty.port}"

    def answers() -> bool:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("::1", empty.port, timeout=5)
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False

    empty.start(ready=False)

    wait_until(answers)


def test_all_faults_of_the_settings_are_named_at_once(empty: Machine) -> None:
    settings(empty, '[agent]\ncolour = 1\nlisten = "x"\n[haproxy]\nsize = 2\n')

    done = inside("check", "--root", str(empty.root))

    assert done.exit_code == 2
    assert all(word in done.stderr for word in ("colour", "listen", "size"))


def test_an_unknown_key_in_the_environment_exits_with_2(empty: Machine) -> None:
    done = inside("check", "--root", str(empty.root), KINX_AGENT_COLOUR="red")

    assert done.exit_code == 2
    assert "colour" in done.stderr


def test_the_environment_wins_over_the_file_and_an_option_over_both(empty: Machine) -> None:
    settings(empty, '[agent]\nlisten = "127.0.0.1:1"\n')
    at = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        by_environment = run("serve", "--root", str(empty.root), env={"KINX_AGENT_LISTEN": taken})
        by_option = run(
            *("serve", "--root", str(empty.root), "--listen", taken), env={"KINX_AGENT_LISTEN": at}
        )

    for done in (by_environment, by_option):
        assert done.returncode == 2
        assert taken in done.stderr


def test_a_config_that_is_not_there_exits_with_2(empty: Machine) -> None:
    done = inside("check", "--config", str(empty.root / "nothing.toml"))

    assert done.exit_code == 2
    assert "nothing.toml" in done.stderr


def test_a_config_elsewhere_is_read(empty: Machine) -> None:
    path = empty.root / "other.toml"
    path.write_text('[haproxy]\nprogram = "no-such-haproxy"\n')

    done = inside("check", "--root", str(empty.root), "--config", str(path))

    assert done.exit_code == 1
    assert "no-such-haproxy" in done.stderr


def test_a_root_too_long_for_sockets_exits_with_2_and_the_limit() -> None:
    with tempfile.TemporaryDirectory(prefix="kinx-") as directory:
        root = Path(directory) / ("x" * 90)

        for words in (("check",), ("plan",), ("credentials", "add", "driver")):
            done = inside(*words, "--root", str(root))
            assert (done.exit_code, done.stdout) == (2, "")
            assert "97" in done.stderr
        served = serve(root)
        assert (served.returncode, served.stdout) == (2, "")
        assert "97" in served.stderr
        assert not root.exists()


def test_the_longest_root_that_fits_works() -> None:
    need("haproxy")
    with tempfile.TemporaryDirectory(prefix="kinx-") as directory:
        longest = 97 - max(
            len(name)
            for name in (
                *("/run/kinx_loadbalancer_agent.sock", "/run/haproxy/admin.sock"),
                *("/run/haproxy/kinx.sock", "/run/haproxy/master.sock"),
            )
        )
        root = Path(directory) / ("x" * (longest - len(directory) - 1))
        root.mkdir()
        machine = Machine(root=root)
        try:
            machine.start()

            assert machine.post(LISTENERS, listener()).status == 201
        finally:
            machine.end()


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("serve", "--nothing"),
        ("check", "surplus"),
        ("credentials",),
        ("credentials", "add"),
        ("credentials", "add", "a", "--role", "admin"),
        ("credentials", "remove"),
        ("serve", "--root"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    done = inside(*words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize(
    "word",
    ["serve", "credentials", "status", "check", "plan", "render", "stop-haproxy"],
)
def test_every_sub_command_explains_itself(word: str) -> None:
    done = inside(word, "--help")

    assert (done.exit_code, done.stderr) == (0, "")
    assert "Usage" in done.stdout
    if word != "credentials":
        assert "--config" in done.stdout
        assert "--root" in done.stdout


def state(machine: Machine) -> Path:
    """Return where the store of *machine* is, its directory made."""
    path = machine.root / "opt/kinx_loadbalancer_agent/state.db"
    path.parent.mkdir(parents=True)
    return path


def test_a_state_from_a_newer_version_exits_with_2(empty: Machine) -> None:
    path = state(empty)
    store.Store(path, Kinds()).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")

    served = serve(empty.root)
    assert (served.returncode, served.stdout) == (2, "")
    assert "99" in served.stderr
    for word in ("check", "plan", "render"):
        done = inside(word, "--root", str(empty.root))
        assert (word, done.exit_code, done.stdout) == (word, 2, "")
        assert "99" in done.stderr


def test_a_state_that_is_no_database_exits_with_2(empty: Machine) -> None:
    state(empty).write_bytes(b"not a database " * 100)

    served = serve(empty.root)
    assert (served.returncode, served.stdout) == (2, "")
    assert "state.db" in served.stderr
    assert "backup" in served.stderr
    for word in ("check", "plan", "render"):
        done = inside(word, "--root", str(empty.root))
        assert (word, done.exit_code, done.stdout) == (word, 2, "")
        assert "state.db" in done.stderr


def test_without_an_agent_status_says_what_keeps_it_or_where_to_look(empty: Machine) -> None:
    nobody = empty.cli("status")
    state(empty).write_bytes(b"not a database " * 100)
    damaged = empty.cli("status")

    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "systemctl status kinx_loadbalancer_agent" in nobody.stderr
    assert (damaged.returncode, damaged.stdout) == (2, "")
    assert "state.db" in damaged.stderr
    assert "backup" in damaged.stderr


# --- signals --------------------------------------------------------------------------------


def test_sigterm_ends_the_agent_with_0_and_lets_go_of_everything(machine: Machine) -> None:
    machine.post(LISTENERS, listener())

    began = time.monotonic()
    status = machine.stop()

    assert status == 0
    assert time.monotonic() - began < 10
    with pytest.raises((ConnectionRefusedError, http.client.HTTPException)):
        machine.get("/healthz")
    machine.start()
    assert machine.get(f"{LISTENERS}/li").status == 200
