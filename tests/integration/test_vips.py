"""VIPs on lo: there before HAProxy binds them, gone after, and nobody else's touched."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.machine import Machine, Reply, running, wait_until
from tests.network import addresses, ip, private_network

API = "/api/haproxy"
SPEAKER = {
    "hostname": "lb",
    "inter_as_number": 50235,
    "vm_addr": "10.40.252.235",
    "primary_gateway_addr": "10.40.252.2",
    "router_as_number": 60201,
}
OTHERS = {"127.0.0.1/8", "::1/128", "192.0.2.99/32"}


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A network of its own, in which somebody else has an address on lo, too."""
    with private_network():
        ip("addr add 192.0.2.99/32 dev lo")
        yield


@pytest.fixture
def machine(network: None) -> Iterator[Machine]:
    need("haproxy")
    with running(environment={"KINX_ROUTING_LIVE": "true"}) as machine:
        yield machine


@pytest.fixture
def assigning(network: None) -> Iterator[Machine]:
    """A machine that assigns the addresses of listeners and load balancers as well."""
    need("haproxy")
    environment = {"KINX_ROUTING_LIVE": "true", "KINX_ROUTING_ASSIGN_VIPS": "true"}
    with running(environment=environment) as machine:
        yield machine


def release(machine: Machine) -> Path:
    return machine.root / "run/haproxy/release.batch"


def post_listener(machine: Machine, address: str, id: str = "li", **values: Any) -> Reply:
    own = {"id": id, "protocol": "HTTP", "protocol_port": 8080, "vip_address": address}
    return machine.post(f"{API}/listeners", own | values)


def test_the_vips_of_the_speaker_are_on_lo_and_go_with_them(machine: Machine) -> None:
    before = machine.post("/api/quagga", SPEAKER | {"vip_addr": "192.0.2.1"})
    second = machine.post("/api/quagga/vips", {"vip_addr": "2001:db8::1"})
    both = addresses()
    batch = release(machine).read_text()
    machine.delete("/api/quagga/vips/192.0.2.1")
    one = set(addresses())
    shown = machine.get("/api/quagga").json["vips"]
    machine.delete("/api/quagga")

    assert {before.status, second.status} == {202}  # no daemon is told yet
    assert both.keys() - OTHERS == {"192.0.2.1/32", "2001:db8::1/128"}
    assert both["192.0.2.1/32"] == "lo:0"
    assert batch == "addr del 192.0.2.1/32 dev lo\naddr del 2001:db8::1/128 dev lo\n"
    assert one - OTHERS == {"2001:db8::1/128"}
    assert [(vip["address"], vip["assigned"]) for vip in shown] == [("2001:db8::1", True)]
    assert addresses().keys() == OTHERS
    assert release(machine).read_text() == ""


def test_a_listener_serves_on_a_vip_of_the_speaker(machine: Machine) -> None:
    early = post_listener(machine, "192.0.2.1")
    machine.post("/api/quagga", SPEAKER | {"vip_addr": "192.0.2.1"})
    reply = post_listener(machine, "192.0.2.1")

    assert early.status == 409
    assert "not on this host" in early.json["detail"]
    assert (reply.status, reply.json["applied"]["by"]) == (201, "reload")
    assert machine.fetch(8080, "192.0.2.1").startswith("<html>")  # HAProxy's own 503


def test_the_address_of_a_listener_comes_and_goes_with_it(assigning: Machine) -> None:
    trial = assigning.post(
        f"{API}/listeners?dry_run=true",
        {"id": "li", "protocol": "HTTP", "protocol_port": 8080, "vip_address": "192.0.2.7"},
    )
    untouched = addresses()
    made = post_listener(assigning, "192.0.2.7")
    there = addresses()
    elsewhere = post_listener(assigning, "192.0.2.99", "other")
    deleted = [assigning.delete(f"{API}/listeners/{id}").status for id in ("li", "other")]
    wait_until(lambda: "192.0.2.7/32" not in addresses(), 3)

    assert (trial.status, trial.json["would"]) == (200, 201)
    assert untouched.keys() == OTHERS
    assert (made.status, elsewhere.status, deleted) == (201, 201, [204, 204])
    assert there.keys() - OTHERS == {"192.0.2.7/32"}
    assert addresses().keys() == OTHERS  # also the one that was there before


