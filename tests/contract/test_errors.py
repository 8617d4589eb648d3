"""How the agent says no (CONTRACT section 1, rows "errors", "refusal" and "one document")."""

import re
import uuid
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.machine import Machine, free_port

DOCUMENTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "loadbalancers": (
        {
            "id": "no id",
            "name": 1,
            "description": "x" * 256,
            "enabled": "true",
            "project_id": [],
            "vip_address": "127.0.0",
            "colour": "red",
            "a/b~c": 1,
        },
        {
            *("/id", "/name", "/description", "/enabled", "/project_id", "/vip_address"),
            *("/colour", "/a~1b~0c"),
        },
    ),
    "listeners": (
        {
            "loadbalancer_id": "nothing",
            "protocol": "UDP",
            "protocol_port": 0,
            "protocol_mode": "udp",
            "connection_limit": 0,
            "sni_containers": ["a", "b\n", 3],
            "enabled": None,
            "colour": "red",
        },
        {
            *("/id", "/loadbalancer_id", "/protocol", "/protocol_port", "/protocol_mode"),
            *("/connection_limit", "/sni_containers/1", "/sni_containers/2", "/colour"),
        },
    ),
    "pools": (
        {
            "id": "x",
            "listener_id": "nothing",
            "loadbalancer_id": "nothing",
            "protocol": "http",
            "stick_size": "0k",
            "stick_expire": "1",
            "session_persistence": {"type": "COOKIE", "cookie_name": "a b", "colour": "red"},
            "weight": 1,
        },
        {
            *("/listener_id", "/loadbalancer_id", "/protocol", "/lb_algorithm", "/stick_size"),
            *("/stick_expire", "/session_persistence/type", "/session_persistence/cookie_name"),
            *("/session_persistence/colour", "/weight"),
        },
    ),
    "members": (
        {
            "id": ".",
            "ip_address": "localhost",
            "weight": 257,
            "backup": 1,
            "monitor_address": "::1%lo",
            "monitor_port": "080",
            "type": "COOKIE",
            "cookie_name": "a;b",
            "healthmonitor": {"type": "PING", "delay": 0, "url_path": "x", "colour": "red"},
        },
        {
            *("/id", "/ip_address", "/protocol_port", "/weight", "/backup", "/monitor_address"),
            *("/monitor_port", "/type", "/cookie_name", "/healthmonitor/type"),
            *("/healthmonitor/delay", "/healthmonitor/url_path", "/healthmonitor/colour"),
        },
    ),
    "healthmonitors": (
        {
            "pool_id": "nothing",
            "type": "PING",
            "delay": 86401,
            "rise_threshold": 11,
            "fall_threshold": 0,
            "http_method": "get",
            "url_path": "/a b",
            "expected_codes": "99",
            "enabled": 1,
            "colour": "red",
        },
        {
            *("/pool_id", "/type", "/delay", "/timeout", "/rise_threshold", "/fall_threshold"),
            *("/http_method", "/url_path", "/expected_codes", "/enabled", "/colour"),
        },
    ),
    "peers": (
        {"hostname": "a b", "address": "0.0.0.0", "port": "01024", "colour": "red"},
        {"/hostname", "/address", "/port", "/colour"},
    ),
    "quagga": (
        {
            "hostname": "lbv\nlog file /x",
            "inter_as_number": 23456,
            "vm_addr": "2001:db8::1",
            "secondary_gateway_addr": "224.0.0.1",
            "router_as_number": "65535",
            "vip_addr": "203.0.113.1/32",
            "colour": "red",
        },
        {
            *("/hostname", "/inter_as_number", "/vm_addr", "/primary_gateway_addr"),
            *("/secondary_gateway_addr", "/router_as_number", "/vip_addr", "/colour"),
        },
    ),
    "vips": ({"vip_addr": "203.0.113.1/32", "colour": "red"}, {"/vip_addr", "/colour"}),
    "crontab": (
        {
            "agent_addr": "-a.example",
            "agent_port": 0,
            "vm_id": "a/b",
            "schedule": "@daily",
            "colour": "red",
        },
        {"/agent_addr", "/agent_port", "/tenant_id", "/vm_id", "/schedule", "/colour"},
    ),
}
"""A document of each kind with a fault wherever there can be one, and where they are."""


@pytest.mark.parametrize("kind", documents.NAMES)
def test_all_faults_of_a_document_are_named_at_once(shared: Machine, kind: str) -> None:
    body, faulty = DOCUMENTS[kind]
    collection = documents.place(shared, kind).collection

    reply = shared.post(collection, body)

    judge.assert_is_problem(reply, 422, *faulty)


