"""Our line of root's crontab: what it says, and that no other line is touched."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinx_loadbalancer_agent.errors import ApplyError, Unprocessable
from kinx_loadbalancer_agent.services.schedule import Schedule
from kinx_loadbalancer_agent.settings import ScheduleSettings
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock
from tests.conftest import need
from tests.unit.desired import Desired

COMMAND = b"/usr/local/bin/check_vlb"
OURS = b"* * * * * " + COMMAND + b"\n"
REPORT = {"agent_addr": "192.0.2.9", "agent_port": 9000, "tenant_id": "t", "vm_id": "v"}
FOREIGN = {
    "a comment": b"# m h dom mon dow command\n",
    "an empty line": b"\n",
    "blanks": b" \t \n",
    "a variable": b'MAILTO=""\n',
    "a variable with blanks": b"PATH = /usr/local/bin:/usr/bin\n",
    "a variable that ends as ours": b"LAST = 1 2 3 " + COMMAND + b"\n",
    "a line of DOS": b"0 4 * * * /usr/bin/backup\r\n",
    "tabs": b"5\t4\t*\t*\t*\t/usr/bin/backup\t--all\n",
    "a reboot": b"@reboot /usr/bin/start\n",
    "no UTF-8": b"0 1 * * * /usr/bin/mail \xff\xfe\xe9\n",
    "a carriage return inside": b"0 1 * * * echo a\rb\n",
    "a comment that goes back": b"# off:\r" + OURS,
    "ours in a comment": b"#" + OURS,
    "ours in a comment after blanks": b" \t# " + OURS,
    "ours and more": b"* * * * * " + COMMAND + b" --verbose\n",
    "ours and a remark": b"* * * * * " + COMMAND + b" # kinx\n",
    "ours and another": b"* * * * * " + COMMAND + b"; true\n",
    "ours after another": b"* * * * * cd / && " + COMMAND + b"\n",
    "ours with an input": b"* * * * * " + COMMAND + b"%text\n",
    "ours, niced": b"* * * * * nice " + COMMAND + b"\n",
    "one that begins like ours": b"* * * * * " + COMMAND + b"2\n",
    "one that ends like ours": b"* * * * * /opt" + COMMAND + b"\n",
    "ours without a schedule": COMMAND + b"\n",
    "ours with four fields": b"* * * * " + COMMAND + b"\n",
}
EDITED = {
    "another schedule": b"*/5 1 * * mon " + COMMAND + b"\n",
    "at a reboot": b"@reboot " + COMMAND + b"\n",
    "blanks before": b"  \t" + OURS,
    "blanks behind": b"* * * * * " + COMMAND + b" \t\n",
    "tabs": b"*\t*\t*\t*\t*\t" + COMMAND + b"\n",
    "a line of DOS": b"* * * * * " + COMMAND + b"\r\n",
}
BEFORE, BEHIND = b"# before\n", b"0 4 * * * /usr/bin/backup\n"


class Spool:
    """A directory with root's crontab, and what keeps our line in it."""

    def __init__(self, directory: Path, content: bytes | None = None, **settings: str) -> None:
        self.path = directory / "crontabs/root"
        self.path.parent.mkdir(exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.schedule = Schedule(ScheduleSettings(crontab=self.path, **settings))
        if content is not None:
            self.path.write_bytes(content)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    def keep(self, desired: Desired) -> tuple[str, ...]:
        """Do what a keeper does once, and return what it had planned."""
        deadline = Deadline.after(SystemClock(), 10)
        seen = self.schedule.observe(deadline)
        planned = self.schedule.plan(desired.state, seen)
        if planned:
            self.schedule.apply(desired.state, seen, deadline)
        return planned


def asked(schedule: str = "* * * * *") -> Desired:
    """Return a state that asks for the report."""
    desired = Desired()
    desired.post("crontab", REPORT | {"schedule": schedule})
    return desired


# --- the line -------------------------------------------------------------------------------

GOOD = (
    *("* * * * *", "*/5 * * * *", "0 0 * * *", "0 0 1 1 *", "0 * * * *", "59 23 31 12 7"),
    *("0-59/2 * * * *", "1,5,30 8-18 * * mon-fri", "0 4 * JAN-mar sun", "0 0 * * sun,0"),
    *("0 0 1-31 * 1", "0 0 1 * 0-6", "0 0 * jan,2 *", "0 0 * * 5-7"),
)
BAD = (
    *("", "*", "* * * *", "* * * * * *", "@daily", "@reboot", " * * * * *", "* * * * * "),
    *("*  * * * *", "*\t* * * *", "* * * * *\n", "60 * * * *", "* 24 * * *", "* * 0 * *"),
    *("* * 32 * *", "* * * 13 *", "* * * 0 *", "* * * * 8", "-1 * * * *", "*/0 * * * *"),
    *("1- * * * *", "1, * * * *", "a * * * *", "* * * * ?", "* * L * *", "\u0661 * * * *"),
    *("* * * * * root", "* * * * %", "* * * * #", "5-1 * * * *", "1" * 61 + " * * * *"),
)


@pytest.mark.parametrize("schedule", GOOD)
def test_the_line_is_the_schedule_as_it_was_given_and_the_command(
    schedule: str, tmp_path: Path
) -> None:
    spool = Spool(tmp_path)

    spool.keep(asked(schedule))

    assert spool.content == schedule.encode() + b" " + COMMAND + b"\n"


@pytest.mark.parametrize("schedule", BAD)
def test_what_is_no_five_fields_of_crontab_is_refused(schedule: str) -> None:
    desired = Desired()

    with desired.refuses(Unprocessable, "/schedule"):
        desired.post("crontab", REPORT | {"schedule": schedule})


VALUE = st.one_of(
    st.integers(0, 70).map(str), st.sampled_from(["*", "jan", "DEC", "sun", "Sat", "mon"])
)
RANGE = st.one_of(VALUE, st.builds("{}-{}".format, VALUE, VALUE))
STEPPED = st.one_of(RANGE, st.builds("{}/{}".format, RANGE, st.integers(0, 70)))
FIELD = st.lists(STEPPED, min_size=1, max_size=3).map(",".join)


@given(st.lists(st.lists(FIELD, min_size=5, max_size=5).map(" ".join), min_size=4, max_size=12))
def test_cron_accepts_every_line_that_is_written(
    tmp_path_factory: pytest.TempPathFactory, schedules: list[str]
) -> None:
    need("crontab")
    spool, lines = Spool(tmp_path_factory.getbasetemp()), b""
    for schedule in schedules:
        try:
            wanted = asked(schedule)
        except Unprocessable:
            continue
        spool.path.unlink(missing_ok=True)
        spool.keep(wanted)
        lines += spool.content

    check = ["crontab", "-n", "-"]
    ended = subprocess.run(check, input=lines.decode(), capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr + lines.decode()


def test_the_command_is_that_of_the_settings(tmp_path: Path) -> None:
    spool = Spool(tmp_path, OURS, command="/opt/check_vlb --root /srv/a")

    spool.keep(asked())

    assert spool.content == OURS + b"* * * * * /opt/check_vlb --root /srv/a\n"


# --- the other lines ------------------------------------------------------------------------


@pytest.mark.parametrize("line", FOREIGN.values(), ids=FOREIGN)
def test_a_line_of_somebody_else_stays_byte_by_byte(line: bytes, tmp_path: Path) -> None:
    spool = Spool(tmp_path, BEFORE + line + BEHIND)

    spool.keep(asked())
    with_ours = spool.content
    spool.keep(Desired())

    assert with_ours == BEFORE + line + BEHIND + OURS
    assert spool.content == BEFORE + line + BEHIND


def test_all_of_them_together_stay_as_they_are(tmp_path: Path) -> None:
    everything = b"".join(FOREIGN.values())
    spool = Spool(tmp_path, everything)

    spool.keep(asked())
    spool.keep(asked("*/7 * * * *"))
    with_ours = spool.content
    spool.keep(Desired())

    assert with_ours == everything + b"*/7 * * * * " + COMMAND + b"\n"
    assert spool.content == everything


def test_a_last_line_without_its_newline_gets_one_before_ours(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BEFORE + BEHIND.rstrip(b"\n"))

    spool.keep(asked())
    with_ours = spool.content
    spool.keep(Desired())

    assert with_ours == BEFORE + BEHIND + OURS
    assert spool.content == BEFORE + BEHIND


@pytest.mark.parametrize("line", EDITED.values(), ids=EDITED)
def test_our_line_that_was_edited_is_as_it_should_be_where_it_is(
    line: bytes, tmp_path: Path
) -> None:
    spool = Spool(tmp_path, BEFORE + line + BEHIND)

    spool.keep(asked())

    assert spool.content == BEFORE + OURS + BEHIND


@pytest.mark.parametrize("line", EDITED.values(), ids=EDITED)
def test_our_line_that_was_edited_goes_with_the_resource(line: bytes, tmp_path: Path) -> None:
    spool = Spool(tmp_path, BEFORE + line + BEHIND)

    spool.keep(Desired())

    assert spool.content == BEFORE + BEHIND


def test_our_line_without_its_newline_at_the_end_is_whole_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BEFORE + OURS.rstrip(b"\n"))

    spool.keep(asked())

    assert spool.content == BEFORE + OURS


@pytest.mark.parametrize("first", [OURS, *EDITED.values()], ids=["ours", *EDITED])
def test_of_several_copies_of_our_line_one_is_left(first: bytes, tmp_path: Path) -> None:
    spool = Spool(tmp_path, first + BEFORE + OURS + OURS + BEHIND + first)

    spool.keep(asked())
    with_ours = spool.content
    spool.path.write_bytes(first + BEFORE + OURS + OURS + BEHIND + first)
    spool.keep(Desired())

    assert with_ours == OURS + BEFORE + BEHIND
    assert spool.content == BEFORE + BEHIND


ANY_LINE = st.binary(max_size=40).filter(lambda line: b"\n" not in line).map(lambda b: b + b"\n")


@given(
    lines=st.lists(st.one_of(ANY_LINE, st.sampled_from([*FOREIGN.values()])), max_size=8),
    copies=st.lists(st.tuples(st.integers(0, 8), st.sampled_from([OURS, *EDITED.values()]))),
)
def test_whatever_the_crontab_holds_only_our_line_comes_and_goes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], copies: list[tuple[int, bytes]]
) -> None:
    mixed = list(lines)
    for at, copy in copies:
        mixed.insert(at, copy)
    spool = Spool(tmp_path_factory.getbasetemp(), b"".join(mixed))

    spool.keep(asked())
    with_ours = spool.content
    again = spool.keep(asked())
    spool.keep(Desired())

    rest = with_ours.split(b"\n")
    rest.remove(OURS.rstrip(b"\n"))
    assert b"\n".join(rest) == b"".join(lines)
    assert again == ()
    assert spool.content == b"".join(lines)


