"""Bytes to JSON: what is no JSON, or not what I-JSON allows, is malformed."""

import pytest

from kinx_loadbalancer_agent.api import bodies
from kinx_loadbalancer_agent.errors import Malformed


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, "2", null, true]} \n', {"a": [1, "2", None, True]}),
        ('{"a": "é \\ud83d\\ude42"}'.encode(), {"a": "é 🙂"}),
        (b'{"a": {"x": 1}, "b": {"x": 1}}', {"a": {"x": 1}, "b": {"x": 1}}),
    ],
)
def test_json_is_read_as_it_is(content: bytes, value: object) -> None:
    assert bodies.parse(content) == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\n"}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ["\\udfff"]}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_or_ambiguous_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        bodies.parse(content)


@pytest.mark.parametrize("inside", [b"", b"1", b'"a"'], ids=["empty", "number", "text"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
def test_a_body_is_nested_32_deep_and_no_deeper(opening: bytes, inside: bytes) -> None:
    def nested(depth: int) -> bytes:
        closing = b"]" if opening == b"[" else b"}"
        innermost = opening if inside else opening[:1]
        return opening * (depth - 1) + innermost + inside + closing * depth

    bodies.parse(nested(32))

    with pytest.raises(Malformed):
        bodies.parse(nested(33))


def test_a_body_nested_without_end_is_malformed_too() -> None:
    with pytest.raises(Malformed):
        bodies.parse(b"[" * 500_000)
