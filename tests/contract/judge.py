"""What every answer must be, and whether the running HAProxy is what the API says."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from tests.contract.documents import LISTENERS, LOADBALANCERS, POOLS
from tests.machine import Machine, Reply

PROBLEM = "application/problem+json"
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "instance", "errors", "faultstring"}
MAINTENANCE = 0x01
"""Bit of srv_admin_state (HAProxy 2.6 management guide, 9.3 "show servers state")."""


def pointers(reply: Reply) -> set[str]:
    """Return where the faults are that *reply* names."""
    return {error["pointer"] for error in reply.json["errors"]}


def assert_is_problem(reply: Reply, status: int, *where: str) -> None:
    """Assert that *reply* is a problem document with *status*, and with faults at *where*."""
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"].split(";")[0] == PROBLEM
    assert reply.json.keys() >= PROBLEM_MEMBERS
    assert reply.json["status"] == status
    assert reply.json["detail"]
    assert reply.json["faultstring"] == reply.json["detail"]
    assert all(error["detail"] for error in reply.json["errors"])
    if where:
        assert pointers(reply) == set(where), reply.json["errors"]


def assert_is_decent(reply: Reply) -> None:
    """Assert what holds of every answer with a body, whatever was asked."""
    assert reply.status < 500, reply.body
    assert "html" not in reply.headers.get("Content-Type", "")
    assert b"Traceback" not in reply.body
    assert b"<html" not in reply.body.lower()
    if reply.status >= 400:
        assert_is_problem(reply, reply.status)
    elif reply.status != 204:
        assert reply.headers["Content-Type"].split(";")[0] == "application/json"
        assert reply.body.endswith(b"\n")
        assert reply.json is not None


def content(reply: Reply) -> dict[str, Any]:
    """Return the resource of an answer, without what a write adds to it."""
    return {name: reply.json[name] for name in reply.json if name not in ("applied", "warnings")}


def files(machine: Machine) -> Mapping[str, tuple[int, bytes]]:
    """Return every file below etc/haproxy: when it was written, and what is in it."""
    directory = machine.root / "etc/haproxy"
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def kept(machine: Machine) -> dict[str, Any]:
    """Return all that a refused request must leave alone: resources, files, HAProxy."""
    found: dict[str, Any] = {}
    for kind in ("loadbalancers", "listeners", "pools", "healthmonitors"):
        found |= machine.get(f"/api/haproxy/{kind}").json
    found["store"] = stored(machine)
    found["generation"] = machine.get("/api/status").json["generation"]
    found["files"] = files(machine)
    found["reloads"] = machine.reloads()
    found["worker"] = machine.worker_pid()
    return found


def stored(machine: Machine) -> list[tuple[str, ...]]:
    """Return every resource in the store, members included."""
    path = machine.root / "opt/kinx_loadbalancer_agent/state.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        return sorted(database.execute("SELECT kind, parent, id, body FROM resources"))


def backend_name(pool: Mapping[str, Any]) -> str:
    """Return the backend of a pool that had its listener when it was made."""
    return f"backend-{pool['listener_id'] or pool['id']}"


def assert_haproxy_agrees(machine: Machine) -> None:
    """Assert that process and files are what the API says: frontends, backends, servers."""
    owners = {one["id"]: one for one in machine.get(LOADBALANCERS).json["loadbalancers"]}
    listeners = {
        one["id"]: one
        for one in machine.get(LISTENERS).json["listeners"]
        if one["enabled"] and owners.get(one["loadbalancer_id"], {"enabled": True})["enabled"]
    }
    pools = {backend_name(one): one for one in machine.get(POOLS).json["pools"] if one["enabled"]}
    servers = {
        (name, one["id"]): one
        for name, pool in pools.items()
        for one in machine.get(f"{POOLS}/{pool['id']}/members").json["members"]
    }

    text = "".join(machine.fragments().values())
    lines = [line.split() for line in text.splitlines()]
    assert {words[1] for words in lines if words[:1] == ["frontend"]} == listeners.keys()
    assert {words[1] for words in lines if words[:1] == ["backend"]} == pools.keys()
    assert sorted(words[1] for words in lines if words[:1] == ["server"]) == sorted(
        id for _, id in servers
    )
    assert shown_proxies(machine, 1) == listeners.keys()
    assert shown_proxies(machine, 2) == pools.keys()
    shown = shown_servers(machine)
    wanted = {
        key: (one["address"], one["protocol_port"], one["weight"], one["enabled"])
        for key, one in servers.items()
    }
    # A deleted member is there while it has connections, for nobody new.
    leaving = {key for key in shown.keys() - wanted.keys() if not shown[key][-1]}
    assert {key: shown[key] for key in shown.keys() - leaving} == wanted
    digest = next(words[1] for words in lines if words[:1] == ["description"])
    assert f"description: {digest}\n" in machine.show("show info")


def shown_proxies(machine: Machine, bit: int) -> set[str]:
    """Return the names in ``show stat``: frontends for 1, backends for 2."""
    rows = machine.show(f"show stat -1 {bit} -1").splitlines()[1:]
    return {row.split(",")[0] for row in rows if row}


def shown_servers(machine: Machine) -> dict[tuple[str, str], tuple[str, int, int, bool]]:
    """Return address, port, weight and "not in maintenance" by backend and server."""
    found = {}
    for line in machine.show("show servers state").splitlines()[2:]:
        words = line.split()
        if words:
            is_on = not int(words[6]) & MAINTENANCE
            found[words[1], words[3]] = (words[4], int(words[18]), int(words[7]), is_on)
    return found
