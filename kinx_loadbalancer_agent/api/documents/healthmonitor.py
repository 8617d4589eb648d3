"""A health monitor: LBaaS sends it inside its pool's document, or flat with the pool's id."""

from collections.abc import Iterator, Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Reading, parted
from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.intents import Compare, Operation, Upsert, Write
from kinx_loadbalancer_agent.model.resources import Pool, Ref

NAMES = ("pool_id", "id", "listener_id")
"""What may say which pool is meant, in order."""


class HealthMonitorDocument(Document):
    """The pool's own members are compared with the pool, never written."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        reading = Reading()
        named, rest = parted(body, ("pool_id",))
        if "healthmonitor" in rest:
            prefix, monitor, about_pool = "/healthmonitor", rest.pop("healthmonitor"), rest
        else:
            prefix, (about_pool, monitor) = "", parted(rest, NAMES)
        nested = Reading()
        if isinstance(monitor, Mapping):
            nested = self._read(self.kind.model, monitor, partial=partial)
        else:
            reading.faults.append(Fault(prefix, "must be an object"))
        pool = self._read(Pool, about_pool, partial=True)
        names = self._read(self.kind.model, named, partial=True)
        missing = Fault("/pool_id", "is required")
        reading.faults += [fault.within(prefix) for fault in nested.faults if fault != missing]
        reading.faults += pool.faults + names.faults
        reading.warnings = nested.warnings + pool.warnings
        reading.values, reading.beside = nested.values, pool.values
        reading.at = {name: prefix + pointer for name, pointer in nested.at.items()}
        said = names.values | pool.values
        for name in NAMES:
            if said.get(name) is not None:
                reading.values["pool_id"], reading.at["pool_id"] = said[name], f"/{name}"
                break
        return reading

    def _accept(self, reading: Reading, parent: str, id: str) -> None:
        faulty = {fault.pointer for fault in reading.faults}
        is_named = id or "pool_id" in reading.values
        if not is_named and faulty.isdisjoint(f"/{name}" for name in NAMES):
            reading.faults.append(Fault("/pool_id", "is required"))
        super()._accept(reading, parent, id)

    def _further_faults(self, reading: Reading, parent: str) -> Iterator[Fault]:
        named = reading.values.get("pool_id")
        if named is not None:
            id = self._kinds.find(self._state(), "pools", named)
            if self._state().get(Ref("pools", "", id)) is None:
                yield Fault(reading.at["pool_id"], f"there is no {Ref('pools', '', named)}")

    def operations(self, write: Write, reading: Reading) -> tuple[Operation, ...]:
        if isinstance(write, Upsert):
            return (write,)
        return write, Compare("pools", write.id or reading.values["pool_id"], reading.beside)
