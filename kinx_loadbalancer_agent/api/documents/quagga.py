"""The speaker: the original's document names one of its VIPs, which are resources of their own."""

from collections.abc import Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Element, Reading
from kinx_loadbalancer_agent.errors import Fault
from kinx_loadbalancer_agent.model.intents import Create, Expect, Operation, Upsert
from kinx_loadbalancer_agent.model.resources import Vip


class QuaggaDocument(Document):
    """A POST makes the speaker and adds ``vip_addr``; a PUT may repeat one that is there."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        own = {name: value for name, value in body.items() if name != "vip_addr"}
        reading = super().read(own, partial=partial)
        given = {name: body[name] for name in body if name == "vip_addr"}
        vip = self._read(Vip, given, partial=partial)
        reading.faults += vip.faults
        if partial and given.get("vip_addr", "") is None:
            reading.faults.append(Fault("/vip_addr", "has no default: must not be null"))
        if vip.values.get("vip_addr") is not None:
            reading.values["vip_addr"] = vip.values["vip_addr"]
        return reading

    def creation(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        vip = {"vip_addr": reading.values.pop("vip_addr")}
        return (*super().creation(reading, parent, id), Create(Vip.kind, vip))

    def merging(self, reading: Reading, parent: str, id: str) -> tuple[Operation, ...]:
        vip = reading.values.pop("vip_addr", None)
        merging = super().merging(reading, parent, id)
        return merging if vip is None else (*merging, Expect(Vip.kind, vip, "/vip_addr"))

    def upserting(self, reading: Reading, element: Element) -> tuple[Operation, ...]:
        vip = reading.values.pop("vip_addr", None)
        speaker = super().upserting(reading, element)
        if vip is None:
            return speaker
        return (*speaker, Upsert(Vip.kind, {"vip_addr": vip}, prefix=element.prefix))
