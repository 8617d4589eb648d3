"""A health monitor: LBaaS sends it inside its pool's document, or flat with the pool's id."""

from collections.abc import Iterator, Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Read, Reading
from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.intents import Compare, Operation
from kinx_loadbalancer_agent.model.resources import Pool, Ref

NAMES = ("pool_id", "id", "listener_id")
"""What may say which pool is meant, in order."""


class _MonitorReading(Reading):
    """The monitor, and what the document says of its pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: dict[str, Any] = {}


class HealthMonitorDocument(Document):
    """The pool's own members are compared with the pool, never written."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> _MonitorReading:
        reading = _MonitorReading()
        is_nested = "healthmonitor" in body
        about_pool = {
            name: value
            for name, value in body.items()
            if (is_nested or name in NAMES) and name not in ("pool_id", "healthmonitor")
        }
        monitor = body["healthmonitor"] if is_nested else body
        prefix, nested = "/healthmonitor" if is_nested else "", Reading()
        if isinstance(monitor, Mapping):
            own = {name: monitor[name] for name in monitor if is_nested or name not in NAMES}
            nested = super()._read(self.kind.model, own, partial=partial)
        else:
            reading.faults.append(Fault("/healthmonitor", "must be an object"))
        pool = super()._read(Pool, about_pool, partial=True)
        names = super()._read(
            self.kind.model, {k: v for k, v in body.items() if k == "pool_id"}, partial=True
        )
        missing = Fault("/pool_id", "is required")
        reading.faults += [fault.within(prefix) for fault in nested.faults if fault != missing]
        reading.faults += pool.faults + names.faults
        reading.warnings = nested.warnings + pool.warnings
        reading.values, reading.pool = nested.values, pool.values
        reading.at = {name: prefix + pointer for name, pointer in nested.at.items()}
        said = names.values | pool.values
        for name in NAMES:
            if said.get(name) is not None:
                reading.values["pool_id"], reading.at["pool_id"] = said[name], f"/{name}"
                break
        return reading

    def create(self, body: Mapping[str, Any], parent: str = "", id: str = "") -> Read:
        reading = self.read(body)
        faulty = {fault.pointer for fault in reading.faults}
        if (
            not id
            and "pool_id" not in reading.values
            and faulty.isdisjoint(f"/{name}" for name in NAMES)
        ):
            reading.faults.append(Fault("/pool_id", "is required"))
        self._accept(reading)
        return Read(self.creation(reading, parent, id), tuple(reading.warnings))

    def reference_faults(self, reading: Reading) -> Iterator[Fault]:
        named = reading.values.get("pool_id")
        if named is not None:
            id = self._kinds.find(self._state(), "pools", named)
            if self._state().get(Ref("pools", "", id)) is None:
                yield Fault(reading.at["pool_id"], f"there is no {Ref('pools', '', named)}")

    def creation(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        assert isinstance(reading, _MonitorReading)
        pool_id = id or reading.values["pool_id"]
        compare = Compare("pools", pool_id, reading.pool)
        return (*super().creation(reading, parent, id), compare)

    def merging(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        assert isinstance(reading, _MonitorReading)
        compare = Compare("pools", id, reading.pool)
        return (*super().merging(reading, parent, id), compare)