# --- the file -------------------------------------------------------------------------------


def test_what_is_right_is_not_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BEFORE + OURS + BEHIND)
    spool.path.chmod(0o600)
    before = spool.path.stat()

    planned = spool.keep(asked())

    after = spool.path.stat()
    assert planned == ()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_a_resource_a_crontab_without_our_line_is_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BEFORE + BEHIND)
    spool.path.chmod(0o644)

    planned = spool.keep(Desired())

    assert planned == ()
    assert spool.path.stat().st_mode & 0o777 == 0o644


def test_without_a_resource_no_crontab_is_made(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    planned = spool.keep(Desired())

    assert planned == ()
    assert not spool.path.exists()


def test_a_crontab_that_is_not_there_is_made(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.path.parent.rmdir()

    spool.keep(asked())

    assert spool.content == OURS
    assert spool.path.stat().st_mode & 0o777 == 0o600
    assert spool.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [BEFORE, BEFORE + OURS], ids=["without ours", "with ours"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o400])
def test_a_crontab_of_another_mode_which_cron_does_not_run_is_put_right(
    mode: int, content: bytes, tmp_path: Path
) -> None:
    spool = Spool(tmp_path, content)
    spool.path.chmod(mode)

    spool.keep(asked())

    assert spool.content == BEFORE + OURS
    assert spool.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("content", [BEFORE, BEFORE + OURS], ids=["without ours", "with ours"])
def test_a_crontab_of_another_owner_which_cron_does_not_run_is_put_right(
    content: bytes, tmp_path: Path
) -> None:
    spool = Spool(tmp_path, content)
    spool.path.chmod(0o600)
    os.chown(spool.path, 65534, 65534)

    spool.keep(asked())

    found, directory = spool.path.stat(), spool.path.parent.stat()
    assert spool.content == BEFORE + OURS
    assert (found.st_uid, found.st_gid) == (directory.st_uid, directory.st_gid)


def test_an_edit_between_the_look_and_the_write_is_not_lost(tmp_path: Path) -> None:
    spool, desired = Spool(tmp_path, BEFORE), asked()
    deadline = Deadline.after(SystemClock(), 10)
    seen = spool.schedule.observe(deadline)

    spool.path.write_bytes(BEFORE + BEHIND)
    with pytest.raises((ApplyError, OSError), match="changes"):
        spool.schedule.apply(desired.state, seen, deadline)
    edited = spool.content
    spool.keep(desired)

    assert edited == BEFORE + BEHIND
    assert spool.content == BEFORE + BEHIND + OURS
