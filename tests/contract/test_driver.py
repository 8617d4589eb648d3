"""An LBaaS driver's documents in its order: no answer is an error, and HAProxy agrees after each.

Once as the contract has them, once as neutron-lbaas' Octavia driver sent them.
"""

import http.client
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import HEALTHMONITORS, LISTENERS, LOADBALANCERS, POOLS
from tests.machine import Backend, Machine, Reply, free_port

Body = dict[str, Any]


class Driver:
    """Sends documents as a driver does, and asks after each whether the node agrees with it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.loadbalancer, self.listener, self.pool = (str(uuid.uuid4()) for _ in range(3))
        self.members = [str(uuid.uuid4()) for _ in range(3)]
        self.backends: list[Backend] = [machine.backend(id) for id in self.members]
        self.project = uuid.uuid4().hex
        self.port = free_port()
        self.sent: list[tuple[str, str, int]] = []

    def post(self, path: str, body: Body) -> Reply:
        reply = self._send("POST", path, body)
        # A driver that does not hear the answer sends the document again.
        assert self.machine.post(path, body).status == 200
        return reply

    def put(self, path: str, body: Body) -> Reply:
        return self._send("PUT", path, body)

    def delete(self, path: str) -> Reply:
        return self._send("DELETE", path, None)

    def _send(self, method: str, path: str, body: Body | None) -> Reply:
        reply = self.machine.request(method, path, body)
        self.sent.append((method, path, reply.status))
        assert reply.status < 400, (method, path, reply.body)
        if method != "DELETE":
            assert isinstance(reply.json, dict)
            there = self.machine.get(self.url(path, reply))
            assert there.json == judge.content(reply)
            assert reply.json["applied"]["pid"] == self.machine.worker_pid()
        else:
            judge.assert_is_problem(self.machine.get(path), 404)
        judge.assert_haproxy_agrees(self.machine)
        return reply

    def url(self, path: str, reply: Reply) -> str:
        return reply.headers.get("Location") or path

    def split(self, requests: int = 6) -> Counter[str]:
        """Return what *requests* on connections of their own were answered."""
        return Counter(self.answer() for _ in range(requests))

    def answer(self) -> str:
        """Return the body of one GET, its status where that is an error, or 'refused'."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else str(answer.status)
        except ConnectionRefusedError:
            return "refused"
        finally:
            connection.close()

    def fragment(self, prefix: str) -> list[str]:
        """Return the lines of the one fragment whose name begins with *prefix*."""
        names = [name for name in self.machine.fragments() if name.startswith(prefix)]
        assert len(names) == 1, names
        text = self.machine.fragments()[names[0]]
        return [line.strip() for line in text.splitlines() if not line.startswith("#")]


# --- the contract's documents ---------------------------------------------------------------


def loadbalancer(driver: Driver) -> Body:
    return {
        "id": driver.loadbalancer,
        "name": "web # one",
        "description": 'the "front" door',
        "enabled": True,
        "project_id": driver.project,
        "vip_address": "127.0.0.1",
    }


def listener(driver: Driver) -> Body:
    return {
        "id": driver.listener,
        "loadbalancer_id": driver.loadbalancer,
        "name": "listener",
        "description": "",
        "enabled": True,
        "protocol": "HTTP",
        "protocol_port": driver.port,
        "protocol_mode": "http",
        "connection_limit": -1,
        "default_pool_id": None,
        "vip_address": "127.0.0.1",
        "tls_certificate_id": None,
        "sni_containers": [],
        "project_id": driver.project,
    }


def pool(driver: Driver) -> Body:
    return {
        "id": driver.pool,
        "listener_id": driver.listener,
        "loadbalancer_id": driver.loadbalancer,
        "name": "pool",
        "description": "",
        "enabled": True,
        "protocol": "HTTP",
        "protocol_mode": "http",
        "lb_algorithm": "ROUND_ROBIN",
        "stick_size": "200k",
        "stick_expire": "1d",
        "session_persistence": None,
        "project_id": driver.project,
    }


MONITOR: Body = {
    "type": "HTTP",
    "delay": 3,
    "timeout": "10",
    "max_retries": 2,
    "max_retries_down": 2,
    "http_method": "GET",
    "url_path": "/",
    "expected_codes": "200",
}


def member(driver: Driver, number: int, monitor: Body) -> Body:
    return {
        "id": driver.members[number],
        "name": "",
        "enabled": True,
        "address": driver.backends[number].address,
        "protocol_port": str(driver.backends[number].port),
        "weight": "1",
        "type": None,
        "cookie_name": None,
        "healthmonitor": monitor,
        "project_id": driver.project,
    }


