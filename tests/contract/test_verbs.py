"""The verbs (CONTRACT section 1, rows "POST", "PUT = PATCH", "DELETE" and "idempotence")."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import CHANGE, answered
from tests.machine import Machine

REQUIRED = {
    "loadbalancers": ("id",),
    "listeners": ("id", "protocol", "protocol_port"),
    "pools": ("id", "protocol", "lb_algorithm"),
    "members": ("id", "address", "protocol_port"),
    "healthmonitors": ("type", "delay", "timeout"),
    "peers": ("hostname", "address"),
    "quagga": (
        *("hostname", "inter_as_number", "vm_addr", "primary_gateway_addr", "router_as_number"),
        "vip_addr",
    ),
    "vips": ("vip_addr",),
    "crontab": ("agent_addr", "agent_port", "tenant_id", "vm_id"),
}

OBSERVED = {kind: ("sessions",) if kind == "quagga" else () for kind in documents.NAMES}

every_kind = pytest.mark.parametrize("kind", documents.NAMES)
every_changeable_kind = pytest.mark.parametrize("kind", documents.CHANGEABLE)
every_collection = pytest.mark.parametrize("kind", documents.COLLECTIONS)


# --- POST -----------------------------------------------------------------------------------


@every_kind
def test_post_of_something_new_is_a_201_with_location_and_etag(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    reply = shared.post(place.collection, place.body)

    where = place.item if kind not in documents.UNAPPLIED else "/api/changes/"
    assert reply.status == answered(kind, 201)
    assert where in reply.headers["Location"]
    assert re.fullmatch('"[^"]+"', reply.headers["ETag"])
    there = shared.get(place.item)
    assert there.json == judge.content(reply)
    assert there.headers["ETag"] == reply.headers["ETag"]


@every_kind
def test_post_of_the_same_content_is_a_200(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)
    created = shared.post(place.collection, place.body)

    reply = shared.post(place.collection, place.body)

    assert reply.status == answered(kind, 200)
    assert judge.content(reply) == judge.content(created)
    assert reply.headers["ETag"] == created.headers["ETag"]
    assert reply.json["applied"]["by"] == "none"


@every_changeable_kind
def test_post_of_other_content_is_a_409_that_shows_what_is_there(
    shared: Machine, kind: str
) -> None:
    place = documents.made(shared, kind)
    there = shared.get(place.item)

    reply = shared.post(place.collection, place.body | CHANGE[kind])

    judge.assert_is_problem(reply, 409, *(f"/{name}" for name in CHANGE[kind]))
    assert reply.json["current"] == there.json
    assert reply.headers["ETag"] == there.headers["ETag"]
    assert shared.get(place.item).json == there.json


@every_kind
def test_the_same_content_is_what_the_document_names(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind, **CHANGE[kind])
    created = shared.post(place.collection, place.body)
    nothing = {name: None for name in judge.content(created) if name not in place.body}
    minimal = {name: place.body[name] for name in place.body if name not in CHANGE[kind]}

    with_nulls = shared.post(place.collection, place.body | nothing)
    with_less = shared.post(place.collection, minimal)

    assert {with_nulls.status, with_less.status} == {answered(kind, 200)}
    assert judge.content(with_nulls) == judge.content(with_less) == judge.content(created)


@every_kind
def test_what_a_get_gives_can_be_posted_again(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind, **CHANGE[kind])
    found = shared.get(place.item).json

    assert shared.post(place.collection, found).status == answered(kind, 200)
    assert shared.delete(place.item).status == answered(kind, 204)
    assert shared.post(place.collection, found).status == answered(kind, 201)
    assert shared.get(place.item).json == found


@every_kind
def test_a_post_without_what_is_required_names_each_at_its_own_place(
    shared: Machine, kind: str
) -> None:
    place = documents.place(shared, kind)
    key = {"pool_id": place.body["pool_id"]} if "pool_id" in place.body else {}

    reply = shared.post(place.collection, key)

    judge.assert_is_problem(reply, 422, *(f"/{name}" for name in REQUIRED[kind]))


@every_kind
def test_a_null_where_something_is_required_is_a_422(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    for name in REQUIRED[kind]:
        reply = shared.post(place.collection, place.body | {name: None})
        judge.assert_is_problem(reply, 422, f"/{name}")


# --- PUT and PATCH --------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_absent_member_keeps_its_value(shared: Machine, method: str, kind: str) -> None:
    place = documents.made(shared, kind, **CHANGE[kind])
    before = shared.get(place.item).json

    reply = shared.request(method, place.item, {})

    assert reply.status == answered(kind, 200)
    assert judge.content(reply) == before == shared.get(place.item).json


@every_changeable_kind
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_member_that_is_named_changes_alone(shared: Machine, method: str, kind: str) -> None:
    place = documents.made(shared, kind)
    before = shared.get(place.item)

    reply = shared.request(method, place.item, CHANGE[kind])

    # The sessions of a speaker are observed, and are those of its gateways.
    wanted = before.json | CHANGE[kind] | {name: reply.json[name] for name in OBSERVED[kind]}
    assert reply.status == answered(kind, 200)
    assert judge.content(reply) == wanted
    assert reply.headers["ETag"] != before.headers["ETag"]
    assert shared.get(place.item).json == wanted


DEFAULTS: dict[str, dict[str, tuple[Any, Any]]] = {
    "loadbalancers": {
        "name": ("x", ""),
        "description": ("x", ""),
        "enabled": (False, True),
        "project_id": ("x", None),
        "vip_address": ("127.0.0.1", None),
    },
    "listeners": {
        "name": ("x", ""),
        "description": ("x", ""),
        "protocol_mode": ("http", None),
        "connection_limit": (10, -1),
        "default_pool_id": ("later", None),
        "tls_certificate_id": ("x", None),
        "sni_containers": (["x"], []),
    },
    "pools": {
        "name": ("x", ""),
        "description": ("x", ""),
        "protocol_mode": ("http", None),
        "session_persistence": ({"type": "SOURCE_IP", "cookie_name": None}, None),
    },
    "members": {
        "name": ("x", ""),
        "enabled": (False, True),
        "weight": (7, 1),
        "backup": (True, False),
        "monitor_address": ("127.0.0.2", None),
        "monitor_port": (80, None),
        "project_id": ("x", None),
    },
    "healthmonitors": {
        "max_retries": (5, 3),
        "max_retries_down": (5, 3),
        "http_method": ("HEAD", "GET"),
        "url_path": ("/x", "/"),
        "expected_codes": ("200,202", "200"),
        "enabled": (False, True),
    },
    "peers": {"port": (1025, 1024)},
    "quagga": {"secondary_gateway_addr": ("192.0.2.253", None)},
    "crontab": {"schedule": ("*/7 * * * *", "* * * * *")},
}


@every_changeable_kind
def test_null_is_the_default(shared: Machine, kind: str) -> None:
    given = {name: values[0] for name, values in DEFAULTS[kind].items()}
    place = documents.made(shared, kind, **given)
    assert shared.get(place.item).json.items() >= given.items()

    reply = shared.put(place.item, dict.fromkeys(given))

    assert reply.status == answered(kind, 200), reply.body
    defaults = {name: values[1] for name, values in DEFAULTS[kind].items()}
    assert shared.get(place.item).json.items() >= defaults.items()


def test_null_stick_members_are_the_default_together(shared: Machine) -> None:
    place = documents.made(shared, "pools", stick_size="1k", stick_expire="1h")

    alone = shared.put(place.item, {"stick_size": None})
    together = shared.put(place.item, {"stick_size": None, "stick_expire": None})

    judge.assert_is_problem(alone, 422, "/stick_size")
    assert together.status == 200
    assert (together.json["stick_size"], together.json["stick_expire"]) == (None, None)


@every_kind
def test_null_is_a_422_where_there_is_no_default(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)
    before = shared.get(place.item).json

    reply = shared.put(place.item, dict.fromkeys(REQUIRED[kind]))

    judge.assert_is_problem(reply, 422, *(f"/{name}" for name in REQUIRED[kind]))
    assert shared.get(place.item).json == before


@every_kind
def test_put_of_what_is_not_there_is_a_404(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    for method in ("PUT", "PATCH"):
        judge.assert_is_problem(shared.request(method, place.item, CHANGE[kind]), 404)
    judge.assert_is_problem(shared.get(place.item), 404)


@every_collection
def test_put_of_another_identity_is_a_422(shared: Machine, kind: str) -> None:
    place, other = documents.made(shared, kind), documents.place(shared, kind)
    name = documents.IDENTITIES[kind]
    before = shared.get(place.item).json

    reply = shared.put(place.item, {name: other.body[name]})

    judge.assert_is_problem(reply, 422, f"/{name}")
    assert shared.get(place.item).json == before


@every_kind
def test_put_may_repeat_the_identity(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)
    found = shared.get(place.item).json

    assert shared.put(place.item, found).status == answered(kind, 200)
    assert shared.get(place.item).json == found


def test_put_of_another_pool_of_a_member_is_a_422(shared: Machine) -> None:
    place = documents.made(shared, "members")

    reply = shared.put(place.item, {"pool_id": documents.quiet_pool(shared)})

    judge.assert_is_problem(reply, 422, "/pool_id")


def test_another_identity_of_a_monitor_is_named_where_the_document_says_it(
    shared: Machine,
) -> None:
    place = documents.made(shared, "healthmonitors")

    reply = shared.put(place.item, {"id": documents.quiet_pool(shared), "delay": 7})

    judge.assert_is_problem(reply, 422, "/id")


@pytest.mark.parametrize("kind", ["listeners", "pools"])
def test_a_null_load_balancer_may_become_one_once(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)
    first, second = documents.made(shared, "loadbalancers"), documents.made(shared, "loadbalancers")
    owner = shared.get(place.item).json["loadbalancer_id"]
    if owner is None:
        set_once = shared.put(place.item, {"loadbalancer_id": first.body["id"]})
        assert (set_once.status, set_once.json["loadbalancer_id"]) == (200, first.body["id"])

    changed = shared.put(place.item, {"loadbalancer_id": second.body["id"]})
    emptied = shared.put(place.item, {"loadbalancer_id": None})

    judge.assert_is_problem(changed, 422, "/loadbalancer_id")
    judge.assert_is_problem(emptied, 422, "/loadbalancer_id")


# --- DELETE ---------------------------------------------------------------------------------


@every_kind
def test_delete_is_a_204_and_then_a_404(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    first, second = shared.delete(place.item), shared.delete(place.item)

    assert first.status == answered(kind, 204)
    assert (first.body == b"") == (first.status == 204)
    assert "Server-Timing" in first.headers
    judge.assert_is_problem(second, 404)
    judge.assert_is_problem(shared.get(place.item), 404)
    assert shared.post(place.collection, place.body).status == answered(kind, 201)


# --- other verbs ----------------------------------------------------------------------------


@every_collection
def test_another_verb_of_a_collection_is_a_405_with_allow(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    reply = shared.request("DELETE", place.collection)

    judge.assert_is_problem(reply, 405)
    assert allowed(reply.headers) - {"PUT"} == {"GET", "HEAD", "OPTIONS", "POST"}


@every_kind
def test_another_verb_is_a_405_with_allow(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    reply = shared.request("TRACE", place.item)

    judge.assert_is_problem(reply, 405)
    assert allowed(reply.headers) >= {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}


@every_kind
def test_head_is_get_without_the_body(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    for path in (place.collection, place.item):
        get, head = shared.get(path), shared.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Type", "Content-Length"):
            assert head.headers[name] == get.headers[name]
        assert head.headers.get("ETag") == get.headers.get("ETag")


@every_kind
def test_options_is_a_204_with_allow(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    collection = shared.request("OPTIONS", place.collection)
    item = shared.request("OPTIONS", place.item)

    assert (collection.status, collection.body) == (item.status, item.body) == (204, b"")
    assert allowed(collection.headers) >= {"GET", "HEAD", "OPTIONS", "POST"}
    assert allowed(item.headers) >= {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}


def allowed(headers: Any) -> set[str]:
    return {name.strip() for name in headers["Allow"].split(",")}


def test_head_of_what_is_not_there_is_a_404_without_a_body(shared: Machine) -> None:
    reply = shared.request("HEAD", f"{documents.POOLS}/nothing")

    assert (reply.status, reply.body) == (404, b"")


@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/api/haproxy", "/api//status", "/x%00y"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_an_unknown_path_is_a_404_and_never_a_page(shared: Machine, method: str, path: str) -> None:
    reply = shared.request(method, path, {} if method == "POST" else None)

    judge.assert_is_problem(reply, 404)


# --- queries --------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("query", ["Dry_run=true", "x=1", "x", "Cascade=true", "limit=1&x=1"])
def test_an_unknown_query_parameter_is_a_400_and_nothing_happens(
    shared: Machine, query: str, kind: str
) -> None:
    place = documents.made(shared, kind)
    before = judge.kept(shared)

    replies = [
        shared.get(f"{place.collection}?{query}"),
        shared.get(f"{place.item}?{query}"),
        shared.post(f"{place.collection}?{query}", place.body | CHANGE[kind]),
        shared.put(f"{place.item}?{query}", CHANGE[kind]),
        shared.delete(f"{place.item}?{query}"),
    ]

    for reply in replies:
        judge.assert_is_problem(reply, 400)
    assert judge.kept(shared) == before


# --- idempotence ----------------------------------------------------------------------------


@every_kind
def test_the_same_content_writes_nothing_and_reloads_nothing(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)
    if "enabled" in documents.MEMBERS_OF[kind]:
        shared.put(place.item, {"enabled": True})
    found = shared.get(place.item).json
    before, written = judge.kept(shared), when_written(shared)

    replies = [
        shared.post(place.collection, found),
        shared.put(place.item, found),
        shared.put(place.item, {}),
    ]

    assert when_written(shared) == written
    assert [reply.status for reply in replies] == [answered(kind, 200)] * 3
    assert {reply.json["applied"]["by"] for reply in replies} == {"none"}
    assert judge.kept(shared) == before


def when_written(machine: Machine) -> dict[Path, int]:
    """Return when each file of the store and of what the agent keeps was written."""
    files = [*machine.root.glob("opt/*/state.db*"), *machine.root.glob("var/**/*")]
    files += machine.root.glob("etc/**/*")
    return {path: path.stat(follow_symlinks=False).st_mtime_ns for path in files}


def test_numbers_and_synonyms_are_the_same_content(shared: Machine) -> None:
    place = documents.made(shared, "members")
    body = dict(place.body)
    other = {
        "id": body["id"],
        "ip_address": body["address"],
        "protocol_port": str(body["protocol_port"]),
        "weight": "1",
        "admin_state_up": True,
        "subnet_id": "s",
    }

    assert shared.post(place.collection, json.dumps(other).encode()).status == 200
