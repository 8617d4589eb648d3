"""Which of the peers this node is. HAProxy drops a peers section that does not have it. Pure."""

from collections.abc import Callable, Mapping

from kinx_loadbalancer_agent.engine.ports import Claim
from kinx_loadbalancer_agent.model.resources import Resource

CONDITION = "PeersLocal"


def local(
    peers: Mapping[str, Resource], node_name: str, is_here: Callable[[str], bool], *, is_named: bool
) -> str:
    """Return the name of the local one of *peers*, '' when none is.

    It is the one that the setting names (*is_named*), else the one whose address is on this host,
    else the one with the host's name. Two addresses on this host need a name to tell them apart.
    """
    here = [name for name in sorted(peers) if is_here(getattr(peers[name], "address", ""))]
    if is_named or node_name in here or len(here) != 1:
        return node_name if node_name in peers else ""
    return here[0]


def claim(peers: Mapping[str, Resource], local: str, left_out: bool) -> Claim:
    """Return what is true of *peers* when *local* is this node."""
    if not peers:
        return Claim(CONDITION, "True", "NoPeers", "there are no peers")
    if left_out:
        message = f"cannot bind the address of peer {local}: stick tables are not shared"
        return Claim(CONDITION, "False", "CannotBind", message, "error")
    if not local:
        names = ", ".join(sorted(peers))
        message = f"none of the peers ({names}) is this node; see the setting node_name"
        return Claim(CONDITION, "False", "NoneLocal", message, "warning")
    return Claim(CONDITION, "True", "Local", f"this node is peer {local}")
