"""The documents of an LBaaS driver, in its order, against the running HAProxy."""

from tests.machine import Machine, free_port


def test_a_listener_serves_its_members_once_the_driver_has_sent_them(machine: Machine) -> None:
    port, one, two = free_port(), machine.backend("one"), machine.backend("two")

    replies = [
        machine.post("/api/haproxy/loadbalancers", {"id": "lb", "vip_address": "127.0.0.1"}),
        machine.post(
            "/api/haproxy/listeners",
            {"id": "li", "protocol": "HTTP", "protocol_port": port, "default_pool_id": None},
        ),
        machine.post(
            "/api/haproxy/pools",
            {"id": "po", "listener_id": "li", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"},
        ),
        *(
            machine.post(
                "/api/haproxy/pools/li/members",
                {"id": backend.name, "address": backend.address, "protocol_port": backend.port},
            )
            for backend in (one, two)
        ),
    ]

    assert [reply.status for reply in replies] == [201] * 5
    assert machine.split(port, 10) == {"one": 5, "two": 5}