def test_the_contracts_sequence(machine: Machine) -> None:
    driver = Driver(machine)
    members = f"{POOLS}/{driver.listener}/members"

    driver.post(LOADBALANCERS, loadbalancer(driver))
    assert driver.answer() == "refused"

    driver.post(LISTENERS, listener(driver))
    assert driver.answer() == "503"
    assert driver.fragment("50-") == [
        f"frontend {driver.listener}",
        "option httplog",
        "maxconn 12000",
        f"bind 127.0.0.1:{driver.port}",
        "mode http",
        "option contstats",
        "option idle-close-on-response",
        "timeout http-keep-alive 10s",
    ]

    driver.post(POOLS, pool(driver))
    assert driver.answer() == "503"
    assert driver.fragment("50-")[-1] == f"default_backend backend-{driver.listener}"
    assert machine.get(f"{LISTENERS}/{driver.listener}").json["default_pool_id"] is None

    for number in range(3):
        reply = driver.post(members, member(driver, number, MONITOR))
        assert reply.json["warnings"] or number
        assert driver.answer() in driver.members[: number + 1]
    lines = driver.fragment("60-")
    assert lines[:-3] == [
        f"backend backend-{driver.listener}",
        "mode http",
        "balance roundrobin",
        "stick-table type ip size 200k expire 1d",
        "stick on src",
        "timeout check 10s",
        "option httpchk GET /",
        "http-check expect status 200",
        "option forwardfor",
    ]
    assert lines[-3:] == [
        f"server {id} 127.0.0.1:{backend.port} weight 1 check inter 3s fall 2 rise 2"
        for id, backend in sorted(zip(driver.members, driver.backends, strict=True))
    ]

    own = {**MONITOR, "delay": 5, "timeout": 4}
    taken = driver.post(HEALTHMONITORS, {**pool(driver), "healthmonitor": own})
    assert (taken.status, taken.json["pool_id"], taken.json["warnings"]) == (201, driver.pool, [])
    assert "timeout check 4s" in driver.fragment("60-")

    # Changes name what changes, by the listener's id as well as by the pool's.
    unstuck = {"stick_size": None, "stick_expire": None}
    driver.put(f"{POOLS}/{driver.listener}", unstuck)
    assert set(driver.split().values()) == {2}
    driver.put(f"{members}/{driver.members[0]}", {"weight": 0})
    assert set(driver.split()) == set(driver.members[1:])
    driver.put(f"{members}/{driver.members[0]}", {"weight": 4, "enabled": False})
    assert set(driver.split()) == set(driver.members[1:])
    driver.put(f"{members}/{driver.members[0]}", {"enabled": True})
    assert driver.split(12) == dict(zip(driver.members, (8, 2, 2), strict=True))
    driver.put(f"{POOLS}/{driver.pool}", {"lb_algorithm": "SOURCE_IP"})
    assert len(driver.split()) == 1
    driver.put(f"{POOLS}/{driver.pool}", {"enabled": False})
    assert driver.answer() == "503"
    driver.put(f"{POOLS}/{driver.pool}", {"enabled": True})
    driver.put(f"{HEALTHMONITORS}/{driver.listener}", {"delay": 7, "max_retries": None})
    assert "check inter 7s fall 2 rise 3" in driver.fragment("60-")[-1]
    driver.put(f"{LISTENERS}/{driver.listener}", {"connection_limit": 100})
    assert "maxconn 100" in driver.fragment("50-")
    driver.put(f"{LOADBALANCERS}/{driver.loadbalancer}", {"enabled": False})
    assert driver.answer() == "refused"
    driver.put(f"{LOADBALANCERS}/{driver.loadbalancer}", {"enabled": True})
    assert driver.answer() in driver.members

    driver.delete(f"{HEALTHMONITORS}/{driver.pool}")
    assert not any(" check " in line for line in driver.fragment("60-"))
    for number in reversed(range(3)):
        assert driver.answer() in driver.members[: number + 1]
        driver.delete(f"{members}/{driver.members[number]}")
    assert driver.answer() == "503"
    driver.delete(f"{POOLS}/{driver.pool}")
    assert driver.answer() == "503"
    driver.delete(f"{LISTENERS}/{driver.listener}")
    assert driver.answer() == "refused"
    driver.delete(f"{LOADBALANCERS}/{driver.loadbalancer}")

    assert {status for method, _, status in driver.sent if method == "POST"} == {201}
    assert {status for method, _, status in driver.sent if method == "PUT"} == {200}
    assert {status for method, _, status in driver.sent if method == "DELETE"} == {204}
    assert set(machine.fragments()) == {"00-global.cfg"}
    planned = machine.cli("plan")
    assert (planned.returncode, planned.stdout) == (0, "nothing to do\n")


# --- the older driver's documents -----------------------------------------------------------