def test_kernel_settings_that_harm_vips_are_named(assigning: Machine) -> None:
    assert post_listener(assigning, "192.0.2.7").status == 201
    wait_until(lambda: assigning.condition("VipAssigned").get("reason") == "Sysctls", 5)
    told = assigning.condition("VipAssigned")

    for line in (Path(__file__).parents[2] / "etc/sysctl.conf").read_text().splitlines():
        if "=" in line:
            key, value = line.split(" = ")
            Path("/proc/sys", *key.split(".")).write_text(value)

    wait_until(lambda: assigning.condition("VipAssigned")["reason"] == "Assigned", 5)
    assert "net.ipv4.conf.all.arp_ignore = 0" in told["message"]
    assert (told["status"], told["severity"]) == ("True", "warning")


def test_a_wildcard_is_nothing_to_assign(assigning: Machine) -> None:
    assert post_listener(assigning, "0.0.0.0").status == 201
    assert addresses().keys() == OTHERS


def test_a_vip_that_cannot_be_assigned_is_a_202_and_is_served_with_the_cause_gone(
    assigning: Machine,
) -> None:
    release(assigning).unlink(missing_ok=True)
    release(assigning).mkdir()

    reply = post_listener(assigning, "192.0.2.7")
    condition = assigning.condition("VipAssigned")
    beside = post_listener(assigning, "127.0.0.1", "other")
    release(assigning).rmdir()
    wait_until(lambda: assigning.condition("ListenersBound")["status"] == "True", 10)
    wait_until(lambda: assigning.condition("VipAssigned")["status"] == "True", 10)

    assert (reply.status, beside.status) == (202, 201)
    assert reply.headers["Location"].startswith("/api/changes/")
    assert condition["status"] == "False"
    assert assigning.fetch(8080, "192.0.2.7").startswith("<html>")


def test_an_address_that_somebody_takes_away_is_back_and_counted(assigning: Machine) -> None:
    assert post_listener(assigning, "192.0.2.7").status == 201
    time.sleep(2.5)
    found = assigning.get("/api/status").json["drift"]["found"]

    ip("addr del 192.0.2.7/32 dev lo")

    wait_until(lambda: "192.0.2.7/32" in addresses(), 10)
    wait_until(lambda: assigning.get("/api/status").json["drift"]["found"] > found, 5)
    assert "192.0.2.7" in assigning.condition("Drift")["message"]


def test_a_restart_of_agent_and_haproxy_keeps_and_finds_the_addresses(assigning: Machine) -> None:
    assert post_listener(assigning, "192.0.2.7").status == 201
    assigning.stop()
    kept = addresses()
    assigning.cli("stop-haproxy")
    subprocess.run(["ip", "-force", "-batch", str(release(assigning))], check=False)
    gone = addresses()
    assigning.start()
    wait_until(lambda: assigning.condition("Applied").get("status") == "True")

    assert "192.0.2.7/32" in kept
    assert gone.keys() == OTHERS
    assert assigning.fetch(8080, "192.0.2.7").startswith("<html>")


def test_a_thousand_addresses_are_one_batch(assigning: Machine) -> None:
    wanted = [
        {"id": f"lb-{number}", "vip_address": f"10.1.{number // 250}.{number % 250 + 1}"}
        for number in range(1000)
    ]
    state = assigning.get("/api/state").json

    begun = time.monotonic()
    reply = assigning.put("/api/state", state | {"loadbalancers": wanted})
    taken = time.monotonic() - begun
    there = len(addresses().keys() - OTHERS)
    back = assigning.put("/api/state", state)

    print(f"1000 addresses: {taken:.2f} s")
    assert (reply.status, back.status) == (200, 200)
    assert there == 1000
    assert addresses().keys() == OTHERS
    assert taken < 5
