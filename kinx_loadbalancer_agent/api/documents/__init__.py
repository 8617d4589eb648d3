"""How the documents of a kind become operations: a class where the wire differs from the value."""

from collections.abc import Mapping

from kinx_loadbalancer_agent.api.documents.document import Document
from kinx_loadbalancer_agent.api.documents.healthmonitor import HealthMonitorDocument
from kinx_loadbalancer_agent.api.documents.loadbalancer import LoadBalancerDocument
from kinx_loadbalancer_agent.api.documents.member import MemberDocument
from kinx_loadbalancer_agent.api.documents.quagga import QuaggaDocument

DOCUMENTS: Mapping[str, type[Document]] = {
    "loadbalancers": LoadBalancerDocument,
    "members": MemberDocument,
    "healthmonitors": HealthMonitorDocument,
    "quagga": QuaggaDocument,
}

__all__ = ["DOCUMENTS", "Document"]
