"""What operators do beside the agent: it must neither fight what is theirs nor miss what is not."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import need
from tests.machine import Machine, free_port, running, wait_until

OPERATORS_OWN = """\
frontend operators
    mode tcp
    bind 127.0.0.1:{port}
backend operators
    mode tcp
    server theirs 127.0.0.1:9 weight 7
"""


def listen(machine: Machine, id: str) -> int:
    port = free_port()
    body = {"id": id, "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    assert machine.post("/api/haproxy/listeners", body).status == 201
    return port


def test_sections_of_the_operators_are_no_drift(tmp_path: Path) -> None:
    need("haproxy")
    extra = tmp_path / "extra.cfg"
    extra.write_text(OPERATORS_OWN.format(port=free_port()))
    with running(environment={"KINX_HAPROXY_EXTRA_CONFIG": str(extra)}) as machine:
        listen(machine, "web")
        before = (machine.worker_pid(), machine.get("/api/status").json["drift"]["found"])

        time.sleep(5)

        assert "operators,FRONTEND" in machine.show("show stat")
        assert machine.condition("Drift")["status"] == "False"
        found = machine.get("/api/status").json["drift"]["found"]
        assert (machine.worker_pid(), found) == before


def test_what_was_loaded_and_put_back_again_is_not_served_for_long(machine: Machine) -> None:
    port = listen(machine, "web")
    file = machine.conf_d / "50-frontend-web.cfg"
    wanted = file.read_text()

    file.write_text(wanted + "    http-request deny\n")
    pid = machine.worker_pid()
    machine.show("reload", "master")
    foreign = wait_until(lambda: machine.worker_pid() not in (0, pid) and machine.worker_pid(), 5)
    file.write_text(wanted)

    wait_until(lambda: machine.worker_pid() != foreign, 10)
    assert "503" in machine.fetch(port)
    assert machine.get("/api/status").json["drift"]["found"] >= 1


def test_an_haproxy_whose_sockets_are_gone_is_not_taken_for_none(machine: Machine) -> None:
    port = listen(machine, "web")
    wait_until(lambda: _age(machine) > 6, 10)

    for name in ("kinx", "admin", "master"):
        machine.socket(name).unlink()
    reply = machine.delete("/api/haproxy/listeners/web")

    assert reply.status == 503
    assert "Retry-After" in reply.headers
    assert machine.get("/api/haproxy/listeners/web").status == 200
    assert "503" in machine.fetch(port)


def _age(machine: Machine) -> float:
    return time.time() - min(Path(f"/proc/{pid}").stat().st_mtime for pid in machine.haproxy_pids())


def test_a_directory_in_the_place_of_a_file_to_come_stops_nothing(machine: Machine) -> None:
    listen(machine, "first")
    (machine.conf_d / "50-frontend-web.cfg").mkdir()
    (machine.conf_d / "50-frontend-web.cfg" / "notes").write_text("theirs")

    listen(machine, "web")
    listen(machine, "last")

    assert (machine.conf_d / "50-frontend-web.cfg").is_file()
    kept = machine.conf_d.with_name("conf.d.foreign") / "50-frontend-web.cfg" / "notes"
    assert kept.read_text() == "theirs"


def test_a_store_that_was_unusable_for_a_moment_is_opened_once_it_is_there(
    machine: Machine,
) -> None:
    listen(machine, "web")
    store = machine.root / "opt/kinx_loadbalancer_agent/state.db"
    kept = store.with_name("kept")

    store.rename(kept)
    store.mkdir()
    os.kill(machine.worker_pids()[0], signal.SIGKILL)  # its master starts another
    wait_until(lambda: _says(machine, "StateUnusable"), 15)
    store.rmdir()
    kept.rename(store)

    wait_until(machine.is_ready, 10)
    assert machine.get("/api/haproxy/listeners/web").status == 200


def _says(machine: Machine, reason: str) -> bool:
    try:
        return machine.condition("Ready").get("reason") == reason
    except OSError:
        return False


def test_the_agent_gives_the_state_on_while_a_client_keeps_its_connection(
    machine: Machine,
) -> None:
    listen(machine, "web")
    keeper = http.client.HTTPConnection("127.0.0.1", machine.port)
    keeper.request("GET", "/healthz")
    keeper.getresponse().read()
    before = machine.worker_pids()

    assert machine.process is not None
    os.kill(machine.process.pid, signal.SIGHUP)
    wait_until(lambda: machine.worker_pids() and machine.worker_pids()[0] not in before, 10)
    started = time.monotonic()
    wait_until(lambda: machine.get("/api/haproxy/listeners/web").status == 200, 10)

    assert time.monotonic() - started < 3
    keeper.close()


def test_a_program_that_only_names_the_directory_is_not_taken_for_haproxy(
    machine: Machine,
) -> None:
    port = listen(machine, "web")
    words = [sys.executable, "-c", "import time; time.sleep(60)", str(machine.conf_d)]
    bystander = subprocess.Popen(words)
    try:
        time.sleep(5.5)  # longer than a HAProxy that is starting is waited for

        for pid in machine.haproxy_pids():
            os.kill(pid, signal.SIGKILL)

        wait_until(lambda: _is_served(machine, port), 5)
    finally:
        bystander.kill()
        bystander.wait()


def _is_served(machine: Machine, port: int) -> bool:
    with contextlib.suppress(OSError):
        return "503" in machine.fetch(port)
    return False
