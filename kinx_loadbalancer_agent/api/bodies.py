"""Bodies: bytes to a JSON object, or a 400 that says why not."""

import json
import re
from collections.abc import Mapping
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from kinx_loadbalancer_agent.errors import BadMediaType, Malformed

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_TREE_BYTES = 16 * MAX_BYTES
MAX_DRAINED = MAX_TREE_BYTES
JSON_TYPE = re.compile(r"(application/([a-z0-9.+-]+\+)?json|application/x-www-form-urlencoded)?")


def read_object(request: Request, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return the JSON object in the body of *request*; see :func:`read`."""
    body = read(request, max_bytes)
    if not isinstance(body, dict):
        raise Malformed("the body must be a JSON object")
    return body


def read(request: Request, max_bytes: int) -> Any:
    """Return the JSON value in the body of *request*.

    ``curl -d`` without a type is fine. Raises BadMediaType for another type or an encoded body,
    Malformed for what is no JSON as RFC 8259 and I-JSON (RFC 7493) have it,
    RequestEntityTooLarge above *max_bytes*.
    """
    # One more than is taken, as a chunked body is cut there without an error.
    request.max_content_length = max_bytes + 1
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if not JSON_TYPE.fullmatch(request.mimetype) or encoding != "identity":
        raise BadMediaType("the body must be application/json, without a content encoding")
    content = request.get_data(cache=False)
    if len(content) > max_bytes:
        raise RequestEntityTooLarge
    return parse(content)


def drain(environ: Mapping[str, Any]) -> None:
    """Read and forget what a client still sends, so that it sees the answer, not a reset."""
    source, left = environ["wsgi.input"], MAX_DRAINED
    while left > 0 and (block := source.read(65536)):
        left -= len(block)


def parse(content: bytes) -> Any:
    """Return the JSON value *content*; raises Malformed."""
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise Malformed("the body is not UTF-8") from error
    except RecursionError as error:
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    _walk(value)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("the body names a member twice")
    return found


def _no_constant(name: str) -> Any:
    raise Malformed(f"the body is not JSON: {name} is no number")


def _walk(value: Any) -> None:
    """Refuse what is too deep, and strings that no UTF-8 can hold."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > MAX_DEPTH:
            raise Malformed(f"the body is nested deeper than {MAX_DEPTH}")
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii() and _is_lone(item):
                raise Malformed("the body holds a lone surrogate")
        level = below


def _is_lone(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
