"""What others change behind the agent: found within 5 s, undone within 10 s, and said so.

Each damage is done to a node of its own, to all nodes at the same time.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from kinx_loadbalancer_agent.engine.engine import Engine
from tests.conftest import need
from tests.fault.load import load
from tests.fault.node import (
    Node,
    answering,
    change,
    intent,
    listener,
    member,
    monitor,
    pool,
)
from tests.machine import Machine, free_port, wait_until

FOUND_SECONDS, UNDONE_SECONDS = 5.0, 10.0
SERVER_COLUMNS = (1, 3, 4, 7, 18, 21, 22)
"""Of ``show servers state``: names, address, weight, port; where checks go."""
ADMIN_STATE, MAINTENANCE_OR_DRAIN = 6, 0x09
CHECK_STATE, CHECK_ENABLED = 13, 0x04
NOTE = "# a note of the operator\n"


class Served(Node):
    """A node that serves ``web``, with the members ``m`` and, disabled, ``off``; and ``raw``."""

    engine: Engine

    def serve(self, stack: contextlib.ExitStack) -> "Served":
        """Start its agent and have it serve."""
        stack.callback(self.end)
        self.engine = stack.enter_context(self.agent())
        checked = {"type": "TCP", "delay": 60, "timeout": 1}
        self.engine.submit(
            intent(
                listener("web", free_port()),
                listener("raw", free_port(), protocol="TCP"),
                pool("po", listener_id="web"),
                monitor("po", **checked),
                member("po", "m", 9, weight=10),
                member("po", "off", 10, weight=10, enabled=False),
            )
        )
        return self

    # --- damage -----------------------------------------------------------------------------

    def command(self, command: str) -> None:
        """Type *command* into the socket of operators."""
        self.show(command, "admin")

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a fragment in place, as an editor does."""
        text = (self.conf_d / name).read_text()
        assert old in text
        (self.conf_d / name).write_text(text.replace(old, new))

    def place(self, name: str, text: str) -> None:
        """Put another file in the place of *name*."""
        draft = self.conf_d / ".draft"
        draft.write_text(text)
        draft.rename(self.conf_d / name)

    def reload(self) -> None:
        """Reload HAProxy by hand."""
        worker = self.worker_pid()
        with contextlib.suppress(OSError):
            self.show("reload", "master")
        wait_until(lambda: answering(self) not in (0, worker), 5)

    def write(self, limit: int = 77) -> None:
        """Have the agent change something that HAProxy must be reloaded for."""
        self.engine.submit(intent(change("listeners", "raw", connection_limit=limit)))

    # --- what can be seen -------------------------------------------------------------------

    def runs(self) -> dict[str, Any]:
        """Return what can be seen of HAProxy and its files that others may have changed."""
        servers = [line.split(" ") for line in self.show("show servers state").splitlines()[2:]]
        table = [line.split(",") for line in self.show("show stat").splitlines() if line]
        name, row, status, limit = (
            table[0].index(column) for column in ("# pxname", "svname", "status", "slim")
        )
        lines = self.show("show info").splitlines()
        info = dict(line.split(": ", 1) for line in lines if ": " in line)
        return {
            "files": {path.name for path in self.conf_d.iterdir()} | {*self.fragments().items()},
            "servers": sorted(
                [server[column] for column in SERVER_COLUMNS]
                + [str(int(server[CHECK_STATE]) & CHECK_ENABLED)]
                + [str(int(server[ADMIN_STATE]) & MAINTENANCE_OR_DRAIN)]
                for server in servers
                if server[1:]
            ),
            "limits": sorted((line[name], line[row], line[limit]) for line in table[1:]),
            "frontends": sorted(
                (line[name], line[status]) for line in table[1:] if line[row] == "FRONTEND"
            ),
            "global": {key: info[key] for key in ("description", "Maxconn", "ConnRateLimit")},
        }

    def drift(self) -> dict[str, Any]:
        """Return the condition Drift; an empty one before it is stated."""
        conditions = self.engine.reports.status()["conditions"]
        return next((found for found in conditions if found["type"] == "Drift"), {})

    def kept_aside(self) -> dict[str, str]:
        """Return what is in conf.d.foreign; a broken link is ''."""
        aside = self.conf_d.with_name("conf.d.foreign")
        found = aside.iterdir() if aside.is_dir() else ()
        return {path.name: path.read_text() if path.exists() else "" for path in found}


