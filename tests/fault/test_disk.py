"""A disk that is full: changes are refused with 507, nothing is lost, and HAProxy serves on."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.machine import Machine, free_port, running, wait_until

API, RR = "/api/haproxy", "ROUND_ROBIN"
SIZE = 64 * 2**20
NAMED_SECONDS = 5


@pytest.fixture
def small() -> Iterator[Machine]:
    """An agent whose every path is on a file system of 64 MiB; needs root."""
    need("haproxy")
    disk = Path(tempfile.mkdtemp(prefix="kinx-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "kinx-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own takes root")
    try:
        with running(root=disk) as machine:
            yield machine
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


def fill(machine: Machine) -> Path:
    """Write until the disk has no byte left; return the file to remove."""
    path = machine.root / "filler"
    with path.open("wb", buffering=0) as filler:
        for size in (2**20, 2**12, 1):
            try:
                while filler.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return path


def listener(id: str, port: int) -> dict[str, Any]:
    """Return the document of a listener."""
    return {"id": id, "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}


def test_a_full_disk_is_507_and_named_and_all_is_well_when_there_is_space(small: Machine) -> None:
    port, other = free_port(), free_port()
    backend = small.backend("one")
    member = {"id": "a", "address": "127.0.0.1", "protocol_port": backend.port}
    for path, body in (
        ("listeners", listener("web", port)),
        ("pools", {"id": "app", "listener_id": "web", "protocol": "HTTP", "lb_algorithm": RR}),
        ("pools/app/members", member),
    ):
        assert small.post(f"{API}/{path}", body).status == 201
    before = small.get("/api/state").json

    filler = fill(small)
    wait_until(lambda: small.condition("SpaceLeft")["status"] == "False", NAMED_SECONDS)
    named = small.condition("SpaceLeft")
    refused = [
        small.post(f"{API}/listeners", listener("api", other)),
        small.put(f"{API}/pools/app/members/a", {"weight": 7}),
        small.delete(f"{API}/listeners/web"),
    ]
    served = [small.fetch(port) for _ in range(20)]
    kept = small.get("/api/state").json

    filler.unlink()
    wait_until(lambda: small.condition("SpaceLeft")["status"] == "True", NAMED_SECONDS)
    wait_until(lambda: small.condition("Applied")["status"] == "True", NAMED_SECONDS)
    made = small.post(f"{API}/listeners", listener("api", other))
    changed = small.put(f"{API}/pools/app/members/a", {"weight": 7})

    assert (named["severity"], "507" in named["message"]) == ("error", True)
    assert [reply.status for reply in refused] == [507] * 3
    assert all("no space is left" in reply.json["detail"] for reply in refused)
    assert served == ["one"] * 20
    assert kept == before
    assert (made.status, changed.status) == (201, 200)
    assert small.fetch(port) == "one"
