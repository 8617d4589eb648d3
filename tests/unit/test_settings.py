"""Settings: where each value comes from, and every fault at once."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from kinx_loadbalancer_agent import settings
from kinx_loadbalancer_agent.errors import SettingsError

PATHS = {
    "agent.socket": "/run/kinx_loadbalancer_agent.sock",
    "agent.state_directory": "/opt/kinx_loadbalancer_agent",
    "agent.credentials": "/etc/kinx_loadbalancer_agent/credentials",
    "agent.log": "/var/log/kinx-loadbalancer-agent.log",
    "haproxy.conf_d": "/etc/haproxy/conf.d",
    "haproxy.admin_socket": "/run/haproxy/admin.sock",
    "haproxy.agent_socket": "/run/haproxy/kinx.sock",
    "haproxy.master_socket": "/run/haproxy/master.sock",
    "routing.release_batch": "/run/haproxy/release.batch",
    "schedule.crontab": "/var/spool/cron/crontabs/root",
    "schedule.log": "/var/log/kinx-loadbalancer-agent.log",
}


def file(directory: Path, text: str | bytes) -> Path:
    path = directory / "agent.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def paths_of(found: settings.Settings) -> dict[str, str]:
    """Return every setting that is a path; where the speaker's file is depends on its dialect."""
    sections: list[tuple[str, BaseModel]] = list(found)
    return {
        f"{name}.{key}": str(value)
        for name, section in sections
        for key, value in section
        if isinstance(value, Path) and f"{name}.{key}" != "routing.config_dir"
    }


def test_without_a_file_the_paths_are_the_systems() -> None:
    found = settings.load(environment={})

    assert paths_of(found) == PATHS
    assert found.agent.listen == "127.0.0.1:62000"
    assert found.agent.unknown_members == "refuse"
    assert found.haproxy.default_connection_limit == 12000


def test_a_root_puts_every_path_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    absolute = settings.load(root=Path("/demo"), environment={})
    relative = settings.load(root=Path("demo"), environment={})

    assert paths_of(absolute) == {key: f"/demo{path}" for key, path in PATHS.items()}
    assert paths_of(relative) == paths_of(absolute)
    assert absolute.schedule.command == "/usr/local/bin/check_vlb --root /demo"


def test_routing_is_live_but_under_a_root() -> None:
    assigned = {"KINX_ROUTING_LIVE": "true"}

    assert settings.load(environment={}).routing.live is True
    assert settings.load(root=Path("/demo"), environment={}).routing.live is False
    assert settings.load(root=Path("/demo"), environment=assigned).routing.live is True


@pytest.mark.parametrize(("dialect", "path"), [("frr", "/etc/frr"), ("quagga", "/etc/quagga")])
def test_the_speakers_file_is_where_its_daemon_looks(dialect: str, path: str) -> None:
    environment = {"KINX_ROUTING_DIALECT": dialect}

    system = settings.load(environment=environment)
    under = settings.load(root=Path("/demo"), environment=environment)

    assert str(system.routing.directory) == path
    assert str(under.routing.directory) == f"/demo{path}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timers", "9 3"),
        ("timers", "3"),
        ("timers", "1 2"),
        ("bfd", "on"),
        ("bfd", "5x3"),
        ("bfd", "100x1"),
        ("connect", "0"),
        ("password", "two words"),
        ("password", "a\nneighbor"),
        ("dialect", "bird"),
    ],
)
def test_a_speakers_setting_out_of_its_range_is_a_fault(key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=key):
        settings.load(environment={f"KINX_ROUTING_{key.upper()}": value})


def test_a_root_brings_its_own_settings_file(tmp_path: Path) -> None:
    directory = tmp_path / "etc/kinx_loadbalancer_agent"
    directory.mkdir(parents=True)
    file(directory, '[agent]\nnode_name = "here"\n')

    found = settings.load(root=tmp_path, environment={})

    assert found.agent.node_name == "here"


