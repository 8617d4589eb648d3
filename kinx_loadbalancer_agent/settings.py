"""Settings: one frozen value from the file, the environment and ``--root``. Faults come together.

Every key has a line in ``etc/agent.toml`` with its default and unit.
"""

import os
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from kinx_loadbalancer_agent.errors import SettingsError
from kinx_loadbalancer_agent.model.types import StickExpire, StickSize

CONFIG = Path("/etc/kinx_loadbalancer_agent/agent.toml")
PREFIX = "KINX_"
CHECK_VLB = "/usr/local/bin/check_vlb"
MAX_SOCKET_PATH = 97  # HAProxy binds a longer temporary name first; sun_path holds 108 (unix(7))
ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")
WORDS = {"extra_forbidden": "there is no such setting"}
UNSAFE = re.compile(r"[^A-Za-z0-9_./:@+-]")


def _plain(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    if UNSAFE.search(str(path)):
        raise ValueError("must consist of A-Z a-z 0-9 _ . / : @ + -")
    return path


def _short(path: Path) -> Path:
    if len(str(path)) > MAX_SOCKET_PATH:
        raise ValueError(
            f"a path of {len(str(path))} characters; Unix sockets allow {MAX_SOCKET_PATH} here"
        )
    return path


def _endpoint(value: str) -> str:
    match = ENDPOINT.fullmatch(value)
    if match is None or not 0 < int(match["port"]) <= 65535:
        raise ValueError("must be ADDRESS:PORT, an IPv6 address in brackets")
    return value


def _timers(value: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,4}) ([1-9][0-9]{0,4})", value)
    if not match or not 3 <= int(match[2]) <= 65535 or int(match[1]) >= int(match[2]):
        raise ValueError('must be keepalive and hold in seconds, as "3 9"; hold 3 to 65535')
    return value


def _bfd(value: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{1,4})x([1-9][0-9]{0,2})", value)
    if value != "off" and not (
        match and 10 <= int(match[1]) <= 60000 and 2 <= int(match[2]) <= 255
    ):
        raise ValueError('must be "off", or interval in ms (10 to 60000) x count (2 to 255)')
    return value


AbsolutePath = Annotated[Path, AfterValidator(_plain)]
SocketPath = Annotated[Path, AfterValidator(_plain), AfterValidator(_short)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9_.:-]", "-", platform.node()).lstrip("-_.:")[:64] or "node"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class AgentSettings(_Section):
    """The agent itself."""

    node_name: Name = Field(default_factory=_host_name)
    listen: Annotated[str, AfterValidator(_endpoint)] = "127.0.0.1:62000"
    socket: SocketPath = Path("/run/kinx_loadbalancer_agent.sock")
    state_directory: AbsolutePath = Path("/opt/kinx_loadbalancer_agent")
    credentials: AbsolutePath = Path("/etc/kinx_loadbalancer_agent/credentials")
    unknown_members: Literal["refuse", "warn"] = "refuse"
    hosts: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_ -]*$")] = ""
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None
    client_ca: AbsolutePath | None = None
    log: AbsolutePath = Path("/var/log/kinx-loadbalancer-agent.log")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.certificate is None and (self.key or self.client_ca):
            raise ValueError("key and client_ca need a certificate")
        return self

    @property
    def is_named(self) -> bool:
        """True when the name of this node is a setting, not the host's."""
        return "node_name" in self.model_fields_set

    @property
    def store(self) -> Path:
        """The database."""
        return self.state_directory / "state.db"

    @property
    def engine_lock(self) -> Path:
        """Held by the worker that decides."""
        return self.state_directory / "engine.lock"

    @property
    def serve_lock(self) -> Path:
        """Held by the serving agent for its life."""
        return self.state_directory / "serve.lock"

    @property
    def reported(self) -> Path:
        """What became of the last report of ``check_vlb``."""
        return self.state_directory / "reported"


class HaproxySettings(_Section):
    """HAProxy and its files."""

    program: str = "haproxy"
    conf_d: AbsolutePath = Path("/etc/haproxy/conf.d")
    extra_config: AbsolutePath | None = None
    admin_socket: SocketPath = Path("/run/haproxy/admin.sock")
    agent_socket: SocketPath = Path("/run/haproxy/kinx.sock")
    master_socket: SocketPath = Path("/run/haproxy/master.sock")
    default_connection_limit: Annotated[int, Field(ge=1, le=2_147_483_647)] = 12000
    stick_size: StickSize = "200k"
    stick_expire: StickExpire = "1d"
    member_drain_seconds: Annotated[int, Field(ge=0, le=86400)] = 300

    @property
    def state_file(self) -> Path:
        """Where a worker tells the next one which servers are down."""
        return self.agent_socket.with_suffix(".state")