@pytest.mark.parametrize("kind", documents.NAMES)
def test_a_put_names_all_faults_at_once_too(shared: Machine, kind: str) -> None:
    body, faulty = DOCUMENTS[kind]
    place = documents.made(shared, kind)
    sent = {name: body[name] for name in body if name not in ("id", "pool_id", "hostname")}

    reply = shared.put(place.item, sent)

    named = {f"/{name.replace('~', '~0').replace('/', '~1')}" for name in sent}
    inside = {pointer for pointer in faulty if f"/{pointer.split('/')[1]}" in named}
    judge.assert_is_problem(reply, 422, *inside)


BETWEEN_FIELDS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "mode": (
        "listeners",
        {"protocol": "HTTP", "protocol_mode": "tcp", "protocol_port": 0},
        {"/protocol_mode", "/protocol_port"},
    ),
    "mode of a pool": (
        "pools",
        {"protocol": "TCP", "protocol_mode": "HTTP", "name": 1},
        {"/protocol_mode", "/name"},
    ),
    "limit": (
        "listeners",
        {"connection_limit": 0, "protocol_port": 65536},
        {"/connection_limit", "/protocol_port"},
    ),
    "stick": ("pools", {"stick_size": "1k", "enabled": 1}, {"/stick_expire", "/enabled"}),
    "cookie": (
        "pools",
        {"session_persistence": {"type": "APP_COOKIE"}, "enabled": 1},
        {"/session_persistence/cookie_name", "/enabled"},
    ),
    "cookie of a tcp pool": (
        "pools",
        {"protocol": "TCP", "session_persistence": {"type": "HTTP_COOKIE"}, "enabled": 1},
        {"/session_persistence/type", "/enabled"},
    ),
    "several of them": (
        "pools",
        {
            "protocol": "TCP",
            "protocol_mode": "http",
            "stick_expire": "1h",
            "session_persistence": {"type": "APP_COOKIE"},
        },
        {
            *("/protocol_mode", "/stick_size", "/session_persistence/type"),
            "/session_persistence/cookie_name",
        },
    ),
}


@pytest.mark.parametrize(
    ("kind", "members", "faulty"), BETWEEN_FIELDS.values(), ids=BETWEEN_FIELDS.keys()
)
def test_a_fault_between_members_does_not_wait_for_the_others(
    shared: Machine, kind: str, members: dict[str, Any], faulty: set[str]
) -> None:
    place = documents.place(shared, kind)

    reply = shared.post(place.collection, place.body | members)

    judge.assert_is_problem(reply, 422, *faulty)


# --- every 4xx about a document has at least one error ---------------------------------------


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff"])
def test_a_400_about_a_document_has_an_error(shared: Machine, body: bytes) -> None:
    reply = shared.post(documents.POOLS, body)

    judge.assert_is_problem(reply, 400)
    assert judge.pointers(reply) == {""}


def test_a_413_has_an_error(shared: Machine) -> None:
    reply = shared.post(documents.POOLS, b" " * (1024 * 1024 + 1))

    judge.assert_is_problem(reply, 413)
    assert judge.pointers(reply) == {""}


def test_a_415_has_an_error(shared: Machine) -> None:
    reply = shared.post(documents.POOLS, b"{}", headers={"Content-Type": "text/plain"})

    judge.assert_is_problem(reply, 415)
    assert judge.pointers(reply) == {""}


@pytest.mark.parametrize("kind", documents.CHANGEABLE)
def test_a_409_has_an_error(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)

    reply = shared.post(place.collection, place.body | documents.CHANGE[kind])

    judge.assert_is_problem(reply, 409, *(f"/{name}" for name in documents.CHANGE[kind]))


def test_the_409_of_a_delete_has_an_error(shared: Machine) -> None:
    owner = documents.made(shared, "loadbalancers")
    documents.made(shared, "listeners", loadbalancer_id=owner.body["id"])

    reply = shared.delete(owner.item)

    judge.assert_is_problem(reply, 409)
    assert reply.json["errors"]


# --- the form -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "title"),
    [
        ("GET", "/nothing", None, 404, "Not Found"),
        ("DELETE", documents.POOLS, None, 405, "Method Not Allowed"),
        ("POST", documents.POOLS, b"{", 400, "Bad Request"),
        ("POST", documents.POOLS, b"{}", 422, "Unprocessable Entity"),
        ("GET", f"{documents.POOLS}/nothing", None, 404, "Not Found"),
        ("GET", "/api/changes/999999", None, 404, "Not Found"),
    ],
)
def test_every_error_is_a_problem_document(
    shared: Machine, method: str, path: str, body: bytes | None, status: int, title: str
) -> None:
    reply = shared.request(method, path, body)

    judge.assert_is_problem(reply, status)
    assert reply.json["title"] == title
    assert reply.json["type"] == "about:blank"
    assert reply.json["instance"].endswith(reply.headers["X-Request-Id"])


def test_a_404_names_what_is_not_there(shared: Machine) -> None:
    name = f"po-{uuid.uuid4().hex}"

    reply = shared.get(f"{documents.POOLS}/{name}")

    assert name in reply.json["detail"]