def test_the_command_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = file(
        tmp_path,
        '[agent]\nnode_name = "file"\nlisten = "127.0.0.1:1"\nunknown_members = "warn"\n'
        '[haproxy]\nconf_d = "/file"\n',
    )
    environment = {"KINX_AGENT_NODE_NAME": "environment", "KINX_AGENT_LISTEN": "127.0.0.1:2"}

    found = settings.load(
        config,
        root=Path("/demo"),
        environment=environment | {"KINX_HAPROXY_DEFAULT_CONNECTION_LIMIT": "7"},
        overrides={"agent": {"listen": "127.0.0.1:3"}},
    )

    assert (found.agent.node_name, found.agent.listen) == ("environment", "127.0.0.1:3")
    assert found.agent.unknown_members == "warn"
    assert found.haproxy.conf_d == Path("/file")
    assert found.haproxy.default_connection_limit == 7
    assert found.haproxy.admin_socket == Path("/demo/run/haproxy/admin.sock")


def test_every_fault_is_told_at_once_with_its_section_and_key(tmp_path: Path) -> None:
    config = file(
        tmp_path,
        '[agent]\nlisten = "62000"\ncolour = "red"\nunknown_members = "ignore"\n'
        '[haproxy]\nconf_d = "etc"\nadmin_socket = "/a b"\ndefault_connection_limit = 0\n'
        "[printer]\n",
    )

    with pytest.raises(SettingsError) as caught:
        settings.load(config, environment={"KINX_AGENT_NODE_NAME": "-", "KINX_HAPROXY_SIZE": "1"})

    assert {fault.partition(": ")[0] for fault in caught.value.faults} == {
        "[agent] listen",
        "[agent] colour",
        "[agent] unknown_members",
        "[agent] node_name",
        "[haproxy] conf_d",
        "[haproxy] admin_socket",
        "[haproxy] default_connection_limit",
        "[haproxy] size",
        "[printer] ",
    }


def test_what_others_keep_in_the_environment_is_not_ours() -> None:
    environment = {"KINX": "1", "KINX_OTHER_KEY": "1", "AGENT_LISTEN": "1", "PATH": "/bin"}

    found = settings.load(environment=environment)

    assert found == settings.load(environment={})


@pytest.mark.parametrize(
    "content",
    [b"[agent\n", b"\xff", b'agent = "a"\n', b"[agent]\nlisten = 1\nlisten = 2\n"],
    ids=["not TOML", "not UTF-8", "no section", "a key twice"],
)
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes) -> None:
    config = file(tmp_path, content)

    with pytest.raises(SettingsError):
        settings.load(config, environment={})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no-such-file"):
        settings.load(tmp_path / "no-such-file", environment={})


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:65535", "localhost:62000"])
def test_an_address_and_a_port_can_be_listened_on(listen: str) -> None:
    found = settings.load(environment={"KINX_AGENT_LISTEN": listen})

    assert found.agent.listen == listen


@pytest.mark.parametrize("listen", ["", "127.0.0.1", ":80", "127.0.0.1:", "a:0", "a:65536", "a:b"])
def test_anything_else_cannot(listen: str) -> None:
    with pytest.raises(SettingsError, match="ADDRESS:PORT"):
        settings.load(environment={"KINX_AGENT_LISTEN": listen})


def test_a_root_too_long_for_unix_sockets_is_refused_with_the_limit() -> None:
    longest = Path("/" + "d" * (97 - len("/run/kinx_loadbalancer_agent.sock") - 1))

    settings.load(root=longest, environment={})
    with pytest.raises(SettingsError) as caught:
        settings.load(root=longest.with_name(longest.name + "d"), environment={})

    (fault,) = caught.value.faults
    assert fault.startswith("[agent] socket: ")
    assert "97" in fault


def test_a_long_root_will_do_when_the_sockets_are_elsewhere() -> None:
    environment = {
        "KINX_AGENT_SOCKET": "/run/a",
        "KINX_HAPROXY_ADMIN_SOCKET": "/run/b",
        "KINX_HAPROXY_AGENT_SOCKET": "/run/c",
        "KINX_HAPROXY_MASTER_SOCKET": "/run/d",
    }

    found = settings.load(root=Path("/" + "d" * 200), environment=environment)

    assert str(found.haproxy.conf_d).startswith("/ddd")


def test_a_root_that_haproxy_could_not_read_in_its_files_is_refused(tmp_path: Path) -> None:
    for name in ("with space", "with#hash", "with'quote", "with\nline", "é"):
        with pytest.raises(SettingsError):
            settings.load(root=Path("/") / name, environment={})


def test_settings_cannot_be_changed() -> None:
    found = settings.load(environment={})

    with pytest.raises(ValidationError):
        setattr(found.agent, "listen", "127.0.0.1:1")  # noqa: B010
