"""A document whose members are the fields of its kind, give or take LBaaS' other names for them.

This module must never look at a state: what a member means together with others is the fold's.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from kinx_loadbalancer_agent.errors import Fault, Refusal, refusal
from kinx_loadbalancer_agent.model.fold import escaped, fold, reference_faults, validation_faults
from kinx_loadbalancer_agent.model.intents import Create, Intent, Merge, Operation, Place, Write
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
    """What was read of a document: values by field and where they were, faults, warnings.

    beside: what it says of another resource.
    """

    values: dict[str, Any] = field(default_factory=dict)
    at: dict[str, str] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """A document read without fault: the operations it asks for, and what to tell the caller."""

    operations: tuple[Operation, ...]
    warnings: tuple[str, ...] = ()


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
        self._accept(reading, parent, id)
        write = Create(self.kind.name, reading.values, parent, id, place=Place(reading.at))
        return Read(self.operations(write, reading), tuple(reading.warnings))

    def merge(self, body: Mapping[str, Any], id: str, parent: str = "") -> Read:
        """Return what a PUT of *body* asks for; raises Unprocessable with every fault."""
        reading = self.read(body, partial=True)
        write = Merge(self.kind.name, id, reading.values, parent, place=Place(reading.at))
        operations = self.operations(write, reading)
        if reading.faults:
            # The rest of the document is judged too, as far as it could be read.
            raise refused(reading.faults, self.faults_of(operations))
        return Read(operations, tuple(reading.warnings))

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        """Return the members of *body* as values of the kind's fields."""
        return self._read(self.kind.model, body, partial=partial)

    def operations(self, write: Write, reading: Reading) -> tuple[Operation, ...]:
        """Return *write*, what a document read so asks for, with what it asks of others."""
        return (write,)

    def _accept(self, reading: Reading, parent: str, id: str) -> None:
        if reading.faults:
            raise refused(reading.faults, self._further_faults(reading, parent))

    def faults_of(self, operations: tuple[Operation, ...]) -> tuple[Fault, ...]:
        """Return what there is now has against *operations*, which need not be whole."""
        try:
            fold(self._state(), Intent(operations), self._kinds)
        except Refusal as error:
            return error.faults
        return ()

    def _further_faults(self, reading: Reading, parent: str) -> Iterator[Fault]:
        """Yield what its fields, and what there is now, have against a POST that is faulty."""
        yield from self.kind.model.faults(reading.values)
        yield from reference_faults(self._state(), self.kind, reading.values)
        name, kind = self.kind.model.parent_field, self.kind.parent
        named = reading.values.get(name) if name else None
        if kind and named is not None:
            inside, there = (self._kinds.find(self._state(), kind, id) for id in (named, parent))
            if inside != there:
                yield Fault(f"/{name}", f"must be {parent}, as in the URL")

    def _read(self, model: type[Resource], body: Mapping[str, Any], *, partial: bool) -> Reading:
        """Read the members of *body* as fields of *model*.

        partial: a null stands for the default, and nothing is missing.
        """
        reading = Reading()
        for name, value in body.items():
            self._read_member(reading, model, name, value, partial=partial)
        if not partial:
            reading.faults += _missing(model, reading)
        return reading

    def _read_member(
        self, reading: Reading, model: type[Resource], name: str, value: Any, *, partial: bool
    ) -> None:
        fields = _adapters(model)
        target = name if name in fields else SYNONYMS.get(name, name)
        if target not in fields:
            if name not in MEANINGLESS | model.derived:
                self.unknown(reading, name)
            return
        pointer = f"/{escaped(name)}"
        if value is not None:
            try:
                value = fields[target].validate_python(value)
            except ValidationError as error:
                unknown = set() if self._refuse_unknown else _unknown(error)
                if unknown:
                    reading.warnings += [_ignored(f"{name}.{inner}") for inner in sorted(unknown)]
                    _, known = parted(value, unknown)
                    self._read_member(reading, model, name, known, partial=partial)
                else:
                    reading.faults += [fault.within(pointer) for fault in validation_faults(error)]
                return
        elif not partial:
            if model.model_fields[target].is_required() and target != model.parent_field:
                reading.faults.append(Fault(pointer, "must not be null"))
            return
        if target in reading.values and reading.values[target] != value:
            reading.faults.append(Fault(pointer, f"{name} and its synonym differ"))
        reading.values[target] = value
        reading.at[target] = pointer

    def unknown(self, reading: Reading, name: str) -> None:
        """Add that nobody knows the member *name*: a fault, or a warning."""
        if self._refuse_unknown:
            reading.faults.append(Fault(f"/{escaped(name)}", "is not a member of this document"))
        else:
            reading.warnings.append(_ignored(name))


def refused(faults: Iterable[Fault], further: Iterable[Fault]) -> Refusal:
    """Return *faults* as one refusal, with those *further* ones that are about other members."""
    known = {fault.pointer for fault in faults}
    others = (fault for fault in further if fault.pointer not in known)
    return refusal(dict.fromkeys([*faults, *others]))


def parted(
    body: Mapping[str, Any], names: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the members of *body* that *names* has, and the others."""
    found = {name: body[name] for name in body if name in names}
    return found, {name: body[name] for name in body if name not in names}


def _ignored(name: str) -> str:
    return f"{name} is not a member of this document; ignored"


def _unknown(error: ValidationError) -> set[str]:
    found = error.errors(include_url=False, include_input=False)
    return {str(one["loc"][0]) for one in found if one["type"] == "extra_forbidden"}


def _missing(model: type[Resource], reading: Reading) -> Iterator[Fault]:
    faulty = {fault.pointer.split("/")[1] for fault in reading.faults}
    said = reading.values.keys() | faulty | {SYNONYMS.get(name, name) for name in faulty}
    for name, declared in model.model_fields.items():
        if declared.is_required() and name not in said | model.private | {model.parent_field}:
            yield Fault(f"/{name}", "is required")


@cache
def _adapters(model: type[Resource]) -> Mapping[str, TypeAdapter[Any]]:
    """Return what validates each field that callers may say."""
    found = {}
    for name in model.model_fields.keys() - model.private:
        declared = model.model_fields[name]
        annotation: Any = declared.annotation
        for constraint in declared.metadata:
            annotation = Annotated[annotation, constraint]
        found[name] = TypeAdapter(annotation)
    return found
