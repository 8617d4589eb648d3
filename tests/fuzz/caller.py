"""A caller of a real agent: keeps its connection, and notes what it was told is there."""

import http.client
import json
from collections import Counter
from typing import Any

from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Ref
from tests.contract import judge
from tests.fuzz import steps
from tests.fuzz.steps import Step
from tests.fuzz.strategies import ALSO, Body, without
from tests.machine import Machine, Reply


class Caller:
    """Sends steps to *machine*; *there* is what must be there if its answers are true.

    It knows of the contract that what owns or holds takes the others along, and no more.
    """

    def __init__(self, machine: Machine) -> None:
        self.kinds = Kinds()
        self.there: dict[Ref, Body] = {}
        self.statuses: Counter[int] = Counter()
        self._headers = {"Authorization": f"Bearer {machine.secret}"}
        self._connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=30)

    def send(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Send a request; whatever it is, the answer is decent."""
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        reply = Reply(answer.status, dict(answer.headers), answer.read())
        self.statuses[reply.status] += method != "GET"
        try:
            judge.assert_is_decent(reply)
        except AssertionError as error:
            error.add_note(f"the answer to {method} {path} {body!r}")
            raise
        return reply

    def hang_up(self) -> None:
        """End the connection; the next request makes another."""
        self._connection.close()

    # --- steps ------------------------------------------------------------------------------

    def take(self, step: Step) -> Reply | None:
        """Carry out *step* and note what came of it; None where there is nothing to do it to."""
        kind = self.kinds[step.kind]
        body = without(steps.pointing(kind, step, self._ids), kind.model.carried)
        refs = sorted(ref for ref in self.there if ref.kind == kind.name)
        if step.verb == "POST":
            parent = steps.parent(kind, step, self._ids)
            reply = self.post(kind.name, parent, body)
            if reply.status < 300:
                self._note(kind.ref({**reply.json, str(kind.model.parent_field): parent}), reply)
                for other in ALSO.get(kind.name, ()):
                    also = self.kinds[other]
                    self.there[also.ref({**body, str(also.model.parent_field): kind.name})] = {
                        name: body[name] for name in self._own(also)
                    }
            return reply
        if not refs:
            return None
        ref = refs[step.pick % len(refs)]
        if step.verb == "PUT":
            reply = self.put(ref, body)
            if reply.status < 300:
                self._note(ref, reply)
            return reply
        cascade = self.kinds.holds(kind) and step.pick % 2 == 0
        reply = self.send("DELETE", self._item(ref) + "?cascade=true" * cascade)
        if reply.status in (202, 204):
            self._forget(ref)
        return reply

    def post(self, kind: str, parent: str, body: Body) -> Reply:
        """POST *body* to the collection of *kind*."""
        collection = self._collection(self.kinds[kind], parent)
        return self.send("POST", collection, json.dumps(body).encode())

    def put(self, ref: Ref, body: Body) -> Reply:
        """PUT *body* to the resource *ref*."""
        return self.send("PUT", self._item(ref), json.dumps(body).encode())

    def told(self) -> str:
        """Return in words how many documents had which answer."""
        return f"{self.statuses.total()} documents, {dict(sorted(self.statuses.items()))}"

    def clear(self) -> None:
        """Delete all that is there."""
        while self.there:
            ref = min(
                self.there, key=lambda one: [kind.name for kind in self.kinds].index(one.kind)
            )
            cascade = self.kinds.holds(self.kinds[ref.kind])
            assert self.send("DELETE", self._item(ref) + "?cascade=true" * cascade).status < 300
            self._forget(ref)

    def _note(self, ref: Ref, reply: Reply) -> None:
        self.there[ref] = self.own(ref, reply.json)

    def _forget(self, ref: Ref) -> None:
        self.there.pop(ref, None)
        for other, body in list(self.there.items()):
            kind = self.kinds[other.kind]
            for reference in kind.references:
                is_child = reference.field == kind.model.parent_field
                named = other.parent if is_child else body.get(reference.field)
                if (reference.owns or reference.holds) and (reference.kind, named) == (
                    ref.kind,
                    ref.id,
                ):
                    self._forget(other)

    # --- what is there ----------------------------------------------------------------------

    def shown(self) -> dict[Ref, Body]:
        """Return all that GET shows."""
        found: dict[Ref, Body] = {}
        for kind in self.kinds:
            for parent in self._parents(kind, found):
                reply = self.send("GET", self._collection(kind, parent))
                if kind.is_singleton:
                    bodies = [reply.json] if reply.status == 200 else []
                else:
                    bodies = reply.json[kind.name]
                for body in bodies:
                    found[kind.ref({**body, str(kind.model.parent_field): parent})] = body
        return found

    def own(self, ref: Ref, body: Body) -> Body:
        """Return the members of *body* that are the resource's own."""
        return {name: body[name] for name in self._own(self.kinds[ref.kind])}

    def _own(self, kind: Kind) -> set[str]:
        return kind.model.model_fields.keys() - kind.model.private - kind.model.carried

    def _parents(self, kind: Kind, found: dict[Ref, Any]) -> list[str]:
        return [ref.id for ref in found if ref.kind == kind.parent] if kind.parent else [""]

    def _ids(self, kind: str) -> list[str]:
        return sorted(ref.id for ref in self.there if ref.kind == kind)

    def _collection(self, kind: Kind, parent: str) -> str:
        return kind.collection.replace("<parent>", parent)

    def _item(self, ref: Ref) -> str:
        kind = self.kinds[ref.kind]
        own = "" if kind.is_singleton else f"/{ref.id}"
        return self._collection(kind, ref.parent) + own
