"""The crontab: one line of root's, kept there, and no other touched (CONTRACT section 2)."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract import documents, judge
from tests.contract.documents import CRONTAB
from tests.machine import Machine, running, wait_until

OTHERS = b'# root\'s own\r\nMAILTO=""\n5\t4 * * *\t/usr/bin/backup \xff\n'


@pytest.fixture
def node(shared: Machine) -> Machine:
    """A node whose root has a crontab with other lines only."""
    shared.delete(CRONTAB)
    spool(shared).parent.mkdir(parents=True, exist_ok=True)
    spool(shared).write_bytes(OTHERS)
    return shared


def spool(machine: Machine) -> Path:
    """Return where root's crontab is."""
    return machine.root / "var/spool/cron/crontabs/root"


def ours(machine: Machine, schedule: str = "* * * * *") -> bytes:
    """Return our line."""
    return f"{schedule} /usr/local/bin/check_vlb --root {machine.root}\n".encode()


def drift(machine: Machine, name: str) -> int:
    return int(machine.get("/api/status").json["drift"][name])


# --- the resource ---------------------------------------------------------------------------


def test_the_line_is_there_when_the_post_is_answered(node: Machine) -> None:
    reply = node.post(CRONTAB, documents.crontab())

    assert reply.status == 201
    assert spool(node).read_bytes() == OTHERS + ours(node)
    assert node.condition("Scheduled")["status"] == "True"
    assert node.get(f"/api/changes/{reply.json['applied']['change']}").json["state"] == "applied"


def test_on_the_system_itself_the_line_is_the_originals() -> None:
    with running(environment={"KINX_SCHEDULE_COMMAND": "/usr/local/bin/check_vlb"}) as machine:
        machine.post(CRONTAB, documents.crontab())

        assert spool(machine).read_bytes() == b"* * * * * /usr/local/bin/check_vlb\n"


def test_another_schedule_takes_the_place_of_the_one_before(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab())
    spool(node).write_bytes(ours(node) + OTHERS)

    reply = node.put(CRONTAB, {"schedule": "*/5 8-18 * * mon-fri"})

    assert reply.status == 200
    assert spool(node).read_bytes() == ours(node, "*/5 8-18 * * mon-fri") + OTHERS


def test_delete_leaves_the_file_without_the_line(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab())

    reply = node.delete(CRONTAB)

    assert reply.status == 204
    assert spool(node).read_bytes() == OTHERS
    assert node.condition("Scheduled")["reason"] == "NotAsked"


def test_what_the_report_says_is_in_no_crontab(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab(tenant_id="zqzq", vm_id="zqzq", agent_addr="zqzq"))

    assert b"zqzq" not in spool(node).read_bytes()


def test_a_change_of_who_gets_the_report_writes_no_crontab(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab())
    before = spool(node).stat()

    reply = node.put(CRONTAB, {"agent_addr": "collector.example", "agent_port": "9001"})

    assert reply.status == 200
    assert spool(node).stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *[(name, name) for name in ("collector", "a.b-c.example", "localhost", "x" * 63, "3com")],
        *[("192.0.2.1", "192.0.2.1"), ("2001:DB8:0::1", "2001:db8::1"), ("127.0.0.1", "127.0.0.1")],
    ],
)
def test_a_collector_is_an_address_or_a_host_name(node: Machine, given: str, kept: str) -> None:
    reply = node.post(CRONTAB, documents.crontab(agent_addr=given))

    assert (reply.status, reply.json["agent_addr"]) == (201, kept)


@pytest.mark.parametrize("name", ["agent_addr", "tenant_id", "vm_id", "schedule"])
def test_a_newline_in_a_member_is_a_422_and_no_file_is_touched(node: Machine, name: str) -> None:
    node.post(CRONTAB, documents.crontab())
    value = documents.crontab(schedule="* * * * *")[name]
    before, generation = spool(node).stat(), judge.kept(node)

    for end in ("\n", "\r", "\n* * * * * /bin/true"):
        reply = node.put(CRONTAB, {name: value + end})
        judge.assert_is_problem(reply, 422, f"/{name}")

    assert spool(node).stat() == before
    assert judge.kept(node) == generation


def test_a_schedule_that_cron_reads_in_several_ways_is_kept_to_the_letter(node: Machine) -> None:
    for schedule in ("0 0 * * *", "0 0 * * sun,0", "0 0 1-31 * 1", "0-59 * * * 0-7"):
        node.delete(CRONTAB)
        reply = node.post(CRONTAB, documents.crontab(schedule=schedule))

        assert (reply.status, reply.json["schedule"]) == (201, schedule)
        assert spool(node).read_bytes() == OTHERS + ours(node, schedule)


