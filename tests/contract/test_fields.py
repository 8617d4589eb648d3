"""Each field of each kind, given what its rule forbids: refused at its pointer, nothing kept."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.machine import Machine

NOT_TEXT: tuple[Any, ...] = (0, 1.5, True, [], ["a"], {}, {"a": "b"})
NOT_FLAG: tuple[Any, ...] = (0, 1, 1.0, "true", "false", "True", "yes", "", "1", [], {})
NOT_NUMBER: tuple[Any, ...] = (
    *(True, False, 1.5, 1.0, "", " ", "1 ", " 1", "+1", "01", "1.0", "1e1", "0x1"),
    *("one", "\u0661", "1\n", "9" * 20, [], [1], {}),
)
CONTROL = ("\x00", "\x07", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f", "\u2028", "\u2029")
FREE_TEXT = (*NOT_TEXT, "x" * 256, "\u00e9" * 256, *(f"a{character}b" for character in CONTROL))
BREAKING = ("\n", "\r", "\0", "\t", " ", '"', "'", "#", "\\", "$(id)", "\u00e9", "\u200b", "/")
TOKEN = (
    *NOT_TEXT,
    *("", "x" * 65, "x" * 10_000, "-x", "_x", ".x", ":x", "..", "x;y", "x,y", "x%y", "x@y"),
    *(f"x{part}y" for part in BREAKING),
    *(f"x{part}" for part in BREAKING),
    *(f"{part}x" for part in BREAKING),
)
ADDRESS = (
    *NOT_TEXT,
    *("", "localhost", "1.2.3", "1.2.3.4.5", "010.0.0.1", "256.0.0.1", "0x7f000001", "2130706433"),
    *("127.0.0.1/8", "127.0.0.1:80", "[::1]", ":::", "fe80::1%lo", "::1%0", "1.1.1.1 backup"),
    *("127.0.0.1\n", " 127.0.0.1", "127.0.0.1 ", "*", "\u0661.1.1.1", "::ffff:1.2.3", "x" * 10_000),
)
NO_HOST = ("0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1")
HOST_NAMES = ("localhost", "0x7f000001")
NO_HOST_NAME = (
    *(*NO_HOST, "-a.example", "a-.example", "a..example", ".example", "example.", "a_b.example"),
    *("x" * 64, ".".join(["x" * 63] * 4) + ".xx", "a b", "a/b", "a@b", "b\u00fccher.example"),
    *("http://a", "a:80", "10.1", "1.2.3.4.", "a\n", "a;b", "a%b", "$(id)", "\u200ba"),
)
AS_NUMBER = (
    *(*NOT_NUMBER, 0, -1, 23456, 65535, 4_294_967_295, 2**63),
    *("0", "23456", "65535", "4294967295", "1.1", "AS1"),
)
SCHEDULE = (
    *(*NOT_TEXT, "", "*", "* * * *", "* * * * * *", "@daily", "@reboot", "* * * * * root"),
    *(" * * * * *", "* * * * * ", "*  * * * *", "*\t* * * *", "* * * * *\n", "\n* * * * *"),
    *("60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8"),
    *("*/0 * * * *", "1- * * * *", "1, * * * *", "-1 * * * *", "a * * * *", "* * * * %"),
    *("* * * * #", "\u0661 * * * *", "5-1 * * * *", "1" * 61 + " * * * *"),
)
PORT = (*NOT_NUMBER, 0, -1, 65536, 10**400, "0", "65536", "80-81", "-1")
SECONDS = (*NOT_NUMBER, 0, -1, 86401, "0", "86401", "10s")
COUNT = (*NOT_NUMBER, 0, -1, 11, "0", "11")
COOKIE = (
    *("", "x" * 65, "a b", "a;b", "a=b", "a,b", "a(b)", "a'b", "a#b", 'a"b', "a\\b", "a\nb"),
    *("a\u00e9", "a\x00", "[a]", "{a}", "a/b", "a@b", "a?b", "a:b"),
)


def other(*known: str) -> tuple[Any, ...]:
    """Return what is none of the words *known*, however much it looks like one."""
    near = (known[0].swapcase(), f"{known[0]}\n", f" {known[0]}", known[0][:-1], "", "x" * 10_000)
    return (*NOT_TEXT, *(word for word in near if word not in known))


PROTOCOLS = ("HTTP", "HTTPS", "TCP")
MODES = (*NOT_TEXT, "", "udp", "SCTP", "http\n", " HTTP", "HTTP ", "h\u017fttp", "x" * 10_000)
PERSISTENCES = ("SOURCE_IP", "HTTP_COOKIE", "APP_COOKIE")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH")
PATHS = (
    *NOT_TEXT,
    *("", "x", "x/", "/a b", "/a\tb", "/a\nb", "/a\r\nHost: x", "/a\x00", '/a"', "/a'", "/a#b"),
    *("/a\\b", "/\u00e9", "/\x7f", "/" + "x" * 255, "/" + "x" * 10_000, "http://a/"),
)
CODES = (
    *NOT_TEXT,
    *("", "20", "2000", "099", "600", "999", "2xx", "200,", ",200", "200, 202", "200 202", "-200"),
    *("200-", "204-200", "200-204,206", "200-202-204", "200|202", "200\n", "\u0662\u0660\u0660"),
    ",".join(["200"] * 65),
)

FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "loadbalancers": {
        "id": TOKEN,
        "name": FREE_TEXT,
        "description": FREE_TEXT,
        "enabled": NOT_FLAG,
        "admin_state_up": NOT_FLAG,
        "project_id": FREE_TEXT,
        "tenant_id": FREE_TEXT,
        "vip_address": ADDRESS,
        "vip": (0, "127.0.0.1", [], True),
    },
    "listeners": {
        "id": TOKEN,
        "loadbalancer_id": TOKEN,
        "name": FREE_TEXT,
        "description": FREE_TEXT,
        "enabled": NOT_FLAG,
        "protocol": (*other(*PROTOCOLS), "TERMINATED_HTTPS", "UDP", "SCTP", "PROMETHEUS"),
        "protocol_port": PORT,
        "protocol_mode": (*MODES, "tcp", "HTTPS", "TCP"),
        "connection_limit": (*NOT_NUMBER, 0, -2, 2_147_483_648, "0", "-2", "2147483648"),
        "default_pool_id": TOKEN,
        "vip_address": ADDRESS,
        "tls_certificate_id": FREE_TEXT,
        "sni_containers": (0, "a", True, {}, {"a": "b"}),
    },
    "pools": {
        "id": TOKEN,
        "listener_id": TOKEN,
        "loadbalancer_id": TOKEN,
        "name": FREE_TEXT,
        "description": FREE_TEXT,
        "enabled": NOT_FLAG,
        "protocol": (*other(*PROTOCOLS), "TERMINATED_HTTPS", "UDP", "PROXY", "PROXYV2"),
        "protocol_mode": (*MODES, "tcp", "HTTPS", "TCP"),
        "lb_algorithm": (
            *other("ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP"),
            *("roundrobin", "SOURCE_IP_PORT", "ROUND_ROBIN\n"),
        ),
        "session_persistence": (0, "SOURCE_IP", True, [], ["SOURCE_IP"]),
    },
    "members": {
        "id": TOKEN,
        "name": FREE_TEXT,
        "enabled": NOT_FLAG,
        "address": (*ADDRESS, *NO_HOST),
        "ip_address": (*ADDRESS, *NO_HOST),
        "protocol_port": PORT,
        "weight": (*NOT_NUMBER, -1, 257, "257", "-1"),
        "type": (0, True, ["SOURCE_IP"], "COOKIE", "source_ip", "SOURCE_IP\n"),
        "healthmonitor": (0, "HTTP", True, [], ["HTTP"]),
        "backup": NOT_FLAG,
        "monitor_address": (*ADDRESS, *NO_HOST),
        "monitor_port": PORT,
        "project_id": FREE_TEXT,
        "pool_id": (*TOKEN, "other"),
    },
    "healthmonitors": {
        "pool_id": TOKEN,
        "type": (*other("HTTP", "HTTPS", "TCP", "TLS-HELLO"), "PING", "UDP-CONNECT"),
        "delay": SECONDS,
        "timeout": SECONDS,
        "max_retries": COUNT,
        "max_retries_down": COUNT,
        "rise_threshold": COUNT,
        "fall_threshold": COUNT,
        "http_method": (*other(*METHODS), "CONNECT", "GET /"),
        "url_path": PATHS,
        "expected_codes": CODES,
        "enabled": NOT_FLAG,
        "healthmonitor": (0, "HTTP", True, []),
    },
    "peers": {"hostname": TOKEN, "address": (*ADDRESS, *NO_HOST), "port": PORT},
    "quagga": {
        "hostname": TOKEN,
        "inter_as_number": AS_NUMBER,
        "vm_addr": (*ADDRESS, *NO_HOST, "2001:db8::1"),
        "primary_gateway_addr": (*ADDRESS, *NO_HOST),
        "secondary_gateway_addr": (*ADDRESS, *NO_HOST),
        "router_as_number": AS_NUMBER,
        "vip_addr": (*ADDRESS, *NO_HOST),
    },
    "vips": {"vip_addr": (*ADDRESS, *NO_HOST)},
    "crontab": {
        "agent_addr": (*(one for one in ADDRESS if one not in HOST_NAMES), *NO_HOST_NAME),
        "agent_port": PORT,
        "tenant_id": TOKEN,
        "vm_id": TOKEN,
        "schedule": SCHEDULE,
    },
}
INSIDE: tuple[tuple[str, dict[str, Any], str, tuple[Any, ...]], ...] = (
    ("loadbalancers", {"vip": {"ip_address": ...}}, "/vip/ip_address", ADDRESS),
    ("listeners", {"sni_containers": ["a", ...]}, "/sni_containers/1", (*FREE_TEXT, None)),
    (
        "pools",
        {"stick_size": ..., "stick_expire": "1h"},
        "/stick_size",
        (
            *NOT_TEXT,
            *("", "0", "0k", "01k", "-1", "1.5k", "1 k", "1K", "1t", "10000000", "k", "1k\n"),
            *("4g", "4194304k", "4096m", "9999999m", "9999999g", "\u0661k"),
        ),
    ),
    (
        "pools",
        {"stick_size": "1k", "stick_expire": ...},
        "/stick_expire",
        (
            *NOT_TEXT,
            *("", "0s", "1", "01s", "-1s", "1.5h", "1 s", "1S", "1w", "1ms", "1us", "1d\n"),
            *("25d", "577h", "34561m", "2073601s", "9999999d", "\u0661s"),
        ),
    ),
    (
        "pools",
        {"session_persistence": {"type": ...}},
        "/session_persistence/type",
        (*other(*PERSISTENCES), None),
    ),
    (
        "pools",
        {"session_persistence": {"type": "APP_COOKIE", "cookie_name": ...}},
        "/session_persistence/cookie_name",
        (*NOT_TEXT, *COOKIE, None),
    ),
    (
        "members",
        {"type": "APP_COOKIE", "cookie_name": ...},
        "/cookie_name",
        (*(value for value in NOT_TEXT if value != {}), *(name for name in COOKIE if name)),
    ),
    *(
        (
            "members",
            {"healthmonitor": documents.monitor(**{name: ...})},
            f"/healthmonitor/{name}",
            found,
        )
        for name, found in FIELDS["healthmonitors"].items()
        if name not in ("pool_id", "healthmonitor")
    ),
    *(
        (
            "healthmonitors",
            {"healthmonitor": documents.monitor(**{name: ...})},
            f"/healthmonitor/{name}",
            found,
        )
        for name, found in FIELDS["healthmonitors"].items()
        if name not in ("pool_id", "healthmonitor")
    ),
)


def filled(members: Any, value: Any) -> Any:
    """Return *members* with *value* wherever they hold an ellipsis."""
    if members is ...:
        return value
    if isinstance(members, dict):
        return {name: filled(found, value) for name, found in members.items()}
    if isinstance(members, list):
        return [filled(found, value) for found in members]
    return members


class Refused:
    """Asserts that documents are refused at a pointer and that nothing is kept of them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.there = {kind: documents.made(machine, kind) for kind in documents.NAMES}
        self.new = self.there | {
            kind: documents.place(machine, kind) for kind in documents.COLLECTIONS
        }
        self.before = judge.kept(machine)

    def post(self, kind: str, members: dict[str, Any], pointer: str) -> None:
        place = self.new[kind]
        own = place.body
        if "healthmonitor" in members and kind == "healthmonitors":
            own = {"pool_id": own["pool_id"]}
        self._judge(self.machine.post(place.collection, own | members), members, pointer)

    def put(self, kind: str, members: dict[str, Any], pointer: str) -> None:
        self._judge(self.machine.put(self.there[kind].item, members), members, pointer)

    def _judge(self, reply: Any, members: dict[str, Any], pointer: str) -> None:
        assert (reply.status, members) == (422, members)
        judge.assert_is_problem(reply, 422)
        assert (judge.pointers(reply), members) == ({pointer}, members)

    def assert_nothing_kept(self) -> None:
        assert judge.kept(self.machine) == self.before


