"""The lab: a client behind two routers, load balancers and back ends, and what drivers send them.

client --- router 1 ---+--- segment 10.40.252.0/24 --- load balancers, back ends
       `-- router 2 ---'
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tests.lab.network import Namespace, Network, join
from tests.lab.node import API, Node
from tests.lab.router import Change, Router
from tests.lab.traffic import CHECKOUT, COMMAND, Seen, traffic
from tests.machine import wait_until

SAMPLES = CHECKOUT / "samples/requests"
SEGMENT = "10.40.252"
GATEWAYS = (f"{SEGMENT}.2", f"{SEGMENT}.3")
NODES = tuple(f"{SEGMENT}.{host}" for host in (235, 234, 233, 232))
HOSTNAMES = (
    "lbv-37f0c3aa-a754-4f2c-9712-e35422002cea",
    "lbv-6f07625e-4731-4532-a429-dc7adf1e79d3",
    "lbv-3",
    "lbv-4",
)
"""What the load balancers at NODES are called; the first two are of the samples."""

BACK_ENDS = (f"{SEGMENT}.101", f"{SEGMENT}.102")
BACK_END_PORT = 8080
CLIENT = "10.40.254.1"
LINKS = (("10.40.253.0", "10.40.253.1"), ("10.40.253.2", "10.40.253.3"))  # client, router
VIP, PORT = "1.201.0.47", 80
ANYWHERE = {"id": "any", "protocol": "HTTP", "vip_address": "0.0.0.0", "protocol_port": 8000}
"""A listener of every VIP, so that a VIP is served as soon as it is there."""

RETURN_SECONDS = 30.0
REQUESTS_END_SECONDS = 0.5


def sample(name: str, **changes: Any) -> dict[str, Any]:
    """Return the document *name* of samples/requests with *changes*."""
    (path,) = SAMPLES.glob(f"*-{name}.json")
    return {**json.loads(path.read_text()), **changes}


def speaker_of(node: Node) -> dict[str, Any]:
    """Return the document that has *node* announce the VIP: each node in an AS of its own."""
    number = 50_000 + int(node.address.rpartition(".")[2])
    place = {"hostname": node.hostname, "inter_as_number": number, "vm_addr": node.address}
    return sample("quagga", vip_addr=VIP, **place)


def driver_of(node: Node) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a driver sends to *node*, in its order, and where."""
    pool = sample("pool")
    members = f"{API}/pools/{pool['id']}/members"
    yield f"{API}/loadbalancers", sample("loadbalancer", vip={"ip_address": VIP})
    for hostname, address in zip(HOSTNAMES, NODES, strict=True):
        yield f"{API}/peers", sample("peer-one", hostname=hostname, address=address)
    yield "/api/quagga", speaker_of(node)
    yield f"{API}/listeners", sample("listener", vip_address=VIP, protocol_port=PORT)
    yield f"{API}/pools", pool
    for name, address in zip(("member-one", "member-two"), BACK_ENDS, strict=True):
        yield members, sample(name, address=address, protocol_port=BACK_END_PORT)
    yield f"{API}/healthmonitors", sample("healthmonitor")


