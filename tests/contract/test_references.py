"""What names what (CONTRACT section 1, row "references", and the rules of pools and listeners)."""

import http.client
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import HEALTHMONITORS, LISTENERS, LOADBALANCERS, POOLS, fresh
from tests.machine import Machine, free_port


def make(machine: Machine, collection: str, body: dict[str, Any]) -> str:
    """Make what *body* says and return its id."""
    reply = machine.post(collection, body)
    assert reply.status == 201, reply.body
    return str(body["id"])


def status_through(machine: Machine, port: int) -> int:
    """Return the status of one GET through a listener."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


# --- unknown --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_members_of_an_unknown_pool_are_a_404(shared: Machine, method: str) -> None:
    body = documents.member() if method == "POST" else None

    judge.assert_is_problem(shared.request(method, f"{POOLS}/nothing/members", body), 404)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_member_of_an_unknown_pool_is_a_404(shared: Machine, method: str) -> None:
    body: dict[str, Any] | None = {} if method == "PUT" else None

    judge.assert_is_problem(shared.request(method, f"{POOLS}/nothing/members/m", body), 404)


def test_a_monitor_for_an_unknown_pool_in_the_url_is_a_404(shared: Machine) -> None:
    reply = shared.post(f"{HEALTHMONITORS}/nothing", documents.monitor())

    judge.assert_is_problem(reply, 404)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("listeners", "loadbalancer_id"),
        ("pools", "loadbalancer_id"),
        ("pools", "listener_id"),
        ("healthmonitors", "pool_id"),
    ],
)
def test_an_unknown_reference_in_a_body_is_a_422_at_its_pointer(
    shared: Machine, kind: str, name: str
) -> None:
    place = documents.place(shared, kind)
    before = judge.kept(shared)

    reply = shared.post(place.collection, place.body | {name: "nothing"})

    judge.assert_is_problem(reply, 422, f"/{name}")
    assert judge.kept(shared) == before


def test_an_unknown_listener_in_a_put_is_a_422_at_its_pointer(shared: Machine) -> None:
    place = documents.made(shared, "pools")

    reply = shared.put(place.item, {"listener_id": "nothing"})

    judge.assert_is_problem(reply, 422, "/listener_id")


def test_a_default_pool_may_come_later(shared: Machine) -> None:
    port, id = free_port(), fresh("po")
    one = shared.backend("later")
    make(shared, LISTENERS, documents.listener(protocol_port=port, default_pool_id=id))
    before = status_through(shared, port)

    make(shared, POOLS, documents.pool(id=id))
    make(shared, f"{POOLS}/{id}/members", documents.member(id="m", protocol_port=one.port))

    assert before == 503
    assert shared.fetch(port) == "later"


# --- DELETE ---------------------------------------------------------------------------------


def test_delete_of_a_load_balancer_in_use_is_a_409_that_names_its_users(shared: Machine) -> None:
    owner = make(shared, LOADBALANCERS, documents.loadbalancer())
    listener = make(shared, LISTENERS, documents.listener(enabled=False, loadbalancer_id=owner))
    pool = make(shared, POOLS, documents.pool(enabled=False, loadbalancer_id=owner))
    before = judge.kept(shared)

    for query in ("", "?cascade=false"):
        reply = shared.delete(f"{LOADBALANCERS}/{owner}{query}")
        judge.assert_is_problem(reply, 409)
        assert listener in reply.json["detail"]
        assert pool in reply.json["detail"]
    assert judge.kept(shared) == before


@pytest.mark.parametrize("url", ["{}?cascade=true", "{}/delete_cascade"])
def test_cascade_takes_the_load_balancer_and_all_it_has(shared: Machine, url: str) -> None:
    port = free_port()
    owner = make(shared, LOADBALANCERS, documents.loadbalancer())
    own = {"loadbalancer_id": owner}
    listener = make(shared, LISTENERS, documents.listener(protocol_port=port, **own))
    named = make(shared, POOLS, documents.pool(listener_id=listener))
    alone = make(shared, POOLS, documents.pool(**own))
    make(shared, f"{POOLS}/{named}/members", documents.member(id="m"))
    assert shared.post(f"{HEALTHMONITORS}/{named}", documents.monitor()).status == 201
    other = make(shared, POOLS, documents.pool(enabled=False, loadbalancer_id=None))

    reply = shared.delete(url.format(f"{LOADBALANCERS}/{owner}"))

    assert reply.status == 204
    for gone in (
        f"{LOADBALANCERS}/{owner}",
        f"{LISTENERS}/{listener}",
        f"{POOLS}/{named}",
        f"{POOLS}/{alone}",
        f"{POOLS}/{named}/members/m",
        f"{HEALTHMONITORS}/{named}",
    ):
        judge.assert_is_problem(shared.get(gone), 404)
    assert shared.get(f"{POOLS}/{other}").status == 200
    with pytest.raises(ConnectionRefusedError):
        shared.fetch(port)
    judge.assert_haproxy_agrees(shared)


def test_delete_cascade_of_what_is_not_there_is_a_404(shared: Machine) -> None:
    judge.assert_is_problem(shared.delete(f"{LOADBALANCERS}/nothing/delete_cascade"), 404)
    judge.assert_is_problem(shared.delete(f"{LOADBALANCERS}/nothing?cascade=true"), 404)


def test_delete_cascade_knows_no_other_verb(shared: Machine) -> None:
    owner = make(shared, LOADBALANCERS, documents.loadbalancer())

    for method in ("GET", "POST", "PUT"):
        reply = shared.request(method, f"{LOADBALANCERS}/{owner}/delete_cascade", {})
        judge.assert_is_problem(reply, 405)
    assert shared.get(f"{LOADBALANCERS}/{owner}").status == 200


@pytest.mark.parametrize("value", ["TRUE", "1", "yes", "", "true%20"])
def test_a_cascade_that_is_neither_true_nor_false_is_a_400(shared: Machine, value: str) -> None:
    owner = make(shared, LOADBALANCERS, documents.loadbalancer())

    reply = shared.delete(f"{LOADBALANCERS}/{owner}?cascade={value}")

    judge.assert_is_problem(reply, 400)
    assert shared.get(f"{LOADBALANCERS}/{owner}").status == 200


def test_the_pools_of_a_deleted_listener_stay_named_as_before(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener())
    pool = make(shared, POOLS, documents.pool(listener_id=listener))
    make(shared, f"{POOLS}/{listener}/members", documents.member(id="m"))

    assert shared.delete(f"{LISTENERS}/{listener}").status == 204

    found = shared.get(f"{POOLS}/{listener}")
    assert (found.status, found.json["id"], found.json["listener_id"]) == (200, pool, listener)
    assert shared.get(f"{POOLS}/{listener}/members/m").status == 200
    assert f"backend-{listener}" in judge.shown_proxies(shared, 2)
    assert shared.put(f"{POOLS}/{pool}", {"name": "alone"}).status == 200
    judge.assert_haproxy_agrees(shared)


def test_a_listener_that_comes_back_has_its_pool_again(shared: Machine) -> None:
    port, one = free_port(), shared.backend("again")
    body = documents.listener(protocol_port=port)
    listener = make(shared, LISTENERS, body)
    pool = make(shared, POOLS, documents.pool(listener_id=listener))
    make(shared, f"{POOLS}/{pool}/members", documents.member(protocol_port=one.port))
    assert shared.delete(f"{LISTENERS}/{listener}").status == 204

    make(shared, LISTENERS, body)

    assert shared.fetch(port) == "again"


def test_a_deleted_pool_takes_members_and_monitor_and_its_listeners_lose_it(
    shared: Machine,
) -> None:
    first, second = free_port(), free_port()
    one = shared.backend("one")
    owner = make(shared, LISTENERS, documents.listener(protocol_port=first))
    pool = make(shared, POOLS, documents.pool(listener_id=owner))
    other = documents.listener(protocol_port=second, default_pool_id=pool)
    make(shared, LISTENERS, other)
    make(shared, f"{POOLS}/{pool}/members", documents.member(id="m", protocol_port=one.port))
    assert shared.post(f"{HEALTHMONITORS}/{pool}", documents.monitor()).status == 201
    assert (shared.fetch(first), shared.fetch(second)) == ("one", "one")

    assert shared.delete(f"{POOLS}/{pool}").status == 204

    for gone in (
        f"{POOLS}/{pool}",
        f"{POOLS}/{pool}/members",
        f"{POOLS}/{owner}",
        f"{HEALTHMONITORS}/{pool}",
        f"{HEALTHMONITORS}/{owner}",
    ):
        judge.assert_is_problem(shared.get(gone), 404)
    assert (status_through(shared, first), status_through(shared, second)) == (503, 503)
    assert f"default_backend backend-{owner}" not in "".join(shared.fragments().values())
    judge.assert_haproxy_agrees(shared)


# --- the pool's two names -------------------------------------------------------------------


def test_a_pool_is_named_by_its_listener_in_every_url(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener(enabled=False))
    pool = make(shared, POOLS, documents.pool(enabled=False, listener_id=listener))
    by_id, by_listener = f"{POOLS}/{pool}", f"{POOLS}/{listener}"

    assert shared.get(by_listener).json == shared.get(by_id).json
    assert shared.get(by_listener).headers["ETag"] == shared.get(by_id).headers["ETag"]
    assert shared.put(by_listener, {"name": "x"}).json["id"] == pool
    created = shared.post(f"{by_listener}/members", documents.member(id="m"))
    assert (created.status, created.json["pool_id"]) == (201, pool)
    assert shared.get(f"{by_id}/members").json == shared.get(f"{by_listener}/members").json
    assert shared.put(f"{by_listener}/members/m", {"weight": 3}).json["weight"] == 3
    assert shared.get(f"{by_id}/members/m").json["weight"] == 3
    assert shared.delete(f"{by_listener}/members/m").status == 204
    assert shared.post(f"{HEALTHMONITORS}/{listener}", documents.monitor()).status == 201
    assert shared.get(f"{HEALTHMONITORS}/{listener}").json["pool_id"] == pool
    assert shared.put(f"{HEALTHMONITORS}/{listener}", {"delay": 9}).json["delay"] == 9
    assert shared.get(f"{HEALTHMONITORS}/{pool}").json["delay"] == 9
    assert shared.delete(f"{HEALTHMONITORS}/{listener}").status == 204
    assert shared.delete(by_listener).status == 204
    judge.assert_is_problem(shared.get(by_id), 404)


def test_a_member_may_say_its_pool_by_either_name(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener(enabled=False))
    pool = make(shared, POOLS, documents.pool(enabled=False, listener_id=listener))
    body = documents.member()

    created = shared.post(f"{POOLS}/{listener}/members", body | {"pool_id": listener})
    repeated = shared.post(f"{POOLS}/{listener}/members", body | {"pool_id": pool})
    changed = shared.put(f"{POOLS}/{pool}/members/{body['id']}", {"pool_id": listener})
    wrong = shared.post(f"{POOLS}/{pool}/members", documents.member(pool_id="other"))

    assert (created.status, repeated.status, changed.status) == (201, 200, 200)
    judge.assert_is_problem(wrong, 422, "/pool_id")


def test_an_id_that_would_name_two_pools_is_a_409(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener(enabled=False))
    make(shared, POOLS, documents.pool(enabled=False, listener_id=listener))
    second = make(shared, LISTENERS, documents.listener(enabled=False))
    make(shared, POOLS, documents.pool(id=second, enabled=False))

    as_id = shared.post(POOLS, documents.pool(id=listener, enabled=False))
    as_listener = shared.post(POOLS, documents.pool(listener_id=second, enabled=False))

    judge.assert_is_problem(as_id, 409, "/id")
    judge.assert_is_problem(as_listener, 409, "/listener_id")


def test_a_pool_may_have_the_id_of_its_own_listener(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener())

    make(shared, POOLS, documents.pool(id=listener, listener_id=listener))

    assert shared.get(f"{POOLS}/{listener}").json["listener_id"] == listener
    judge.assert_haproxy_agrees(shared)


def test_a_second_pool_of_one_listener_is_a_409_that_names_the_first(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener(enabled=False))
    first = make(shared, POOLS, documents.pool(enabled=False, listener_id=listener))

    reply = shared.post(POOLS, documents.pool(enabled=False, listener_id=listener))

    judge.assert_is_problem(reply, 409, "/listener_id")
    assert first in reply.json["detail"]


def test_a_listener_and_a_pool_that_contradict_each_other_are_a_409(shared: Machine) -> None:
    first = make(shared, POOLS, documents.pool(enabled=False))
    listener = make(shared, LISTENERS, documents.listener(enabled=False, default_pool_id=first))
    free = make(shared, LISTENERS, documents.listener(enabled=False))
    make(shared, POOLS, documents.pool(enabled=False, listener_id=free))

    from_pool = shared.post(POOLS, documents.pool(enabled=False, listener_id=listener))
    from_listener = shared.put(f"{LISTENERS}/{free}", {"default_pool_id": first})

    judge.assert_is_problem(from_pool, 409, "/listener_id")
    judge.assert_is_problem(from_listener, 409, "/default_pool_id")


def test_a_listener_may_name_the_pool_that_names_it(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener())
    pool = make(shared, POOLS, documents.pool(listener_id=listener))

    reply = shared.put(f"{LISTENERS}/{listener}", {"default_pool_id": pool})

    assert (reply.status, reply.json["default_pool_id"]) == (200, pool)
    judge.assert_haproxy_agrees(shared)


def test_the_pool_of_a_listener_is_derived_and_never_written_into_it(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener())
    before = shared.get(f"{LISTENERS}/{listener}")

    make(shared, POOLS, documents.pool(listener_id=listener))

    after = shared.get(f"{LISTENERS}/{listener}")
    assert after.json == before.json
    assert after.headers["ETag"] == before.headers["ETag"]
    fragment = next(text for text in shared.fragments().values() if f"frontend {listener}" in text)
    assert f"default_backend backend-{listener}\n" in fragment


# --- the backend's name ---------------------------------------------------------------------


def test_a_backend_is_named_by_the_listener_else_by_the_pool(shared: Machine) -> None:
    listener = make(shared, LISTENERS, documents.listener())
    make(shared, POOLS, documents.pool(listener_id=listener))
    alone = make(shared, POOLS, documents.pool())

    names = judge.shown_proxies(shared, 2)

    assert {f"backend-{listener}", f"backend-{alone}"} <= names


def test_a_backend_keeps_its_name_when_its_pool_changes_the_listener(shared: Machine) -> None:
    port, one = free_port(), shared.backend("one")
    first = make(shared, LISTENERS, documents.listener())
    second = make(shared, LISTENERS, documents.listener(protocol_port=port))
    pool = make(shared, POOLS, documents.pool(listener_id=first))
    make(shared, f"{POOLS}/{pool}/members", documents.member(protocol_port=one.port))

    reply = shared.put(f"{POOLS}/{pool}", {"listener_id": second})

    assert (reply.status, reply.json["listener_id"]) == (200, second)
    assert f"backend-{first}" in judge.shown_proxies(shared, 2)
    assert f"backend-{second}" not in judge.shown_proxies(shared, 2)
    assert shared.fetch(port) == "one"
    judge.assert_is_problem(shared.get(f"{POOLS}/{first}"), 404)


def test_a_new_pool_of_the_first_listener_has_a_name_of_its_own(shared: Machine) -> None:
    first = make(shared, LISTENERS, documents.listener())
    second = make(shared, LISTENERS, documents.listener())
    moved = make(shared, POOLS, documents.pool(listener_id=first))
    assert shared.put(f"{POOLS}/{moved}", {"listener_id": second}).status == 200

    reply = shared.post(POOLS, documents.pool(listener_id=first))

    assert reply.status == 201
    assert shared.get(f"{POOLS}/{first}").json["id"] == reply.json["id"]
    assert len({f"backend-{first}", f"backend-{moved}"} & judge.shown_proxies(shared, 2)) == 1


def test_a_pool_that_moves_is_judged_like_a_new_one(shared: Machine) -> None:
    first = make(shared, LISTENERS, documents.listener(enabled=False))
    second = make(shared, LISTENERS, documents.listener(enabled=False))
    http = make(shared, LISTENERS, documents.listener(enabled=False))
    make(shared, POOLS, documents.pool(enabled=False, listener_id=first))
    moving = make(shared, POOLS, documents.pool(enabled=False, listener_id=second))
    tcp = make(shared, POOLS, documents.pool(enabled=False, protocol="TCP"))

    taken = shared.put(f"{POOLS}/{moving}", {"listener_id": first})
    mismatched = shared.put(f"{POOLS}/{tcp}", {"listener_id": http})

    judge.assert_is_problem(taken, 409, "/listener_id")
    assert mismatched.status == 409


# --- the load balancer of what names none ---------------------------------------------------


def test_the_only_load_balancer_is_the_one_of_what_names_none(machine: Machine) -> None:
    before = machine.post(LISTENERS, documents.listener(enabled=False))
    owner = make(machine, LOADBALANCERS, documents.loadbalancer())

    listener = machine.post(LISTENERS, documents.listener(enabled=False))
    pool = machine.post(POOLS, documents.pool(enabled=False, loadbalancer_id=None))
    make(machine, LOADBALANCERS, documents.loadbalancer())
    after = machine.post(LISTENERS, documents.listener(enabled=False))
    derived = machine.post(
        POOLS, documents.pool(enabled=False, listener_id=listener.json["id"], protocol="HTTP")
    )

    assert before.json["loadbalancer_id"] is None
    assert listener.json["loadbalancer_id"] == owner
    assert pool.json["loadbalancer_id"] == owner
    assert after.json["loadbalancer_id"] is None
    assert derived.json["loadbalancer_id"] == owner
    stored = machine.get(f"{LISTENERS}/{listener.json['id']}").json
    assert stored["loadbalancer_id"] == owner


def test_a_pool_whose_listener_belongs_to_another_load_balancer_is_refused(
    shared: Machine,
) -> None:
    one = make(shared, LOADBALANCERS, documents.loadbalancer())
    two = make(shared, LOADBALANCERS, documents.loadbalancer())
    listener = make(shared, LISTENERS, documents.listener(enabled=False, loadbalancer_id=one))

    reply = shared.post(
        POOLS, documents.pool(enabled=False, listener_id=listener, loadbalancer_id=two)
    )

    assert reply.status in (409, 422)
    assert judge.pointers(reply) == {"/loadbalancer_id"}
