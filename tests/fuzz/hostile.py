"""Strategies of what nobody should send: documents with accidents, any JSON, and text that is none.

They take the names of members from the kinds and from the contract, to get as far as possible.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from tests.fuzz.strategies import Body, Documents, Strategy

SYNONYMS = {
    "admin_state_up": "enabled",
    "tenant_id": "project_id",
    "ip_address": "address",
    "rise_threshold": "max_retries",
    "fall_threshold": "max_retries_down",
}
MEANINGLESS = (
    *("project_id", "tenant_id", "subnet_id", "port_id", "tags", "created_at", "updated_at"),
    *("provisioning_status", "operating_status"),
)
"""What the contract accepts on every kind, whether it means something there or not."""
STRANGE = ("vip", "healthmonitor", "vip_addr", "colour", "", "~/", "__class__")

# --- values --------------------------------------------------------------------------------------

INJECTIONS = (
    *("", " ", "\0", "\n", "\r\n", "\t", "'", '"', "\\", "#", "!", ";", "%", "~", "/", "..", "_x"),
    *("a b", "a\nb", "a\\\nb", "a#b", "a;b", "a'b", 'a"b', "a/b", "a,b", "a%00", "a\u00e9", "-"),
    *("1.1.1.1:80 backup\n server x", "127.0.0.1\n", "127.0.0.1 backup", "127.0.0.1:80", "127.1"),
    *("0x7f000001", "[::1]", "::1%lo", "1.2.3.4/32", "a\nglobal\n    daemon", "a\r\nHost: x"),
    *("${HOME}", "$(id)", "`id`", "%[env(HOME)]", "{{ 7 * 7 }}", "{% raw %}", "../../etc/passwd"),
    *("\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\uffff", "\U0001f600", "e\u0301"),
    *("a\n!\nrouter bgp 1", "* * * * * root id", "x" * 65, "x" * 256, "x" * 5000, "null", "NaN"),
    *("08", "+1", "1.0", "1e3", "80 ", " 80", "8_0", "\uff18\uff10", "\u0661", "-1", "-0", "65536"),
    *("9" * 18, "9" * 400, "True", "false", "PING", "UDP", "TERMINATED_HTTPS", "h\u017fttp"),
)
NUMBERS = (
    *(0, -1, 1, 80, 65535, 65536, 2**31, -(2**63), 2**63, 2**64, 10**400),
    *(1.0, 1.5, -0.0, 1e308),
)
LEAVES: Strategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(INJECTIONS),
    st.text(max_size=12),
)
KEYS = st.sampled_from(("type", "id", "address")) | st.text(max_size=4)
JSON: Strategy[Any] = LEAVES | st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value but one with a lone surrogate, which only text has."""

# --- documents -----------------------------------------------------------------------------------


def members(documents: Documents, kind: str) -> Strategy[str]:
    """Return names of members that documents of *kind* may have, and others."""
    known = documents.kinds[kind].model.model_fields
    return st.sampled_from([*known, *SYNONYMS, *MEANINGLESS, *STRANGE])


def anything(documents: Documents, kind: str) -> Strategy[Any]:
    """Return any JSON value, which often has members of *kind*."""
    return st.dictionaries(members(documents, kind), JSON, max_size=5) | JSON


def nearly(documents: Documents, kind: str) -> Strategy[Body]:
    """Return valid documents of *kind* that had an accident or two."""
    happened = st.tuples(st.sampled_from(ACCIDENTS), members(documents, kind), JSON)

    def spoiled(body: Body, accidents: list[tuple[Accident, str, Any]]) -> Body:
        for accident, name, value in accidents:
            accident(body, name, value)
        return body

    return st.builds(spoiled, documents.valid(kind), st.lists(happened, min_size=1, max_size=2))


Accident = Callable[[Body, str, Any], None]


def _lose(body: Body, name: str, value: Any) -> None:
    body.pop(name, None)


def _replace(body: Body, name: str, value: Any) -> None:
    body[name] = value


def _stringify(body: Body, name: str, value: Any) -> None:
    body[name] = str(body.get(name, value))


def _wrap(body: Body, name: str, value: Any) -> None:
    body[name] = [body.get(name)]