@pytest.fixture(scope="module")
def refused(shared: Machine) -> Iterator[Refused]:
    found = Refused(shared)
    yield found
    judge.assert_haproxy_agrees(shared)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in FIELDS for name in FIELDS[kind]]
)
def test_a_field_is_refused_what_its_rule_forbids(refused: Refused, kind: str, name: str) -> None:
    for value in FIELDS[kind][name]:
        refused.post(kind, {name: value}, f"/{name}")
        refused.put(kind, {name: value}, f"/{name}")

    refused.assert_nothing_kept()


@pytest.mark.parametrize(
    ("kind", "members", "pointer", "values"),
    INSIDE,
    ids=[f"{row[0]}{row[2]}-{number}" for number, row in enumerate(INSIDE)],
)
def test_a_field_inside_another_is_refused_what_its_rule_forbids(
    refused: Refused, kind: str, members: dict[str, Any], pointer: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        refused.post(kind, filled(members, value), pointer)
        refused.put(kind, filled(members, value), pointer)

    refused.assert_nothing_kept()


@pytest.mark.parametrize("kind", documents.NAMES)
@pytest.mark.parametrize("name", ["colour", "Id", "ID", "", " id", "id\n", "__class__", "\u00e9"])
def test_a_member_that_nobody_knows_is_refused_by_name(
    refused: Refused, kind: str, name: str
) -> None:
    refused.post(kind, {name: "x"}, f"/{name}")
    refused.put(kind, {name: "x"}, f"/{name}")

    refused.assert_nothing_kept()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pools", "backend"),
        ("healthmonitors", "is_brought"),
        ("loadbalancers", "applied"),
        ("listeners", "warnings"),
        ("members", "operating_state"),
        ("vips", "speaker"),
    ],
)
def test_what_is_the_agents_own_cannot_be_given(refused: Refused, kind: str, name: str) -> None:
    refused.post(kind, {name: "x"}, f"/{name}")
    refused.put(kind, {name: "x"}, f"/{name}")

    refused.assert_nothing_kept()


def test_an_answer_says_why_a_protocol_or_a_monitor_cannot_be(refused: Refused) -> None:
    machine = refused.machine
    said = {
        word: machine.post(documents.LISTENERS, documents.listener(protocol=word)).json["detail"]
        for word in ("TERMINATED_HTTPS", "UDP", "SCTP")
    }
    place = refused.new["healthmonitors"]
    ping = machine.post(place.collection, place.body | {"type": "PING"}).json["detail"]

    assert "certificate" in said["TERMINATED_HTTPS"]
    assert "UDP cannot" in said["UDP"]
    assert "SCTP cannot" in said["SCTP"]
    assert "PING" in ping
    assert "port" in ping
