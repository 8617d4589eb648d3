"""Changes that a running HAProxy is told: no reload, no request lost, true when answered."""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import need
from tests.integration.traffic import client
from tests.machine import Machine, Reply, free_port, running, wait_until

API = "/api/haproxy"
MEMBERS = f"{API}/pools/po/members"
DRAIN_SECONDS = 2


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine whose deleted members' clients may stay for two seconds."""
    need("haproxy")
    environment = {"KINX_HAPROXY_MEMBER_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    with running(environment=environment) as machine:
        yield machine


@pytest.fixture
def port(machine: Machine) -> Iterator[int]:
    """The port of a listener whose pool has the members one and two, back ends of those names."""
    port = free_port()
    serve(machine, port)
    yield port
    for kind in ("healthmonitors/po", "pools/po?cascade=true", "listeners/li"):
        assert machine.delete(f"{API}/{kind}").status in (204, 404)


def serve(machine: Machine, port: int, **pool: Any) -> None:
    own = {"id": "li", "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    assert machine.post(f"{API}/listeners", own).status == 201
    own = {"id": "po", "listener_id": "li", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    assert machine.post(f"{API}/pools", own | pool).status == 201
    for name in ("one", "two"):
        assert add(machine, name).status == 201


def add(machine: Machine, name: str, **values: Any) -> Reply:
    """Add a member whose back end answers *name*."""
    backend = machine.backend(name)
    own = {"id": name, "address": backend.address, "protocol_port": backend.port}
    return machine.post(MEMBERS, own | values)


@contextlib.contextmanager
def unchanged(machine: Machine) -> Iterator[None]:
    """HAProxy is the same process at the end of the block, and was not asked to reload."""
    before = (machine.worker_pid(), machine.reloads())
    yield
    assert (machine.worker_pid(), machine.reloads()) == before


def told(reply: Reply, status: int = 200) -> None:
    """Assert that a write was made in the running process."""
    assert reply.status == status, reply.body
    if status != 204:
        assert reply.json["applied"]["by"] == "runtime", reply.json["applied"]


def names(machine: Machine) -> set[str]:
    """Return the servers that HAProxy has."""
    lines = machine.show("show servers state backend-li").splitlines()[2:]
    return {line.split()[3] for line in lines if line}


# --- each change --------------------------------------------------------------------------------


def test_members_come_change_and_go_without_a_reload(machine: Machine, port: int) -> None:
    with unchanged(machine):
        told(add(machine, "three"), 201)
        assert machine.split(port, 6) == {"one": 2, "two": 2, "three": 2}
        told(machine.put(f"{MEMBERS}/three", {"weight": 4}))
        assert machine.split(port, 12) == {"one": 2, "two": 2, "three": 8}
        told(machine.put(f"{MEMBERS}/three", {"weight": 0}))
        assert machine.split(port, 6) == {"one": 3, "two": 3}
        told(machine.put(f"{MEMBERS}/three", {"weight": 1, "enabled": False}))
        assert machine.split(port, 6) == {"one": 3, "two": 3}
        told(machine.put(f"{MEMBERS}/three", {"enabled": True}))
        assert machine.split(port, 6) == {"one": 2, "two": 2, "three": 2}
        other = machine.backend("other")
        told(machine.put(f"{MEMBERS}/three", {"protocol_port": other.port}))
        assert machine.split(port, 6) == {"one": 2, "two": 2, "other": 2}
        told(machine.put(f"{MEMBERS}/three", {"backup": True}))
        assert machine.split(port, 6) == {"one": 3, "two": 3}
        told(machine.delete(f"{MEMBERS}/three"), 204)
        assert machine.split(port, 6) == {"one": 3, "two": 3}


def test_the_limit_of_a_listener_changes_without_a_reload(machine: Machine, port: int) -> None:
    with unchanged(machine):
        told(machine.put(f"{API}/listeners/li", {"connection_limit": 77}))

    rows = machine.show("show stat li 1 -1").splitlines()
    assert rows[1].split(",")[rows[0].split(",").index("slim")] == "77"


def test_where_a_member_is_checked_changes_without_a_reload(machine: Machine, port: int) -> None:
    own = {"pool_id": "po", "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1}
    assert machine.post(f"{API}/healthmonitors", own | {"max_retries_down": 1}).status == 201
    with unchanged(machine):
        told(machine.put(f"{MEMBERS}/two", {"monitor_port": free_port()}))
        wait_until(lambda: machine.split(port, 4) == {"one": 4}, 5)
        told(machine.put(f"{MEMBERS}/two", {"monitor_port": None}))
        wait_until(lambda: machine.split(port, 4) == {"one": 2, "two": 2}, 5)


def test_a_checked_member_serves_at_once_and_is_checked(machine: Machine, port: int) -> None:
    own = {"pool_id": "po", "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1}
    assert machine.post(f"{API}/healthmonitors", own | {"max_retries_down": 1}).status == 201
    with unchanged(machine):
        told(add(machine, "three"), 201)
        assert machine.split(port, 6)["three"] == 2
        gone = machine.backends.pop()
        gone.stop()
        wait_until(lambda: machine.split(port, 4) == {"one": 2, "two": 2}, 5)


def test_a_monitor_is_switched_off_and_on_without_a_reload(machine: Machine, port: int) -> None:
    own = {"pool_id": "po", "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1}
    assert machine.post(f"{API}/healthmonitors", own | {"max_retries_down": 1}).status == 201
    told(machine.put(f"{MEMBERS}/two", {"monitor_port": free_port()}))
    wait_until(lambda: machine.split(port, 4) == {"one": 4}, 5)
    with unchanged(machine):
        told(machine.put(f"{API}/healthmonitors/po", {"enabled": False}))
        assert machine.split(port, 4) == {"one": 2, "two": 2}
        told(machine.put(f"{API}/healthmonitors/po", {"enabled": True}))
        wait_until(lambda: machine.split(port, 4) == {"one": 4}, 5)


def test_a_member_of_a_pool_with_cookies_comes_by_a_reload_and_changes_without(
    machine: Machine, port: int
) -> None:
    cookie = {"session_persistence": {"type": "HTTP_COOKIE"}}
    assert machine.put(f"{API}/pools/po", cookie).status == 200

    reply = add(machine, "three")

    assert (reply.status, reply.json["applied"]["by"]) == (201, "reload")
    assert "cannot be added to a running process" in reply.json["applied"]["because"]
    with unchanged(machine):
        told(machine.put(f"{MEMBERS}/three", {"weight": 7}))


def test_what_was_told_is_there_after_a_reload_and_a_restart(machine: Machine, port: int) -> None:
    told(machine.put(f"{MEMBERS}/one", {"weight": 5}))
    told(machine.put(f"{MEMBERS}/two", {"enabled": False}))
    told(add(machine, "three"), 201)
    before = machine.split(port, 12)

    machine.show("reload", "master")
    time.sleep(0.3)
    after_reload = machine.split(port, 12)
    machine.stop()
    with unchanged(machine):
        machine.start()
    after_restart = machine.split(port, 12)

    assert before == after_reload == after_restart == {"one": 10, "three": 2}


# --- members that leave -------------------------------------------------------------------------


class Chat:
    """A client of a member that takes its time: the connection stays as long as it wants."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def say(self, word: bytes) -> bytes:
        self.socket.sendall(word)
        return self.socket.recv(100)

    def is_cut(self) -> bool:
        self.socket.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            try:
                return self.socket.recv(1) == b""
            except ConnectionError:
                return True
        return False


@pytest.fixture
def chat(machine: Machine) -> Iterator[Chat]:
    """A client in the midst of a chat with the only member of a TCP pool."""
    server = socket.create_server(("127.0.0.1", free_port()))
    port = free_port()

    def echo(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while word := peer.recv(100):
                peer.sendall(word)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    own = {"id": "li", "protocol": "TCP", "protocol_port": port, "vip_address": "127.0.0.1"}
    assert machine.post(f"{API}/listeners", own).status == 201
    own = {"id": "po", "listener_id": "li", "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"}
    assert machine.post(f"{API}/pools", own).status == 201
    member = {"id": "m", "address": "127.0.0.1", "protocol_port": server.getsockname()[1]}
    assert machine.post(MEMBERS, member).status == 201
    found = Chat(port)
    assert found.say(b"hello") == b"hello"
    yield found
    found.socket.close()
    server.close()
    for kind in ("pools/po?cascade=true", "listeners/li"):
        assert machine.delete(f"{API}/{kind}").status in (204, 404)


def test_the_clients_of_a_deleted_member_may_stay_for_a_while(machine: Machine, chat: Chat) -> None:
    with unchanged(machine):
        told(machine.delete(f"{MEMBERS}/m"), 204)
        stays = chat.say(b"still there")
        wait_until(lambda: machine.condition("MembersGone")["status"] == "False", 3)
        leaving = machine.condition("MembersGone")["message"]
        shown = machine.get("/api/status").json["objects"]["members"]
        wait_until(chat.is_cut, DRAIN_SECONDS + 3)
        wait_until(lambda: names(machine) == set(), 3)
        wait_until(lambda: machine.condition("MembersGone")["status"] == "True", 3)

    assert stays == b"still there"
    assert "backend-li/m" in leaving
    assert shown["po/m"]["operating_status"] == "DRAINING"
    assert machine.get("/api/status").json["drift"]["found"] == 0


def test_a_member_whose_clients_go_is_gone_at_once(machine: Machine, chat: Chat) -> None:
    told(machine.delete(f"{MEMBERS}/m"), 204)
    assert names(machine) == {"m"}

    chat.socket.close()

    wait_until(lambda: names(machine) == set(), 1.5)


def test_a_member_that_comes_back_while_it_leaves_keeps_its_clients(
    machine: Machine, chat: Chat
) -> None:
    body = machine.get(f"{MEMBERS}/m").json
    with unchanged(machine):
        told(machine.delete(f"{MEMBERS}/m"), 204)
        again = {key: body[key] for key in ("id", "address", "protocol_port")}
        told(machine.post(MEMBERS, again | {"weight": 9}), 201)
        time.sleep(DRAIN_SECONDS + 1)

    assert chat.say(b"still there") == b"still there"
    assert names(machine) == {"m"}


def is_backup(machine: Machine, name: str) -> bool:
    """Return whether HAProxy uses the server when all others are down only."""
    head, *rows = machine.show("show stat backend-li 4 -1").splitlines()
    columns = head.removeprefix("# ").split(",")
    found = {row.split(",")[1]: row.split(",")[columns.index("bck")] for row in rows if row}
    return found[name] == "1"


def test_a_member_with_clients_that_must_be_made_anew_is_what_the_answer_says(
    machine: Machine, chat: Chat
) -> None:
    other = machine.backend("other")
    own = {"id": "n", "address": other.address, "protocol_port": other.port}
    told(machine.post(MEMBERS, own), 201)

    reply = machine.put(f"{MEMBERS}/m", {"backup": True})

    assert (reply.status, reply.json["applied"]["by"]) == (200, "reload")
    assert is_backup(machine, "m")
    assert chat.say(b"still there") == b"still there"


def test_a_member_that_comes_back_otherwise_while_it_leaves_is_what_the_answer_says(
    machine: Machine, chat: Chat
) -> None:
    body = machine.get(f"{MEMBERS}/m").json
    other = machine.backend("other")
    own = {"id": "n", "address": other.address, "protocol_port": other.port}
    told(machine.post(MEMBERS, own), 201)
    told(machine.delete(f"{MEMBERS}/m"), 204)

    again = {key: body[key] for key in ("id", "address", "protocol_port")}
    reply = machine.post(MEMBERS, again | {"backup": True})

    assert reply.status == 201
    assert is_backup(machine, "m")


def test_the_clients_of_a_deleted_member_have_no_longer_in_an_old_worker(
    machine: Machine, chat: Chat
) -> None:
    told(machine.delete(f"{MEMBERS}/m"), 204)
    new = {"id": "x", "protocol": "TCP", "protocol_port": free_port(), "vip_address": "127.0.0.1"}
    assert machine.post(f"{API}/listeners", new).json["applied"]["by"] == "reload"
    assert chat.say(b"still there") == b"still there"

    wait_until(chat.is_cut, DRAIN_SECONDS + 3)

    assert machine.delete(f"{API}/listeners/x").status == 204


def test_a_member_that_left_another_haproxy_is_left_alone_in_the_next(
    machine: Machine, chat: Chat
) -> None:
    body = machine.get(f"{MEMBERS}/m").json
    told(machine.delete(f"{MEMBERS}/m"), 204)
    for pid in machine.haproxy_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    again = {key: body[key] for key in ("id", "address", "protocol_port")}
    assert machine.post(MEMBERS, again | {"enabled": False}).status in (201, 202)
    wait_until(lambda: machine.condition("Applied").get("status") == "True", 10)
    found = machine.get("/api/status").json["drift"]["found"]

    time.sleep(DRAIN_SECONDS + 1.5)

    assert names(machine) == {"m"}
    assert machine.condition("MembersGone")["status"] == "True"
    assert machine.get("/api/status").json["drift"]["found"] == found


# --- what others do, and what is down -----------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "set server backend-li/one weight 9",
        "set server backend-li/one state maint",
        "set server backend-li/one state drain",
        "set server backend-li/one addr 127.0.0.9 port 9",
        "add server backend-li/foreign 127.0.0.1:9; enable server backend-li/foreign",
        "disable server backend-li/one; del server backend-li/one",
        "set maxconn frontend li 3",
        "set maxconn server backend-li/two 3",
        "disable frontend li",
        "set server backend-li/one health down",
    ],
)
def test_a_foreign_command_is_undone_without_a_reload(
    machine: Machine, port: int, command: str
) -> None:
    def shown() -> list[list[str]]:
        text = machine.show("show servers state backend-li") + machine.show("show stat")
        lines = [line.replace(",", " ").split(" ") for line in text.splitlines()]
        servers = [
            [*line[3:6], str(int(line[6]) & 9), line[7]] for line in lines if len(line) == 25
        ]
        return servers + [line[:2] + line[6:7] + line[17:18] for line in lines if len(line) > 30]

    machine.fetch(port)
    before, pid = sorted(shown()), machine.worker_pid()

    machine.show(command, "admin")
    assert sorted(shown()) != before

    wait_until(lambda: sorted(shown()) == before, 10)
    assert machine.worker_pid() == pid


def test_a_repair_that_haproxy_does_not_take_ends_in_a_reload(machine: Machine, port: int) -> None:
    own = {"pool_id": "po", "type": "TCP", "delay": 60, "timeout": 1}
    assert machine.post(f"{API}/healthmonitors", own).status == 201
    state = machine.show("show servers state backend-li").splitlines()
    words = next(line.split() for line in state if " one " in line)
    wait_until(lambda: machine.condition("Drift").get("status") == "False", 5)

    # One without checks in its place: they cannot be enabled.
    again = f"add server backend-li/one {words[4]}:{words[18]}; enable server backend-li/one"
    machine.show(f"disable server backend-li/one; del server backend-li/one; {again}", "admin")

    def is_checked() -> bool:
        lines = machine.show("show servers state backend-li").splitlines()
        states = [line.split()[13] for line in lines if " one " in line]
        return [bool(int(state) & 4) for state in states] == [True]

    assert not is_checked()
    wait_until(is_checked, 10)
    wait_until(lambda: machine.condition("Drift").get("status") == "False", 5)


def test_a_member_that_is_down_gets_nothing_after_a_reload(machine: Machine, port: int) -> None:
    own = {"pool_id": "po", "type": "TCP", "delay": 60, "timeout": 1, "max_retries": 1}
    slow = own | {"max_retries_down": 1, "delay": 1}
    assert machine.post(f"{API}/healthmonitors", slow).status == 201
    two = next(backend for backend in reversed(machine.backends) if backend.name == "two")
    two.stop()
    wait_until(lambda: " DOWN" in machine.show("show stat").replace(",", " "), 5)

    with client(port, keep_alive=False) as clients:
        for limit in range(3):
            name = {"name": f"n{limit}", "protocol_port": free_port()}
            new = {"id": f"x{limit}", "protocol": "HTTP", "vip_address": "127.0.0.1"} | name
            reply = machine.post(f"{API}/listeners", new)
            assert reply.json["applied"]["by"] == "reload"
    for limit in range(3):
        machine.delete(f"{API}/listeners/x{limit}")

    assert clients.seen.requests > 50
    assert clients.seen.failures == []
    assert (machine.root / "run/haproxy/kinx.state").read_text() == "1\n"


def test_two_hundred_weights_under_load_cost_nobody_anything(machine: Machine, port: int) -> None:
    with unchanged(machine), client(port, keep_alive=True, pause_ms=0.2) as clients:
        for number in range(200):
            told(machine.put(f"{MEMBERS}/one", {"weight": number % 100 + 2}))

    assert clients.seen.failed == 0
    assert clients.seen.requests > 100


def test_a_member_that_haproxy_lost_meanwhile_is_there_after_the_answer(
    machine: Machine, port: int
) -> None:
    machine.show("disable server backend-li/one; del server backend-li/one", "admin")

    reply = machine.put(f"{MEMBERS}/one", {"weight": 3})

    assert reply.status == 200
    assert reply.json["applied"]["by"] in ("runtime", "reload")
    assert machine.split(port, 4) == {"one": 3, "two": 1}


def test_a_dry_run_says_what_would_be_told(machine: Machine, port: int) -> None:
    trial = machine.put(f"{MEMBERS}/one?dry_run=true", {"weight": 3}).json

    assert trial["commands"] == ["set server backend-li/one weight 3"]
    assert (trial["reload"], trial["would"]) == (False, 200)
    assert machine.split(port, 4) == {"one": 2, "two": 2}


# --- a worker that hangs ------------------------------------------------------------------------


def test_a_worker_that_hangs_is_replaced_and_the_port_is_served(machine: Machine) -> None:
    port = free_port()
    serve(machine, port)
    hung = machine.worker_pid()
    try:
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: not os.path.exists(f"/proc/{hung}"), 15)
        wait_until(lambda: machine.condition("Applied").get("status") == "True", 10)
        found = [_status(port) for _ in range(20)]
        condition = machine.condition("WorkerHealthy")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGCONT)

    assert found == [200] * 20
    assert (condition["status"], condition["reason"]) == ("True", "Replaced")
    assert str(hung) in condition["message"]
    told(machine.put(f"{MEMBERS}/one", {"weight": 3}))
    for kind in ("pools/po?cascade=true", "listeners/li"):
        assert machine.delete(f"{API}/{kind}").status == 204


def test_a_worker_that_hangs_is_replaced_however_many_write(machine: Machine) -> None:
    port = free_port()
    serve(machine, port)
    time.sleep(1)
    hung, ended = machine.worker_pid(), threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            machine.put(f"{MEMBERS}/one", {"weight": number % 100 + 2})

    writer = threading.Thread(target=write)
    # The last replacement is less than a minute ago: a new agent knows nothing of it.
    machine.stop()
    machine.start()
    try:
        writer.start()
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: not os.path.exists(f"/proc/{hung}"), 20)
    finally:
        ended.set()
        writer.join(20)
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGCONT)
    wait_until(lambda: machine.put(f"{MEMBERS}/one", {"weight": 1}).status == 200, 10)
    for kind in ("pools/po?cascade=true", "listeners/li"):
        assert machine.delete(f"{API}/{kind}").status == 204


def test_a_worker_that_answers_again_is_let_live(machine: Machine) -> None:
    machine.stop()
    machine.start()
    worker = machine.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: machine.condition("HaproxyRunning").get("status") == "Unknown", 10, 0.01)
    os.kill(worker, signal.SIGCONT)

    wait_until(lambda: machine.condition("HaproxyRunning").get("status") == "True", 10)

    assert machine.worker_pid() == worker


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()
