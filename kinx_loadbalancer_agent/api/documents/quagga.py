"""The speaker: the original's document names one of its VIPs, which are resources of their own."""

from collections.abc import Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Reading, parted
from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.intents import Create, Expect, Operation, Place, Write
from kinx_loadbalancer_agent.model.resources import Vip


class QuaggaDocument(Document):
    """A POST makes the speaker and adds ``vip_addr``; a PUT may repeat one that is there."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        given, own = parted(body, ("vip_addr",))
        reading = super().read(own, partial=partial)
        vip = self._read(Vip, given, partial=partial)
        reading.faults += vip.faults
        if partial and given.get("vip_addr", "") is None:
            reading.faults.append(Fault("/vip_addr", "has no default: must not be null"))
        if vip.values.get("vip_addr") is not None:
            reading.beside = vip.values
        return reading

    def operations(self, write: Write, reading: Reading) -> tuple[Operation, ...]:
        if not reading.beside:
            return (write,)
        if isinstance(write, Create):
            place = Place(prefix=write.place.prefix)
            return write, type(write)(Vip.kind, reading.beside, place=place)
        return write, Expect(Vip.kind, reading.beside["vip_addr"], place=Place(prefix="/vip_addr"))