# --- drift ----------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[Machine], object]] = {
    "removed": lambda node: spool(node).write_bytes(OTHERS),
    "edited": lambda node: spool(node).write_bytes(OTHERS + ours(node, "0 1 * * *")),
    "commented": lambda node: spool(node).write_bytes(OTHERS + b"#" + ours(node)),
    "doubled": lambda node: spool(node).write_bytes(OTHERS + 2 * ours(node)),
    "gone with the file": lambda node: spool(node).unlink(),
    "shown to all": lambda node: spool(node).chmod(0o644),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_line_that_others_spoil_is_back_within_ten_seconds_and_shows_as_drift(
    node: Machine, damage: str
) -> None:
    node.post(CRONTAB, documents.crontab())
    wait_until(lambda: node.condition("Drift")["status"] == "False")
    found, repaired = drift(node, "found"), drift(node, "repaired")

    DAMAGE[damage](node)
    wait_until(lambda: drift(node, "found") == found + 1, 5)
    shown = node.condition("Drift")
    wait_until(lambda: drift(node, "repaired") == repaired + 1)

    others = {"commented": OTHERS + b"#" + ours(node), "gone with the file": b""}
    assert spool(node).read_bytes() == others.get(damage, OTHERS) + ours(node)
    assert spool(node).stat().st_mode & 0o777 == 0o600
    assert (shown["status"], str(spool(node)) in shown["message"]) == ("True", True)
    assert node.condition("Drift")["status"] == "False"


def test_an_edit_of_other_lines_is_no_drift_and_stays(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab())
    found, scan = drift(node, "found"), node.get("/api/status").json["drift"]["last_scan"]
    edited = b"0 0 * * * /bin/true\n" + ours(node) + OTHERS

    spool(node).write_bytes(edited)
    wait_until(lambda: node.get("/api/status").json["drift"]["last_scan"] > scan)
    node.put(CRONTAB, {"schedule": "0 * * * *"})

    assert spool(node).read_bytes() == edited.replace(ours(node), ours(node, "0 * * * *"))
    assert drift(node, "found") == found


def test_a_line_removed_while_the_agent_was_away_is_back_when_it_is(machine: Machine) -> None:
    machine.post(CRONTAB, documents.crontab())
    machine.stop()
    spool(machine).write_bytes(OTHERS)

    machine.start()
    wait_until(lambda: spool(machine).read_bytes() == OTHERS + ours(machine))

    assert machine.condition("Scheduled")["status"] == "True"


# --- the file -------------------------------------------------------------------------------


def test_cron_gets_a_file_of_the_mode_that_it_runs(node: Machine) -> None:
    spool(node).chmod(0o644)

    node.post(CRONTAB, documents.crontab())

    assert spool(node).stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_owner_becomes_that_of_the_directorys(node: Machine) -> None:
    os.chown(spool(node), 65534, 65534)
    os.chown(spool(node).parent, 0, 65534)

    node.post(CRONTAB, documents.crontab())

    found = spool(node).stat()
    os.chown(spool(node).parent, 0, 0)
    assert (found.st_uid, found.st_gid) == (0, 65534)


def test_where_no_crontab_can_be_the_answer_is_a_202_and_is_put_right_with_the_cause(
    node: Machine,
) -> None:
    away = spool(node).parent.with_name("away")
    spool(node).parent.rename(away)
    spool(node).parent.write_text("no directory")

    made = node.post(CRONTAB, documents.crontab())
    again = node.post(CRONTAB, documents.crontab())
    condition, pending = node.condition("Scheduled"), node.get(made.headers["Location"]).json
    spool(node).parent.unlink()
    away.rename(spool(node).parent)
    wait_until(lambda: node.condition("Scheduled")["status"] == "True")

    assert (made.status, again.status) == (202, 202)
    assert str(spool(node)) in made.json["applied"]["because"]
    assert judge.content(made) == node.get(CRONTAB).json
    assert (condition["status"], condition["severity"]) == ("False", "error")
    assert (pending["state"], pending["reason"]) == ("pending", condition["message"])
    assert node.get(made.headers["Location"]).json["state"] == "applied"
    assert spool(node).read_bytes() == OTHERS + ours(node)


def test_haproxy_is_not_kept_waiting_by_a_crontab_that_cannot_be_written(node: Machine) -> None:
    away = spool(node).parent.with_name("away")
    spool(node).parent.rename(away)
    spool(node).parent.write_text("no directory")

    node.post(CRONTAB, documents.crontab())
    reply = node.post(documents.LISTENERS, documents.listener())

    spool(node).parent.unlink()
    away.rename(spool(node).parent)
    assert (reply.status, reply.json["applied"]["by"]) == (201, "reload")
    assert node.get("/readyz").status == 200


# --- an operator edits at the same time -----------------------------------------------------


def install(machine: Machine, content: bytes) -> None:
    """Replace the crontab as crontab(1) does: a file of its own, renamed."""
    draft = spool(machine).with_name("tmp.operator")
    draft.write_bytes(content)
    draft.rename(spool(machine))


def test_what_an_operator_installs_stays_and_gets_our_line(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab())
    last = b""

    for number in range(40):  # longer than the agent lets it be
        last = OTHERS + f"{number} 4 * * * /usr/bin/backup\n".encode()
        install(node, last)
        time.sleep(0.1)

    wait_until(lambda: spool(node).read_bytes() == last + ours(node))


def test_an_edit_that_keeps_our_line_meets_a_change_of_it(node: Machine) -> None:
    node.post(CRONTAB, documents.crontab())

    for minute in range(20):
        edited = spool(node).read_bytes() + f"{minute} 4 * * * /usr/bin/backup\n".encode()
        install(node, edited)
        node.put(CRONTAB, {"schedule": f"{minute} * * * *"})

    backups = b"".join(b"%d 4 * * * /usr/bin/backup\n" % minute for minute in range(20))
    assert spool(node).read_bytes() == OTHERS + ours(node, "19 * * * *") + backups