class Lab:
    """What is there; ``with lab(...)`` builds and ends it.

    bfd: as the agent's setting of that name, for the nodes and the routers.
    """

    def __init__(self, network: Network, directory: Path, bfd: str) -> None:
        self.network = network
        self.nodes: list[Node] = []
        self.routers: list[Router] = []
        self._directory = directory
        self.bfd = bfd

    # --- building ---------------------------------------------------------------------------

    def build(self, nodes: int) -> None:
        """Start all, tell the nodes what drivers send, and wait until the routers know them."""
        self.network.begin()
        self.client = self.network.namespace("client")
        for number, (address, link) in enumerate(zip(GATEWAYS, LINKS, strict=True), 1):
            self._add_router(f"r{number}", address, link)
        hops = " ".join(f"nexthop via {there}" for _, there in LINKS)
        self.client.ip(f"addr add {CLIENT}/32 dev lo")
        self.client.ip(f"route add default src {CLIENT} {hops}")
        _spread(self.client, seed=3)
        back = self.network.station("back", *(f"{address}/24" for address in BACK_ENDS))
        back.start([*COMMAND, "answer", str(BACK_END_PORT), *BACK_ENDS], cwd=CHECKOUT)
        for _ in range(nodes):
            self.start_node()
        for node in self.nodes:
            wait_until(node.is_ready, RETURN_SECONDS)
            self.tell(node)
        self.settle()

    def start_node(self) -> Node:
        """Add a load balancer that was told nothing yet; do not wait for its agent."""
        number = len(self.nodes) + 1
        address, hostname = NODES[number - 1], HOSTNAMES[number - 1]
        namespace = self.network.station(f"lb{number}", f"{address}/24")
        hops = " ".join(f"nexthop via {gateway}" for gateway in GATEWAYS)
        namespace.ip(f"route add default {hops}")
        namespace.sysctl(
            ip_nonlocal_bind=1,
            conf__all__rp_filter=2,
            conf__all__arp_ignore=1,
            conf__all__arp_announce=2,
        )
        node = Node(namespace, self._directory, address, hostname, self.bfd)
        self.nodes.append(node)
        node.speaker.start()
        node.start_agent()
        return node

    def tell(self, node: Node) -> float:
        """Tell *node* what drivers send; return when that began."""
        begun = time.time()
        for path, document in driver_of(node):
            node.tell("POST", path, document)
        return begun

    def copy(self, one: Node, other: Node) -> float:
        """Tell *other* what *one* is, but for who it is; return when that began."""
        quagga = speaker_of(other)
        begun = time.time()
        other.tell("PUT", "/api/state", one.state() | {"quagga": quagga})
        return begun

    def remove(self, node: Node) -> None:
        """Take *node* away for good, as an operator would: out of traffic first."""
        begun = time.time()
        node.tell("PUT", "/api/quagga/drain", {"drain": True})
        self.withdrawn(node, begun)
        time.sleep(REQUESTS_END_SECONDS)
        self.nodes.remove(node)
        self.network.remove(node.namespace)
        node.clean()

    def _add_router(self, name: str, address: str, link: tuple[str, str]) -> None:
        namespace = self.network.station(name, f"{address}/24")
        here, there = link
        join(self.client, f"{here}/31", namespace, f"{there}/31")
        namespace.ip(f"route add {CLIENT}/32 via {here}")
        namespace.sysctl(ip_forward=1, conf__all__rp_filter=0)
        _spread(namespace, seed=len(self.routers) + 1)
        router = Router(namespace, self._directory / f"{name}-frr", address, NODES, self.bfd)
        self.routers.append(router)
        router.start()

    # --- looking ----------------------------------------------------------------------------

    def traffic(self) -> contextlib.AbstractContextManager[Seen]:
        """Have the client ask the VIP for the time of a block."""
        return traffic(self.client, VIP, PORT)

    def announced(self, node: Node, since: float, addresses: Collection[str] = (VIP,)) -> float:
        """Wait until both routers send *addresses* to *node*; return when the later one did."""
        return max(self._became(node, since, addresses, there=True))

    def returned(self, node: Node, since: float) -> float:
        """Wait until both routers send the VIP to *node* again; return when the earlier one did."""
        return min(self._became(node, since, (VIP,), there=True))

    def withdrawn(self, node: Node, since: float, addresses: Collection[str] = (VIP,)) -> float:
        """Wait until no router sends *addresses* to *node*; return when the later one stopped."""
        return max(self._became(node, since, addresses, there=False))

    def changes(self, since: float) -> list[Change]:
        """Return what has changed in the kernels of the routers since then."""
        return [change for router in self.routers for change in router.changes(since)]

    def settle(self) -> None:
        """Wait until every node is as it should be."""
        for node in self.nodes:
            wait_until(node.is_ready, RETURN_SECONDS)
            self.announced(node, 0.0)

    def _became(
        self, node: Node, since: float, addresses: Collection[str], *, there: bool
    ) -> list[float]:
        return [
            router.wait_for(node.address, addresses, since, RETURN_SECONDS, there=there)
            for router in self.routers
        ]

    def end(self) -> None:
        """End all that was started."""
        self.network.end()
        for node in self.nodes:
            node.clean()
        for router in self.routers:
            router.speaker.clean()


@contextlib.contextmanager
def lab(nodes: int = 2, bfd: str = "off") -> Iterator[Lab]:
    """A lab for the time of the block; nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="klab", dir="/tmp"))  # short, as sockets want it
    try:
        directory.chmod(0o711)  # FRR's daemons are not root
        found = Lab(Network(f"klab{os.getpid()}-"), directory, bfd)
        try:
            found.build(nodes)
            yield found
        finally:
            found.end()
    finally:
        shutil.rmtree(directory)


def _spread(namespace: Namespace, *, seed: int) -> None:
    """Choose the way of a connection by its ports, in each namespace by another hash."""
    namespace.sysctl(fib_multipath_hash_policy=1, fib_multipath_hash_seed=seed)