@dataclass(frozen=True)
class Damage:
    """What is done to a node, and a word that the condition Drift must name."""

    do: Callable[[Served], object]
    named: str


def typed(command: str, named: str) -> Damage:
    """A foreign command on HAProxy's socket."""
    return Damage(lambda node: node.command(command), named)


def edited(name: str, old: str, new: str, *, loaded: bool = False) -> Damage:
    """A hand edit of a file, with a hand reload if *loaded*."""

    def do(node: Served) -> None:
        node.edit(name, old, new)
        if loaded:
            node.reload()

    return Damage(do, name)


def added(name: str, text: Callable[[Served], str], *, loaded: bool = False) -> Damage:
    """A foreign file, with a hand reload if *loaded*."""

    def do(node: Served) -> None:
        node.place(name, text(node))
        if loaded:
            node.reload()

    return Damage(do, name)


def _added_before_a_write(node: Served) -> None:
    node.place("70-quick.cfg", NOTE)
    node.write()
    node.write(-1)


def _theirs(node: Served) -> str:
    return f"frontend theirs\n    bind 127.0.0.1:{free_port()}\n    mode http\n"


def _copied(node: Served) -> str:
    return (node.conf_d / "60-backend-po.cfg").read_text().replace("backend-web", "backend-copy")


DAMAGES = {
    "a weight is set": typed("set server backend-web/m weight 3", "backend-web/m"),
    "a server is drained": typed("set server backend-web/m state drain", "backend-web/m"),
    "a server is in maintenance": typed("set server backend-web/m state maint", "backend-web/m"),
    "a server is disabled": typed("disable server backend-web/m", "backend-web/m"),
    "a server is enabled": typed("enable server backend-web/off", "backend-web/off"),
    "an address is set": typed("set server backend-web/m addr 127.0.0.9", "backend-web/m"),
    "a port is set": typed("set server backend-web/m addr 127.0.0.1 port 19", "backend-web/m"),
    "checks are disabled": typed("disable health backend-web/m", "backend-web/m"),
    "checks go elsewhere": typed("set server backend-web/m check-port 19", "backend-web/m"),
    "a server is limited": typed("set maxconn server backend-web/m 1", "backend-web/m"),
    "a server is added": typed("add server backend-web/foreign 127.0.0.1:9", "backend-web/foreign"),
    "a server is deleted": typed("del server backend-web/off", "backend-web/off"),
    "a frontend is paused": typed("disable frontend raw", "raw"),
    "a frontend is shut down": typed("shutdown frontend raw", "raw"),
    "a frontend is limited": typed("set maxconn frontend web 7", "web"),
    "the process is limited": typed("set maxconn global 7", "HAProxy"),
    "connections are slowed down": typed("set rate-limit connections global 7", "HAProxy"),
    "a file is edited": edited("50-frontend-web.cfg", "maxconn", "maxconn 5 #"),
    "a file is edited and loaded": edited(
        "50-frontend-web.cfg", "maxconn 12000", "maxconn 5", loaded=True
    ),
    "the global section is edited and loaded": Damage(
        edited("00-global.cfg", "description ", "description foreign", loaded=True).do,
        "HAProxy runs another configuration",
    ),
    "a file is replaced": added("50-frontend-web.cfg", lambda _: "frontend web\n    mode tcp\n"),
    "a file is deleted": Damage(
        lambda node: (node.conf_d / "60-backend-po.cfg").unlink(), "60-backend-po.cfg"
    ),
    "the directory is deleted": Damage(lambda node: node.conf_d.unlink(), "missing"),
    "a file is added": added("70-theirs.cfg", _theirs),
    "a file is added and loaded": added("70-theirs.cfg", _theirs, loaded=True),
    "a copy of our file is added": added("65-copy.cfg", _copied),
    "a file is added right before a write": Damage(_added_before_a_write, "70-quick.cfg"),
    "a link to nothing is added": Damage(
        lambda node: (node.conf_d / "70-broken.cfg").symlink_to("nowhere"), "70-broken.cfg"
    ),
}
ASIDE = {
    "a file is added": ("70-theirs.cfg", "frontend theirs"),
    "a file is added and loaded": ("70-theirs.cfg", "frontend theirs"),
    "a copy of our file is added": ("65-copy.cfg", "backend backend-copy"),
    "a file is added right before a write": ("70-quick.cfg", NOTE),
    "a link to nothing is added": ("70-broken.cfg", ""),
}


