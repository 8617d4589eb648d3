"""What each field takes, to the edge of its rule, and how it may be spelled."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge
from tests.machine import Machine, running

TOKENS = (
    "a",
    "A",
    "0",
    "a.b_c:d-e",
    "x" * 64,
    "a..",
    "a--",
    "00000000-0000-0000-0000-000000000000",
)
TEXTS = (
    "",
    " ",
    "x" * 255,
    "\U0001f600" * 255,
    "a # b",
    "\"'\\",
    "e\u0301",
    "\u200b\ufeff",
    "${HOME}",
)
TAKEN: dict[str, dict[str, tuple[Any, ...]]] = {
    "loadbalancers": {
        "name": TEXTS,
        "description": TEXTS,
        "project_id": TEXTS,
        "vip_address": ("127.0.0.1", "192.0.2.1", "::1", "2001:db8::1", "0.0.0.0", "::"),
        "enabled": (True, False),
    },
    "listeners": {
        "name": TEXTS,
        "description": TEXTS,
        "protocol": ("HTTP",),
        "protocol_port": (1, 65535),
        "protocol_mode": ("http", "HTTP", "Http", "TERMINATED_HTTPS", "terminated_https"),
        "connection_limit": (-1, 1, 2_147_483_647),
        "default_pool_id": TOKENS,
        "tls_certificate_id": TEXTS,
        "sni_containers": ([], ["a", "b"], ["", "x" * 255]),
    },
    "pools": {
        "name": TEXTS,
        "description": TEXTS,
        "lb_algorithm": ("ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP"),
        "session_persistence": (
            {"type": "SOURCE_IP", "cookie_name": None},
            {"type": "HTTP_COOKIE", "cookie_name": None},
            {"type": "APP_COOKIE", "cookie_name": "JSESSIONID"},
            {"type": "APP_COOKIE", "cookie_name": "x" * 64},
            {"type": "APP_COOKIE", "cookie_name": "!$%&*+-.^_`|~0Aa"},
        ),
    },
    "members": {
        "name": TEXTS,
        "address": ("127.0.0.1", "10.0.0.1", "::1", "2001:db8::ffff"),
        "protocol_port": (1, 65535),
        "weight": (0, 256),
        "backup": (True, False),
        "monitor_address": ("127.0.0.1", "::1"),
        "monitor_port": (1, 65535),
        "project_id": TEXTS,
    },
    "healthmonitors": {
        "type": ("HTTP", "HTTPS", "TCP", "TLS-HELLO"),
        "delay": (1, 86400),
        "timeout": (1, 86400),
        "max_retries": (1, 10),
        "max_retries_down": (1, 10),
        "http_method": ("GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"),
        "url_path": ("/", "/a?b=c&d=%20;e", "/" + "x" * 254, "/!$&()*+,-./:;<=>?@[]^_`{|}~%"),
        "expected_codes": ("200", "100", "599", "200,202", "200-204", "200-200", "200,200"),
        "enabled": (True, False),
    },
    "peers": {
        "address": ("10.0.0.1", "2001:db8::ffff"),
        "port": (1, 65535),
    },
    "quagga": {
        "hostname": TOKENS,
        "inter_as_number": (1, 23455, 23457, 65534, 65536, 4_294_967_294),
        "vm_addr": ("10.0.0.1", "127.0.0.1"),
        "primary_gateway_addr": ("10.0.0.1", "2001:db8::1"),
        "secondary_gateway_addr": ("10.0.0.1", "2001:db8::1"),
        "router_as_number": (1, 23455, 23457, 65534, 65536, 4_294_967_294),
    },
    "crontab": {
        "agent_addr": ("10.0.0.1", "2001:db8::1", "localhost", "a.b-c.example", "x" * 63),
        "agent_port": (1, 65535),
        "tenant_id": TOKENS,
        "vm_id": TOKENS,
        "schedule": ("* * * * *", "*/5 8-18 1,15 jan-mar mon-fri", "59 23 31 12 7"),
    },
}
NUMBERS = {
    "peers": {"port": 2048},
    "quagga": {"inter_as_number": 64512, "router_as_number": 4_200_000_000},
    "crontab": {"agent_port": 8080},
    "listeners": {"protocol_port": 8080, "connection_limit": -1},
    "members": {"protocol_port": 80, "weight": 7, "monitor_port": 81},
    "healthmonitors": {"delay": 9, "timeout": 8, "max_retries": 4, "max_retries_down": 5},
}
SYNONYMS: dict[str, dict[str, tuple[str, Any, Any]]] = {
    "loadbalancers": {
        "admin_state_up": ("enabled", False, True),
        "tenant_id": ("project_id", "a", "b"),
    },
    "listeners": {"admin_state_up": ("enabled", False, True)},
    "pools": {"admin_state_up": ("enabled", False, True)},
    "members": {
        "admin_state_up": ("enabled", False, True),
        "tenant_id": ("project_id", "a", "b"),
        "ip_address": ("address", "10.0.0.1", "10.0.0.2"),
    },
    "healthmonitors": {
        "admin_state_up": ("enabled", False, True),
        "rise_threshold": ("max_retries", 4, 5),
        "fall_threshold": ("max_retries_down", 4, 5),
    },
}
MEANINGLESS = {
    **dict.fromkeys(("project_id", "tenant_id", "subnet_id", "port_id"), "x"),
    "tags": ["a", {"b": [1.5, None]}],
    "created_at": "2026-01-01T00:00:00",
    "updated_at": None,
    "provisioning_status": "ACTIVE",
    "operating_status": "ONLINE",
    "vip": {"subnet_id": "x", "port_id": "y", "network_id": "z", "anything": {}},
}

rows = [(kind, name) for kind in TAKEN for name in TAKEN[kind]]


@pytest.mark.parametrize(("kind", "name"), rows)
def test_a_field_takes_what_its_rule_allows_and_gives_it_back(
    shared: Machine, kind: str, name: str
) -> None:
    for value in TAKEN[kind][name]:
        new = documents.place(shared, kind, **{name: value})
        posted = shared.post(new.collection, new.body)
        shown = shared.get(new.item).json.get(name)
        deleted = shared.delete(new.item)
        there = documents.made(shared, kind)
        changed = shared.put(there.item, {name: value})

        assert (posted.status, value) == (documents.answered(kind, 201), value), posted.body
        assert (changed.status, value) == (documents.answered(kind, 200), value), changed.body
        assert posted.json[name] == shown == changed.json[name] == value
        assert deleted.status == 204


EDGES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "largest": (
        {"connection_limit": 2_147_483_647},
        {"stick_size": "4194303k", "stick_expire": "24d"},
        {"delay": 86400, "timeout": 86400, "max_retries": 10, "max_retries_down": 10},
    ),
    "smallest": (
        {"connection_limit": 1},
        {"stick_size": "1", "stick_expire": "1s", "lb_algorithm": "SOURCE_IP"},
        {"delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 1},
    ),
    "every character": (
        {"id": "Z.y_x:w-v"},
        {"session_persistence": {"type": "APP_COOKIE", "cookie_name": "!$%&*+-.^_`|~0Aa"}},
        {"type": "HTTP", "url_path": "/!$&()*+,-./:;<=>?@[]^_`{|}~%", "http_method": "TRACE"},
    ),
    "longest": (
        {"id": "z" * 64},
        {"session_persistence": {"type": "APP_COOKIE", "cookie_name": "x" * 64}},
        {"type": "HTTP", "url_path": "/" + "x" * 254, "expected_codes": ",".join(["599"] * 63)},
    ),
    "log format": (
        {},
        {"session_persistence": {"type": "APP_COOKIE", "cookie_name": "%Ts"}},
        {"type": "HTTP", "url_path": "/%[env(HOME)]%Ts%%", "expected_codes": "100-599"},
    ),
    "environment": (
        {"id": "HOME"},
        {"session_persistence": {"type": "APP_COOKIE", "cookie_name": "$HOME"}},
        {"type": "HTTPS", "url_path": "/${HOME}$HOME", "http_method": "HEAD"},
    ),
}


@pytest.mark.parametrize(("listener", "pool", "monitor"), EDGES.values(), ids=EDGES.keys())
def test_what_a_rule_allows_is_what_haproxy_takes_as_it_is(
    shared: Machine, listener: dict[str, Any], pool: dict[str, Any], monitor: dict[str, Any]
) -> None:
    id = {"id": listener["id"]} if "id" in listener else {}
    top = documents.listener(**listener)
    own = documents.pool(**id, **pool, listener_id=top["id"])
    member = documents.member(**id, weight=256, monitor_port=65535, monitor_address="::1")

    replies = [
        shared.post(documents.LISTENERS, top),
        shared.post(documents.POOLS, own),
        shared.post(f"{documents.POOLS}/{own['id']}/members", member),
        shared.post(documents.HEALTHMONITORS, documents.monitor(pool_id=own["id"], **monitor)),
    ]

    assert [reply.status for reply in replies] == [201] * 4, replies[-1].body
    judge.assert_haproxy_agrees(shared)
    words = "".join(shared.fragments().values()).split()
    persistence = pool.get("session_persistence") or {}
    for word in (monitor.get("url_path"), monitor.get("expected_codes")):
        assert word is None or word in words
    if persistence:
        assert f"req.cook({persistence['cookie_name']})" in words


@pytest.mark.parametrize("kind", ["loadbalancers", "listeners", "pools", "members"])
@pytest.mark.parametrize("id", TOKENS)
def test_an_id_is_taken_as_it_is_and_found_by_its_url(shared: Machine, kind: str, id: str) -> None:
    place = documents.place(shared, kind, id=id)

    reply = shared.post(place.collection, place.body)

    assert (reply.status, judge.content(reply).get("id")) == (201, id), reply.body
    assert shared.get(reply.headers["Location"]).json["id"] == id
    assert shared.delete(place.item).status == 204


@pytest.mark.parametrize("size", ["1", "9999999", "1k", "200k", "4095m", "3g", "4194303k"])
@pytest.mark.parametrize("expire", ["1s", "24d", "576h", "34560m", "2073600s"])
def test_a_stick_table_takes_size_and_expire_together(
    shared: Machine, size: str, expire: str
) -> None:
    place = documents.made(shared, "pools", stick_size=size, stick_expire=expire)

    found = shared.get(place.item).json

    assert (found["stick_size"], found["stick_expire"]) == (size, expire)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::1", "::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_an_address_is_one_however_it_is_written(shared: Machine, given: str, printed: str) -> None:
    place = documents.place(shared, "members", address=given)

    created = shared.post(place.collection, place.body)
    repeated = shared.post(place.collection, place.body | {"address": printed})

    assert (created.status, created.json["address"]) == (201, printed)
    assert repeated.status == 200


# --- numbers and booleans -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "numbers"), NUMBERS.items())
def test_numbers_may_be_strings_and_come_back_as_numbers(
    shared: Machine, kind: str, numbers: dict[str, int]
) -> None:
    texts = {name: str(number) for name, number in numbers.items()}
    place = documents.place(shared, kind, **texts)

    created = shared.post(place.collection, place.body)
    repeated = shared.post(place.collection, place.body | numbers)
    shown = shared.get(place.item)
    assert shared.delete(place.item).status == 204
    changed = shared.put(documents.made(shared, kind).item, texts)

    wanted = [documents.answered(kind, status) for status in (201, 200, 200)]
    assert [created.status, repeated.status, changed.status] == wanted
    for reply in (created, repeated, changed, shown):
        assert {name: reply.json[name] for name in numbers} == numbers
        assert all(type(reply.json[name]) is int for name in numbers)


# --- synonyms -------------------------------------------------------------------------------

synonyms = [(kind, name, *SYNONYMS[kind][name]) for kind in SYNONYMS for name in SYNONYMS[kind]]


@pytest.mark.parametrize(("kind", "name", "own", "one", "two"), synonyms)
def test_a_synonym_is_another_name_and_answers_use_ours(
    shared: Machine, kind: str, name: str, own: str, one: Any, two: Any
) -> None:
    place = documents.place(shared, kind)
    body = {key: value for key, value in place.body.items() if key != own} | {name: one}

    created = shared.post(place.collection, body)
    repeated = shared.post(place.collection, place.body | {own: one})
    both = shared.post(place.collection, body | {own: one})
    changed = shared.put(place.item, {name: two})

    assert [reply.status for reply in (created, repeated, both, changed)] == [201, 200, 200, 200]
    assert (created.json[own], changed.json[own]) == (one, two)
    assert name not in created.json
    assert shared.get(place.item).json[own] == two


@pytest.mark.parametrize(("kind", "name", "own", "one", "two"), synonyms)
def test_a_name_and_its_synonym_that_differ_are_a_422(
    shared: Machine, kind: str, name: str, own: str, one: Any, two: Any
) -> None:
    new, there = documents.place(shared, kind), documents.made(shared, kind)

    posted = shared.post(new.collection, new.body | {own: one, name: two})
    changed = shared.put(there.item, {name: two, own: one})

    for reply in (posted, changed):
        judge.assert_is_problem(reply, 422)
        assert judge.pointers(reply) <= {f"/{name}", f"/{own}"}
    judge.assert_is_problem(shared.get(new.item), 404)


@pytest.mark.parametrize(("kind", "name", "own", "one", "two"), synonyms)
def test_a_synonym_may_be_null_as_the_name_may(
    shared: Machine, kind: str, name: str, own: str, one: Any, two: Any
) -> None:
    there = documents.made(shared, kind, **{own: one})

    changed = shared.put(there.item, {name: None})

    if own == "address":
        judge.assert_is_problem(changed, 422)
    else:
        assert changed.status == 200
        assert changed.json[own] != one


def test_synonyms_work_inside_what_a_member_carries(shared: Machine) -> None:
    place = documents.place(shared, "members")
    carried = documents.monitor(rise_threshold="2", fall_threshold=4, admin_state_up=False)

    created = shared.post(place.collection, place.body | {"healthmonitor": carried})

    pool = place.collection.split("/")[-2]
    monitor = shared.get(f"{documents.HEALTHMONITORS}/{pool}").json
    assert created.status == 201
    assert (monitor["max_retries"], monitor["max_retries_down"], monitor["enabled"]) == (
        2,
        4,
        False,
    )


def test_the_address_of_a_load_balancer_may_be_inside_vip(shared: Machine) -> None:
    vip = {"subnet_id": "s", "port_id": "p", "ip_address": "127.0.0.1"}
    place = documents.place(shared, "loadbalancers", vip=vip)

    created = shared.post(place.collection, place.body)
    same = shared.post(place.collection, place.body | {"vip_address": "127.0.0.1"})
    both = shared.put(place.item, {"vip": vip, "vip_address": "127.0.0.2"})
    changed = shared.put(place.item, {"vip": {"ip_address": "127.0.0.2"}})
    emptied = shared.put(place.item, {"vip": {"ip_address": None}})

    assert (created.status, created.json["vip_address"]) == (201, "127.0.0.1")
    assert "vip" not in created.json
    assert same.status == 200
    judge.assert_is_problem(both, 422, "/vip/ip_address")
    assert (changed.status, changed.json["vip_address"]) == (200, "127.0.0.2")
    assert (emptied.status, emptied.json["vip_address"]) == (200, None)


# --- what means nothing here ----------------------------------------------------------------


@pytest.mark.parametrize("kind", documents.NAMES)
def test_what_lbaas_sends_and_means_nothing_here_is_accepted(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    created = shared.post(place.collection, place.body | MEANINGLESS)
    repeated = shared.post(place.collection, place.body | MEANINGLESS)
    changed = shared.put(place.item, MEANINGLESS)

    wanted = [documents.answered(kind, status) for status in (201, 200, 200)]
    assert [reply.status for reply in (created, repeated, changed)] == wanted
    for reply in (created, repeated, changed):
        assert len(reply.json["warnings"]) == (kind in documents.WARNED)
        assert judge.content(reply).keys() == documents.MEMBERS_OF[kind]
    if "project_id" in documents.MEMBERS_OF[kind]:
        assert created.json["project_id"] == "x"


# --- unknown_members = "warn" ---------------------------------------------------------------


@pytest.fixture(scope="module")
def lenient() -> Iterator[Machine]:
    """An agent with unknown_members = "warn"."""
    need("haproxy")
    with running(environment={"KINX_AGENT_UNKNOWN_MEMBERS": "warn"}) as found:
        yield found


@pytest.mark.parametrize("kind", documents.NAMES)
def test_unknown_members_are_ignored_with_a_warning_where_that_is_set(
    lenient: Machine, kind: str
) -> None:
    place = documents.place(lenient, kind)

    created = lenient.post(place.collection, place.body | {"colour": "red", "size": {"a": 1}})
    changed = lenient.put(place.item, {"colour": "blue"})

    wanted, own = [documents.answered(kind, 201), documents.answered(kind, 200)], documents.WARNED
    assert [created.status, changed.status] == wanted
    assert len(created.json["warnings"]) == 2 + (kind in own)
    assert "colour" in " ".join(created.json["warnings"])
    assert "size" in " ".join(created.json["warnings"])
    assert len(changed.json["warnings"]) == 1 + (kind in own)
    assert judge.content(created).keys() == documents.MEMBERS_OF[kind]


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("pools", {"session_persistence": {"type": "SOURCE_IP", "colour": "red"}}),
        ("members", {"healthmonitor": documents.monitor(colour="red")}),
        ("healthmonitors", {"healthmonitor": documents.monitor(colour="red")}),
    ],
)
def test_unknown_members_inside_others_are_ignored_too_where_that_is_set(
    lenient: Machine, kind: str, members: dict[str, Any]
) -> None:
    place = documents.place(lenient, kind)
    keys = ("id", "pool_id") if kind == "healthmonitors" else tuple(place.body)
    body = {name: place.body[name] for name in keys if name in place.body}

    created = lenient.post(place.collection, body | members)

    assert created.status == 201, created.body
    assert len(created.json["warnings"]) == 1
    assert "colour" in created.json["warnings"][0]


def test_a_wrong_member_is_refused_even_where_unknown_ones_are_not(lenient: Machine) -> None:
    place = documents.place(lenient, "members", colour="red", weight=257)

    judge.assert_is_problem(lenient.post(place.collection, place.body), 422, "/weight")