def _nest(body: Body, name: str, value: Any) -> None:
    body[name] = {name: body.get(name), "type": value}


def _append(body: Body, name: str, value: Any) -> None:
    body[name] = f"{body.get(name)}{value}"


def _contradict(body: Body, name: str, value: Any) -> None:
    for synonym, meant in SYNONYMS.items():
        if meant == name:
            body[synonym] = value


def _deepen(body: Body, name: str, value: Any) -> None:
    for _ in range(40):
        value = [value]
    body[name] = value


ACCIDENTS: tuple[Accident, ...] = (
    *(_lose, _replace, _replace, _replace, _stringify, _wrap, _nest, _append, _contradict),
    _deepen,
)

# --- text ----------------------------------------------------------------------------------------

LITERALS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "01", "+1", ".5", "0x10"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"a\\udfffb"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x41"'),
    *("undefined", "", "''", '"\n"', "[1,]", '{"a":1,"a":2}', '{"\\ud800":1}', "//"),
    *("[" * 40 + "]" * 40, "[" * 3000),
)
"""Values that only text can hold: what no parser gives, or none should take."""
FRAMES: tuple[Callable[[bytes], bytes], ...] = (
    *(lambda text: text[:-1], lambda text: text + b"}", lambda text: text + text),
    *(lambda text: b"\xef\xbb\xbf" + text, lambda text: text.decode().encode("utf-16")),
    *(lambda text: text.replace(b'"', b"'"), lambda text: text.replace(b'"', b'"\xff', 1)),
    *(lambda text: b"[" + text + b"]", lambda text: b"/* */" + text, lambda text: b""),
    *(lambda text: text + b"\0", lambda text: b" \t\r\n" + text + b"\n\n"),
)


def written(bodies: Strategy[Any]) -> Strategy[bytes]:
    """Return *bodies* as JSON text, as a client writes it."""
    return st.builds(
        lambda body, is_ascii: json.dumps(body, ensure_ascii=is_ascii).encode(),
        bodies,
        st.booleans(),
    )


def mangled(texts: Strategy[bytes], names: Strategy[str]) -> Strategy[bytes]:
    """Return text that is not quite JSON: *texts* with one more member, or in a broken frame."""

    def with_literal(text: bytes, name: str, literal: str) -> bytes:
        comma = ", " if text[1:-1] else ""
        return text[:-1] + f"{comma}{json.dumps(name)}: {literal}".encode() + text[-1:]

    def framed(text: bytes, frame: Callable[[bytes], bytes]) -> bytes:
        return frame(text)

    return st.one_of(
        st.builds(with_literal, texts, names, st.sampled_from(LITERALS)),
        st.builds(framed, texts, st.sampled_from(FRAMES)),
        st.binary(max_size=12),
    )


# --- requests ------------------------------------------------------------------------------------

QUERIES = ("",) * 20 + ("?dry_run=true", "?dry_run=", "?cascade=true")


class Request(NamedTuple):
    """A document on its way."""

    method: str
    path: str
    body: bytes


def requests(documents: Documents, kind: str, content: Strategy[bytes]) -> Strategy[Request]:
    """Return requests that send *content* where documents of *kind* may go."""
    row = documents.kinds[kind]
    ids = documents.names | st.sampled_from(INJECTIONS)

    def request(target: tuple[str, bool], id: str, parent: str, query: str, body: bytes) -> Request:
        method, is_item = target
        path = row.collection.replace("<parent>", quote(parent, safe=""))
        path += f"/{quote(id, safe='')}" if is_item and not row.is_singleton else ""
        return Request(method, path + query, body)

    targets = [("POST", False), ("PUT", True), *([("POST", True)] if row.named_by else [])]
    parents = st.sampled_from(("a", "a", "a", "b", "nobody")) | ids
    queries = st.sampled_from(QUERIES)
    return st.builds(request, st.sampled_from(targets), ids, parents, queries, content)


def weighted(*strategies: tuple[int, Strategy[Any]]) -> Strategy[Any]:
    """Return values of the strategies, each as often among all as its number says."""
    tickets = [at for at, (weight, _) in enumerate(strategies) for _ in range(weight)]
    return st.sampled_from(tickets).flatmap(lambda at: strategies[at][1])