@dataclass
class Outcome:
    """What became of a node after its damage; seconds from the damage, None if it never was."""

    node: Served
    whole: dict[str, Any]
    damaged_at: float = 0.0
    found_after: float | None = None
    undone_after: float | None = None
    repaired_after: float | None = None
    said: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Note what can be seen now."""
        after = time.monotonic() - self.damaged_at
        status = self.node.engine.reports.status()
        drift = self.node.drift()
        if drift["reason"] in ("Foreign", "Repaired"):
            self.said.add(drift["message"])
        if self.found_after is None and status["drift"]["found"]:
            self.found_after = after
        if self.undone_after is None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                self.undone_after = after if self.node.runs() == self.whole else None
        if self.repaired_after is None and self.found_after is not None:
            counters = status["drift"]
            is_over = counters["repaired"] == counters["found"] and drift["status"] == "False"
            self.repaired_after = after if is_over else None


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Outcome]]:
    """A node for each damage, and what became of it."""
    need("haproxy")
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(4) as starters:
            nodes = list(starters.map(lambda name: Served().serve(stack), DAMAGES))
        wait_until(lambda: all(node.drift().get("status") == "False" for node in nodes), 20)
        found = {
            name: Outcome(node, node.runs()) for name, node in zip(DAMAGES, nodes, strict=True)
        }
        for name, outcome in found.items():
            outcome.damaged_at = time.monotonic()
            DAMAGES[name].do(outcome.node)
        deadline = time.monotonic() + UNDONE_SECONDS + 2
        while time.monotonic() < deadline:
            for outcome in found.values():
                outcome.look()
            if all(outcome.undone_after and outcome.repaired_after for outcome in found.values()):
                break
            time.sleep(0.05)
        yield found


@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_found_and_named(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]

    assert outcome.found_after is not None, "never found"
    assert outcome.found_after <= FOUND_SECONDS
    assert any(DAMAGES[name].named in said for said in outcome.said), outcome.said


@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_undone_and_counted(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]

    assert outcome.undone_after is not None, "never undone"
    assert outcome.undone_after <= UNDONE_SECONDS
    assert outcome.repaired_after is not None, "never counted as repaired"
    assert outcome.repaired_after <= UNDONE_SECONDS


@pytest.mark.parametrize("name", ASIDE)
def test_a_foreign_file_is_kept_aside(outcomes: dict[str, Outcome], name: str) -> None:
    node, (file, text) = outcomes[name].node, ASIDE[name]

    for limit in (5, 6, -1):  # a change uses the directory of the one before the last
        node.write(limit)

    assert list(node.kept_aside()) == [file]
    assert text in node.kept_aside()[file]


def test_a_directory_made_in_conf_d_stops_no_change() -> None:
    need("haproxy")
    with contextlib.ExitStack() as stack:
        node = Served().serve(stack)
        (node.conf_d / "notes").mkdir()
        (node.conf_d / "notes" / "text").write_text(NOTE)

        for limit in (5, 6, 7, 8):
            node.write(limit)

        node.assert_agrees()


def test_the_api_says_what_was_found_while_clients_notice_nothing(machine: Machine) -> None:
    with load(machine, writers=0) as callers:
        wait_until(lambda: machine.condition("Drift").get("status") == "False", 5)
        before = machine.get("/api/status").json["drift"]
        machine.show("set server backend-stable/only weight 200", "admin")
        found = wait_until(lambda: _drift(machine), FOUND_SECONDS)
        wait_until(lambda: _counters(machine)["repaired"] > before["repaired"], UNDONE_SECONDS)

    after = machine.get("/api/status").json["drift"]
    assert (found["reason"], found["severity"]) == ("Foreign", "warning")
    assert "backend-stable/only" in found["message"]
    assert (after["found"], after["repaired"]) == (before["found"] + 1, before["found"] + 1)
    assert after["last_scan"] > before["last_scan"]
    callers.assert_all_true()


def _drift(machine: Machine) -> dict[str, Any] | None:
    found = machine.condition("Drift")
    return found if found["status"] == "True" else None


def _counters(machine: Machine) -> dict[str, Any]:
    counters: dict[str, Any] = machine.get("/api/status").json["drift"]
    return counters
