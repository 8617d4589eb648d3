"""Sentences of the contract's section 1 that no other test proves; ``rules.toml`` names them."""

import os
import re
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kinx_loadbalancer_agent import app, settings
from kinx_loadbalancer_agent.api import auth
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.errors import Unavailable
from kinx_loadbalancer_agent.system import files
from kinx_loadbalancer_agent.system.clock import SystemClock
from tests.conftest import need
from tests.contract import documents, judge, wire
from tests.contract.documents import LISTENERS
from tests.fault.node import Fork, Node, intent, listener, member, pool
from tests.integration.checks import SlowChecks
from tests.machine import COMMAND, Machine, free_port, running, wait_until

MIB = 1024 * 1024
DEPTH = 32


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- limits ---------------------------------------------------------------------------------


def test_a_tree_may_have_16_mib_and_no_more(shared: Machine) -> None:
    url = f"{documents.made(shared, 'loadbalancers').item}/tree"

    largest = shared.put(url, b'{"name": "x"}'.ljust(16 * MIB))
    above = shared.put(url, b'{"name": "y"}'.ljust(16 * MIB + 1))

    assert (largest.status, largest.json["name"]) == (200, "x")
    judge.assert_is_problem(above, 413)
    assert shared.get(url).json["name"] == "x"


@pytest.mark.parametrize(("deeper", "status"), [(0, 200), (1, 400)])
def test_a_deeper_list_or_tree_is_a_400(shared: Machine, deeper: int, status: int) -> None:
    owner, members = documents.made(shared, "loadbalancers"), documents.made(shared, "members")
    tags: list[Any] = []
    for _ in range(DEPTH - 3 + deeper):
        tags = [tags]

    replies = [
        shared.put(members.collection, [{**members.body, "tags": tags}]),
        shared.put(f"{owner.item}/tree", {"tags": [tags]}),
    ]

    assert [reply.status for reply in replies] == [status] * 2


