"""A desired state that takes documents as the API does, without HTTP, engine and HAProxy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kinx_loadbalancer_agent.api.documents import DOCUMENTS, Document
from kinx_loadbalancer_agent.api.documents.document import Read
from kinx_loadbalancer_agent.errors import Refusal
from kinx_loadbalancer_agent.model.fold import etag, fold
from kinx_loadbalancer_agent.model.intents import Delete, Folded, Intent, Preconditions
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.model.state import State

ALWAYS = Preconditions()


@dataclass
class Desired:
    """What callers made of an empty state so far."""

    unknown_members: str = "refuse"
    kinds: Kinds = field(default_factory=Kinds)
    state: State = field(default_factory=State)

    def post(
        self,
        kind: str,
        body: Mapping[str, Any],
        parent: str = "",
        *,
        id: str = "",
        only: Preconditions = ALWAYS,
    ) -> Folded:
        """POST *body* to the collection, or to *id* where a kind allows that."""
        return self._fold(self._document(kind).create(body, parent, id), only)

    def put(
        self,
        kind: str,
        id: str,
        body: Mapping[str, Any],
        parent: str = "",
        *,
        only: Preconditions = ALWAYS,
    ) -> Folded:
        """PUT *body* to the resource *id*."""
        return self._fold(self._document(kind).merge(body, id, parent), only)

    def delete(
        self,
        kind: str,
        id: str,
        parent: str = "",
        *,
        cascade: bool = False,
        only: Preconditions = ALWAYS,
    ) -> Folded:
        """DELETE the resource *id*."""
        return self._fold(Read((Delete(kind, id, parent, cascade),)), only)

    def get(self, kind: str, id: str, parent: str = "") -> dict[str, Any]:
        """Return the resource as its callers see it; an empty one when there is none."""
        resource = self.state.get(self._ref(kind, id, parent))
        return resource.published(self.state) if resource is not None else {}

    def ids(self, kind: str) -> list[str]:
        """Return the ids of all resources of *kind*, sorted."""
        tables = self.state.tables.get(kind, {}).values()
        return sorted(id for table in tables for id in table)

    def etag(self, kind: str, id: str, parent: str = "") -> str:
        """Return the ETag of the resource, without its quotes."""
        resource = self.state.get(self._ref(kind, id, parent))
        assert resource is not None
        return etag(resource, self.state)

    def backend(self, pool: str) -> str:
        """Return the name of the pool's backend."""
        return str(getattr(self.state.get(Ref("pools", "", pool)), "backend", ""))

    @contextmanager
    def refuses(
        self, error: type[Refusal], *pointers: str
    ) -> Iterator[pytest.ExceptionInfo[Refusal]]:
        """Expect the block to be refused so, for faults at *pointers* alone, and nothing kept."""
        before = self.state
        with pytest.raises(error) as caught:
            yield caught
        assert {fault.pointer for fault in caught.value.faults} == set(pointers), caught.value
        assert self.state is before

    def _document(self, kind: str) -> Document:
        return DOCUMENTS.get(kind, Document)(
            self.kinds[kind],
            self.kinds,
            refuse_unknown=self.unknown_members == "refuse",
            state=lambda: self.state,
        )

    def _fold(self, read: Read, only: Preconditions) -> Folded:
        self.state, folded = fold(self.state, Intent(read.operations, only), self.kinds)
        return replace(folded, warnings=(*read.warnings, *folded.warnings))

    def _ref(self, kind: str, id: str, parent: str) -> Ref:
        if parent:
            return Ref(kind, self.kinds.find(self.state, "pools", parent), id)
        return Ref(kind, "", self.kinds.find(self.state, kind, id))
