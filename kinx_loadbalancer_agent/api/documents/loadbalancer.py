"""A load balancer: LBaaS sends its address inside ``vip``."""

from collections.abc import Mapping
from typing import Any

from kinx_loadbalancer_agent.api.documents.document import Document, Reading
from kinx_loadbalancer_agent.errors import Fault


class LoadBalancerDocument(Document):
    """``vip.ip_address`` is another name of ``vip_address``."""

    def read(self, body: Mapping[str, Any], *, partial: bool = False) -> Reading:
        vip = body.get("vip")
        reading = super().read(body, partial=partial)
        if vip is not None and not isinstance(vip, Mapping):
            reading.faults.append(Fault("/vip", "must be an object"))
        if not isinstance(vip, Mapping) or "ip_address" not in vip:
            return reading
        nested = self._read(self.kind.model, {"vip_address": vip["ip_address"]}, partial=True)
        reading.faults += [Fault("/vip/ip_address", fault.detail) for fault in nested.faults]
        if nested.faults or (vip["ip_address"] is None and not partial):
            return reading
        inside = nested.values["vip_address"]
        if reading.values.get("vip_address", inside) != inside:
            reading.faults.append(Fault("/vip/ip_address", "differs from vip_address"))
        reading.values["vip_address"] = inside
        reading.at["vip_address"] = "/vip/ip_address"
        return reading
