"""What happens to the lab, one act after the other, and what is wanted of it.

An act finds the lab settled and leaves it as it was. "Traffic moved" is the time from the event to
the beginning of the last request that was lost, or that the node answered, whichever is later.
"""

import contextlib
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.lab.lab import ANYWHERE, RETURN_SECONDS, VIP, Lab, speaker_of
from tests.lab.node import API, Node
from tests.lab.traffic import Seen
from tests.machine import wait_until

CALM_SECONDS = 1.5  # of traffic before and after an event
WATCH_SECONDS = 4.0  # in which what happened to the agent would have shown
SPREAD_SECONDS = 6.0
PAUSE_SECONDS = 0.02
MANY, MORE, DRAINS = 1000, 20, 2


@dataclass(frozen=True)
class Figure:
    """What an act found, and the most that is wanted; None: it is only told."""

    what: str
    found: float
    unit: str = ""
    most: float | None = None

    @property
    def is_met(self) -> bool | None:
        return None if self.most is None else self.found <= self.most


@dataclass(frozen=True)
class Result:
    """The figures of one act, and its traffic where it had some."""

    figures: Sequence[Figure]
    seen: Seen | None = None


@dataclass(frozen=True)
class Act:
    """What is played, in a lab with this BFD (the agent's setting of that name)."""

    play: Callable[[Lab], Result]
    bfd: str = "off"

    @property
    def name(self) -> str:
        return self.play.__name__.replace("_", "-")

    @property
    def story(self) -> str:
        return (self.play.__doc__ or "").rstrip(".")


@contextlib.contextmanager
def calm_traffic(lab: Lab, calm_seconds: float = CALM_SECONDS) -> Iterator[Seen]:
    """Traffic for the time of the block, and for *calm_seconds* before and after it."""
    with lab.traffic() as seen:
        time.sleep(calm_seconds)
        yield seen
        time.sleep(calm_seconds)


# --- a node is started, or taken out ------------------------------------------------------------


def cold_start(lab: Lab) -> Result:
    """The driver's document of the speaker, told to each node while its bgpd knows nothing."""
    took = []
    for node in lab.nodes:
        only_anywhere = node.state() | {"listeners": [ANYWHERE], "pools": [], "quagga": None}
        with node.holding(only_anywhere):
            lab.withdrawn(node, 0.0)
            node.speaker.kill("bgpd")
            node.speaker.start()
            begun = time.time()
            node.tell("POST", "/api/quagga", speaker_of(node))
            took.append(lab.announced(node, begun) - begun)
        lab.settle()
    return Result([Figure("VIP in both routers' kernels", _ms(max(took)), "ms", 2000)])


def node_added(lab: Lab) -> Result:
    """One more node beside those with traffic, told a driver's documents one after the other."""
    return _one_more_node(lab, lab.tell)


def node_copied(lab: Lab) -> Result:
    """The same, told the whole state of another node in one document."""
    return _one_more_node(lab, lambda node: lab.copy(lab.nodes[0], node))


def drain(lab: Lab) -> Result:
    """A node is drained and comes back, twice."""
    node, took = lab.nodes[0], []
    with lab.traffic() as seen:
        for _ in range(DRAINS):
            time.sleep(CALM_SECONDS)
            event = time.time()
            node.tell("PUT", "/api/quagga/drain", {"drain": True})
            lab.withdrawn(node, event)
            time.sleep(CALM_SECONDS)
            begun = time.time()
            node.tell("PUT", "/api/quagga/drain", {"drain": False})
            took.append((event, lab.returned(node, begun)))
        time.sleep(CALM_SECONDS)
    moved = max(seen.moved(node.address, event, back) - event for event, back in took)
    lost = 1000 * len(seen.lost) / len(seen.requests)
    figures = [
        # With a third node the others' connections change their way, too.
        Figure("requests lost of 1000", lost, "", 0 if len(lab.nodes) < 3 else 1),
        _lost_by_node(lab, seen),
        Figure("traffic moved", _ms(moved), "ms"),
    ]
    return Result(figures, seen)


def spread(lab: Lab) -> Result:
    """New connections, as the routers share them among the nodes."""
    with lab.traffic() as seen:
        time.sleep(SPREAD_SECONDS)
    shares, fair = seen.shares(), len(seen.requests) / len(lab.nodes)
    figures = [
        _lost(seen),
        Figure("busiest node, of a fair share", max(shares.values()) / fair, "x", 1.2),
        Figure("idlest node, of a fair share", min(shares[n.address] for n in lab.nodes) / fair),
    ]
    return Result(figures, seen)


