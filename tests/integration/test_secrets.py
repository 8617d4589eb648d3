"""No secret is anywhere but where it must be (SECURITY.rst), whatever an agent goes through."""

import base64
import contextlib
import http.client
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import pytest

from kinx_loadbalancer_agent import cli
from tests.conftest import need
from tests.contract import documents, wire
from tests.contract.documents import CRONTAB, LISTENERS, POOLS, QUAGGA
from tests.contract.test_tls import certificate
from tests.machine import Machine, Reply, free_port

TALKATIVE = """
import logging, structlog
make = structlog.make_filtering_bound_logger
structlog.make_filtering_bound_logger = lambda level: make(logging.DEBUG)
from kinx_loadbalancer_agent.cli import main
main()
"""
"""The agent with every event of every level in its log."""

PASSWORD, TOKEN, OTHERS = "bgp-pass.word", "collect0r-t0ken", "of-the-operator"
WRONG, UNFIT = "wrong-guess-4711", "never fit"
CHECK_VLB = str(Path(sys.executable).with_name("check_vlb"))


@dataclass
class Overheard(Machine):
    """A machine that speaks TLS, all of whose answers and outputs are kept."""

    said: list[tuple[str, bytes]] = field(default_factory=list)
    """What said it, and what it said."""
    statuses: set[int] = field(default_factory=set)
    """With what requests were answered."""

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.tls, timeout=timeout
        )

    def request(self, method: str, path: str, *arguments: Any, **options: Any) -> Reply:
        reply = super().request(method, path, *arguments, **options)
        self.statuses.add(reply.status)
        self.said.append((f"{method} {path}", f"{reply.headers}".encode() + reply.body))
        return reply

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.environment["KINX_AGENT_CERTIFICATE"])

    def send(self, content: bytes) -> None:
        """Send bytes that may be no HTTP at all, and keep what comes back."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as plain,
            self.tls.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
            contextlib.suppress(OSError),
        ):
            peer.sendall(content)
            self.said.append(("bytes", b"".join(iter(lambda: peer.recv(65536), b""))))

    def tell(self, *words: str, **environment: str) -> click.testing.Result:
        """Run a sub-command in this process, which is quick, and keep what it says."""
        argv = [*words, "--root", str(self.root)]
        done = click.testing.CliRunner(env=self.env | environment).invoke(cli.main, argv)
        self.said.append((" ".join(words), done.output_bytes))
        return done

    def cli(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        done = super().cli(*words, **options)
        self.said.append((" ".join(words), (done.stdout + done.stderr).encode()))
        return done

    def reports(self) -> int:
        """Have check_vlb report, keep what it says and return its status."""
        argv = [CHECK_VLB, "--root", str(self.root)]
        done = subprocess.run(argv, env=self.env, capture_output=True, timeout=60)
        self.said.append(("check_vlb", done.stdout + done.stderr))
        return done.returncode

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Yield all that was said, and all that there is, each with where it is."""
        yield from self.said
        for path in self.root.rglob("*"):
            yield str(path.relative_to(self.root)), str(path.name).encode()
            if path.is_file():
                yield str(path.relative_to(self.root)), path.read_bytes()
        with closing(sqlite3.connect(self.root / "opt/kinx_loadbalancer_agent/state.db")) as store:
            yield "the store", "\n".join(store.iterdump()).encode()
        yield "show env", self.show("show env", "admin").encode()
        for pid in self.haproxy_pids():
            yield "arguments", Path(f"/proc/{pid}/cmdline").read_bytes()


