"""``/api/explain/<id>``: what is wished, written and live of an object, and why it gets nothing."""

from typing import Any

from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, POOLS
from tests.machine import Machine, wait_until


def explained(machine: Machine, id: str) -> list[dict[str, Any]]:
    reply = machine.get(f"/api/explain/{id}")
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = reply.json["explained"]
    return found


def chain(machine: Machine, **member: Any) -> tuple[str, str, str]:
    """Make listener, pool and member; return their ids."""
    listener = documents.made(machine, "listeners", enabled=True).body["id"]
    pool = documents.made(machine, "pools", listener_id=listener, enabled=True).body["id"]
    backend = machine.backend(pool)
    body = documents.member(address="127.0.0.1", protocol_port=backend.port, **member)
    assert machine.post(f"{POOLS}/{pool}/members", body).status == 201
    return listener, pool, body["id"]


def test_what_serves_is_wished_written_and_live_and_nothing_is_in_the_way(shared: Machine) -> None:
    listener, pool, member = chain(shared, weight=7, enabled=True)

    (server,) = explained(shared, member)
    (frontend,), (backend,) = explained(shared, listener), explained(shared, pool)

    assert (server["kind"], server["parent"], server["wished"]["weight"]) == ("members", pool, 7)
    assert server["file"] == str(shared.conf_d / f"60-backend-{pool}.cfg")
    (line,) = server["lines"]
    assert line.startswith(f"server {member} 127.0.0.1:")
    assert (server["live"]["weight"], server["live"]["status"]) == ("7", "no check")
    assert "mode http" in frontend["lines"]
    assert (frontend["live"]["status"], backend["live"]["status"]) == ("OPEN", "UP")
    assert server["because"] == frontend["because"] == backend["because"] == []


def test_each_obstacle_on_the_way_is_named(shared: Machine) -> None:
    listener, pool, member = chain(shared, enabled=True)

    shared.put(f"{LISTENERS}/{listener}", {"enabled": False})
    shared.put(f"{POOLS}/{pool}/members/{member}", {"enabled": False})

    (server,) = explained(shared, member)
    assert server["operating_status"] == "DISABLED"
    assert server["because"] == [
        f"member {member}: it is disabled",
        f"pool {pool}: no member takes new clients",
        f"listener {listener}: it is disabled",
    ]


def test_a_pool_without_a_listener_says_so(shared: Machine) -> None:
    pool = documents.made(shared, "pools", enabled=True).body["id"]

    (found,) = explained(shared, pool)

    assert found["because"] == [f"no listener uses pool {pool}"]


def test_what_others_changed_shows_as_live(shared: Machine) -> None:
    listener, _, member = chain(shared, weight=7, enabled=True)

    shared.show(f"set server backend-{listener}/{member} weight 3")
    wait_until(lambda: explained(shared, member)[0]["live"]["weight"] == "3", 2)

    assert explained(shared, member)[0]["wished"]["weight"] == 7


def test_an_id_of_several_objects_explains_each(shared: Machine) -> None:
    listener = documents.made(shared, "listeners").body["id"]
    documents.made(shared, "loadbalancers", id=listener)

    assert {one["kind"] for one in explained(shared, listener)} == {"listeners", "loadbalancers"}


def test_an_id_of_nothing_is_a_404(shared: Machine) -> None:
    judge.assert_is_problem(shared.get("/api/explain/nobody"), 404)
