"""The command. Exit codes: 0 done, 1 not healthy or refused, 2 usage or settings."""

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any, NoReturn

import click

from kinx_loadbalancer_agent import __version__, app, errors, install, settings
from kinx_loadbalancer_agent import status as terminal
from kinx_loadbalancer_agent.api import auth
from kinx_loadbalancer_agent.engine import store
from kinx_loadbalancer_agent.engine.ports import Target
from kinx_loadbalancer_agent.layout import NAME, Layout
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.types import TOKEN
from kinx_loadbalancer_agent.services.haproxy.service import Haproxy
from kinx_loadbalancer_agent.system import files, process, sockets
from kinx_loadbalancer_agent.system.clock import Deadline, SystemClock

REFUSED, MISUSED = 1, 2
PATIENCE_SECONDS = 30.0
FIRST = "admin"
ONLY = "Say what would be done, and do nothing; 1 if there is anything."
IMAGE = "Where the / of the machine is: here, or an image that is mounted there."


@dataclass(frozen=True)
class Where:
    """The options every sub-command takes."""

    config: Path | None
    root: Path | None

    def load(self, **agent: str | None) -> settings.Settings:
        """Return the settings; *agent* are options that win over all else."""
        given = {key: value for key, value in agent.items() if value is not None}
        return settings.load(self.config, self.root, overrides={"agent": given})


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Give *function* ``--config`` and ``--root`` as *where*, and exit codes to errors."""

    @click.option("--config", type=click.Path(path_type=Path), help="Settings file.")
    @click.option("--root", type=click.Path(path_type=Path), help="Put every path under it.")
    @functools.wraps(function)
    def wrapped(config: Path | None, root: Path | None, **options: Any) -> None:
        try:
            function(Where(config, root), **options)
        except errors.SettingsError as error:
            for fault in error.faults:
                click.echo(f"cannot use the settings: {fault}", err=True)
            sys.exit(MISUSED)
        except errors.StateError as error:
            _stop(MISUSED, str(error))
        except errors.AgentError as error:
            _stop(REFUSED, str(error))
        except OSError as error:
            _stop(REFUSED, f"{error.strerror}: {error.filename}" if error.strerror else str(error))

    return wrapped


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Make this node's HAProxy what callers ask for, and say truthfully whether it is."""


@main.command()
@click.option("--listen", help="ADDRESS:PORT of the API; default 127.0.0.1:62000.")
@click.option("--own-haproxy", is_flag=True, help="Start HAProxy where none runs.")
@command
def serve(where: Where, listen: str | None, own_haproxy: bool) -> None:
    """Serve the API until SIGTERM; HAProxy goes on."""
    found = where.load(listen=listen)
    app.check_tls(found.agent)
    files.make_directory(found.agent.log.parent, 0o755)
    lock = files.Lock(found.agent.serve_lock)
    lock.take_or_fail(SystemClock())
    files.protect(found.agent.state_directory, 0o700)
    store.read_format(found.agent.store)
    address, _, port = found.agent.listen.rpartition(":")
    taken = sockets.bind_error((address.strip("[]"), int(port)))
    if taken is not None:
        _stop(MISUSED, f"cannot listen on {found.agent.listen}: {taken.strerror}")
    files.make_directory(found.agent.socket.parent, 0o755)
    app.Server(found, own_haproxy=own_haproxy).run()


@main.group()
def credentials() -> None:
    """Who may use the API."""


@credentials.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(auth.ROLES), default="write", show_default=True)
@command
def credentials_add(where: Where, name: str, role: str) -> None:
    """Make a credential for NAME and print its secret, once."""
    if not TOKEN.fullmatch(name) or ":" in name:
        _stop(MISUSED, "NAME must be 1 to 64 of A-Z a-z 0-9 _ . - and begin with a letter or digit")
    secret = _new_credential(where.load().agent.credentials, name, role)
    if secret is None:
        _stop(REFUSED, f"cannot add {name}: it exists; remove it first")
    click.echo(secret)


@credentials.command("list")
@command
def credentials_list(where: Where) -> None:
    """Print names and roles."""
    for one in _credentials(where.load().agent.credentials):
        click.echo(f"{one.name} {one.role}")


@credentials.command("remove")
@click.argument("name")
@command
def credentials_remove(where: Where, name: str) -> None:
    """Take the credential of NAME away."""
    path = where.load().agent.credentials
    lock = _lock(path)
    known = _credentials(path)
    rest = tuple(one for one in known if one.name != name)
    if rest == known:
        _stop(REFUSED, f"cannot remove {name}: there is no such credential")
    _keep(path, rest)
    lock.release()


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print /api/status as it is.")
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
@command
def status(where: Where, as_json: bool, watch: bool) -> None:
    """Show how the serving agent and its node do; 1 when they are not well."""
    agent = where.load().agent
    try:
        if not terminal.show(agent.socket, SystemClock(), as_json=as_json, again=watch):
            sys.exit(REFUSED)
    except errors.Unreachable as error:
        app.check_tls(agent)  # what keeps an agent from serving says more
        store.read_state(agent.store, Kinds())
        advice = f"see systemctl status {NAME}, or supervisorctl status"
        _stop(REFUSED, f"{error}; the agent does not run: {advice}")


@main.command()
@click.argument("id")
@command
def explain(where: Where, id: str) -> None:
    """Show what is wished, written and live of the object ID, and what keeps traffic from it."""
    found = terminal.explained(where.load().agent.socket, id)
    if not found:
        _stop(REFUSED, f"there is nothing with the id {id}")
    click.echo(found, nl=False)


