"""What goes in and what comes out (CONTRACT section 1, rows "bodies", "limits" and "codes")."""

import http.client
import json
import subprocess
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.machine import Machine, Reply

LIMIT = 1024 * 1024
DEPTH = 32


DEFAULTS: dict[str, dict[str, Any]] = {
    "loadbalancers": {"enabled": True},
    "listeners": {"connection_limit": -1, "sni_containers": []},
    "members": {"enabled": True, "weight": 1, "backup": False},
    "healthmonitors": {
        **{"max_retries": 3, "max_retries_down": 3, "http_method": "GET", "url_path": "/"},
        **{"expected_codes": "200", "enabled": True},
    },
    "peers": {"port": 1024},
    "quagga": {"secondary_gateway_addr": None},
    "crontab": {"schedule": "* * * * *"},
}


def nested(arrays: int, innermost: str) -> bytes:
    """Return an object that holds *innermost* within *arrays* arrays."""
    own = json.dumps(documents.loadbalancer())[1:-1]
    return f'{{{own}, "tags": {"[" * arrays}{innermost}{"]" * arrays}}}'.encode()


def padded(size: int, **members: Any) -> bytes:
    """Return a load balancer's document of *size* bytes."""
    body = json.dumps(documents.loadbalancer(**members)).encode()
    return body + b" " * (size - len(body))


def curl(machine: Machine, *words: str, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run curl as an operator would, with the machine's credential."""
    user = ("-u", f"test:{machine.secret}")
    return subprocess.run(
        ("curl", "-sS", *user, *words), input=sent, capture_output=True, timeout=30, check=False
    )


def post(machine: Machine, body: bytes, content_type: str = "application/json") -> Reply:
    headers = {"Content-Type": content_type} if content_type else {}
    return machine.post(documents.LOADBALANCERS, body, headers=headers)


# --- answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", documents.NAMES)
def test_a_write_is_answered_with_the_whole_resource(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    created = shared.post(place.collection, place.body)
    repeated = shared.post(place.collection, place.body)
    changed = shared.put(place.item, {})

    for reply, status in ((created, 201), (repeated, 200), (changed, 200)):
        assert reply.status == documents.answered(kind, status)
        assert judge.content(reply).keys() == documents.MEMBERS_OF[kind]
        assert judge.content(reply).items() >= place.body.items()
        assert reply.json["applied"].keys() >= {"by", "because", "pid", "change"}
        assert len(reply.json["warnings"]) == (kind in documents.WARNED)


@pytest.mark.parametrize("kind", documents.COLLECTIONS)
def test_a_resource_is_a_bare_object_and_a_collection_names_itself(
    shared: Machine, kind: str
) -> None:
    place = documents.made(shared, kind)

    item, collection = shared.get(place.item), shared.get(place.collection)

    assert item.json.keys() == documents.MEMBERS_OF[kind]
    assert collection.json.keys() == {kind}
    assert item.json in collection.json[kind]


def test_free_text_that_was_not_given_is_empty_and_what_says_nothing_is_null(
    shared: Machine,
) -> None:
    found = {kind: shared.get(documents.made(shared, kind).item).json for kind in documents.NAMES}

    for kind in ("loadbalancers", "listeners", "pools"):
        assert (found[kind]["name"], found[kind]["description"]) == ("", "")
    assert found["members"]["name"] == ""
    for kind, name in (
        ("loadbalancers", "project_id"),
        ("loadbalancers", "vip_address"),
        ("listeners", "default_pool_id"),
        ("listeners", "tls_certificate_id"),
        ("listeners", "protocol_mode"),
        ("pools", "session_persistence"),
        ("pools", "stick_size"),
        ("pools", "listener_id"),
        ("members", "healthmonitor"),
        ("members", "type"),
        ("members", "cookie_name"),
        ("members", "monitor_address"),
        ("members", "project_id"),
    ):
        assert found[kind][name] is None, (kind, name)


def test_defaults_are_those_of_the_contract(shared: Machine) -> None:
    found = {kind: shared.get(documents.made(shared, kind).item).json for kind in documents.NAMES}

    for kind, defaults in DEFAULTS.items():
        assert {name: found[kind][name] for name in defaults} == defaults


def test_listeners_and_pools_are_enabled_unless_they_say_otherwise(shared: Machine) -> None:
    listener = shared.post(documents.LISTENERS, documents.listener())
    pool = shared.post(documents.POOLS, documents.pool())

    assert listener.json["enabled"] is True
    assert pool.json["enabled"] is True


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/status", documents.POOLS, "/none"])
def test_json_is_indented_and_ends_with_a_newline(shared: Machine, path: str) -> None:
    text = shared.get(path).body.decode()

    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


# --- lists ----------------------------------------------------------------------------------


def test_a_collection_comes_in_the_order_of_ids_page_by_page(shared: Machine) -> None:
    pool = documents.quiet_pool(shared)
    url = f"{documents.POOLS}/{pool}/members"
    for id in ("b", "d", "a", "C", "e.1"):
        assert shared.post(url, documents.member(id=id)).status == 201

    def ids(query: str) -> list[str]:
        return [one["id"] for one in shared.get(f"{url}{query}").json["members"]]

    assert ids("") == ["C", "a", "b", "d", "e.1"]
    assert ids("?limit=2") == ["C", "a"]
    assert ids("?limit=2&marker=a") == ["b", "d"]
    assert ids("?marker=d") == ["e.1"]
    assert ids("?marker=zz") == []


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", "1e3", "99999999999999999999"])
def test_a_limit_that_is_none_is_a_400(shared: Machine, limit: str) -> None:
    reply = shared.get(f"{documents.POOLS}?limit={limit}")

    judge.assert_is_problem(reply, 400)


# --- what is taken --------------------------------------------------------------------------


def test_curl_without_a_type_is_fine(shared: Machine) -> None:
    body = documents.loadbalancer()
    url = f"http://127.0.0.1:{shared.port}{documents.LOADBALANCERS}"

    done = curl(shared, "-w", "%{http_code}", "-d", json.dumps(body), url)

    assert done.returncode == 0
    assert done.stdout.endswith(b"}\n201")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "APPLICATION/JSON; charset=utf-8",
        "application/merge-patch+json",
        "application/x-www-form-urlencoded",
    ],
)
def test_a_json_type_or_none_is_taken(shared: Machine, content_type: str) -> None:
    body = json.dumps(documents.loadbalancer()).encode()

    assert post(shared, body, content_type).status == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/html",
        "application/xml",
        "application/jsonp",
        "application/octet-stream",
        "multipart/form-data; boundary=x",
    ],
)
def test_another_type_is_a_415(shared: Machine, content_type: str) -> None:
    body = json.dumps(documents.loadbalancer()).encode()

    judge.assert_is_problem(post(shared, body, content_type), 415)


