"""Documents of many resources: the members of a pool, the tree of a load balancer, a whole node.

An element is read as a PUT would read it: what it does not name it keeps, a new one gets the
defaults. A list is the whole list: what it does not have goes.
"""

from collections.abc import Collection, Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Read, Reading, parted, refused
from kinx_loadbalancer_agent.errors import Fault, Malformed
from kinx_loadbalancer_agent.model.export import top
from kinx_loadbalancer_agent.model.intents import Carry, Merge, Operation, Place, Retain, Upsert
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds


class Gathering:
    """What is read of such a document: the operations it asks for, faults and warnings.

    is_whole: an element that does not name a member means its default.
    carries: what a member says of its pool is applied to it.
    """

    def __init__(
        self,
        kinds: Kinds,
        documents: Mapping[str, Document],
        *,
        is_whole: bool = False,
        carries: bool = False,
    ) -> None:
        self._kinds = kinds
        self._documents = documents
        self._any = next(iter(documents.values()))
        self._is_whole = is_whole
        self._carries = carries
        self.operations: list[Operation] = []
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def done(self) -> Read:
        """Return all that was read; raises Unprocessable with every fault."""
        if self.faults:
            operations = tuple(self.operations)
            raise refused(self.faults, self._any.faults_of(operations) if operations else ())
        return Read(tuple(self.operations), tuple(self.warnings))

    def expect(self, body: Mapping[str, Any], known: Collection[str]) -> None:
        """Read the names in *body*, which must have all of *known* and no other."""
        reading = Reading()
        for name in body:
            if name not in known:
                self._any.unknown(reading, name)
        absent = [name for name in known if name not in body]
        self.faults += reading.faults + [Fault(f"/{name}", "is required") for name in absent]
        self.warnings += reading.warnings

    def elements(
        self,
        kind: Kind,
        value: Any,
        prefix: str,
        parent: str = "",
        having: tuple[str, str] | None = None,
    ) -> None:
        """Read *value*, the list at *prefix* of the resources of *kind*, under *parent*."""
        if value is None:
            value = []
        if not isinstance(value, list):
            self.faults.append(Fault(prefix, "must be an array"))
            return
        place = len(self.operations)
        ids: set[str] = set()
        for index, body in enumerate(value):
            id = self.element(kind, body, f"{prefix}/{index}", parent=parent, having=having)
            if id is not None and id in ids:
                self.faults.append(Fault(f"{prefix}/{index}/{kind.model.id_field}", "is repeated"))
            ids.add(id or "")
        self.operations.insert(place, Retain(kind.name, frozenset(ids), parent, having))

    def single(self, kind: Kind, value: Any, prefix: str, owner: str = "") -> None:
        """Read *value*, the one resource of *kind*, or the one keyed by *owner*; None: none."""
        if value is not None:
            self.element(kind, value, prefix, id=owner)
            return
        having = (kind.model.id_field, owner) if owner else None
        self.operations.append(Retain(kind.name, frozenset(), having=having))

    def element(
        self,
        kind: Kind,
        body: Any,
        prefix: str,
        *,
        parent: str = "",
        id: str = "",
        having: tuple[str, str] | None = None,
    ) -> str | None:
        """Read one resource and what it owns; return its id, None where it says none."""
        if not isinstance(body, Mapping):
            self.faults.append(Fault(prefix, "must be an object"))
            return None
        children = self._kinds.owned_by(kind)
        _, own = parted(body, [child.nested_as for child in children])
        document = self._documents[kind.name]
        reading = document.read(own, partial=True)
        if having is not None and reading.values.get(having[0]) is None:
            reading.values[having[0]] = having[1]
        elif having is not None and reading.values[having[0]] != having[1]:
            reading.faults.append(Fault(f"/{having[0]}", f"must be {having[1]}"))
        identity = id or (reading.values.get(kind.model.id_field) if kind.model.id_field else "")
        if identity is None and not reading.faults:
            reading.faults.append(Fault(f"/{kind.model.id_field}", "is required"))
        self.faults += [fault.within(prefix) for fault in reading.faults]
        self.warnings += reading.warnings
        place = Place(reading.at, prefix)
        write = Upsert(kind.name, reading.values, parent, id, self._is_whole, place=place)
        _, *others = document.operations(write, reading)
        before = len(self.operations)
        self.operations.append(write)
        for child in children:
            if child.nested_as in body or self._is_whole:
                value, at = body.get(child.nested_as), f"{prefix}/{child.nested_as}"
                if child.named_by:
                    self.single(child, value, at, identity or kind.name)
                else:
                    self.elements(child, value, at, parent=identity or kind.name)
        self.operations += [one for one in others if self._carries or not isinstance(one, Carry)]
        if identity is None:  # judged as far as it could be read
            del self.operations[before:]
        return identity

    def subject(self, kind: Kind, id: str, body: Mapping[str, Any]) -> None:
        """Read *body* as a PUT of the resource *id*, which must be there."""
        document = self._documents[kind.name]
        reading = document.read(body, partial=True)
        self.faults += reading.faults
        self.warnings += reading.warnings
        write = Merge(kind.name, id, reading.values, place=Place(reading.at))
        self.operations += document.operations(write, reading)


def collection(gathering: Gathering, kind: Kind, body: Any, parent: str) -> Read:
    """Return what a PUT of the whole list *body* asks for: an array, or an object that has it."""
    if isinstance(body, list):
        gathering.elements(kind, body, "", parent)
    elif isinstance(body, Mapping):
        gathering.expect(body, [kind.name])
        gathering.elements(kind, body.get(kind.name), f"/{kind.name}", parent)
    else:
        raise Malformed("the body must be a JSON array or object")
    return gathering.done()


def tree(gathering: Gathering, kinds: Kinds, kind: Kind, id: str, body: Mapping[str, Any]) -> Read:
    """Return what a PUT of the tree of the resource *id* asks for."""
    held = {row.name: (row, field) for row, field in kinds.held_by(kind)}
    _, own = parted(body, held)
    gathering.subject(kind, id, own)
    for name, (row, field) in held.items():
        if name in body:
            gathering.elements(row, body[name], f"/{name}", having=(field, id))
    return gathering.done()


def state(gathering: Gathering, kinds: Kinds, body: Mapping[str, Any]) -> Read:
    """Return what a PUT of a whole node asks for: nothing may be left out by mistake."""
    gathering.expect(body, [kind.name for kind in top(kinds)])
    for kind in top(kinds):
        if kind.is_singleton:
            gathering.single(kind, body.get(kind.name), f"/{kind.name}")
        else:
            gathering.elements(kind, body.get(kind.name), f"/{kind.name}")
    return gathering.done()
