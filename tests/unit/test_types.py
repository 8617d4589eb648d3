"""What a field takes and what it refuses."""

import socket
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kinx_loadbalancer_agent.model import resources, types

LONGEST_PATH = "/" + "a" * 254


def accepts(kind: Any, value: Any) -> bool:
    """True when a field of the type *kind* takes *value*."""
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


ACCEPTED: dict[str, tuple[Any, list[Any]]] = {
    "id": (types.Token, ["a", "0", "a.b:c_d-e", "A" * 64]),
    "text": (types.Text, ["", "x" * 255, "'\"#\\ \u00a0é漢🙂"]),
    "flag": (types.Flag, [True, False]),
    "port": (types.Port, [1, 65535, "1", "65535"]),
    "weight": (types.Weight, [0, 256, "0", "-0"]),
    "seconds": (resources.Seconds, [1, 86400, "86400"]),
    "retries": (resources.Count, [1, 10]),
    "stick size": (types.StickSize, ["1", "200k", "9999999", "4095m", "3g", "4194303k"]),
    "stick expire": (types.StickExpire, ["1s", "1d", "24d", "34560m", "576h", "2073600s"]),
    "codes": (types.StatusCodes, ["200", "100", "599", "200,202", "200-204", "200-200"]),
    "path": (types.UrlPath, ["/", "/a?b=c&d=%20", "/~!$%&()*+,-.:;<=>?@[]^_`{|}", LONGEST_PATH]),
    "cookie": (types.CookieName, ["JSESSIONID", "a!$%&*+.^_`|~-9", "c" * 64]),
    "address": (types.Address, ["192.0.2.1", "0.0.0.0", "::", "2001:db8::1", "::ffff:192.0.2.1"]),
    "host": (types.HostAddress, ["192.0.2.1", "127.0.0.1", "fe80::1"]),
}
REFUSED: dict[str, tuple[Any, list[Any]]] = {
    "id": (types.Token, ["", "-a", ".a", "a b", "a\n", "a/b", "é", "a#", "A" * 65, 1, None]),
    "text": (
        types.Text,
        ["x" * 256, "\n", "\t", "\x00", "\x7f", "\x85", "\u2028", "\u2029", "\ud800", 1],
    ),
    "flag": (types.Flag, ["true", 1, 0, "", None]),
    "port": (
        types.Port,
        [0, 65536, -1, "080", "+80", " 80", "80\n", "٨٠", "", 80.0, True, None, [80]],
    ),
    "weight": (types.Weight, [-1, 257, "-1", "abc", 1.5, "1.5", False, "1" * 20, 10**40]),
    "seconds": (resources.Seconds, [0, 86401, "0", "3s"]),
    "retries": (resources.Count, [0, 11]),
    "stick size": (
        types.StickSize,
        ["", "0", "01k", "1K", "1t", "4g", "4194304k", "10000000", "1k\n", 200],
    ),
    "stick expire": (
        types.StickExpire,
        ["", "1", "0d", "25d", "577h", "2073601s", "1ms", "1w", "1d ", 1],
    ),
    "codes": (
        types.StatusCodes,
        ["", "99", "600", "2000", "200,", "200, 202", "204-200", "200-204,301", "2xx", "٢٠٠", 200],
    ),
    "path": (
        types.UrlPath,
        ["", "a", "/ ", "/a b", "/'", '/"', "/\\", "/#", "/é", "/\n", LONGEST_PATH + "a", 1],
    ),
    "cookie": (
        types.CookieName,
        ["", "a b", "a=b", "a;b", "a'b", "a#b", "a(b)", "a,b", 'a"', "é", "c" * 65],
    ),
    "address": (
        types.Address,
        [
            "",
            "host",
            "1.2.3",
            "1",
            "010.0.0.1",
            "192.0.2.1 ",
            "192.0.2.1/32",
            "192.0.2.1:80",
            "[::1]",
            "fe80::1%eth0",
            "1.2.3.256",
            "١.2.3.4",
            "192.0.2.1\n",
            "192.0.2.1\x00",
            1,
            None,
        ],
    ),
    "host": (types.HostAddress, ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"]),
}


@pytest.mark.parametrize("field", ACCEPTED)
def test_a_field_takes_what_its_rule_allows_up_to_the_limits(field: str) -> None:
    kind, values = ACCEPTED[field]

    assert [value for value in values if not accepts(kind, value)] == []


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_refuses_what_its_rule_forbids_from_the_limits_on(field: str) -> None:
    kind, values = REFUSED[field]

    assert [value for value in values if accepts(kind, value)] == []


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (resources.PoolProtocol, {"HTTP", "HTTPS", "TCP"}),
        (resources.Algorithm, {"ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP"}),
        (resources.PersistenceType, {"SOURCE_IP", "HTTP_COOKIE", "APP_COOKIE"}),
        (
            resources.Method,
            {"GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"},
        ),
    ],
)
def test_a_word_is_one_of_the_contracts_in_its_own_case(kind: Any, values: set[str]) -> None:
    assert set(get_args(kind)) == values
    assert not any(accepts(kind, value.lower()) for value in values)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("0:0:0:0:0:0:0:0", "::"),
        ("::FFFF:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_an_address_has_one_spelling(given: str, printed: str) -> None:
    assert TypeAdapter(types.Address).validate_python(given) == printed


@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)))
def test_an_address_is_spelled_as_haproxy_shows_it(packed: bytes) -> None:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    spelled = socket.inet_ntop(family, packed)

    assert types.parse_address(spelled) == spelled
