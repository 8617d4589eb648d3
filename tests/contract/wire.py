"""Requests that the machine's own client cannot make: other addresses, sockets, raw bytes."""

import base64
import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

from tests.machine import Machine, Reply


def basic(name: str, secret: str) -> dict[str, str]:
    """Return the header of HTTP Basic (RFC 7617)."""
    pair = base64.b64encode(f"{name}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def bearer(secret: str) -> dict[str, str]:
    """Return the header of a bearer token (RFC 6750)."""
    return {"Authorization": f"Bearer {secret}"}


def request_from(
    machine: Machine,
    source: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Reply:
    """Send one request from the loopback address *source*, with these *headers* only."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", machine.port, timeout=30, source_address=(source, 0)
    )
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def over_unix_socket(machine: Machine, method: str, path: str, body: Any = None) -> Reply:
    """Send one request without a credential through the agent's Unix socket."""
    at = machine.root / "run/kinx_loadbalancer_agent.sock"
    connection = _UnixConnection(str(at))
    content = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()


def raw(machine: Machine, content: bytes) -> bytes:
    """Send bytes that may be no HTTP at all and return all that comes back."""
    with socket.create_connection(("127.0.0.1", machine.port), timeout=10) as peer:
        found = bytearray()
        with contextlib.suppress(ConnectionError):
            peer.sendall(content)
            peer.shutdown(socket.SHUT_WR)
            while block := peer.recv(65536):
                found += block
        return bytes(found)
