"""One blueprint for every kind: the verbs of the contract, from a row of the table.

It knows documents, intents and answers, and no kind by name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import MethodType
from typing import Any

from flask import Blueprint, Response, g, request, url_for

from kinx_loadbalancer_agent.api import bodies, conditional
from kinx_loadbalancer_agent.api.documents import DOCUMENTS, Document
from kinx_loadbalancer_agent.api.documents import tree as trees
from kinx_loadbalancer_agent.api.documents.document import Read
from kinx_loadbalancer_agent.api.problems import respond
from kinx_loadbalancer_agent.engine.batch import Answer
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.errors import (
    Conflict,
    Fault,
    Malformed,
    NotFound,
    PreconditionFailed,
    refusal,
)
from kinx_loadbalancer_agent.model import export
from kinx_loadbalancer_agent.model.fold import escaped, etag
from kinx_loadbalancer_agent.model.intents import Delete, Intent
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Ref, Resource
from kinx_loadbalancer_agent.model.state import State

PAGE, IF = ("limit", "marker"), ("If-Match", "If-None-Match")
MAX_PAGE = 10_000
LIMIT = re.compile(r"[0-9]{1,9}")
TRUTH = {"true": True, "false": False}


def documents(kinds: Kinds, engine: Engine, *, refuse_unknown: bool) -> dict[str, Document]:
    """Return how the documents of each kind are read."""
    return {
        kind.name: DOCUMENTS.get(kind.name, Document)(
            kind, kinds, refuse_unknown=refuse_unknown, state=lambda: engine.state
        )
        for kind in kinds
    }


def blueprint(
    kind: Kind, kinds: Kinds, engine: Engine, documents: Mapping[str, Document]
) -> Blueprint:
    """Return the routes of *kind*."""
    views = _Views(kind, kinds, engine, documents)
    found = Blueprint(kind.name, __name__)
    for path, method, view, *_ in routes(kind, kinds):
        found.add_url_rule(path, view.__name__, MethodType(view, views), methods=[method])
    return found


def routes(kind: Kind, kinds: Kinds) -> Iterator[tuple[Any, ...]]:
    """Yield path, method and view of each route of *kind*, and what ``openapi`` says of it.

    That is a summary, the types of the answer and of the body, and parameters.
    """
    name, one = kind.model.__name__, kind.name.removesuffix("s")
    path, item = kind.collection, _item(kind)
    if not kind.is_singleton:
        yield path, "get", _Views.index, f"List the {kind.name}.", f"{name}List", "", *PAGE
    yield path, "post", _Views.create, f"Make a {one}.", name, f"{name}Create"
    yield item, "get", _Views.show, f"Show a {one}.", name, "", *IF
    yield item, "put", _Views.merge, f"Change a {one}.", name, f"{name}Change"
    yield item, "patch", _Views.merge, "The same as PUT.", name, f"{name}Change"
    for switch in sorted(kind.switches):
        for method in ("put", "patch"):
            yield f"{item}/{switch}", method, _Views.switch, f"Set {switch} alone.", name, "{bool}"
    yield item, "delete", _Views.delete, f"Delete a {one}.", "Gone", "", "cascade"
    if kind.parent:
        said = f"[{name}Change] {{[{name}Change]}}"
        yield path, "put", _Views.replace, f"Make these all {kind.name}.", f"{name}List", said
    if kind.named_by:
        yield item, "post", _Views.create, f"Make the {one}.", name, f"{name}Create"
    if kinds.holds(kind):
        cascade, tree = f"{item}/delete_cascade", f"{item}/tree"
        yield cascade, "delete", _Views.delete_cascade, "Delete it and all of it.", "Gone"
        yield tree, "get", _Views.tree, "Show it and all of it.", name
        yield tree, "put", _Views.merge_tree, "Make this all of it.", name, f"{name}Change"


class _Views:
    """The views of one kind."""

    def __init__(
        self, kind: Kind, kinds: Kinds, engine: Engine, documents: Mapping[str, Document]
    ) -> None:
        self._kind = kind
        self._kinds = kinds
        self._engine = engine
        self._documents = documents
        self._document = documents[kind.name]

    def index(self, parent: str = "") -> Response:
        state = self._engine.state
        table = state.table(self._kind.name, self._kinds.parent(state, self._kind, parent))
        limit, marker = page(MAX_PAGE)
        ids = [id for id in sorted(table) if id > marker][:limit]
        found = [self._engine.reports.published(table[id], state) for id in ids]
        return respond({self._kind.name: found})

    def show(self, id: str = "", parent: str = "") -> Response:
        arguments()
        state = self._engine.state
        resource = self._existing(state, id, parent)
        tag = etag(resource, state)
        wanted = conditional.preconditions(request)
        if not wanted.hold_match(tag):
            raise PreconditionFailed(f"{resource.ref} is not in the state the request asks for")
        if wanted.hold_none_match(tag):
            response = respond(self._engine.reports.published(resource, state))
        else:
            response = Response(status=304)
        response.set_etag(tag)
        return response

    def create(self, parent: str = "", id: str = "") -> Response:
        is_trial = is_asked("dry_run")
        body = bodies.read_object(request)
        return self._settle(self._document.create(body, parent, id), is_trial=is_trial)

    def merge(self, id: str = "", parent: str = "") -> Response:
        is_trial = is_asked("dry_run")
        body = bodies.read_object(request)
        return self._settle(self._document.merge(body, id, parent), is_trial=is_trial)

    def switch(self, id: str = "", parent: str = "") -> Response:
        is_trial, name = is_asked("dry_run"), str(request.url_rule).rpartition("/")[2]
        body = bodies.read_object(request)
        others = sorted(body.keys() - {name})
        faults = [Fault(f"/{escaped(one)}", "is not a member of this document") for one in others]
        if name not in body:
            faults.append(Fault(f"/{name}", "is required"))
        if faults:
            raise refusal(faults)
        return self._settle(self._document.merge(body, id, parent), is_trial=is_trial)

    def delete(self, id: str = "", parent: str = "") -> Response:
        cascade = is_asked("cascade", "dry_run")
        read = Read((Delete(self._kind.name, id, parent, cascade),))
        return self._settle(read, is_trial=is_asked("dry_run", "cascade"))

    def delete_cascade(self, id: str) -> Response:
        read = Read((Delete(self._kind.name, id, cascade=True),))
        return self._settle(read, is_trial=is_asked("dry_run"))

    def replace(self, parent: str = "") -> Response:
        is_trial = is_asked("dry_run")
        body = bodies.read(request, bodies.MAX_TREE_BYTES)
        parent = self._kinds.parent(self._engine.state, self._kind, parent)
        gathering = trees.Gathering(self._kinds, self._documents, carries=True)
        read = trees.collection(gathering, self._kind, body, parent)
        return settled(self._engine, read, lambda answer: self._list(answer, parent), is_trial)

    def tree(self, id: str) -> Response:
        arguments()
        return respond(self._tree(self._engine.state, id))

    def merge_tree(self, id: str) -> Response:
        is_trial = is_asked("dry_run")
        body = bodies.read_object(request, bodies.MAX_TREE_BYTES)
        self._existing(self._engine.state, id)
        gathering = trees.Gathering(self._kinds, self._documents)
        read = trees.tree(gathering, self._kinds, self._kind, id, body)
        return settled(self._engine, read, lambda answer: self._tree(answer.state, id), is_trial)

    def _settle(self, read: Read, *, is_trial: bool) -> Response:
        return settled(self._engine, read, self._resource, is_trial, self._url)

    def _resource(self, answer: Answer) -> dict[str, Any]:
        resource = answer.state.get(answer.folded.subject)
        if resource is None:
            return {}
        return self._engine.reports.published(resource, answer.state)

    def _list(self, answer: Answer, parent: str) -> dict[str, Any]:
        table = answer.state.table(self._kind.name, parent)
        published = self._engine.reports.published
        changes = [c for c in answer.folded.changes if c.ref.kind == self._kind.name]
        added = sum(change.before is None for change in changes)
        removed = sum(change.after is None for change in changes)
        return {
            self._kind.name: [published(table[id], answer.state) for id in sorted(table)],
            "added": added,
            "changed": len(changes) - added - removed,
            "removed": removed,
        }

    def _tree(self, state: State, id: str) -> dict[str, Any]:
        return export.tree(state, self._kinds, self._existing(state, id))

    def _existing(self, state: State, id: str, parent: str = "") -> Resource:
        ref = self._kinds.locate(state, self._kind, parent, id)
        found = state.get(ref)
        if found is None:
            raise NotFound(f"there is no {ref}")
        return found

    def _url(self, ref: Ref) -> str:
        parts: dict[str, Any] = {"id": ref.id, "parent": ref.parent}
        known = {name: parts[name] for name in parts if f"<{name}>" in _item(self._kind)}
        return url_for(f"{ref.kind}.show", **known)


def _item(kind: Kind) -> str:
    return kind.collection if kind.is_singleton else f"{kind.collection}/<id>"


def settled(
    engine: Engine,
    read: Read,
    show: Callable[[Answer], Mapping[str, Any]],
    is_trial: bool,
    url: Callable[[Ref], str] | None = None,
) -> Response:
    """Carry out what was *read*, or try it; return what is there then, as *show* has it.

    url: where the subject is, if it is a resource; its ETag is told then.
    """
    asked = Intent(
        read.operations,
        conditional.preconditions(request),
        who=g.who,
        remote=request.remote_addr or "",
        request_id=g.request_id,
    )
    try:
        if is_trial:
            return respond({"dry_run": True} | asdict(engine.attempt(asked)))
        answer = engine.submit(asked)
    except Conflict as error:
        if error.current is not None:
            error.members = {"current": engine.reports.published(error.current, engine.state)}
        raise
    status = answer.folded.status if answer.applied.is_live else 202
    timing = ", ".join(f"{name};dur={value:.2f}" for name, value in answer.timing.items())
    headers = {"Server-Timing": timing}
    if status == 204:
        return Response(status=204, headers=headers)
    if status == 202:
        headers["Location"] = f"/api/changes/{answer.change}"
    elif status == 201 and url is not None:
        headers["Location"] = url(answer.folded.subject)
    applied = answer.applied.published(answer.change)
    told = {"applied": applied, "warnings": [*read.warnings, *answer.folded.warnings]}
    response = respond({**show(answer), **told}, status, headers)
    resource = answer.state.get(answer.folded.subject)
    if url is not None and resource is not None:
        response.set_etag(etag(resource, answer.state))
    return response


def arguments(*known: str) -> dict[str, str]:
    """Return the query; a parameter we do not know could mean the opposite of what we do."""
    unknown = sorted(set(request.args) - set(known))
    if unknown:
        raise Malformed(f"unknown query parameter {unknown[0]}")
    return request.args.to_dict()


def page(most: int) -> tuple[int, str]:
    """Return which part of a collection is asked for: how many, and after which id."""
    asked = arguments(*PAGE)
    limit = asked.get("limit", str(most))
    if not LIMIT.fullmatch(limit) or not 1 <= int(limit) <= most:
        raise Malformed(f"limit must be 1 to {most}")
    return int(limit), asked.get("marker", "")


def is_asked(name: str, *others: str) -> bool:
    """Return whether the query says that *name* is true; it may hold *others*."""
    value = arguments(name, *others).get(name, "false")
    if value not in TRUTH:
        raise Malformed(f"{name} must be true or false")
    return TRUTH[value]
