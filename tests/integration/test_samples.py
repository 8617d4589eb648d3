"""The documents of samples/requests, sent as they are but for their ports."""

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.machine import Machine, Reply, free_port, running, wait_until

REQUESTS = Path(__file__).parents[2] / "samples/requests"
POOL = "/api/haproxy/pools/1d8d2b7e-5f0a-4f57-9a0b-3c9f0a4e6b52"
ONE = "a0c8e3ff-5791-42dd-ac9f-f3bd0450c654"

DRIVER = (
    ("10-loadbalancer", "POST", "/api/haproxy/loadbalancers", 201),
    ("11-peer-one", "POST", "/api/haproxy/peers", 201),
    ("12-peer-two", "POST", "/api/haproxy/peers", 201),
    ("13-quagga", "POST", "/api/quagga", 202),
    ("14-crontab", "POST", "/api/crontab", 201),
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

    def send(self, sample: str, method: str, path: str, status: int) -> Reply:
        """Send *sample*; its answer must have *status*."""
        document = json.loads((REQUESTS / f"{sample}.json").read_text())
        for name in ("protocol_port", "port"):
            if document.get(name):
                document[name] = self.ports[document[name]]
        reply = self.machine.request(method, path, document)
        assert reply.status == status, (sample, reply.body)
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
def site() -> Iterator[Site]:
    need("haproxy")
    node_name = json.loads((REQUESTS / "11-peer-one.json").read_text())["hostname"]
    with running(environment={"KINX_AGENT_NODE_NAME": node_name}) as machine:
        one, two = machine.backend("one"), machine.backend("two")
        ports = {8080: free_port(), 9001: one.port, 9002: two.port, 1024: free_port()}
        yield Site(machine, ports)


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

    again = [
        site.send(sample, method, path, 202 if status == 202 else 200)
        for sample, method, path, status in DRIVER
    ]

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
