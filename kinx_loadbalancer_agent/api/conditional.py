"""Conditional requests (RFC 9110, 13): headers to preconditions."""

from flask import Request
from werkzeug.datastructures import ETags

from kinx_loadbalancer_agent.model.intents import Preconditions


def preconditions(request: Request) -> Preconditions:
    """Return what If-Match and If-None-Match ask for.

    If-Match compares strongly, so that a weak tag matches nothing; If-None-Match weakly.
    """
    match, none_match = request.if_match, request.if_none_match
    return Preconditions(
        _tags(match, include_weak=False) if "If-Match" in request.headers else None,
        _tags(none_match, include_weak=True) if "If-None-Match" in request.headers else None,
    )


def _tags(header: ETags, *, include_weak: bool) -> frozenset[str]:
    return frozenset("*") if header.star_tag else frozenset(header.as_set(include_weak))