def test_a_compressed_body_is_a_415(shared: Machine) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    reply = shared.post(documents.LOADBALANCERS, b"\x1f\x8b", headers=headers)

    judge.assert_is_problem(reply, 415)


@pytest.mark.parametrize(
    ("size", "is_known", "status"), [(100, False, 401), (100, True, 400), (2 * LIMIT, True, 413)]
)
def test_a_body_that_was_not_read_is_not_taken_for_the_next_request(
    shared: Machine, size: int, is_known: bool, status: int
) -> None:
    body = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".ljust(size, b" ")
    known = {"Authorization": f"Bearer {shared.secret}"}
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=10)

    connection.request("POST", documents.POOLS, body, known if is_known else {})
    first = connection.getresponse()
    first.read()
    connection.request("GET", "/nothing", headers=known)
    second = connection.getresponse()
    second.read()
    connection.close()

    assert (first.status, second.status) == (status, 404)


# --- limits ---------------------------------------------------------------------------------


def test_a_body_of_one_mebibyte_is_fine(shared: Machine) -> None:
    assert post(shared, padded(LIMIT)).status == 201


def test_a_body_above_one_mebibyte_is_a_413(shared: Machine) -> None:
    reply = post(shared, padded(LIMIT + 1))

    judge.assert_is_problem(reply, 413)


@pytest.mark.parametrize("header", ["Expect: 100-continue", "Expect:"])
@pytest.mark.parametrize("encoding", ["X-Sent: whole", "Transfer-Encoding: chunked"])
def test_curl_sees_the_413_however_it_sends_the_body(
    shared: Machine, header: str, encoding: str
) -> None:
    url = f"http://127.0.0.1:{shared.port}{documents.LOADBALANCERS}"
    words = ("-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-")

    done = curl(shared, *words, "-H", header, "-H", encoding, url, sent=padded(3 * LIMIT))

    assert done.stdout == b"413", done.stderr


