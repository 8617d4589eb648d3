"""What the laws found, each as small as it gets."""

from tests.machine import Machine, free_port

SPEAKER = {
    "hostname": "lbv-1",
    "inter_as_number": 50235,
    "router_as_number": 60201,
    "vm_addr": "127.0.0.2",
    "primary_gateway_addr": "127.0.0.3",
    "vip_addr": "127.0.0.4",
}


def test_a_vip_may_be_sent_as_get_shows_it(machine: Machine) -> None:
    machine.post("/api/quagga", SPEAKER)
    (shown,) = machine.get("/api/quagga/vips").json["vips"]

    posted = machine.post("/api/quagga/vips", shown)
    put = machine.put("/api/quagga/vips/127.0.0.4", shown)

    assert (posted.status, put.status) == (202, 202), posted.body


def test_a_pool_that_outlives_its_listener_can_be_rebuilt_elsewhere(machine: Machine) -> None:
    listener = {"id": "li", "protocol": "HTTP", "protocol_port": free_port()}
    pool = {"id": "po", "listener_id": "li", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    machine.post("/api/haproxy/listeners", {**listener, "vip_address": "127.0.0.1"})
    machine.post("/api/haproxy/pools", pool)
    machine.delete("/api/haproxy/listeners/li")
    exported = machine.get("/api/state").json
    machine.delete("/api/haproxy/pools/po")  # the node is as empty as another one

    rebuilt = machine.put("/api/state", exported)

    assert rebuilt.status == 200, rebuilt.body
    assert machine.get("/api/state").json == exported
