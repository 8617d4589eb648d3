"""One blueprint for every kind: the verbs of the contract, from a row of the table.

It knows documents, intents and answers, and no kind by name.
"""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, g, request, url_for

from kinx_loadbalancer_agent.api import bodies, conditional
from kinx_loadbalancer_agent.api.documents import DOCUMENTS, Document
from kinx_loadbalancer_agent.api.documents.document import Read
from kinx_loadbalancer_agent.api.problems import respond
from kinx_loadbalancer_agent.engine.batch import Answer
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.errors import Malformed, NotFound, PreconditionFailed
from kinx_loadbalancer_agent.model.fold import etag
from kinx_loadbalancer_agent.model.intents import Delete, Intent, Operation
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State

MAX_PAGE = 10_000
TRUTH = {"true": True, "false": False}


def blueprint(kind: Kind, kinds: Kinds, engine: Engine, *, refuse_unknown: bool) -> Blueprint:
    """Return the routes of *kind*."""
    document = DOCUMENTS.get(kind.name, Document)(
        kind, kinds, refuse_unknown=refuse_unknown, state=lambda: engine.state
    )
    views = _Views(kind, kinds, engine, document)
    routes = Blueprint(kind.name, __name__)
    item = f"{kind.collection}/<id>"
    routes.add_url_rule(kind.collection, "index", views.index, methods=["GET"])
    routes.add_url_rule(kind.collection, "create", views.create, methods=["POST"])
    routes.add_url_rule(item, "show", views.show, methods=["GET"])
    routes.add_url_rule(item, "merge", views.merge, methods=["PUT", "PATCH"])
    routes.add_url_rule(item, "delete", views.delete, methods=["DELETE"])
    if kind.named_by:
        routes.add_url_rule(item, "create_named", views.create, methods=["POST"])
    if kinds.holds(kind):
        cascade = f"{item}/delete_cascade"
        routes.add_url_rule(cascade, "cascade", views.delete_cascade, methods=["DELETE"])
    return routes


class _Views:
    """The views of one kind."""

    def __init__(self, kind: Kind, kinds: Kinds, engine: Engine, document: Document) -> None:
        self._kind = kind
        self._kinds = kinds
        self._engine = engine
        self._document = document

    def index(self, parent: str = "") -> Response:
        state = self._engine.state
        table = state.table(self._kind.name, self._parent(state, parent))
        arguments = _arguments("limit", "marker")
        limit = arguments.get("limit", str(MAX_PAGE))
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_PAGE:
            raise Malformed(f"limit must be 1 to {MAX_PAGE}")
        ids = [id for id in sorted(table) if id > arguments.get("marker", "")]
        page = [table[id].published(state) for id in ids[: int(limit)]]
        return respond({self._kind.name: page})

    def show(self, id: str, parent: str = "") -> Response:
        _arguments()
        state = self._engine.state
        ref = self._ref(state, parent, id)
        resource = state.get(ref)
        if resource is None:
            raise NotFound(f"there is no {ref}")
        tag = etag(resource, state)
        wanted = conditional.preconditions(request)
        if not wanted.hold_match(tag):
            raise PreconditionFailed(f"{ref} is not in the state the request asks for")
        if not wanted.hold_none_match(tag):
            return conditional.tagged(Response(status=304), tag)
        return conditional.tagged(respond(resource.published(state)), tag)

    def create(self, parent: str = "", id: str = "") -> Response:
        _arguments()
        body = bodies.read_object(request)
        return self._submit(self._document.create(body, parent, id))

    def merge(self, id: str, parent: str = "") -> Response:
        _arguments()
        body = bodies.read_object(request)
        return self._submit(self._document.merge(body, id, parent))

    def delete(self, id: str, parent: str = "") -> Response:
        cascade = _arguments("cascade").get("cascade", "false")
        if cascade not in TRUTH:
            raise Malformed("cascade must be true or false")
        return self._delete(id, parent, cascade=TRUTH[cascade])

    def delete_cascade(self, id: str, parent: str = "") -> Response:
        _arguments()
        return self._delete(id, parent, cascade=True)

    def _delete(self, id: str, parent: str, *, cascade: bool) -> Response:
        return self._submit(Read((Delete(self._kind.name, id, parent, cascade),)))

    def _submit(self, read: Read) -> Response:
        answer = self._engine.submit(_intent(read.operations))
        return _answered(answer, read.warnings, self._url)

    def _parent(self, state: State, parent: str) -> str:
        if not self._kind.parent:
            return ""
        found = self._kinds.find(state, self._kind.parent, parent)
        if state.get(Ref(self._kind.parent, "", found)) is None:
            raise NotFound(f"there is no {Ref(self._kind.parent, '', parent)}")
        return found

    def _ref(self, state: State, parent: str, id: str) -> Ref:
        if self._kind.parent:
            return Ref(self._kind.name, self._parent(state, parent), id)
        return Ref(self._kind.name, "", self._kinds.find(state, self._kind.name, id))

    def _url(self, ref: Ref) -> str:
        if ref.parent:
            return url_for(f"{ref.kind}.show", id=ref.id, parent=ref.parent)
        return url_for(f"{ref.kind}.show", id=ref.id)


def _intent(operations: tuple[Operation, ...]) -> Intent:
    return Intent(
        operations,
        conditional.preconditions(request),
        who=g.who,
        remote=request.remote_addr or "",
        request_id=g.request_id,
    )


def _answered(answer: Answer, warnings: tuple[str, ...], url: Callable[[Ref], str]) -> Response:
    """Return the response to a write that was accepted."""
    status = answer.folded.status if answer.applied.is_live else 202
    timing = ", ".join(f"{name};dur={value:.2f}" for name, value in answer.timing.items())
    headers = {"Server-Timing": timing}
    if status == 201:
        headers["Location"] = url(answer.folded.subject)
    if status == 202:
        headers["Location"] = f"/api/changes/{answer.change}"
    if status == 204:
        return Response(status=204, headers=headers)
    resource = answer.state.get(answer.folded.subject)
    body: dict[str, Any] = resource.published(answer.state) if resource is not None else {}
    body["applied"] = answer.applied.published(answer.change)
    body["warnings"] = [*warnings, *answer.folded.warnings]
    response = respond(body, status, headers)
    if resource is not None:
        conditional.tagged(response, etag(resource, answer.state))
    return response


def _arguments(*known: str) -> dict[str, str]:
    """Return the query; a parameter we do not know could mean the opposite of what we do."""
    unknown = sorted(set(request.args) - set(known))
    if unknown:
        raise Malformed(f"unknown query parameter {unknown[0]}")
    return request.args.to_dict()