# --- something ends, or hangs -------------------------------------------------------------------


def haproxy_killed(lab: Lab) -> Result:
    """HAProxy's master and worker get SIGKILL; the agent starts it again."""
    node = lab.nodes[0]
    with calm_traffic(lab) as seen:
        event = node.kill_haproxy()
        back = lab.returned(node, lab.withdrawn(node, event))
    return Result([_moved(seen, node, event, back, 250)], seen)


def haproxy_hung(lab: Lab) -> Result:
    """HAProxy's worker gets SIGSTOP; the agent replaces it."""
    node = lab.nodes[0]
    with calm_traffic(lab) as seen, node.hung_haproxy() as event:
        back = lab.returned(node, lab.withdrawn(node, event))
    return Result([_moved(seen, node, event, back, 1000)], seen)


def agent_killed(lab: Lab) -> Result:
    """All processes of the agent get SIGKILL; later it is started again."""
    return _without_agent(lab, lab.nodes[0].kill_agent, WATCH_SECONDS)


def agent_restarted(lab: Lab) -> Result:
    """The agent gets SIGTERM, and is started again at once."""
    return _without_agent(lab, lab.nodes[0].stop_agent, 0.0)


def both_killed(lab: Lab) -> Result:
    """The agent gets SIGKILL and then HAProxy, so that nobody starts it again."""
    node = lab.nodes[0]
    with calm_traffic(lab) as seen:
        node.kill_agent()
        event = node.kill_haproxy()
        gone = lab.withdrawn(node, event)
        time.sleep(CALM_SECONDS)
        node.start_agent()
        back = lab.returned(node, gone)
    return Result([_moved(seen, node, event, back, 1000)], seen)


def bgpd_killed(lab: Lab) -> Result:
    """bgpd gets SIGKILL, and is started again as watchfrr does it."""
    node = lab.nodes[0]
    with calm_traffic(lab) as seen:
        event = time.time()
        node.speaker.kill("bgpd")
        lab.withdrawn(node, event)
        time.sleep(CALM_SECONDS)
        begun = time.time()
        node.speaker.start()
        took = lab.announced(node, begun) - begun
    figures = [
        _lost(seen),
        _lost_by_node(lab, seen),
        Figure("announced again after its restart", _ms(took), "ms", 1000),
    ]
    return Result(figures, seen)


def bgpd_hung(lab: Lab) -> Result:
    """bgpd gets SIGSTOP; changes of a member's weight go on meanwhile."""
    node = lab.nodes[0]
    before = _weight_changes(node)
    node.speaker.kill("bgpd", signal.SIGSTOP)
    try:
        meanwhile = _weight_changes(node)
    finally:
        node.speaker.kill("bgpd", signal.SIGCONT)
    otherwise = max(before, _weight_changes(node))
    figures = [
        Figure("member PUT p50 before or after", _ms(otherwise), "ms"),
        Figure("member PUT p50 meanwhile", _ms(meanwhile), "ms", 1.3 * _ms(otherwise)),
    ]
    return Result(figures)


def unplugged(lab: Lab) -> Result:
    """The node's virtual cable is pulled; without BFD the hold timer notices."""
    return _unplugged(lab, 9500)


def unplugged_300x3(lab: Lab) -> Result:
    """The same with BFD every 300 ms, three of which may miss."""
    return _unplugged(lab, 1200)


def unplugged_100x3(lab: Lab) -> Result:
    """The same with BFD every 100 ms."""
    return _unplugged(lab, 500)


# --- many VIPs ----------------------------------------------------------------------------------


def thousand_vips(lab: Lab) -> Result:
    """One document with 1000 VIPs, told to one node."""
    node, addresses = lab.nodes[0], _vips(MANY)
    with node.holding(_anywhere_too(node)):
        begun = time.time()
        node.tell("PUT", "/api/quagga/vips", {"vips": [{"vip_addr": one} for one in addresses]})
        took = lab.announced(node, begun, addresses) - begun
    lab.withdrawn(node, begun, addresses[1:])
    return Result([Figure(f"{MANY} VIPs in both routers' kernels", _ms(took), "ms", 2000)])


