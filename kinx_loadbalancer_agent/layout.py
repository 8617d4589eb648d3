"""What the agent's node is made of: which files, with what in them, where.

This module must never change anything; ``install`` does.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kinx_loadbalancer_agent import settings

NAME = "kinx_loadbalancer_agent"
COMMANDS = (NAME, "check_vlb")
LINKS = Path("/usr/local/bin")
UNIT = Path("/etc/systemd/system", f"{NAME}.service")
DROP_IN = Path("/etc/systemd/system/haproxy.service.d/kinx.conf")
PROGRAM = Path("/etc/supervisor/conf.d", f"{NAME}.conf")
SYSCTLS = Path("/etc/sysctl.d", f"90-{NAME}.conf")
LOGROTATE = Path("/etc/logrotate.d", NAME)
SERVES, KEPT = "HAProxy and FRR go on by it", "it is what this node was told"
PACKAGES: Mapping[str, str] = {
    "haproxy": "haproxy",
    "ip": "iproute2",
    "cron": "cron",
    "logrotate": "logrotate",
    "sysctl": "procps",
    "vtysh": "frr",
    "supervisord": "supervisor",
}
"""Programs, and the packages of Debian 12 and Ubuntu 24.04 that have them."""
RUNNING: Mapping[str, str] = {
    "systemctl": "/run/systemd/system",
    "supervisorctl": "/run/supervisor.sock",
    "service frr": "/run/frr/watchfrr.pid",
}
"""What is there while the one that a command speaks to runs."""


@dataclass(frozen=True)
class Row:
    """A file of the node; *source* is its name in ``etc/``, '' for an empty one.

    is_wanted: whether this node gets it; is_first: whether any file that is there already will do.
    then: what makes a change of it take effect; stays: why ``uninstall`` leaves it, else ''.
    """

    path: Path
    source: str
    mode: int = 0o644
    is_wanted: bool = True
    is_first: bool = False
    then: tuple[str, ...] = ()
    stays: str = ""


class Layout:
    """The machine whose file system is at *directory*: / is this one, all else an image.

    config: the settings file, where it is not the default one.
    supervised: True by supervisor, False by systemd, None by what is there.
    """

    def __init__(
        self, directory: Path, config: Path | None = None, supervised: bool | None = None
    ) -> None:
        self.directory = directory.absolute()
        self.is_live = self.directory == Path("/")
        self._config = config
        found = config
        if not self.is_live and config is None:
            found = self.at(settings.CONFIG)
            found = found if found.exists() else _etc() / "agent.toml"
        # The services are not given the environment of whoever installs them.
        self.settings = settings.load(found, environment={})
        if found != config:  # which the machine itself reads as its default
            command = self.settings.schedule.command.removesuffix(f" --config {found}")
            schedule = self.settings.schedule.model_copy(update={"command": command})
            self.settings = self.settings.model_copy(update={"schedule": schedule})
        systemd = RUNNING["systemctl"] if self.is_live else "/usr/lib/systemd/systemd"
        self.has_systemd = self.at(Path(systemd)).exists()
        if supervised is None:
            has_unit, has_program = self.at(UNIT).exists(), self.at(PROGRAM).exists()
            supervised = has_program or not (has_unit or self.has_systemd)
        self.supervised = supervised

    def rows(self) -> tuple[Row, ...]:
        """Return the files, in the order in which they take effect; HAProxy before the agent."""
        frr, log = self.settings.routing.directory, self.settings.agent.log
        has_frr = self.settings.routing.dialect == "frr" and self.at(frr).is_dir()
        has_unit, reload = not self.supervised, "systemctl daemon-reload"
        enable, restart = f"systemctl enable {NAME}", f"systemctl restart {NAME}"
        frr_then, start = ("service frr restart",), (reload, "systemctl restart haproxy")
        is_default = self._config is None
        # fmt: off
        return (
            Row(settings.CONFIG, "agent.toml", 0o640, is_default, is_first=True, stays=KEPT),
            Row(log, "", 0o640, is_first=True, stays="it is what happened here"),
            Row(LOGROTATE, "logrotate.conf"),
            Row(SYSCTLS, "sysctl.conf", then=(f"sysctl -q -p {SYSCTLS}",), stays=SERVES),
            Row(frr / "vtysh.conf", "frr.vtysh.conf", 0o640, has_frr, stays=SERVES),
            Row(frr / "daemons", "frr.daemons", 0o640, has_frr, then=frr_then, stays=SERVES),
            Row(DROP_IN, "haproxy.service.conf", 0o644, self.has_systemd or has_unit, then=start,
                stays=SERVES),
            Row(UNIT, f"{NAME}.service", 0o644, has_unit, then=(reload, enable, restart)),
            Row(PROGRAM, f"{NAME}.conf", 0o644, self.supervised, then=("supervisorctl update",)),
        )
        # fmt: on

    def content(self, row: Row) -> bytes:
        """Return what belongs in the file of *row*: its source with this node's paths."""
        proxy, routes = self.settings.haproxy, self.settings.routing
        values = {
            "command": LINKS / NAME,
            "options": f" --config {self._config.absolute()}" if self._config else "",
            "own": "" if self.has_systemd else " --own-haproxy",
            "haproxy": Path("/usr/sbin", proxy.program),
            "haproxy_dir": proxy.conf_d.parent,
            "conf_d": proxy.conf_d,
            "extra": f" -f {proxy.extra_config}" if proxy.extra_config else "",
            "master_socket": proxy.master_socket,
            "release_batch": routes.release_batch,
            "routing_dir": routes.directory,
            "crontab_dir": self.settings.schedule.crontab.parent,
            "state": self.settings.agent.state_directory,
            "log": self.settings.agent.log,
            "log_dir": self.settings.agent.log.parent,
        }
        text = (_etc() / row.source).read_text() if row.source else ""
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        return text.encode()

    def missing_packages(self) -> tuple[str, ...]:
        """Return the packages whose programs this node needs and lacks."""
        needless = set() if self.supervised else {"supervisord"}
        needless |= {"vtysh"} if self.settings.routing.dialect != "frr" else set()
        path = f"{self.at(Path('/usr/sbin'))}:{self.at(Path('/usr/bin'))}"
        return tuple(
            package
            for program, package in PACKAGES.items()
            if program not in needless and not shutil.which(program, path=path)
        )

    def at(self, path: Path) -> Path:
        """Return where *path* of the machine is here."""
        return self.directory / path.relative_to("/")

    @property
    def credentials(self) -> Path:
        """Who may use the API."""
        return self.at(self.settings.agent.credentials)

    @property
    def speaker(self) -> Path:
        """What the routing daemon is started with."""
        routes = self.settings.routing
        return self.at(routes.directory / ("frr.conf" if routes.dialect == "frr" else "bgpd.conf"))

    @property
    def record(self) -> Path:
        """What ``install`` wrote, and the digest of it, as sha256sum(1) reads it."""
        return self.at(self.settings.agent.state_directory / "installed.sha256")


def _etc() -> Path:
    """Return where the package's files are: in it when installed, beside it in a checkout."""
    package = Path(str(resources.files(NAME)))
    installed = package / "etc"
    return installed if installed.is_dir() else package.parent / "etc"