@main.command()
@command
def check(where: Where) -> None:
    """Ask haproxy -c about the stored state, without touching anything."""
    proxy, target = _stored(where.load())
    with tempfile.TemporaryDirectory(prefix="kinx-check-") as directory:
        proxy.check_in(Path(directory), target, _deadline())
    click.echo("haproxy accepts the stored state")


@main.command()
@command
def plan(where: Where) -> None:
    """Show what separates the machine from the stored state; nothing is done."""
    proxy, target = _stored(where.load())
    observation = proxy.observe(_deadline(), thorough=True)
    because = proxy.plan(target, observation).because
    if not because and observation.is_running:
        click.echo("nothing to do")
        return
    click.echo(because or "HAProxy is not running")
    files_now = observation.files or {}
    for name in sorted(target.parts.keys() | files_now.keys()):
        present = files_now.get(name, b"").decode(errors="replace")
        wanted = target.parts[name].content.decode() if name in target.parts else ""
        lines = unified_diff(present.splitlines(), wanted.splitlines(), name, name, lineterm="")
        for line in lines:
            click.echo(line)


@main.command()
@command
def render(where: Where) -> None:
    """Write the stored state into conf.d, for HAProxy's next start."""
    found = where.load()
    _alone(found, "render")
    proxy, target = _stored(found)
    proxy.prepare(target)


@main.command("stop-haproxy")
@command
def stop_haproxy(where: Where) -> None:
    """End the HAProxy of these settings; refused while an agent would start it again."""
    found = where.load()
    _alone(found, "stop haproxy")
    pid = _proxy(found).master_pid(_deadline())
    if pid is not None:
        process.end(pid, PATIENCE_SECONDS)


@main.command("install")
@click.option("--check", "only", is_flag=True, help=ONLY)
@click.option("--supervisor/--systemd", "supervised", default=None, help="What runs the agent.")
@click.option("--packages", is_flag=True, help="Install missing packages by apt-get first.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default="/", help=IMAGE)
@command
def install_(
    where: Where, only: bool, supervised: bool | None, packages: bool, directory: Path
) -> None:
    """Put in place what this node needs, keeping aside what is there; again changes nothing.

    The first time it prints the secret of a credential "admin", alone on standard output.
    """
    node = _node(where, directory, supervised)
    lacks_credential = node.is_live and not _credentials(node.credentials)
    steps = install.Installation(node).install(packages=packages)
    if only:
        said = _say_steps(steps)
        if lacks_credential:
            click.echo(f"make the credential {FIRST}")
        sys.exit(REFUSED if said or lacks_credential else 0)
    went_well = install.perform(steps, _say)
    secret = _new_credential(node.credentials, FIRST, "write") if lacks_credential else None
    if secret is not None:
        _say(f"the secret of the credential {FIRST}, shown this once:")
        click.echo(secret)
    if not went_well:
        _stop(REFUSED, "not all is in place; mend what is named above and install again")


@main.command()
@click.option("--check", "only", is_flag=True, help=ONLY)
@click.option("--purge", is_flag=True, help="Take the state and all that HAProxy is started by.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default="/", help=IMAGE)
@command
def uninstall(where: Where, only: bool, purge: bool, directory: Path) -> None:
    """Take away what install put in place, and say what stays; HAProxy goes on serving."""
    steps = install.Installation(_node(where, directory)).uninstall(purge=purge)
    if only:
        sys.exit(REFUSED if _say_steps(steps) else 0)
    install.perform(steps, _say)


def _node(where: Where, directory: Path, supervised: bool | None = None) -> Layout:
    if where.root is not None:
        _stop(MISUSED, "an agent under --root needs no installation; --dir is for images")
    return Layout(directory, where.config, supervised)


def _say_steps(steps: Iterator[install.Step]) -> bool:
    """Print *steps*, none of them done, and return whether there is anything to do."""
    found = [step for step in steps if step.words]
    for step in found:
        click.echo(step.words)
    return any(step.act for step in found)


def _say(words: str) -> None:
    click.echo(words, err=True)


def _new_credential(path: Path, name: str, role: str) -> str | None:
    """Return the secret of a new credential, None where *name* has one already."""
    lock = _lock(path)
    known = _credentials(path)
    if any(one.name == name for one in known):
        return None
    credential, secret = auth.new_credential(name, role)
    _keep(path, (*known, credential))
    lock.release()
    return secret


def _alone(found: settings.Settings, purpose: str) -> None:
    """Keep agents from serving until this process ends, for that *purpose*."""
    if not files.Lock(found.agent.serve_lock).take():
        _stop(REFUSED, f"cannot {purpose}: a serving agent holds the state")


def _proxy(found: settings.Settings) -> Haproxy:
    return Haproxy(found, Kinds(), SystemClock())


def _stored(found: settings.Settings) -> tuple[Haproxy, Target]:
    proxy = _proxy(found)
    return proxy, proxy.render(store.read_state(found.agent.store, Kinds()))


def _deadline() -> Deadline:
    return Deadline.after(SystemClock(), PATIENCE_SECONDS)


def _credentials(path: Path) -> tuple[auth.Credential, ...]:
    return auth.Credentials(path).all()


def _lock(path: Path) -> files.Lock:
    """Keep others from changing the credentials until it is released or this process ends."""
    files.make_directory(path.parent, 0o755)
    lock = files.Lock(path.with_name(f".{path.name}.lock"))
    lock.take_or_fail(SystemClock(), PATIENCE_SECONDS)
    return lock


def _keep(path: Path, known: tuple[auth.Credential, ...]) -> None:
    text = "".join(f"{one}\n" for one in known)
    files.write(path, text.encode(), mode=0o600, durable=True)


def _stop(code: int, message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
