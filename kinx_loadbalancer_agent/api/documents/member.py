"""A member: LBaaS repeats in it its pool's persistence and monitor."""

from collections.abc import Iterator, Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Reading, parted
from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.intents import Carry, Operation, Place, Write
from kinx_loadbalancer_agent.model.resources import HealthMonitor

NOTHING: tuple[Any, ...] = (None, "", {})


class MemberDocument(Document):
    """``type`` and ``cookie_name`` speak of the pool, ``healthmonitor`` of its monitor."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        carried, own = parted(body, self.kind.model.carried)
        said = {name: value for name, value in carried.items() if value not in NOTHING}
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

    def operations(self, write: Write, reading: Reading) -> tuple[Operation, ...]:
        return (write, *_carried(reading.values, write.place.prefix))


def _carried(values: Mapping[str, Any], prefix: str) -> Iterator[Operation]:
    """Yield what the member says of its pool, and of the pool's monitor."""
    persistence = {name: values[name] for name in ("type", "cookie_name") if name in values}
    if persistence:
        place = Place({"session_persistence": ""}, prefix)
        yield Carry("pools", {"session_persistence": persistence}, persistence, place=place)
    if monitor := values.get("healthmonitor"):
        place = Place(prefix=f"{prefix}/healthmonitor")
        yield Carry("healthmonitors", monitor, {"healthmonitor": monitor}, place=place)
