"""A member: LBaaS repeats in it its pool's persistence and monitor."""

from collections.abc import Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Element, Reading
from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.intents import Carry, Operation
from kinx_loadbalancer_agent.model.resources import HealthMonitor

NOTHING: tuple[Any, ...] = (None, "", {})


class MemberDocument(Document):
    """``type`` and ``cookie_name`` speak of the pool, ``healthmonitor`` of its monitor."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        carried = self.kind.model.carried
        said = {name: body[name] for name in body if name in carried and body[name] not in NOTHING}
        own = {name: value for name, value in body.items() if name not in carried}
        monitor = said.pop("healthmonitor", None)
        reading = super().read(own | said, partial=partial)
        if isinstance(monitor, Mapping):
            nested = self._read(HealthMonitor, monitor, partial=True)
            if "pool_id" in nested.values:
                nested.faults.append(Fault("/pool_id", "is not a member of this document"))
            reading.faults += [fault.within("/healthmonitor") for fault in nested.faults]
            reading.warnings += nested.warnings
            says = {name: value for name, value in nested.values.items() if value is not None}
            if says:
                reading.values["healthmonitor"] = says
        elif monitor is not None:
            reading.faults.append(Fault("/healthmonitor", "must be an object"))
        return reading

    def creation(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        return super().creation(reading, parent, id) + _carried(reading)

    def merging(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        return super().merging(reading, parent, id) + _carried(reading)

    def upserting(self, reading: Reading, element: Element) -> tuple[Operation, ...]:
        upserting = super().upserting(reading, element)
        return upserting + _carried(reading, element.prefix) if element.carries else upserting


def _carried(reading: Reading, prefix: str = "") -> tuple[Operation, ...]:
    """Return what the member says of its pool, as operations on it."""
    operations: list[Operation] = []
    values = reading.values
    said = values.keys() & {"type", "cookie_name"}
    persistence: dict[str, Any] = {name: values[name] for name in said}
    if persistence:
        wanted = {"session_persistence": persistence}
        operations.append(Carry(persistence, "pools", wanted, ("/session_persistence", ""), prefix))
    if values.get("healthmonitor"):
        monitor = values["healthmonitor"]
        carried = {"healthmonitor": monitor}
        operations.append(Carry(carried, "healthmonitors", monitor, ("", "/healthmonitor"), prefix))
    return tuple(operations)
