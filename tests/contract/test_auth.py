"""Who may do what (CONTRACT section 1, rows "address", "auth" and "modes")."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinx_loadbalancer_agent import app, settings
from kinx_loadbalancer_agent.api import auth
from kinx_loadbalancer_agent.system import files
from kinx_loadbalancer_agent.system.clock import SystemClock
from tests.contract import documents, judge, wire
from tests.machine import Machine, wait_until

EVERY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UNKNOWN = "/api/haproxy/nothing"


class Watch(SystemClock):
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def routes(directory: Path) -> Iterator[str]:
    """Yield a path for each route of the application."""
    found = settings.load(root=directory, environment={})
    application = app.build_app(found, app.build_engine(found))
    for rule in application.url_map.iter_rules():
        yield re.sub("<[^>]*>", "1", rule.rule)


# --- where it listens -----------------------------------------------------------------------


def test_the_api_is_on_the_loopback_address_unless_somebody_says_otherwise() -> None:
    found = settings.load(environment={}, config=Path(os.devnull))

    assert found.agent.listen == "127.0.0.1:62000"
    assert found.agent.socket == Path("/run/kinx_loadbalancer_agent.sock")
    assert found.agent.state_directory == Path("/opt/kinx_loadbalancer_agent")
    assert found.agent.credentials == Path("/etc/kinx_loadbalancer_agent/credentials")


# --- credentials ----------------------------------------------------------------------------


def test_basic_takes_the_name_and_the_secret(shared: Machine) -> None:
    headers = wire.basic("test", shared.secret)

    reply = shared.get("/api/status", auth=False, headers=headers)

    assert reply.status == 200


def test_bearer_takes_the_secret(shared: Machine) -> None:
    headers = wire.bearer(shared.secret)

    reply = shared.get("/api/status", auth=False, headers=headers)

    assert reply.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic dGVzdA=="},
        {"Authorization": "Bearer"},
        {"Authorization": "Digest username=test"},
        wire.basic("test", "wrong"),
        wire.basic("", ""),
        wire.bearer("wrong"),
        wire.bearer("wr\xf6ng"),
    ],
    ids=str,
)
def test_a_request_without_a_right_credential_is_a_401(
    shared: Machine, headers: dict[str, str]
) -> None:
    reply = wire.request_from(shared, "127.0.0.2", "GET", "/api/status", headers)

    judge.assert_is_problem(reply, 401)
    assert reply.headers["WWW-Authenticate"]


def test_the_right_secret_under_another_name_is_a_401(shared: Machine) -> None:
    headers = wire.basic("other", shared.secret)

    reply = wire.request_from(shared, "127.0.0.3", "GET", "/api/status", headers)

    judge.assert_is_problem(reply, 401)


def test_every_route_but_healthz_asks_for_a_credential(shared: Machine, tmp_path: Path) -> None:
    paths = set(routes(tmp_path)) - {"/healthz"}
    assert {"/api/status", "/readyz", "/api/haproxy/pools/1/members/1"} <= paths

    answered = {
        (method, path): shared.request(method, path, auth=False).status
        for path in sorted(paths)
        for method in EVERY_METHOD
    }

    assert {asked: status for asked, status in answered.items() if status != 401} == {}


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_401_comes_before_404(shared: Machine, method: str) -> None:
    assert shared.request(method, UNKNOWN, auth=False).status == 401
    assert shared.get(UNKNOWN).status == 404


def test_401_comes_before_405(shared: Machine) -> None:
    assert shared.delete(documents.POOLS, auth=False).status == 401
    assert shared.delete(documents.POOLS).status == 405


def test_401_comes_before_413(shared: Machine) -> None:
    body = b" " * (1024 * 1024 + 1)

    reply = shared.post(documents.POOLS, body, auth=False)

    assert reply.status == 401


def test_401_comes_before_415(shared: Machine) -> None:
    headers = {"Content-Type": "text/plain"}

    assert shared.post(documents.POOLS, b"{}", auth=False, headers=headers).status == 401
    assert shared.post(documents.POOLS, b"{}", headers=headers).status == 415


def test_healthz_is_open(shared: Machine) -> None:
    for method, status in (("GET", 200), ("HEAD", 200), ("POST", 405)):
        assert shared.request(method, "/healthz", auth=False).status == status


def test_the_answer_to_no_credential_tells_nothing_of_the_state(shared: Machine) -> None:
    known = documents.made(shared, "pools")

    there = shared.get(known.item, auth=False)
    absent = shared.get(f"{documents.POOLS}/nothing", auth=False)

    assert there.status == absent.status == 401
    assert there.json | {"instance": ""} == absent.json | {"instance": ""}


# --- no credential at all -------------------------------------------------------------------


def test_without_any_credential_every_route_but_healthz_is_a_503_that_names_the_command(
    machine: Machine, tmp_path: Path
) -> None:
    paths = {*routes(tmp_path), UNKNOWN} - {"/healthz"}
    removed = machine.cli("credentials", "remove", "test")
    assert removed.returncode == 0, removed.stderr

    wait_until(lambda: machine.get("/api/status").status == 503, seconds=1)
    replies = {path: machine.get(path, auth=False) for path in paths}

    for path, reply in replies.items():
        assert reply.status == 503, path
        judge.assert_is_problem(reply, 503)
        assert "kinx_loadbalancer_agent credentials add" in reply.json["detail"]
    assert machine.get("/healthz", auth=False).status == 200


# --- wrong guesses --------------------------------------------------------------------------


def test_the_eleventh_wrong_credential_from_one_address_is_a_429(shared: Machine) -> None:
    def status(headers: dict[str, str]) -> int:
        return wire.request_from(shared, "127.0.0.11", "GET", "/api/status", headers).status

    wrong = [status(wire.bearer(f"wrong{number}")) for number in range(10)]

    assert wrong == [401] * 10
    assert status(wire.bearer("wrong")) == 429
    assert status(wire.basic("test", "wrong")) == 429
    assert status(wire.bearer(shared.secret)) == 200
    assert status(wire.basic("test", shared.secret)) == 200


def test_a_429_is_a_problem_that_says_when_to_come_back(shared: Machine) -> None:
    for number in range(11):
        headers = wire.basic("test", f"wrong{number}")
        reply = wire.request_from(shared, "127.0.0.12", "GET", "/api/status", headers)

    judge.assert_is_problem(reply, 429)
    assert 1 <= int(reply.headers["Retry-After"]) <= 60


def test_wrong_credentials_are_counted_by_address(shared: Machine) -> None:
    for number in range(12):
        headers = wire.bearer(f"wrong{number}")
        first = wire.request_from(shared, "127.0.0.13", "GET", "/api/status", headers)
    second = wire.request_from(shared, "127.0.0.14", "GET", "/api/status", wire.bearer("wrong"))

    assert (first.status, second.status) == (429, 401)


def test_missing_and_right_credentials_are_not_counted(shared: Machine) -> None:
    for _ in range(12):
        none = wire.request_from(shared, "127.0.0.15", "GET", "/api/status", {})
        right = wire.bearer(shared.secret)
        assert wire.request_from(shared, "127.0.0.15", "GET", "/healthz", right).status == 200

    wrong = wire.request_from(shared, "127.0.0.15", "GET", "/api/status", wire.bearer("wrong"))

    assert none.status == 401
    assert wrong.status == 401


def test_wrong_credentials_are_forgotten_after_a_minute(tmp_path: Path) -> None:
    found = settings.load(root=tmp_path, environment={})
    credential, _ = auth.new_credential("test", "write")
    files.make_directory(found.agent.credentials.parent, 0o755)
    found.agent.credentials.write_text(f"{credential}\n")
    clock = Watch()
    client = app.build_app(found, app.build_engine(found), clock=clock).test_client()

    def wrong() -> int:
        return client.get("/api/status", headers=wire.bearer("wrong")).status_code

    first = [wrong() for _ in range(11)]
    clock.now += 59
    later = wrong()
    clock.now += 61
    afterwards = wrong()

    assert first == [401] * 10 + [429]
    assert (later, afterwards) == (429, 401)


def test_a_forged_forwarding_header_is_no_other_address(shared: Machine) -> None:
    for number in range(11):
        headers = {**wire.bearer("wrong"), "X-Forwarded-For": f"192.0.2.{number}"}
        reply = wire.request_from(shared, "127.0.0.16", "GET", "/api/status", headers)

    assert reply.status == 429


# --- roles ----------------------------------------------------------------------------------


def test_the_role_read_may_look_and_not_write(shared: Machine) -> None:
    reader = shared.cli("credentials", "add", "reader", "--role", "read").stdout.strip()
    headers = wire.bearer(reader)
    known = documents.made(shared, "pools")
    before = shared.get(known.item).json

    looks = [
        shared.request(method, known.item, headers=headers).status
        for method in ("GET", "HEAD", "OPTIONS")
    ]
    writes = [
        shared.request(method, path, {}, headers=headers)
        for method, path in (
            ("POST", documents.POOLS),
            ("PUT", known.item),
            ("PATCH", known.item),
            ("DELETE", known.item),
        )
    ]

    assert looks == [200, 200, 204]
    for reply in writes:
        judge.assert_is_problem(reply, 403)
    assert shared.get(known.item).json == before


# --- the file -------------------------------------------------------------------------------


def test_a_running_agent_takes_a_new_credential_within_a_second(shared: Machine) -> None:
    secret = shared.cli("credentials", "add", "late").stdout.strip()
    headers = wire.basic("late", secret)

    wait_until(lambda: shared.get("/api/status", headers=headers).status == 200, seconds=1)


def test_a_running_agent_forgets_a_removed_credential_within_a_second(shared: Machine) -> None:
    secret = shared.cli("credentials", "add", "brief").stdout.strip()
    headers = wire.basic("brief", secret)
    wait_until(lambda: shared.get("/api/status", headers=headers).status == 200, seconds=1)

    shared.cli("credentials", "remove", "brief")

    wait_until(lambda: shared.get("/api/status", headers=headers).status == 401, seconds=1)


def test_only_the_hash_of_a_secret_is_kept(shared: Machine) -> None:
    path = shared.root / "etc/kinx_loadbalancer_agent/credentials"

    text = path.read_text()

    assert "test" in text
    assert shared.secret not in text
    assert shared.secret not in shared.log.read_text()


# --- the Unix socket, and modes -------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_unix_socket_asks_for_no_credential_and_is_for_its_owner(shared: Machine) -> None:
    socket = shared.root / "run/kinx_loadbalancer_agent.sock"
    place = documents.place(shared, "loadbalancers")

    read = wire.over_unix_socket(shared, "GET", "/api/status")
    written = wire.over_unix_socket(shared, "POST", place.collection, place.body)

    assert mode(socket) == 0o600
    assert (read.status, written.status) == (200, 201)


def test_a_forged_header_does_not_pass_for_the_unix_socket(shared: Machine) -> None:
    headers = {"X-Forwarded-For": "unix:", "Gunicorn-Socket": "unix", "Host": "localhost"}

    assert shared.get("/api/status", auth=False, headers=headers).status == 401


def test_files_are_no_more_open_than_they_need_to_be(shared: Machine) -> None:
    documents.made(shared, "pools", enabled=True)
    state = shared.root / "opt/kinx_loadbalancer_agent"

    assert mode(state) == 0o700
    assert {mode(path) & 0o027 for path in state.iterdir()} == {0}
    assert mode(shared.root / "etc/kinx_loadbalancer_agent/credentials") == 0o600
    assert {mode(path) for path in shared.conf_d.glob("*.cfg")} == {0o640}
    assert mode(shared.root / "run/haproxy/kinx.sock") == 0o600


# --- requests that are none -----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"GET /api/status HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/status HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET /api/status HTTP/1.1\r\nHost: a\r\nBad Name: a\r\n\r\n",
        b"POST /api/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/status HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
    ids=["line", "version", "path", "header", "name", "length", "chunk"],
)
def test_a_request_that_is_no_http_is_never_answered_with_html(
    shared: Machine, content: bytes
) -> None:
    answer = wire.raw(shared, content)

    assert answer.startswith(b"HTTP/1.1 4")
    assert b"html" not in answer.lower()
    assert b"Traceback" not in answer


def test_an_agent_that_got_nonsense_answers_the_next_one(shared: Machine) -> None:
    wire.raw(shared, b"\x16\x03\x01\x02\x00")

    assert shared.get("/healthz", auth=False).status == 200
