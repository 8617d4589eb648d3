"""Every error as ``application/problem+json`` (RFC 9457), from one table. Never HTML."""

import json
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask, Response, g, request
from webob.exc import status_map
from werkzeug.exceptions import HTTPException

from kinx_loadbalancer_agent import errors
from kinx_loadbalancer_agent.api import bodies

log = structlog.get_logger()

STATUS: Mapping[type[errors.AgentError], int] = {
    errors.Malformed: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.BadMediaType: 415,
    errors.Unprocessable: 422,
    errors.Unavailable: 503,
    errors.StateFull: 507,
    errors.StateError: 503,
    errors.ApplyError: 503,
}
OUR_BUG = "internal error; the log has it under the request id"


def respond(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return *body* as a response."""
    return Response(text(body), status, dict(headers or {}), mimetype="application/json")


def text(body: Mapping[str, Any]) -> str:
    """Return *body* as indented JSON with a final newline: people read it with curl."""
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def document(
    status: int, detail: str, request_id: str, faults: tuple[errors.Fault, ...] = ()
) -> dict[str, Any]:
    """Return the problem *detail* with the title that RFC 9110 gives *status*."""
    return {
        "type": "about:blank",
        "title": status_map[status].title if status in status_map else "Error",
        "status": status,
        "detail": detail,
        "instance": f"urn:request:{request_id}",
        "errors": [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults],
        "faultstring": detail,
    }


def problem(
    status: int,
    detail: str,
    *,
    faults: tuple[errors.Fault, ...] = (),
    members: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the problem *detail* as a response."""
    body = document(status, detail, g.get("request_id", ""), faults)
    response = respond({**body, **(members or {})}, status, headers)
    response.mimetype = "application/problem+json"
    return response


def _of_agent_error(error: errors.AgentError) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        log.error("request failed", error=str(error), path=request.path)
        return problem(500, OUR_BUG)
    headers: dict[str, str] = {}
    if isinstance(error, errors.Refusal):
        if isinstance(error, errors.Unavailable):
            headers["Retry-After"] = str(error.retry_after_seconds)
        if error.etag is not None:
            headers["ETag"] = f'"{error.etag}"'
        return problem(
            status, error.detail, faults=error.faults, members=error.members, headers=headers
        )
    if status == 503:
        headers["Retry-After"] = "5"
    return problem(status, str(error), headers=headers)


def _of_http_error(error: HTTPException) -> Response:
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    if error.code == 413:
        bodies.drain(request.environ)
    detail = error.description or error.name
    faults = (errors.Fault("", detail),) if error.code == 413 else ()
    return problem(error.code or 500, detail, faults=faults, headers=headers)


def _of_our_bug(error: Exception) -> Response:
    log.error("request failed", exc_info=error, path=request.path)
    return problem(500, OUR_BUG)


def register(app: Flask) -> None:
    """Make *app* answer every error so."""
    app.register_error_handler(errors.AgentError, _of_agent_error)
    app.register_error_handler(HTTPException, _of_http_error)
    app.register_error_handler(Exception, _of_our_bug)