def lives(machine: Overheard) -> None:
    """Have *machine* do all that an agent does, and refuse all that it refuses."""
    machine.secret = machine.tell("credentials", "add", "test").stdout.strip()
    reader = machine.tell("credentials", "add", "reader", "--role", "read").stdout.strip()
    machine.start(command=(sys.executable, "-c", TALKATIVE))
    places = [documents.made(machine, kind) for kind in documents.NAMES]
    machine.post(LISTENERS, documents.listener(id="li"))
    machine.post(POOLS, documents.pool(id="po", listener_id="li"))
    for place, change in zip(places, documents.CHANGE.values(), strict=True):
        for query in ("?dry_run=true", ""):
            machine.post(f"{place.collection}{query}", place.body | change)  # 409, often
            machine.put(f"{place.item}{query}", change)
            machine.put(f"{place.item}{query}", {"colour": 1})  # 422
        machine.put(place.item, b"{")  # 400
        machine.put(place.item, change, headers={"If-Match": '"x"'})  # 412
        machine.put(place.item, b"x", headers={"Content-Type": "image/png"})  # 415
        machine.put(place.item, change, headers=wire.bearer(reader))  # 403
        machine.request("TRACE", place.item)  # 405
        machine.get(place.item)
    for headers in (wire.basic("test", machine.secret), wire.basic("reader", reader)):
        machine.get("/api/info", headers=headers)
    for _ in range(6):  # 401, then 429
        machine.get("/api/info", headers=wire.bearer(WRONG))
        machine.get("/api/info", headers=wire.basic("test", WRONG))
    for secret in (machine.secret, WRONG):
        machine.send(f"GET / HTTP/1.1\r\nAuthorization Bearer {secret}\r\n\r\n".encode())
        machine.send(f"GET / HTTP/1.1\r\nA: b\r\n {secret}\r\n\r\n".encode())
        machine.send(f"Authorization: Bearer {secret}\r\n\r\n".encode())
        machine.send(f"GET / HTTP/1.1\r\nAuthorization: Bearer {secret}\r\n".encode())
    machine.put("/api/quagga/drain", {"drain": True})
    machine.put("/api/hold", {"minutes": 1, "reason": "a look"})
    machine.post(POOLS, documents.pool())  # 503
    machine.delete("/api/hold")
    state = machine.get("/api/state").json
    machine.put("/api/state?dry_run=true", documents.NOTHING)
    machine.put("/api/state", documents.NOTHING)
    machine.put("/api/state", state)
    machine.post("/api/changes/1/restore?dry_run=true", None)
    for path in ("status", "changes", "changes/1", "explain/li", "info", "openapi.json", "docs"):
        machine.get(f"/api/{path}")
    for path in ("tree", "status", "stats"):
        machine.get(f"{places[0].item}/{path}")
    for path in ("/healthz", "/readyz", "/metrics", "/nowhere", "/api/hold"):
        machine.get(path)
    tells(machine)
    machine.put(CRONTAB, {"agent_addr": "127.0.0.1", "agent_port": machine.backend("x").port})
    assert machine.reports() == 1  # it answers that it takes no POST
    machine.put(CRONTAB, {"agent_port": free_port()})
    assert machine.reports() == 1
    machine.tell("credentials", "remove", "reader")
    machine.put("/api/quagga/drain", {"drain": False})
    machine.stop()
    tells(machine)
    machine.start()
    machine.delete(QUAGGA)
    machine.post("/api/changes/20/restore", None)


def tells(machine: Overheard) -> None:
    """Have every sub-command tell what it knows."""
    for words in ("status", "status --json", "check", "plan", "explain li", "credentials list"):
        machine.tell(*words.split())
    machine.cli("render")  # its lock goes with its process
    unfit = ("KINX_ROUTING_PASSWORD", "KINX_SCHEDULE_TOKEN", "KINX_ROUTING_TIMERS")
    assert machine.tell("check", **dict.fromkeys(unfit, UNFIT)).exit_code == 2
    key = machine.root / "unfit.key"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{UNFIT}\n-----END PRIVATE KEY-----\n")
    assert machine.tell("serve", KINX_AGENT_KEY=str(key)).exit_code == 2
    key.unlink()


@pytest.fixture
def machine() -> Iterator[Overheard]:
    """A root with a secret of every kind; not started."""
    need("haproxy")
    found = Overheard()
    (found.root / "tmp").mkdir()
    (found.root / "etc/kinx_loadbalancer_agent").mkdir(parents=True)
    (found.root / "etc/frr").mkdir()
    paths = certificate(found.root, "tls")
    found.environment |= {
        "TMPDIR": str(found.root / "tmp"),  # where nothing may stay
        "HOME": str(found.root),
        "KINX_AGENT_CERTIFICATE": str(paths[0]),
        "KINX_AGENT_KEY": str(paths[1]),
        "KINX_ROUTING_PASSWORD": PASSWORD,
    }
    settings = found.root / "etc/kinx_loadbalancer_agent/agent.toml"
    settings.write_text(f'[schedule]\ntoken = "{TOKEN}"\n')
    speaker = found.root / "etc/frr/frr.conf"
    speaker.write_text(f"router bgp 1\n neighbor 192.0.2.3 password {OTHERS}\n")
    speaker.chmod(0o600)
    yield found
    found.end()


def test_no_secret_is_anywhere_but_where_it_must_be(machine: Overheard) -> None:
    lives(machine)

    added = {
        one.decode().strip(): words
        for words, one in machine.said
        if words.startswith("credentials add")
    }
    key = (machine.root / "tls.key").read_text().splitlines()[1]
    secrets = [*added, key, PASSWORD, TOKEN, OTHERS, WRONG, UNFIT]
    pairs = {f"{name}:{one}": one for one in (*added, WRONG) for name in ("test", "reader")}
    forms = {base64.b64encode(pair.encode()).decode(): one for pair, one in pairs.items()}
    forms |= {one: one for one in secrets}
    everything = list(machine.everything())
    found = {
        (forms[form], where)
        for form in forms
        for where, text in everything
        if form.encode() in text
    }

    assert machine.statuses >= {200, 201, 202, 204, 400, 401, 403, 404, 405}
    assert machine.statuses >= {409, 412, 415, 422, 429, 503}
    assert found == {
        *added.items(),
        (key, "tls.key"),
        (TOKEN, "etc/kinx_loadbalancer_agent/agent.toml"),
        (PASSWORD, "etc/frr/frr.conf"),
        (OTHERS, "etc/frr/frr.conf.before-kinx"),
    }
    for path in ("frr.conf", "frr.conf.before-kinx"):
        assert (machine.root / "etc/frr" / path).stat().st_mode & 0o777 == 0o600