def test_a_document_as_deep_as_it_may_be_is_fine(shared: Machine) -> None:
    assert post(shared, nested(DEPTH - 1, "1")).status == 201
    assert post(shared, nested(DEPTH - 1, "")).status == 201


@pytest.mark.parametrize("innermost", ["1", "", "{}", '"x"'])
@pytest.mark.parametrize("deeper", [0, 1, 1000, 200_000])
def test_a_deeper_document_is_a_400(shared: Machine, deeper: int, innermost: str) -> None:
    reply = post(shared, nested(DEPTH + deeper, innermost))

    judge.assert_is_problem(reply, 400)


MALFORMED = {
    "nothing": b"",
    "white space": b"  \n",
    "no JSON": b"id=1",
    "cut short": b'{"id": "a"',
    "more after it": b'{"id": "a"} {}',
    "single quotes": b"{'id': 'a'}",
    "final comma": b'{"id": "a",}',
    "comment": b'{"id": "a"} // b',
    "array": b"[]",
    "array of objects": b'[{"id": "a"}]',
    "string": b'"a"',
    "number": b"1",
    "true": b"true",
    "null": b"null",
    "duplicate": b'{"id": "a", "id": "a"}',
    "duplicate by escape": b'{"id": "a", "\\u0069d": "b"}',
    "duplicate inside": b'{"id": "a", "vip": {"ip_address": "::1", "ip_address": "::1"}}',
    "duplicate in array": b'{"id": "a", "tags": [{"x": 1, "x": 2}]}',
    "NaN": b'{"id": "a", "tags": NaN}',
    "Infinity": b'{"id": "a", "tags": Infinity}',
    "-Infinity": b'{"id": "a", "tags": [-Infinity]}',
    "lone surrogate": b'{"id": "a", "name": "\\ud800"}',
    "lone surrogate in name": b'{"id": "a", "\\udc00": 1}',
    "lone surrogate inside": b'{"id": "a", "tags": ["x\\udfffx"]}',
    "reversed surrogates": b'{"id": "a", "name": "\\udc00\\ud800"}',
    "BOM": b'\xef\xbb\xbf{"id": "a"}',
    "UTF-16": '{"id": "a"}'.encode("utf-16"),
    "UTF-32": '{"id": "a"}'.encode("utf-32-be"),
    "Latin-1": '{"id": "a", "name": "\xe9"}'.encode("latin-1"),
    "overlong": b'{"id": "a", "name": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"id": "a", "name": "\xed\xa0\x80"}',
    "newline in string": b'{"id": "a", "name": "x\ny"}',
    "NUL": b'{"id": "a", "name": "x\x00y"}',
    "leading zero": b'{"id": "a", "tags": 01}',
    "digits without end": b'{"id": "a", "tags": ' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_no_json_object_is_a_400(shared: Machine, body: bytes) -> None:
    before = shared.get(documents.LOADBALANCERS).json

    reply = post(shared, body)

    judge.assert_is_problem(reply, 400)
    assert shared.get(documents.LOADBALANCERS).json == before


@pytest.mark.parametrize("body", [b"", b"[]", b'{"name": NaN}', b'{"name": "a", "name": "a"}'])
def test_a_put_and_a_patch_refuse_the_same_bodies(shared: Machine, body: bytes) -> None:
    place = documents.made(shared, "loadbalancers")

    for method in ("PUT", "PATCH"):
        judge.assert_is_problem(shared.request(method, place.item, body), 400)


def test_a_pair_of_surrogates_is_a_character(shared: Machine) -> None:
    body = json.dumps(documents.loadbalancer(name="\U0001f600")).encode()
    assert b"\\ud83d\\ude00" in body

    assert post(shared, body).json["name"] == "\U0001f600"


def test_what_is_wrong_inside_the_object_is_a_422(shared: Machine) -> None:
    reply = shared.post(documents.LOADBALANCERS, documents.loadbalancer(enabled="yes"))

    judge.assert_is_problem(reply, 422, "/enabled")