def octavia_v1(driver: Driver) -> Sequence[tuple[str, str, Body]]:
    """Return the POSTs: create-only members included, as that driver had them."""
    common = {"enabled": True, "project_id": driver.project}
    text = {"name": "n", "description": "d"}
    vip = {"subnet_id": str(uuid.uuid4()), "port_id": str(uuid.uuid4()), "ip_address": "127.0.0.1"}
    return (
        (LOADBALANCERS, "loadbalancer", {**common, **text, "id": driver.loadbalancer, "vip": vip}),
        (
            LISTENERS,
            "listener",
            {
                **common,
                **text,
                "id": driver.listener,
                "protocol": "HTTP",
                "protocol_port": driver.port,
                "connection_limit": -1,
                "tls_certificate_id": None,
                "default_pool_id": None,
                "sni_containers": [],
            },
        ),
        (
            POOLS,
            "pool",
            {
                **common,
                **text,
                "id": driver.pool,
                "protocol": "HTTP",
                "lb_algorithm": "ROUND_ROBIN",
                "session_persistence": None,
                "listener_id": driver.listener,
            },
        ),
        *(
            (
                f"{POOLS}/{driver.pool}/members",
                "member",
                {
                    **common,
                    "id": id,
                    "ip_address": "127.0.0.1",
                    "protocol_port": backend.port,
                    "weight": 1,
                    "subnet_id": str(uuid.uuid4()),
                },
            )
            for id, backend in zip(driver.members, driver.backends, strict=True)
        ),
        (
            HEALTHMONITORS,
            "monitor",
            {
                **common,
                "type": "HTTP",
                "delay": 3,
                "timeout": 2,
                "rise_threshold": 2,
                "fall_threshold": 4,
                "http_method": "GET",
                "url_path": "/",
                "expected_codes": "200",
                "pool_id": driver.pool,
            },
        ),
    )


CREATE_ONLY = {
    "loadbalancer": {"id", "project_id", "vip"},
    "listener": {"id", "project_id"},
    "pool": {"id", "project_id", "listener_id"},
    "member": {"id", "project_id", "subnet_id", "ip_address"},
    "monitor": {"project_id", "pool_id"},
}


def test_the_older_drivers_sequence(machine: Machine) -> None:
    driver = Driver(machine)
    expected: dict[str, Callable[[], bool]] = {
        "loadbalancer": lambda: driver.answer() == "refused",
        "listener": lambda: driver.answer() == "503",
        "pool": lambda: driver.answer() == "503",
        "member": lambda: driver.answer() in driver.members,
        "monitor": lambda: "check inter 3s fall 4 rise 2" in driver.fragment("60-")[-1],
    }

    # It makes each thing, and later repeats all of it but what only a creation may say.
    for path, name, body in octavia_v1(driver):
        driver.post(path, body)
        assert expected[name](), name
    assert set(driver.split().values()) == {2}
    for path, name, body in octavia_v1(driver):
        changed = {key: body[key] for key in body if key not in CREATE_ONLY[name]}
        url = f"{path}/{body.get('id', driver.pool)}"
        before = machine.get(url).json
        assert driver.put(url, changed).json["applied"]["by"] == "none"
        assert machine.get(url).json == before
    driver.put(f"{LISTENERS}/{driver.listener}", {"default_pool_id": driver.pool})
    driver.put(
        f"{POOLS}/{driver.pool}",
        {"session_persistence": {"type": "HTTP_COOKIE", "cookie_name": None}},
    )
    assert "cookie SRV insert indirect nocache" in driver.fragment("60-")
    driver.put(f"{POOLS}/{driver.pool}", {"session_persistence": None})
    driver.put(
        f"{POOLS}/{driver.pool}/members/{driver.members[0]}",
        {"enabled": False, "protocol_port": driver.backends[0].port, "weight": 1},
    )
    assert set(driver.split()) == set(driver.members[1:])
    driver.put(f"{HEALTHMONITORS}/{driver.pool}", {"rise_threshold": 3, "fall_threshold": "5"})
    assert "check inter 3s fall 5 rise 3" in driver.fragment("60-")[-1]

    driver.delete(f"{HEALTHMONITORS}/{driver.pool}")
    driver.delete(f"{POOLS}/{driver.pool}/members/{driver.members[2]}")
    assert set(driver.split(4)) == {driver.members[1]}
    # The load balancer with all that is left, as that driver does it.
    reply = machine.delete(f"{LOADBALANCERS}/{driver.loadbalancer}/delete_cascade")

    assert reply.status == 204
    assert driver.answer() == "refused"
    judge.assert_haproxy_agrees(machine)
    assert set(machine.fragments()) == {"00-global.cfg"}
    assert {status for method, _, status in driver.sent if method == "POST"} == {201}


@pytest.mark.parametrize("first", ["listener", "pool"])
def test_listener_and_pool_may_come_in_either_order(shared: Machine, first: str) -> None:
    driver = Driver(shared)
    own = {**listener(driver), "loadbalancer_id": None}
    named = {**pool(driver), "listener_id": None, "loadbalancer_id": None}
    if first == "pool":
        shared.post(POOLS, named)
        shared.post(LISTENERS, {**own, "default_pool_id": driver.pool})
    else:
        shared.post(LISTENERS, {**own, "default_pool_id": driver.pool})
        shared.post(POOLS, named)

    reply = shared.post(f"{POOLS}/{driver.pool}/members", member(driver, 0, {}))

    assert reply.status == 201
    assert driver.answer() == driver.members[0]
    judge.assert_haproxy_agrees(shared)


def test_the_documents_are_sent_with_basic_auth_and_no_type(shared: Machine) -> None:
    place = documents.place(shared, "loadbalancers")

    reply = shared.post(
        place.collection, f'{{"id": "{place.body["id"]}"}}'.encode(), headers={"Accept": "*/*"}
    )

    assert reply.status == 201