@pytest.mark.parametrize(
    "id",
    ["%00", "%0A", "%ff", "%ed%a0%80", "%22", "%3Cscript%3E", "..", "a" * 3000, "%F0%9F%98%80"],
)
def test_an_id_that_is_none_in_a_url_is_a_404(shared: Machine, id: str) -> None:
    for kind in ("loadbalancers", "listeners", "pools", "healthmonitors", "pools/x/members"):
        for method, body in (("GET", None), ("PUT", {}), ("DELETE", None)):
            reply = shared.request(method, f"/api/haproxy/{kind}/{id}", body)
            judge.assert_is_problem(reply, 404)


def test_an_id_in_a_url_cannot_add_a_header(shared: Machine) -> None:
    reply = shared.post(f"{documents.HEALTHMONITORS}/x%0d%0aX-Evil:%201", documents.monitor())

    judge.assert_is_problem(reply, 404)
    assert "X-Evil" not in reply.headers


# --- refusal --------------------------------------------------------------------------------


def test_a_refused_document_leaves_everything_as_it_was(shared: Machine) -> None:
    listener = documents.made(shared, "listeners", enabled=True)
    pool = documents.made(shared, "pools", enabled=True, listener_id=listener.body["id"])
    url = f"{pool.item}/members"
    assert shared.post(url, documents.member(id="one")).status == 201
    before = judge.kept(shared)

    refused = [
        shared.post(documents.LISTENERS, documents.listener(protocol="UDP")),
        shared.post(documents.LISTENERS, documents.listener(vip_address="192.0.2.1")),
        shared.post(documents.LISTENERS, documents.listener(protocol_port=shared.port)),
        shared.post(documents.POOLS, documents.pool(listener_id=listener.body["id"])),
        shared.put(pool.item, {"protocol": "TCP"}),
        shared.put(f"{url}/one", {"weight": 300}),
        shared.post(url, documents.member(healthmonitor={"type": "HTTP"})),
        shared.delete(f"{url}/two"),
    ]

    assert [reply.status for reply in refused] == [422, 409, 409, 409, 409, 422, 422, 404]
    for reply in refused:
        judge.assert_is_decent(reply)
    assert judge.kept(shared) == before
    judge.assert_haproxy_agrees(shared)


def test_a_member_whose_monitor_is_wrong_is_not_kept(shared: Machine) -> None:
    place = documents.place(shared, "members")
    wrong = {"healthmonitor": documents.monitor(type="SMTP")}

    reply = shared.post(place.collection, place.body | wrong)

    judge.assert_is_problem(reply, 422, "/healthmonitor/type")
    judge.assert_is_problem(shared.get(place.item), 404)


def test_a_member_whose_monitor_lacks_something_is_not_kept(shared: Machine) -> None:
    place = documents.place(shared, "members")

    reply = shared.post(place.collection, place.body | {"healthmonitor": {"type": "TCP"}})

    judge.assert_is_problem(reply, 422, "/healthmonitor/delay", "/healthmonitor/timeout")
    judge.assert_is_problem(shared.get(place.item), 404)


def test_a_change_of_a_member_whose_monitor_is_wrong_changes_nothing(shared: Machine) -> None:
    place = documents.made(shared, "members")
    before = judge.kept(shared)

    reply = shared.put(place.item, {"weight": 9, "healthmonitor": documents.monitor(delay=0)})

    judge.assert_is_problem(reply, 422, "/healthmonitor/delay")
    assert judge.kept(shared) == before


def test_a_member_whose_persistence_its_pool_cannot_have_is_not_kept(shared: Machine) -> None:
    pool = documents.made(shared, "pools", protocol="TCP")
    body = documents.member(type="HTTP_COOKIE", healthmonitor=documents.monitor())

    reply = shared.post(f"{pool.item}/members", body)

    judge.assert_is_problem(reply, 422, "/type")
    assert shared.get(f"{pool.item}/members").json == {"members": []}
    judge.assert_is_problem(shared.get(f"{documents.HEALTHMONITORS}/{pool.body['id']}"), 404)


def test_a_document_with_faults_of_both_kinds_is_a_422(shared: Machine) -> None:
    port = free_port()
    documents.made(shared, "listeners", protocol_port=port)
    body = documents.listener(protocol_port=port, loadbalancer_id="nothing")

    reply = shared.post(documents.LISTENERS, body)

    assert reply.status == 422
    assert judge.pointers(reply) >= {"/loadbalancer_id"}


def test_a_detail_says_what_and_not_how(shared: Machine) -> None:
    collection = {kind: documents.place(shared, kind).collection for kind in documents.NAMES}
    replies = [shared.post(collection[kind], DOCUMENTS[kind][0]) for kind in documents.NAMES]

    for reply in replies:
        for error in reply.json["errors"]:
            words = error["detail"]
            assert not re.search(r"pydantic|Traceback|object at 0x|errno|class '", words), words