# --- verbs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", documents.SINGLETONS)
def test_a_singleton_is_a_404_while_there_is_none(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = documents.CHANGE[kind] if method in ("PUT", "PATCH") else None
        judge.assert_is_problem(shared.request(method, place.item, body), 404)
    assert shared.request("HEAD", place.item).status == 404


# --- truth ----------------------------------------------------------------------------------


def test_cron_that_takes_longer_than_two_seconds_is_a_202_after_two(shared: Machine) -> None:
    shared.delete(documents.CRONTAB)
    spool = shared.root / "var/spool/cron/crontabs/root"
    spool.parent.mkdir(parents=True, exist_ok=True)
    spool.unlink(missing_ok=True)
    os.mkfifo(spool)  # whoever reads it waits

    began = time.monotonic()
    reply = shared.post(documents.CRONTAB, documents.crontab())
    took = time.monotonic() - began
    with spool.open("w"):
        spool.unlink()

    assert reply.status == 202
    assert reply.json["applied"]["because"]
    assert 1.5 < took < 4
    change = reply.headers["Location"]
    wait_until(lambda: shared.get(change).json["state"] == "applied", 15)


class Late(SystemClock):
    """A clock that is 11 s ahead from the moment on that a file is there."""

    def __init__(self, since: Path) -> None:
        self._since = since

    def monotonic(self) -> float:
        return super().monotonic() + 11 * self._since.exists()


def test_a_reload_that_there_is_no_time_to_prove_is_not_begun(tmp_path: Path) -> None:
    need("haproxy")
    checks = SlowChecks(tmp_path)
    clock = Late(tmp_path / "begun")

    def build(found: settings.Settings, own: bool) -> Engine:
        return app.build_engine(found, own_haproxy=own, clock=clock)

    node = Node(environment=checks.environment)
    try:
        with node.agent(build) as engine:
            engine.submit(intent(listener("one", free_port())))
            reloads, before = node.reloads(), node.contents()
            checks.take(0.05)  # a check, and the clock, that take all the time there is
            with pytest.raises(Unavailable):
                engine.submit(intent(listener("two", free_port())))
            time.sleep(1)

            assert (node.reloads(), node.contents()) == (reloads, before)
    finally:
        node.end()


def test_a_change_whose_caller_hangs_up_is_made_and_repeating_is_a_200(tmp_path: Path) -> None:
    need("haproxy")
    checks, body = SlowChecks(tmp_path), documents.listener()
    with running(environment=checks.environment) as machine:
        checks.take(0.5)
        sent = socket.create_connection(("127.0.0.1", machine.port))
        text = repr(body).replace("'", '"')
        head = f"POST {LISTENERS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n"
        secret = f"Authorization: Bearer {machine.secret}\r\n\r\n"
        sent.sendall(f"{head}{secret}{text}".encode())
        checks.wait_for_one()

        sent.close()
        before = machine.get(f"{LISTENERS}/{body['id']}").status
        checks.take(0)
        wait_until(lambda: machine.get(f"{LISTENERS}/{body['id']}").status == 200)
        repeated = machine.post(LISTENERS, body)

        assert before == 404
        assert (repeated.status, repeated.json["applied"]["by"]) == (200, "none")
        judge.assert_haproxy_agrees(machine)


# --- idempotence ----------------------------------------------------------------------------


def changing(fork: Fork) -> set[str]:
    """Return what an agent did to files and processes; it counts traffic all the time."""
    return {moment.effect for moment in fork.seen} - {"write counters.json"}


def test_the_same_content_has_no_effect_on_the_machine() -> None:
    need("haproxy")
    web, po, m = listener("web", free_port()), pool("po", listener_id="web"), member("po", "m", 9)
    node = Node()
    try:
        node.carry_out(intent(web, po, m))

        start = node.fork().run()
        same = node.fork(*(intent(one) for one in (web, po, m))).run()
        other = node.fork(intent(pool("other"))).run()

        assert same.answers == ["200"] * 3
        assert changing(same) == changing(start)
        assert changing(other) >= changing(start) | {"haproxy.reload", "store.commit"}
    finally:
        node.end()


# --- codes ----------------------------------------------------------------------------------


def test_our_bug_is_a_500_with_a_constant_detail(tmp_path: Path) -> None:
    found = settings.load(root=tmp_path, environment={})
    credential, secret = auth.new_credential("test", "write")
    files.make_directory(found.agent.credentials.parent, 0o755)
    found.agent.credentials.write_text(f"{credential}\n")
    application = app.build_app(found, app.build_engine(found))
    bugs: list[Callable[[], Any]] = [lambda: 1 // 0, lambda: {}["a secret of ours"]]
    for number, bug in enumerate(bugs):
        application.add_url_rule(f"/bug/{number}", f"bug{number}", bug)

    client = application.test_client()
    replies = [client.get(f"/bug/{n}", headers=wire.bearer(secret)) for n in range(len(bugs))]

    for reply in replies:
        assert reply.status_code == reply.json["status"] == 500
        assert reply.mimetype == judge.PROBLEM
        assert reply.json.keys() >= judge.PROBLEM_MEMBERS
        assert "secret" not in reply.text
        assert "Traceback" not in reply.text
    assert len({reply.json["detail"] for reply in replies}) == 1


def test_without_a_credential_the_503_says_when_to_come_back(tmp_path: Path) -> None:
    found = settings.load(root=tmp_path, environment={})

    reply = app.build_app(found, app.build_engine(found)).test_client().get("/api/status")

    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_a_507_and_nothing_is_kept() -> None:
    need("haproxy")
    need("unshare")
    machine = Machine()
    state = machine.root / "opt/kinx_loadbalancer_agent"
    state.mkdir(parents=True)
    mount = 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"'  # seen by the agent alone
    try:
        machine.start(command=("unshare", "-m", "sh", "-c", mount, str(state), *COMMAND))
        large = {"enabled": False, "sni_containers": ["x" * 255] * 3500}
        bodies = [documents.listener(**large) for _ in range(8)]

        replies = [machine.post(LISTENERS, body) for body in bodies]

        kept = [
            body["id"] for body, reply in zip(bodies, replies, strict=True) if reply.status < 300
        ]
        assert {reply.status for reply in replies} == {201, 507}
        judge.assert_is_problem(replies[-1], 507)
        wait_until(lambda: machine.condition("SpaceLeft").get("status") == "False", 5)
        there = machine.get(LISTENERS).json["listeners"]
        assert {one["id"] for one in there} == {*kept}
        judge.assert_haproxy_agrees(machine)
    finally:
        machine.end()


# --- concurrency ----------------------------------------------------------------------------


def test_of_many_who_saw_the_same_state_at_once_one_gets_its_way(shared: Machine) -> None:
    place = documents.made(shared, "members")
    seen = {"If-Match": shared.get(place.item).headers["ETag"]}

    with ThreadPoolExecutor(8) as callers:
        replies = list(
            callers.map(
                lambda weight: shared.put(place.item, {"weight": weight}, headers=seen),
                range(2, 10),
            )
        )

    assert sorted(reply.status for reply in replies) == [200] + [412] * 7
    (won,) = (reply for reply in replies if reply.status == 200)
    assert shared.get(place.item).json == judge.content(won)


# --- modes ----------------------------------------------------------------------------------


def test_what_is_no_secret_can_be_read_by_the_group_and_by_nobody_else(shared: Machine) -> None:
    for kind in ("listeners", "peers", "quagga", "crontab"):
        documents.made(shared, kind, **({"enabled": True} if kind == "listeners" else {}))
    # Who may read a lock may hold it, and cron runs no crontab of another mode.
    private = {"credentials", ".credentials.lock", "root"}

    found = [path for path in (shared.root / "etc").rglob("*") if path.is_file()]
    found += [path for path in (shared.root / "var").rglob("*") if path.is_file()]

    modes = {path.name: mode(path) for path in found}
    assert {"credentials", "root", "frr.conf", "00-global.cfg"} <= modes.keys()
    assert modes == {name: 0o600 if name in private else 0o640 for name in modes}


def test_a_socket_has_the_mode_of_the_contract(shared: Machine) -> None:
    assert mode(shared.socket("kinx")) == 0o600
    assert mode(shared.socket("admin")) == 0o660
    assert mode(shared.root / "run/kinx_loadbalancer_agent.sock") == 0o600


# --- request id -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pools", "quagga", "crontab"])
def test_every_log_line_of_what_a_request_does_has_its_id(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind, **({"enabled": True} if kind == "pools" else {}))
    time.sleep(0.2)  # what was answered before is logged a moment later
    given, known = documents.fresh("request"), len(shared.log.read_text())

    shared.post(place.collection, place.body, headers={"X-Request-Id": given})

    lines = shared.log.read_text()[known:].splitlines()
    assert lines
    assert [line for line in lines if given not in line] == []


def test_the_log_line_of_what_is_no_http_has_the_id_of_its_answer(shared: Machine) -> None:
    known = len(shared.log.read_text())

    answer = wire.raw(shared, b"nonsense\r\n\r\n").decode()

    (made,) = re.findall(r"urn:request:([A-Za-z0-9._:-]+)", answer)
    assert made in shared.log.read_text()[known:]
