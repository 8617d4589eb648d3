"""The fold: what becomes of an intent, over the state that the intents before it have left.

404, 409, 412, references and cascades are decided here and nowhere else. Pure.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from kinx_loadbalancer_agent.errors import (
    Conflict,
    Fault,
    NotFound,
    PreconditionFailed,
    refusal,
)
from kinx_loadbalancer_agent.model.intents import (
    WHOLE,
    Carry,
    Change,
    Compare,
    Create,
    Delete,
    Expect,
    Folded,
    Intent,
    Merge,
    Operation,
    Place,
    Retain,
    Upsert,
    Values,
)
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Ref, Resource, Value
from kinx_loadbalancer_agent.model.state import State

WORDS = {"missing": "is required", "extra_forbidden": "is not a member of this document"}


def etag(resource: Resource, state: State) -> str:
    """Return the strong ETag of *resource*: a hash of what is published of it."""
    published = resource.published(state)
    content = {name: published[name] for name in published if name not in resource.carried}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fold(state: State, intent: Intent, kinds: Kinds) -> tuple[State, Folded]:
    """Return *state* with *intent* carried out, and what became of it.

    Raises a Refusal with every fault found; nothing of the intent is in any state then.
    """
    return _Fold(state, intent, kinds).done()


def reference_faults(
    state: State,
    kind: Kind,
    values: Values,
    before: Resource | None = None,
    may_dangle: bool = False,
) -> Iterator[Fault]:
    """Yield the members of *values* that name something that is not there.

    What *before*, the resource as it is, names already is not asked again.
    may_dangle: it may name what has gone; what it cannot be without must be there.
    """
    for reference in kind.references:
        named = values.get(reference.field)
        if named is None or reference.may_come_later or reference.owns:
            continue
        if may_dangle and not reference.holds:
            continue
        if before is not None and getattr(before, reference.field) == named:
            continue
        if state.get(Ref(reference.kind, "", named)) is None:
            yield Fault(f"/{reference.field}", f"there is no {Ref(reference.kind, '', named)}")


def escaped(part: str) -> str:
    """Return *part* as one step of a JSON pointer (RFC 6901, 3)."""
    return part.replace("~", "~0").replace("/", "~1")


def validation_faults(error: ValidationError) -> Iterator[Fault]:
    """Yield the faults that pydantic found, worded for callers."""
    for found in error.errors(include_url=False, include_input=False):
        pointer = "".join(f"/{escaped(str(part))}" for part in found["loc"])
        detail = WORDS.get(found["type"], found["msg"])
        yield Fault(pointer, detail.replace("Input should be", "must be"))


class _Fold:
    """The work on one intent."""

    def __init__(self, state: State, intent: Intent, kinds: Kinds) -> None:
        self._base = self._state = state
        self._intent = intent
        self._kinds = kinds
        self._subject: Ref | None = None
        self._status = 200
        self._touched: dict[Ref, None] = {}
        self._faults: list[Fault] = []
        self._current: Ref | None = None
        self._place = Place()
        self._may_dangle = False
        self._places: dict[Ref, Place] = {}
        self._faulty: set[Ref] = set()
        self._warnings: list[str] = []

    def done(self) -> tuple[State, Folded]:
        for operation in self._intent.operations:
            known = len(self._faults)
            self._place = operation.place
            self._may_dangle = isinstance(operation, Upsert) and operation.is_whole
            CARRY_OUT[type(operation)](self, self._kinds[operation.kind], operation)
            self._faults[known:] = [self._place.of(fault) for fault in self._faults[known:]]
        self._judge()
        if self._faults:
            raise refusal(dict.fromkeys(self._faults))
        assert self._subject is not None
        changes = tuple(
            Change(ref, before, after)
            for ref in self._touched
            if (before := self._base.get(ref)) != (after := self._state.get(ref))
        )
        warnings = tuple(dict.fromkeys(self._warnings))
        place = self._changed_at()
        return self._state, Folded(
            self._status, self._subject, changes, warnings, place, self._places
        )

    # --- operations -------------------------------------------------------------------------

    def _create(self, kind: Kind, operation: Create) -> None:
        values = self._identified(kind, operation)
        existing = self._consider(kind.ref(values))
        if existing is not None and not existing.gives_way:
            self._repeat(existing, values)
            return
        self._status = 201
        self._put(kind, kind.decide(self._state, values))

    def _repeat(self, existing: Resource, values: Values) -> None:
        said = {name: value for name, value in values.items() if value is not None}
        faults = [
            self._place.of(Fault(f"/{name}", "differs from what is there", is_conflict=True))
            for name in said
            if name not in existing.carried and getattr(existing, name) != said[name]
        ]
        if faults:
            detail = f"{existing.ref} exists with other content"
            raise Conflict(detail, faults, existing, etag(existing, self._state))
        self._warnings += existing.warnings()
        news = {name: said[name] for name in existing.carried & said.keys()}
        if news:
            self._store(existing.model_copy(update=news))

    def _merge(self, kind: Kind, operation: Merge) -> None:
        existing = self._known(kind, operation)
        self._put(kind, self._merged(kind, existing, operation.changes), existing)

    def _upsert(self, kind: Kind, operation: Upsert) -> None:
        values = self._identified(kind, operation)
        ref = kind.ref(values)
        existing = self._consider(ref)
        said = kind.fixed if operation.is_whole else frozenset()
        if existing and any(values.get(name) != getattr(existing, name) for name in said):
            self._drop(ref, cascade=True)  # another one of that name
            existing = None
        if existing is None:
            given = {name: values[name] for name in values if values[name] is not None}
            nothing = dict.fromkeys(said & values.keys() - given.keys())
            self._put(kind, kind.decide(self._state, given | nothing))
            return
        if operation.is_whole:
            named = kind.model.model_fields.keys() - kind.model.private - kind.fixed
            values = dict.fromkeys(sorted(named)) | values
        self._put(kind, self._merged(kind, existing, values), existing)

    def _retain(self, kind: Kind, operation: Retain) -> None:
        if kind.parent and operation.parent:
            parent = self._kinds.parent(self._state, kind, operation.parent, self._faulty)
            self._consider(Ref(kind.parent, "", parent))
            found = tuple(self._state.table(kind.name, parent).values())
        elif operation.having:
            found = self._state.having(kind.name, *operation.having)
        else:
            found = tuple(self._state.all(kind.name))
        if self._subject is None:
            self._subject = WHOLE
            if not self._intent.preconditions.hold(""):  # it is there, and has no ETag
                raise PreconditionFailed("a whole state has no ETag to compare")
        for resource in found:
            if resource.ref.id not in operation.ids and self._state.get(resource.ref):
                self._drop(resource.ref, cascade=True)

    def _expect(self, kind: Kind, operation: Expect) -> None:
        ref = self._locate(kind, "", operation.id)
        if self._state.get(ref) is None:
            self._faults.append(Fault("", f"there is no {ref}"))

    def _delete(self, kind: Kind, operation: Delete) -> None:
        existing = self._known(kind, operation)
        self._status = 204
        self._drop(existing.ref, cascade=operation.cascade)

    def _carry(self, kind: Kind, operation: Carry) -> None:
        carrier = self._current and self._state.get(self._current)
        if carrier is None:  # its own faults are known by now
            return
        last = self._base.get(carrier.ref)
        if last is not None and all(
            getattr(last, name) == value for name, value in operation.carried.items()
        ):
            return
        target = self._state.get(Ref(kind.name, "", carrier.ref.parent))
        if target is not None:
            values = {
                name: _amended(getattr(target, name), value)
                for name, value in operation.values.items()
            }
            self._put(kind, self._merged(kind, target, values), target)
        else:
            own = {kind.model.id_field: carrier.ref.parent, "is_brought": True}
            self._put(kind, {**operation.values, **own})

    def _compare(self, kind: Kind, operation: Compare) -> None:
        existing = self._state.get(self._locate(kind, "", operation.id))
        for name, value in operation.values.items():
            if existing is not None and value is not None and getattr(existing, name) != value:
                self._warnings.append(f"{name} differs from that of {existing.ref}; not changed")

    # --- identities -------------------------------------------------------------------------

    def _consider(self, ref: Ref) -> Resource | None:
        """Return the resource *ref*, the intent's subject if it is the first asked about."""
        existing = self._state.get(ref)
        self._current = ref
        self._places.setdefault(ref, self._place)
        if self._subject is None:
            self._subject = ref
            current = etag(existing, self._state) if existing is not None else None
            if not self._intent.preconditions.hold(current):
                raise PreconditionFailed(f"{ref} is not in the state the request asks for")
        return existing

    def _known(self, kind: Kind, operation: Merge | Delete) -> Resource:
        ref = self._locate(kind, operation.parent, operation.id)
        existing = self._consider(ref)
        if existing is None:
            raise NotFound(f"there is no {ref}")
        return existing

    def _locate(self, kind: Kind, parent: str, id: str) -> Ref:
        # What is inside something faulty is judged as if that were there.
        return self._kinds.locate(self._state, kind, parent, id, self._faulty)

    def _identified(self, kind: Kind, operation: Create) -> dict[str, Any]:
        """Return the values of *operation* with the identity that the URL gives them."""
        values = dict(operation.values)
        if kind.parent and kind.model.parent_field:
            parent = self._kinds.parent(self._state, kind, operation.parent, self._faulty)
            self._same(kind.model.parent_field, values, parent, kind.parent)
            values[kind.model.parent_field] = parent
        if kind.named_by:
            values[kind.model.id_field] = self._namesake(kind, kind.named_by, operation)
        return values

    def _namesake(self, kind: Kind, named_by: str, operation: Create) -> str:
        asked = operation.id or operation.values[kind.model.id_field]
        try:
            id = self._kinds.existing(self._state, named_by, asked, self._faulty)
        except NotFound as error:
            if operation.id:
                raise
            fault = Fault(f"/{kind.model.id_field}", error.detail)
            raise refusal([self._place.of(fault)]) from error
        self._same(kind.model.id_field, operation.values, id, named_by)
        return id

    def _same(self, name: str, values: Values, wanted: str, named: str) -> None:
        given = values.get(name)
        if given is not None and self._kinds.find(self._state, named, given) != wanted:
            self._faults.append(Fault(f"/{name}", f"must be {wanted}, as in the URL"))

    # --- the candidate ----------------------------------------------------------------------

    def _merged(self, kind: Kind, existing: Resource, changes: Values) -> dict[str, Any]:
        values = {name: getattr(existing, name) for name in kind.model.model_fields}
        for name, value in changes.items():
            declared = kind.model.model_fields[name]
            if value is None and declared.is_required():
                self._faults.append(Fault(f"/{name}", "has no default: must not be null"))
                continue
            if value is None:
                value = declared.get_default(call_default_factory=True)
            if name in kind.fixed and values[name] is not None:
                value = self._resolved(kind, name, value)
            if name in kind.fixed and values[name] not in (None, value):
                self._faults.append(Fault(f"/{name}", f"cannot change, it is {values[name]}"))
            else:
                values[name] = value
        return values

    def _resolved(self, kind: Kind, name: str, value: Any) -> Any:
        """Return the id that *value*, given for the field *name*, stands for."""
        for reference in kind.references:
            if reference.field == name and isinstance(value, str):
                return self._kinds.find(self._state, reference.kind, value)
        return value

    def _put(self, kind: Kind, values: Values, before: Resource | None = None) -> None:
        self._faults += reference_faults(self._state, kind, values, before, self._may_dangle)
        try:
            resource = kind.model.model_validate(dict(values))
        except ValidationError as error:
            self._faults += validation_faults(error)
            self._faulty.add(kind.ref(values))
            return
        self._faults += resource.faults(dict(resource))
        self._warnings += resource.warnings()
        if resource != before:
            self._store(resource)

    def _store(self, resource: Resource) -> None:
        self._touched[resource.ref] = None
        self._state = self._state.including(resource)

    def _drop(self, ref: Ref, *, cascade: bool) -> None:
        self._touched[ref] = None
        referring = list(self._kinds.referring(self._state, ref))
        holders = [resource.ref for reference, resource in referring if reference.holds]
        if holders and not cascade:
            names = ", ".join(str(holder) for holder in sorted(holders))
            raise Conflict(
                f"{ref} is in use by {names}", [Fault("", f"is in use by {names}", True)]
            )
        owned = [resource.ref for reference, resource in referring if reference.owns]
        for other in sorted(holders) + sorted(owned):
            if self._state.get(other) is not None:
                self._drop(other, cascade=cascade)
        self._state = self._state.without(ref)

    def _judge(self) -> None:
        """Ask the rules about what was touched and, if they have nothing, about what is near it."""
        touched = [found for ref in self._touched if (found := self._state.get(ref))]
        near = {other.ref: other for ref in self._touched for other in self._near(ref)}
        for resources in (touched, near.values()):
            for resource in resources:
                place = self._places.get(resource.ref)
                for fault in self._kinds[resource.ref.kind].rules(self._state, resource):
                    placed = (
                        place.of(fault) if place else replace(fault, pointer=self._changed_at())
                    )
                    self._faults.append(placed)
            if self._faults:
                return

    def _near(self, ref: Ref) -> Iterator[Resource]:
        """Yield what names *ref*, and its parent."""
        for reference, other in self._kinds.referring(self._state, ref):
            if not reference.owns:
                yield other
        parent = self._kinds[ref.kind].parent
        above = self._state.get(Ref(parent, "", ref.parent)) if parent else None
        if above is not None:
            yield above

    def _changed_at(self) -> str:
        """Return where the document has the one member it changes, free text aside; else ''."""
        assert self._subject is not None
        before, after = self._base.get(self._subject), self._state.get(self._subject)
        if before is None or after is None:
            return ""
        changed = [
            name
            for name, value in dict(after).items()
            if getattr(before, name) != value and name not in ("name", "description")
        ]
        place = self._places.get(self._subject, Place())
        return place.of(Fault(f"/{changed[0]}", "")).pointer if len(changed) == 1 else ""


CARRY_OUT: Mapping[type[Operation], Callable[[_Fold, Kind, Any], None]] = {
    Create: _Fold._create,
    Merge: _Fold._merge,
    Upsert: _Fold._upsert,
    Delete: _Fold._delete,
    Retain: _Fold._retain,
    Expect: _Fold._expect,
    Carry: _Fold._carry,
    Compare: _Fold._compare,
}


def _amended(current: Any, said: Any) -> Any:
    """Return what *said*, a part of a value, makes of the value *current*."""
    if isinstance(current, Value) and isinstance(said, Mapping):
        return current.amended(said)
    return said
