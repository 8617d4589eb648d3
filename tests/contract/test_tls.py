"""TLS, callers' certificates, and the Host that a request names."""

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import judge, wire
from tests.contract.documents import POOLS
from tests.machine import Machine, wait_until


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by itself; return it and its key."""
    need("openssl")
    paths = directory / f"{name}.pem", directory / f"{name}.key"
    asked = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    named = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv = ["openssl", *asked.split(), *named, "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(argv, check=True, capture_output=True)
    return paths


def ask(machine: Machine, context: ssl.SSLContext, path: str = "/api/info") -> int:
    """Return the status of a GET over TLS."""
    connection = http.client.HTTPSConnection("127.0.0.1", machine.port, context=context, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {machine.secret}"})
        return connection.getresponse().status
    finally:
        connection.close()


def trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


@pytest.fixture
def server(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "server")


@pytest.fixture
def secure(server: tuple[Path, Path]) -> Iterator[Machine]:
    names = ("KINX_AGENT_CERTIFICATE", "KINX_AGENT_KEY")
    machine = Machine(environment=dict(zip(names, map(str, server), strict=True)))
    try:
        machine.start(ready=False)
        wait_until(lambda: is_ready(machine), 20)
        yield machine
    finally:
        machine.end()


def is_ready(machine: Machine) -> bool:
    try:
        return wire.over_unix_socket(machine, "GET", "/readyz").status == 200
    except OSError:
        return False


def test_over_tls_a_caller_gets_answers(secure: Machine, server: tuple[Path, Path]) -> None:
    assert ask(secure, trusting(server[0])) == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_an_older_tls_than_1_2_is_refused(
    secure: Machine, server: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    context = trusting(server[0])
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version

    with pytest.raises((ssl.SSLError, OSError)):
        ask(secure, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert ask(secure, context) == 200


def test_without_tls_nobody_gets_through(secure: Machine) -> None:
    with pytest.raises((OSError, http.client.HTTPException, AssertionError)):
        assert secure.get("/api/info").status < 400
    with pytest.raises((OSError, http.client.HTTPException, AssertionError)):
        assert secure.get("/healthz").status < 400


def test_the_unix_socket_stays_plain(secure: Machine) -> None:
    assert wire.over_unix_socket(secure, "GET", "/api/info").status == 200
    assert secure.cli("status").returncode == 0


def test_a_certificate_that_is_renewed_is_used_at_once(
    secure: Machine, server: tuple[Path, Path], tmp_path: Path
) -> None:
    new = certificate(tmp_path, "renewed")
    for old, other in zip(server, new, strict=True):
        os.replace(other, old)

    assert ask(secure, trusting(server[0])) == 200


def test_a_renewed_certificate_that_does_not_fit_is_named_until_it_does(
    secure: Machine, server: tuple[Path, Path], tmp_path: Path
) -> None:
    def stated() -> dict[str, Any]:
        conditions = wire.over_unix_socket(secure, "GET", "/api/status").json["conditions"]
        return next(one for one in conditions if one["type"] == "CertificateUsable")

    wait_until(lambda: stated()["status"] == "True", 5)
    kept = server[1].read_bytes()
    os.replace(certificate(tmp_path, "another")[1], server[1])

    told = wait_until(lambda: stated() if stated()["status"] == "False" else None, 5)
    shown = secure.cli("status")
    server[1].write_bytes(kept)
    wait_until(lambda: stated()["status"] == "True", 5)

    assert told["severity"] == "error"
    assert str(server[1]) in told["message"]
    assert "key values mismatch" in told["message"].lower()
    assert (shown.returncode, str(server[1]) in shown.stdout) == (1, True)


def test_a_caller_without_the_asked_certificate_is_turned_away(tmp_path: Path) -> None:
    server, caller, other = (certificate(tmp_path, name) for name in ("server", "one", "other"))
    environment = {
        "KINX_AGENT_CERTIFICATE": str(server[0]),
        "KINX_AGENT_KEY": str(server[1]),
        "KINX_AGENT_CLIENT_CA": str(caller[0]),
    }
    machine = Machine(environment=environment)
    known, unknown, nobody = (trusting(server[0]) for _ in range(3))
    known.load_cert_chain(*caller)
    unknown.load_cert_chain(*other)
    try:
        machine.start(ready=False)
        wait_until(lambda: is_ready(machine), 20)

        assert ask(machine, known) == 200
        for context in (unknown, nobody):
            with pytest.raises((ssl.SSLError, OSError)):
                ask(machine, context)
        machine.secret = "wrong"
        assert ask(machine, known) == 401
    finally:
        machine.end()


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_certificate_that_cannot_be_used_is_named_at_the_start(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "tls.pem"
    if content is not None:
        path.write_bytes(content)
    machine = Machine(environment={"KINX_AGENT_CERTIFICATE": str(path)})
    try:
        ended = machine.cli("serve")

        assert ended.returncode == 2
        assert str(path) in ended.stderr
    finally:
        machine.end()


# --- Host -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:62000", "[::1]:62000", "192.0.2.7", "localhost", "LocalHost:1", "lb.example"],
)
def test_a_host_that_is_an_address_or_a_known_name_is_served(host: str) -> None:
    machine = Machine(environment={"KINX_AGENT_HOSTS": "lb.example other"})
    try:
        machine.start()
        assert machine.get("/api/info", headers={"Host": host}).status == 200
    finally:
        machine.end()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", ""]
)
def test_another_host_is_a_400_that_keeps_nothing(shared: Machine, host: str) -> None:
    before = judge.kept(shared)

    for method, path in (("GET", "/api/state"), ("POST", POOLS)):
        body: Any = json.dumps({"id": "x"}).encode() if method == "POST" else None
        reply = shared.request(method, path, body, {"Host": host})
        judge.assert_is_problem(reply, 400)
    assert shared.get("/healthz", headers={"Host": host}).status == 200
    assert judge.kept(shared) == before
