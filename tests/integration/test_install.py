"""``install`` and ``uninstall`` of an image: written, kept aside, taken away and put back."""

import stat
import subprocess
import sysconfig
from pathlib import Path

import click.testing
import pytest
import yaml

from kinx_loadbalancer_agent import cli, settings
from kinx_loadbalancer_agent.api import auth
from kinx_loadbalancer_agent.errors import ApplyError
from kinx_loadbalancer_agent.install import Step, perform
from tests.conftest import need

CHECKOUT = Path(__file__).parents[2]
AGENT = "kinx_loadbalancer_agent"
UNIT = f"etc/systemd/system/{AGENT}.service"
PROGRAM = f"etc/supervisor/conf.d/{AGENT}.conf"
DROP_IN = "etc/systemd/system/haproxy.service.d/kinx.conf"
DAEMONS = "etc/frr/daemons"
SETTINGS = f"etc/{AGENT}/agent.toml"


class Image:
    """The file system of a machine that does not run, as a distribution leaves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        scripts = Path(sysconfig.get_path("scripts")).relative_to("/")
        for name in (AGENT, "check_vlb"):
            self.write(scripts / name, "")
        self.write("etc/haproxy/haproxy.cfg", "global\n")
        self.write(DAEMONS, "bgpd=no\n")

    def path(self, name: str | Path) -> Path:
        return self.directory / name

    def write(self, name: str | Path, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def run(self, *words: str) -> click.testing.Result:
        found = click.testing.CliRunner().invoke(cli.main, [*words, "--dir", str(self.directory)])
        assert found.exception is None or isinstance(found.exception, SystemExit)
        return found

    def contents(self) -> dict[str, bytes | str]:
        found: dict[str, bytes | str] = {}
        for path in sorted(self.directory.rglob("*")):
            name = str(path.relative_to(self.directory))
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = path.read_bytes()
        return found


@pytest.fixture
def image(tmp_path: Path) -> Image:
    need("systemctl")
    return Image(tmp_path)


def test_check_says_what_would_be_done_and_does_nothing(image: Image) -> None:
    before = image.contents()

    done = image.run("install", "--systemd", "--check")

    assert done.exit_code == 1
    assert f"write {image.path(UNIT)}, mode 0644" in done.stdout.splitlines()
    assert f"keep {image.path(DAEMONS)} aside as daemons.before-kinx" in done.stdout.splitlines()
    assert image.contents() == before


@pytest.mark.parametrize(
    ("by", "file", "other"), [("--systemd", UNIT, PROGRAM), ("--supervisor", PROGRAM, UNIT)]
)
def test_a_second_install_has_nothing_to_do(image: Image, by: str, file: str, other: str) -> None:
    first = image.run("install", by)
    after = image.contents()

    checked, second = image.run("install", "--check"), image.run("install")

    assert (first.exit_code, checked.exit_code, second.exit_code) == (0, 0, 0)
    assert file in after
    assert other not in after
    assert image.contents() == after


def test_no_value_is_left_open_and_systemd_accepts_the_unit(image: Image) -> None:
    need("systemd-analyze")

    image.run("install", "--systemd")

    for name in (UNIT, DROP_IN, f"etc/logrotate.d/{AGENT}", DAEMONS):
        assert "@" not in image.path(name).read_text().replace("@system-service", "")
    image.path(f"usr/local/bin/{AGENT}").unlink()
    image.write(f"usr/local/bin/{AGENT}", "#!/bin/sh\n")
    image.path(f"usr/local/bin/{AGENT}").chmod(0o755)
    argv = ["systemd-analyze", "security", "--offline=yes", "--threshold=35", str(image.path(UNIT))]
    judged = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr
    assert "Unknown" not in judged.stderr


def test_modes_are_those_of_the_contract_and_an_image_has_no_secret(image: Image) -> None:
    done = image.run("install", "--systemd")

    modes = {
        name: stat.S_IMODE(image.path(name).stat().st_mode)
        for name in ("opt/kinx_loadbalancer_agent", f"etc/{AGENT}", SETTINGS, DAEMONS, UNIT)
    }
    assert list(modes.values()) == [0o700, 0o750, 0o640, 0o640, 0o644]
    assert done.stdout == ""
    assert not image.path(f"etc/{AGENT}/credentials").exists()


def test_the_files_follow_the_settings(image: Image) -> None:
    settings = '[haproxy]\nconf_d = "/srv/conf.d"\nextra_config = "/srv/mine.cfg"\n'
    image.write(SETTINGS, settings + '[agent]\nstate_directory = "/srv/state"\n')

    image.run("install", "--systemd")

    drop_in = image.path(DROP_IN).read_text()
    assert "-Ws -f /srv/conf.d -f /srv/mine.cfg -p" in drop_in
    assert "ReadWritePaths=/srv/state /run\n" in image.path(UNIT).read_text()
    assert image.path("srv/state").is_dir()


def test_what_an_operator_edits_is_kept_aside_by_the_next_install(image: Image) -> None:
    image.run("install", "--systemd")
    image.write(UNIT, "[Service]\nNice=5\n")

    done = image.run("install")

    assert f"keep {image.path(UNIT)} aside" in done.stderr
    assert image.path(f"{UNIT}.before-kinx").read_text() == "[Service]\nNice=5\n"
    assert "ProtectSystem=strict" in image.path(UNIT).read_text()


def test_a_new_version_replaces_what_an_older_one_wrote(image: Image) -> None:
    image.run("install", "--systemd")
    record = image.path("opt/kinx_loadbalancer_agent/installed.sha256")
    old = subprocess.run(["sha256sum"], input=b"old\n", capture_output=True, check=True).stdout
    lines = [line for line in record.read_text().splitlines() if not line.endswith(f"/{UNIT}")]
    record.write_text("\n".join([*lines, f"{old.decode().split()[0]}  /{UNIT}"]) + "\n")
    image.write(UNIT, "old\n")

    image.run("install")

    assert "ProtectSystem=strict" in image.path(UNIT).read_text()
    assert not image.path(f"{UNIT}.before-kinx").exists()


def test_a_change_from_systemd_to_supervisor_leaves_nothing_of_the_first(image: Image) -> None:
    image.run("install", "--systemd")

    image.run("install", "--supervisor")

    names = image.contents()
    assert PROGRAM in names
    assert not [name for name in names if name.endswith(f"{AGENT}.service")]


def test_uninstall_leaves_what_haproxy_is_started_by_and_names_it(image: Image) -> None:
    before = image.contents()
    image.run("install", "--systemd")

    done = image.run("uninstall")

    left = {name for name in image.contents() if name not in before} | {DAEMONS}
    assert DROP_IN in left
    assert left.isdisjoint({UNIT, f"usr/local/bin/{AGENT}"})
    stays = [line.split()[1] for line in done.stderr.splitlines() if " stays: " in line]
    assert all(str(image.path(name)).startswith(tuple(stays)) for name in left)


def test_purge_puts_everything_back(image: Image) -> None:
    before = image.contents()
    image.run("install", "--systemd")

    first, again = image.run("uninstall", "--purge"), image.run("uninstall", "--purge", "--check")

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert image.contents() == before


def test_uninstall_keeps_aside_what_was_edited_and_names_it(image: Image) -> None:
    image.run("install", "--systemd")
    image.write(UNIT, "[Service]\nNice=5\n")

    done = image.run("uninstall")

    assert f"keep {image.path(UNIT)} aside as {AGENT}.service.edited-kinx" in done.stderr
    assert image.path(f"{UNIT}.edited-kinx").read_text() == "[Service]\nNice=5\n"


def test_other_lines_of_the_crontab_stay(image: Image) -> None:
    crontab = "var/spool/cron/crontabs/root"
    image.run("install", "--systemd")
    ours = "* * * * * /usr/local/bin/check_vlb\n"
    image.write(crontab, f"# mine\n{ours}0 3 * * * /usr/local/bin/backup\n")
    image.path(crontab).chmod(0o600)

    image.run("uninstall")

    assert image.path(crontab).read_text() == "# mine\n0 3 * * * /usr/local/bin/backup\n"


def test_the_cloud_init_sample_is_read_as_settings_and_a_credential(image: Image) -> None:
    sample = yaml.safe_load((CHECKOUT / "samples/cloud-init.yaml").read_text())
    for file in sample["write_files"]:
        image.write(file["path"].lstrip("/"), file["content"])

    done = image.run(*sample["runcmd"][0][1:])

    assert done.exit_code == 0
    found = settings.load(image.path(SETTINGS), environment={})
    assert (found.agent.node_name, found.routing.bfd) == ("lb-1", "300x3")
    credentials = auth.parse(image.path(f"etc/{AGENT}/credentials").read_text())
    assert [(one.name, one.role) for one in credentials] == [("driver", "write")]
    assert stat.S_IMODE(image.path(f"etc/{AGENT}").stat().st_mode) == 0o750


def test_a_root_is_refused_as_it_needs_no_installation(tmp_path: Path) -> None:
    done = click.testing.CliRunner().invoke(cli.main, ["install", "--root", str(tmp_path)])

    assert (done.exit_code, done.stdout) == (2, "")
    assert "--dir" in done.stderr


def test_a_command_that_fails_leaves_the_rest_of_its_file_and_goes_on_with_the_others() -> None:
    done: list[str] = []

    def fails() -> None:
        raise ApplyError("cannot")

    steps = [
        Step("one", fails, "a"),
        Step("two", lambda: done.append("two"), "a"),
        Step("three", lambda: done.append("three"), "b"),
    ]

    said: list[str] = []
    assert perform(iter(steps), said.append) is False
    assert done == ["three"]
    assert said == ["one", "cannot", "three"]