def one_more_vip(lab: Lab) -> Result:
    """One more VIP after the other, on a node that has 1000."""
    node, addresses = lab.nodes[0], _vips(MANY + MORE)
    took: list[float] = []
    with node.holding(_anywhere_too(node)):
        many = [{"vip_addr": one} for one in addresses[:MANY]]
        node.tell("PUT", "/api/quagga/vips", {"vips": many})
        lab.announced(node, 0.0, addresses[:MANY])
        for address in addresses[MANY:]:
            time.sleep(10 * PAUSE_SECONDS)
            begun = time.time()
            node.tell("POST", "/api/quagga/vips", {"vip_addr": address})
            took.append(lab.announced(node, begun, [address]) - begun)
    lab.withdrawn(node, begun, addresses[1:])
    p95 = sorted(took)[math.ceil(0.95 * MORE) - 1]
    figures = [
        Figure("POST to both routers' kernels, p95", _ms(p95), "ms", 300),
        Figure("median", _ms(statistics.median(took)), "ms"),
    ]
    return Result(figures)


ACTS = (
    Act(cold_start),
    Act(spread),
    Act(haproxy_killed),
    Act(haproxy_hung),
    Act(agent_killed),
    Act(agent_restarted),
    Act(both_killed),
    Act(bgpd_killed),
    Act(bgpd_hung),
    Act(drain),
    Act(node_added),
    Act(node_copied),
    Act(one_more_vip),
    Act(thousand_vips),
    Act(unplugged),
    Act(unplugged_300x3, "300x3"),
    Act(unplugged_100x3, "100x3"),
)


# ------------------------------------------------------------------------------------------------


def _unplugged(lab: Lab, most: float) -> Result:
    node = lab.nodes[0]
    with calm_traffic(lab) as seen:
        event = time.time()
        lab.network.unplug(node.namespace)
        gone = lab.withdrawn(node, event)
        time.sleep(CALM_SECONDS)
        lab.network.plug(node.namespace)
        back = lab.returned(node, gone)
    return Result([_moved(seen, node, event, back, most)], seen)


def _one_more_node(lab: Lab, tell: Callable[[Node], float]) -> Result:
    with calm_traffic(lab) as seen:
        node = lab.start_node()
        wait_until(node.is_ready, RETURN_SECONDS)
        begun = tell(node)
        took = lab.announced(node, begun) - begun
        time.sleep(CALM_SECONDS)
        lab.remove(node)
    answered = [one.begun for one in seen.requests if one.node == node.address]
    assert answered, f"{node.address} answered nothing"
    figures = [
        _lost_by_node(lab, seen),
        Figure("VIP in both routers' kernels", _ms(took), "ms", 2000),
        Figure("first request to it", _ms(min(answered) - begun), "ms"),
    ]
    return Result(figures, seen)


def _without_agent(lab: Lab, end: Callable[[], Any], seconds: float) -> Result:
    node = lab.nodes[0]
    with lab.traffic() as seen:
        time.sleep(CALM_SECONDS)
        event = time.time()
        end()
        time.sleep(seconds)
        node.start_agent()
        wait_until(node.is_ready, RETURN_SECONDS)
        time.sleep(WATCH_SECONDS)
    return Result([_lost(seen), Figure("route changes", len(lab.changes(event)), "", 0)], seen)


def _weight_changes(node: Node) -> float:
    """Return the median of what a member's PUT takes, in seconds, one after the other."""
    (pool,) = node.state()["pools"]
    path = f"{API}/pools/{pool['id']}/members/{pool['members'][0]['id']}"
    took: list[float] = []
    begun = time.monotonic()
    while time.monotonic() < begun + WATCH_SECONDS:
        at = time.perf_counter()
        node.tell("PUT", path, {"weight": 1 + len(took) % 7})
        took.append(time.perf_counter() - at)
        time.sleep(PAUSE_SECONDS)
    node.tell("PUT", path, {"weight": 1})
    return statistics.median(took)


def _anywhere_too(node: Node) -> Any:
    state = node.state()
    return state | {"listeners": [*state["listeners"], ANYWHERE]}


def _vips(count: int) -> list[str]:
    """Return that many VIPs, the lab's first."""
    return [VIP, *(f"1.201.{1 + n // 250}.{1 + n % 250}" for n in range(count - 1))]


def _lost(seen: Seen) -> Figure:
    return Figure("requests lost", len(seen.lost), "", 0)


def _lost_by_node(lab: Lab, seen: Seen) -> Figure:
    """Return how many were lost for another reason than that a route changed under them."""
    changes = [change.at for change in lab.changes(0.0)]
    lost = seen.lost_apart_from(changes)
    return Figure("lost, not under way as a route changed", len(lost), "", 0)


def _moved(seen: Seen, node: Node, event: float, back: float, most: float) -> Figure:
    moved = seen.moved(node.address, event, back) - event
    return Figure("traffic moved", _ms(moved), "ms", most)


def _ms(seconds: float) -> float:
    return 1000 * seconds
