"""The keepers of the speaker's file and of the crontab, killed, kept waiting and left alone.

Whatever the agent died at, the next one has files as its state says, and no line of others is lost.
"""

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinx_loadbalancer_agent.engine import store
from kinx_loadbalancer_agent.model.intents import Create, Delete, Intent, Operation
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.services.routing.service import MARK, Routing
from kinx_loadbalancer_agent.services.schedule import Schedule
from kinx_loadbalancer_agent.services.text import Templates
from tests.contract import documents, judge
from tests.fault.node import Fork, Moment, Node, change, delete, intent, stopped
from tests.machine import Machine, free_port, running, wait_until

OTHERS = b"# root's own\r\n5\t4 * * *\t/usr/bin/backup \xff\n"
FOREIGN = b"hostname router-of-somebody\n"
COMMITTED = Moment("store.commit", "after")


def speaker() -> tuple[Operation, ...]:
    values = documents.quagga()
    vip = {"vip_addr": values.pop("vip_addr")}
    return (Create("quagga", values), Create("vips", vip, parent="quagga"))


def report() -> Create:
    return Create("crontab", documents.crontab())


def conf(machine: Machine) -> Path:
    return machine.root / "etc/frr/frr.conf"


def spool(machine: Machine) -> Path:
    return machine.root / "var/spool/cron/crontabs/root"


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def ours(machine: Machine) -> bytes:
    return f"* * * * * /usr/local/bin/check_vlb --root {machine.root}\n".encode()


# --- killed -------------------------------------------------------------------------------------


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node whose HAProxy is somebody else's to start, and was not started.

    What a killed agent leaves of a check is in the test's own directory.
    """
    found = Node(own_haproxy=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    conf(found).parent.mkdir(parents=True)
    spool(found).parent.mkdir(parents=True)
    spool(found).write_bytes(OTHERS)
    yield found
    found.end()


def wanted(node: Node) -> tuple[bytes, bytes]:
    """Return what the store asks for: the speaker's file, and our line."""
    state = store.read_state(node.settings.agent.store, Kinds())
    routing = Routing(node.settings.routing, Templates())
    return routing.render(state), Schedule(node.settings.schedule).render(state)


def agrees(node: Node) -> bool:
    text, line = wanted(node)
    found = read(conf(node))
    is_spoken = found == text if text else not found.startswith(MARK)
    return is_spoken and read(spool(node)) == OTHERS + line


def run_to(fork: Fork, number: int) -> Moment | None:
    """Kill *fork* at its moment *number*; None when it ends before.

    Both keepers may stand still then, and one of them has not heard yet that it may go on.
    """
    try:
        return fork.run_to(number)
    except ConnectionResetError:
        os.waitpid(fork.pid, 0)
        return fork.seen[number]


def dies_everywhere(node: Node, before: Intent | None, *asked: Intent) -> list[Moment]:
    """Kill the agent at each moment of *asked*, and judge what a restart makes of it.

    Returns the moments there were.
    """
    empty = intent(Delete("quagga", "quagga"), Delete("crontab", "crontab"))
    for number in itertools.count():
        conf(node).write_bytes(FOREIGN)
        for kept_aside in conf(node).parent.glob("*before-kinx*"):
            kept_aside.unlink()
        if before is not None:
            node.carry_out(before)
        kept = node.contents()
        fork = node.fork(*asked)
        died = run_to(fork, number)
        try:
            with node.agent():
                wait_until(lambda: agrees(node), 5)
                assert (node.contents() != kept) == (COMMITTED in fork.seen)
                assert [*node.root.rglob("*.new")] == []
                aside = [path.read_bytes() for path in conf(node).parent.glob("*before-kinx*")]
                assert aside == ([] if read(conf(node)) == FOREIGN else [FOREIGN])
        except AssertionError as error:
            error.add_note(f"the agent died {died}, having done {fork.seen}")
            raise
        if node.contents():
            node.carry_out(empty)
        if died is None:
            return fork.seen
    raise AssertionError


def test_killed_at_any_moment_of_the_first_speaker_and_report(away: Node) -> None:
    moments = dies_everywhere(away, None, intent(*speaker(), report()))

    written = {moment.effect for moment in moments}
    assert {"run vtysh", "move frr.conf", "write frr.conf", "write root"} <= written


def test_killed_at_any_moment_of_a_change(away: Node) -> None:
    moments = dies_everywhere(
        away,
        intent(*speaker(), report()),
        intent(change("quagga", "quagga", hostname="lbv-2")),
        intent(change("crontab", "crontab", schedule="*/5 * * * *")),
    )

    assert {"write frr.conf", "write root"} <= {moment.effect for moment in moments}


