"""The documents of samples/requests, sent as they are but for their ports."""

import http.client
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.machine import Machine, Reply, free_port, wait_until

REQUESTS = Path(__file__).parents[2] / "samples/requests"
POOL = "/api/haproxy/pools/1d8d2b7e-5f0a-4f57-9a0b-3c9f0a4e6b52"
ONE = "a0c8e3ff-5791-42dd-ac9f-f3bd0450c654"

DRIVER = (
    ("10-loadbalancer", "POST", "/api/haproxy/loadbalancers", 201),
    ("20-listener", "POST", "/api/haproxy/listeners", 201),
    ("30-pool", "POST", "/api/haproxy/pools", 201),
    ("40-member-one", "POST", f"{POOL}/members", 201),
    ("41-member-two", "POST", f"{POOL}/members", 201),
    ("50-healthmonitor", "POST", "/api/haproxy/healthmonitors", 201),
)
WEIGHT = ("60-member-one-weight", "PUT", f"{POOL}/members/{ONE}", 200)
BAD = ("70-member-bad", "POST", f"{POOL}/members", 422)


@dataclass
class Site:
    """A machine with the two back ends of the samples."""

    machine: Machine
    ports: dict[int, int]

    def send(self, name: str, method: str, path: str, status: int) -> Reply:
        """Send the sample *name*; its answer must have *status*."""
        document = json.loads((REQUESTS / f"{name}.json").read_text())
        if document.get("protocol_port"):
            document["protocol_port"] = self.ports[document["protocol_port"]]
        reply = self.machine.request(method, path, document)
        assert reply.status == status, (name, reply.body)
        return reply

    def answers(self, *clients: str) -> Counter[str]:
        """Return which back ends answered *clients*, source addresses in 127.0.0.0/8."""
        return Counter(self._fetch_from(client) for client in clients)

    def checks(self) -> set[str]:
        """Return what HAProxy's health checks last said of the members."""
        lines = [line.split(",") for line in self.machine.show("show stat").splitlines() if line]
        column, name = lines[0].index("check_status"), lines[0].index("svname")
        return {line[column] for line in lines[1:] if line[name] not in ("FRONTEND", "BACKEND")}

    def _fetch_from(self, client: str) -> str:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.ports[8080], timeout=5, source_address=(client, 0)
        )
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@pytest.fixture
def site(machine: Machine) -> Site:
    one, two = machine.backend("one"), machine.backend("two")
    return Site(machine, {8080: free_port(), 9001: one.port, 9002: two.port})


def clients(network: int) -> list[str]:
    """Return 20 addresses nobody else asks from: the pool keeps an address on its member."""
    return [f"127.0.{network}.{host}" for host in range(1, 21)]


def test_every_sample_is_sent_in_the_order_of_its_number() -> None:
    found = [path.stem for path in sorted(REQUESTS.iterdir())]

    assert found == [name for name, *_ in (*DRIVER, WEIGHT, BAD)]


def test_the_samples_make_a_listener_that_serves_both_members_evenly(site: Site) -> None:
    for request in DRIVER:
        site.send(*request)

    assert site.answers(*clients(1)) == {"one": 10, "two": 10}
    assert len(site.answers(*["127.0.1.1"] * 6)) == 1
    wait_until(lambda: site.checks() == {"L7OK"})


def test_the_samples_sent_again_change_nothing(site: Site) -> None:
    for request in DRIVER:
        site.send(*request)
    before = site.machine.worker_pid()

    again = [site.send(name, method, path, 200) for name, method, path, _ in DRIVER]

    assert {reply.json["applied"]["by"] for reply in again} == {"none"}
    assert site.machine.worker_pid() == before


def test_the_weight_of_the_sample_gives_member_one_three_of_four_clients(site: Site) -> None:
    for request in DRIVER:
        site.send(*request)

    changed = site.send(*WEIGHT).json

    assert (changed["weight"], changed["protocol_port"]) == (3, site.ports[9001])
    assert 14 <= site.answers(*clients(2))["one"] <= 16


def test_the_bad_sample_is_refused_at_each_of_its_faults_and_not_kept(site: Site) -> None:
    for request in DRIVER:
        site.send(*request)
    before: list[Any] = [site.machine.get(f"{POOL}/members").json, site.machine.fragments()]

    refused = site.send(*BAD).json

    assert {fault["pointer"] for fault in refused["errors"]} == {
        "/address",
        "/protocol_port",
        "/weight",
        "/colour",
        "/healthmonitor/type",
    }
    assert [site.machine.get(f"{POOL}/members").json, site.machine.fragments()] == before
    assert set(site.answers(*clients(3))) == {"one", "two"}