class RoutingSettings(_Section):
    """The BGP speaker and the addresses it announces."""

    dialect: Literal["frr", "quagga"] = "frr"
    config_dir: AbsolutePath | None = None
    vty_socket: AbsolutePath | None = None
    timers: Annotated[str, AfterValidator(_timers)] = "3 9"
    connect: Annotated[int, Field(ge=1, le=65535)] = 5
    bfd: Annotated[str, AfterValidator(_bfd)] = "off"
    password: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@%+=-]{1,80}$")] | None = None
    live: bool = True
    announce: Literal["bound", "usable"] = "bound"
    drain_on_stop: bool = False
    assign_vips: bool = False
    release_batch: AbsolutePath = Path("/run/haproxy/release.batch")

    @property
    def directory(self) -> Path:
        """Where the configuration file of the routing daemon is."""
        return self.config_dir or Path("/etc", self.dialect)


class ScheduleSettings(_Section):
    """The report that cron sends for this node."""

    crontab: AbsolutePath = Path("/var/spool/cron/crontabs/root")
    command: Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./:@+= -]*$")] = CHECK_VLB
    scheme: Literal["http", "https"] = "http"
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./{}-]*$")] = "/api/vlbs/{vm_id}/report"
    token: Annotated[str, Field(pattern=r"^[!-~]{1,4096}$")] | None = None
    log: AbsolutePath = Path("/var/log/kinx-loadbalancer-agent.log")


class Settings(_Section):
    """All settings."""

    agent: AgentSettings
    haproxy: HaproxySettings
    routing: RoutingSettings
    schedule: ScheduleSettings


def load(
    config: Path | None = None,
    root: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
) -> Settings:
    """Return the settings: defaults (under *root*), file, environment, *overrides*, in this order.

    Raises SettingsError with every fault.
    """
    values = _defaults(root)
    path = config or _under(root, CONFIG)
    if config is not None or path.exists():
        _merge(values, _read(path))
    given: dict[str, dict[str, str]] = {}
    for name, value in environment.items():
        section, _, key = name.removeprefix(PREFIX).lower().partition("_")
        if name.startswith(PREFIX) and section in Settings.model_fields:
            given.setdefault(section, {})[key] = value
    _merge(values, given)
    _merge(values, overrides or {})
    if root is not None:
        dialect = str(values["routing"].get("dialect", "frr"))
        directory = root.absolute() / "etc" / dialect
        values["routing"].setdefault("config_dir", directory)
        values["routing"].setdefault("live", False)
    # cron hands nothing on: the line itself has to say which agent it is about.
    options = {"--config": config, "--root": root}
    words = [f" {name} {where.absolute()}" for name, where in options.items() if where]
    values["schedule"].setdefault("command", CHECK_VLB + "".join(words))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(
            f"[{'.'.join(map(str, fault['loc'][:1]))}] {'.'.join(map(str, fault['loc'][1:]))}: "
            f"{WORDS.get(fault['type'], fault['msg'].removeprefix('Value error, '))}"
            for fault in error.errors(include_url=False)
        ) from error


def _defaults(root: Path | None) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {section: {} for section in Settings.model_fields}
    for section, declared in Settings.model_fields.items():
        assert declared.annotation is not None
        for key, field in declared.annotation.model_fields.items():
            if isinstance(field.default, Path):
                values[section][key] = _under(root, field.default)
    return values


def _under(root: Path | None, path: Path) -> Path:
    return root.absolute() / path.relative_to("/") if root else path


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise SettingsError([f"cannot read {path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"cannot read {path}: {error}"]) from error


def _merge(values: dict[str, dict[str, Any]], other: Mapping[str, Any]) -> None:
    for section, keys in other.items():
        before = values.setdefault(section, {})
        if not isinstance(keys, Mapping):
            values[section] = keys
        elif isinstance(before, dict):  # what is no section stays, to be refused as such
            before.update(keys)