def test_killed_at_any_moment_of_a_deletion(away: Node) -> None:
    moments = dies_everywhere(
        away,
        intent(*speaker(), report()),
        intent(delete("quagga", "quagga")),
        intent(delete("crontab", "crontab")),
    )

    assert {"remove frr.conf", "write root"} <= {moment.effect for moment in moments}


# --- a graceful restart -------------------------------------------------------------------------


def test_after_a_graceful_restart_one_agent_keeps_both(machine: Machine) -> None:
    machine.post(documents.QUAGGA, documents.quagga())
    machine.post(documents.CRONTAB, documents.crontab())
    assert machine.process is not None
    before = machine.worker_pids()

    machine.process.send_signal(signal.SIGHUP)
    wait_until(lambda: machine.worker_pids() and not {*machine.worker_pids()} & {*before}, 40)
    wait_until(machine.is_ready)
    text = conf(machine).read_bytes()
    conf(machine).unlink()
    spool(machine).write_bytes(OTHERS)

    wait_until(lambda: read(conf(machine)) == text)
    wait_until(lambda: read(spool(machine)) == OTHERS + ours(machine))
    assert machine.put(documents.CRONTAB, {"schedule": "0 * * * *"}).status == 200


# --- HAProxy ------------------------------------------------------------------------------------


def test_what_is_kept_is_repaired_while_haproxy_hangs(machine: Machine) -> None:
    machine.post(documents.QUAGGA, documents.quagga())
    machine.post(documents.CRONTAB, documents.crontab())
    text = conf(machine).read_bytes()

    with stopped(machine.worker_pid()):
        conf(machine).unlink()
        spool(machine).unlink()
        wait_until(conf(machine).exists)
        wait_until(spool(machine).exists)

        assert (read(conf(machine)), read(spool(machine))) == (text, ours(machine))


def test_without_haproxy_both_are_kept_and_the_answer_says_what_is_missing() -> None:
    with running(own_haproxy=False) as machine:
        speaks = machine.post(documents.QUAGGA, documents.quagga())
        reports = machine.post(documents.CRONTAB, documents.crontab())

        assert (speaks.status, reports.status) == (202, 202)
        assert "HAProxy is not running" in reports.json["applied"]["because"]
        assert conf(machine).read_bytes().startswith(MARK)
        assert spool(machine).read_bytes() == ours(machine)


# --- a vtysh that hangs -------------------------------------------------------------------------


def test_a_vtysh_that_hangs_is_a_503_in_time_and_the_agent_lives_on(tmp_path: Path) -> None:
    (tmp_path / "vtysh").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "vtysh").chmod(0o755)
    with running(environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"}) as machine:
        before, began = judge.kept(machine), time.monotonic()

        reply = machine.post(documents.QUAGGA, documents.quagga())
        took = time.monotonic() - began
        after = judge.kept(machine)
        (tmp_path / "vtysh").unlink()
        wait_until(lambda: machine.condition("Applied")["status"] == "True")

        judge.assert_is_problem(reply, 503)
        assert "vtysh" in reply.json["detail"]
        assert int(reply.headers["Retry-After"]) > 0
        assert took < 15
        assert after == before
        assert machine.post(documents.LISTENERS, documents.listener()).status == 201
        assert machine.post(documents.QUAGGA, documents.quagga()).status == 202


# --- a cause that stays for a while -------------------------------------------------------------


def test_of_what_was_asked_while_nothing_could_be_written_the_latest_is(machine: Machine) -> None:
    spool(machine).parent.parent.mkdir(parents=True)
    spool(machine).parent.write_text("no directory")
    conf(machine).parent.mkdir(parents=True, exist_ok=True)
    conf(machine).mkdir()

    statuses = [
        machine.post(documents.CRONTAB, documents.crontab()).status,
        machine.put(documents.CRONTAB, {"schedule": "1 * * * *"}).status,
        machine.put(documents.CRONTAB, {"schedule": "2 * * * *"}).status,
        machine.post(documents.QUAGGA, documents.quagga()).status,
        machine.put(documents.QUAGGA, {"hostname": "lbv-2"}).status,
        machine.post(documents.LISTENERS, documents.listener(protocol_port=free_port())).status,
    ]
    states = {type: machine.condition(type)["reason"] for type in ("Scheduled", "RoutingApplied")}
    spool(machine).parent.unlink()
    conf(machine).rmdir()
    wait_until(lambda: read(spool(machine)).startswith(b"2 * * * * "), 35)
    wait_until(lambda: b"hostname lbv-2\n" in read(conf(machine)), 35)

    assert statuses == [202] * 5 + [201]
    assert states == {"Scheduled": "NotADirectoryError", "RoutingApplied": "IsADirectoryError"}
    wait_until(lambda: machine.condition("Scheduled")["status"] == "True")
