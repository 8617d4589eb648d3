"""A document whose members are the fields of its kind, give or take LBaaS' other names for them.

This module must never look at a state: what a member means together with others is the fold's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from kinx_loadbalancer_agent.errors import Fault, Refusal, refusal
from kinx_loadbalancer_agent.model.fold import escaped, fold, reference_faults, validation_faults
from kinx_loadbalancer_agent.model.intents import Create, Intent, Merge, Operation, Upsert
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Resource
from kinx_loadbalancer_agent.model.state import State

SYNONYMS = {
    "admin_state_up": "enabled",
    "tenant_id": "project_id",
    "ip_address": "address",
    "rise_threshold": "max_retries",
    "fall_threshold": "max_retries_down",
}
MEANINGLESS = frozenset(
    {
        "project_id",
        "tenant_id",
        "subnet_id",
        "port_id",
        "tags",
        "created_at",
        "updated_at",
        "provisioning_status",
        "operating_status",
        "vip",
    }
)
"""What LBaaS sends to everything; ignored where the kind has no such field."""


@dataclass
class Reading:
    """What was read of a document: values by field and where they were, faults, warnings."""

    values: dict[str, Any] = field(default_factory=dict)
    at: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """A document read without fault: the operations it asks for, and what to tell the caller."""

    operations: tuple[Operation, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Element:
    """Where an element of a list is, and what it means.

    parent, id: as in an Upsert. prefix: where the document has it.
    is_whole: what it does not name gets its default. carries: what it says of others is done.
    """

    prefix: str
    parent: str = ""
    id: str = ""
    is_whole: bool = False
    carries: bool = False


class Document:
    """How documents of *kind* are read.

    refuse_unknown: a member nobody knows is a fault, otherwise a warning.
    state: gives the state of now, which only makes a refusal more complete.
    """

    def __init__(
        self, kind: Kind, kinds: Kinds, *, refuse_unknown: bool, state: Callable[[], State]
    ) -> None:
        self.kind = kind
        self._kinds = kinds
        self._refuse_unknown = refuse_unknown
        self._state = state

    def create(self, body: Mapping[str, Any], parent: str = "", id: str = "") -> Read:
        """Return what a POST of *body* asks for; raises Unprocessable with every fault."""
        reading = self.read(body)
        self._accept(reading, parent)
        return Read(self.creation(reading, parent, id), tuple(reading.warnings))

    def merge(self, body: Mapping[str, Any], id: str, parent: str = "") -> Read:
        """Return what a PUT of *body* asks for; raises Unprocessable with every fault."""
        reading = self.read(body, partial=True)
        operations = self.merging(reading, parent, id)
        if reading.faults:
            # The rest of the document is judged too, as far as it could be read.
            self._refuse(reading, self.faults_of(operations))
        return Read(operations, tuple(reading.warnings))

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        """Return the members of *body* as values of the kind's fields."""
        return self._read(self.kind.model, body, partial=partial)

    def creation(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        """Return what a POST, read so, asks for."""
        return (Create(self.kind.name, reading.values, parent, id, reading.at),)

    def merging(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        """Return what a PUT, read so, asks for."""
        return (Merge(self.kind.name, id, reading.values, parent, reading.at),)

    def upserting(self, reading: Reading, element: Element) -> tuple[Operation, ...]:
        """Return what *element* of a list, read so, asks for."""
        return (
            Upsert(
                self.kind.name,
                reading.values,
                element.parent,
                element.id,
                reading.at,
                element.prefix,
                element.is_whole,
            ),
        )

    def _accept(self, reading: Reading, parent: str = "") -> None:
        if reading.faults:
            further = [
                *self.kind.model.faults(reading.values),
                *self.reference_faults(reading),
                *self._parent_faults(reading, parent),
            ]
            self._refuse(reading, further)

    def _refuse(self, reading: Reading, further: Iterable[Fault]) -> NoReturn:
        known = {fault.pointer for fault in reading.faults}
        reading.faults += [fault for fault in further if fault.pointer not in known]
        raise refusal(dict.fromkeys(reading.faults))

    def faults_of(self, operations: tuple[Operation, ...]) -> tuple[Fault, ...]:
        """Return what there is now has against *operations*, which need not be whole."""
        try:
            fold(self._state(), Intent(operations), self._kinds)
        except Refusal as error:
            return error.faults
        return ()

    def reference_faults(self, reading: Reading) -> Iterator[Fault]:
        """Yield the members that name something that is not there now."""
        yield from reference_faults(self._state(), self.kind, reading.values)

    def _parent_faults(self, reading: Reading, parent: str) -> Iterator[Fault]:
        name, kind = self.kind.model.parent_field, self.kind.parent
        named = reading.values.get(name) if name else None
        if kind and named is not None:
            state = self._state()
            if self._kinds.find(state, kind, named) != self._kinds.find(state, kind, parent):
                yield Fault(f"/{name}", f"must be {parent}, as in the URL")

    def _read(self, model: type[Resource], body: Mapping[str, Any], *, partial: bool) -> Reading:
        """Read the members of *body* as fields of *model*.

        partial: a null stands for the default, and nothing is missing.
        """
        reading = Reading()
        fields = model.model_fields.keys() - model.private
        for name, value in body.items():
            target = name if name in fields else SYNONYMS.get(name, name)
            if target not in fields:
                if name not in MEANINGLESS | model.derived:
                    self.unknown(reading, name)
                continue
            self._read_member(reading, model, name, target, value, partial=partial)
        if not partial:
            reading.faults += _missing(model, reading, body)
        return reading

    def _read_member(
        self,
        reading: Reading,
        model: type[Resource],
        name: str,
        target: str,
        value: Any,
        *,
        partial: bool,
    ) -> None:
        if value is not None:
            try:
                value = _adapters(model)[target].validate_python(value)
            except ValidationError as error:
                if isinstance(value, Mapping) and not self._refuse_unknown:
                    known = _without_unknown(value, error)
                    if len(known) < len(value):
                        unknown = sorted(value.keys() - known.keys())
                        reading.warnings += [_ignored(f"{name}.{inner}") for inner in unknown]
                        self._read_member(reading, model, name, target, known, partial=partial)
                        return
                pointer = f"/{escaped(name)}"
                reading.faults += [fault.within(pointer) for fault in validation_faults(error)]
                return
        elif not partial:
            if model.model_fields[target].is_required() and target != model.parent_field:
                reading.faults.append(Fault(f"/{name}", "must not be null"))
            return
        if target in reading.values and reading.values[target] != value:
            detail = f"{name} and its synonym differ"
            reading.faults.append(Fault(f"/{name}", detail))
        reading.values[target] = value
        reading.at[target] = f"/{escaped(name)}"

    def unknown(self, reading: Reading, name: str) -> None:
        """Add that nobody knows the member *name*: a fault, or a warning."""
        if self._refuse_unknown:
            reading.faults.append(Fault(f"/{escaped(name)}", "is not a member of this document"))
        else:
            reading.warnings.append(_ignored(name))


def _ignored(name: str) -> str:
    return f"{name} is not a member of this document; ignored"


def _without_unknown(value: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    unknown = {found["loc"][0] for found in error.errors() if found["type"] == "extra_forbidden"}
    return {name: value[name] for name in value if name not in unknown}


def _missing(model: type[Resource], reading: Reading, body: Mapping[str, Any]) -> Iterator[Fault]:
    found_faulty = {fault.pointer.split("/")[1] for fault in reading.faults}
    named = {SYNONYMS.get(name, name) for name in found_faulty} | found_faulty
    for name, declared in model.model_fields.items():
        derived = name in model.private or name in (model.parent_field,)
        if declared.is_required() and not derived and name not in reading.values.keys() | named:
            yield Fault(f"/{name}", "is required")


@cache
def _adapters(model: type[Resource]) -> Mapping[str, TypeAdapter[Any]]:
    found = {}
    for name, declared in model.model_fields.items():
        annotation: Any = declared.annotation
        for constraint in declared.metadata:
            annotation = Annotated[annotation, constraint]
        found[name] = TypeAdapter(annotation)
    return found
