"""A router of the network that the nodes are in: what it learns of them, and when."""

import re
import subprocess
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.lab.frr import Speaker
from tests.lab.network import Namespace
from tests.machine import wait_until

AS_NUMBER = 60201
HOST_ROUTE = re.compile(
    r"\[(?P<at>[^]]+)\] (?P<gone>Deleted )?(?P<address>[0-9.]+) (?P<rest>.*proto bgp.*)"
)
GATEWAY = re.compile(r"\bvia ([0-9.]+)")

CONFIG = """\
frr defaults traditional
no zebra nexthop kernel enable
ip prefix-list hosts seq 5 permit 0.0.0.0/0 ge 32
ip prefix-list none seq 5 deny any
router bgp {as_number}
 bgp router-id {address}
 no bgp default ipv4-unicast
 bgp bestpath as-path multipath-relax
 timers bgp 3 9
{sessions}
 address-family ipv4 unicast
  maximum-paths 8
{policies}
 exit-address-family
exit
"""
SESSION = " neighbor {node} remote-as external\n neighbor {node} timers connect 5"
POLICY = """\
  neighbor {node} activate
  neighbor {node} prefix-list hosts in
  neighbor {node} prefix-list none out"""
BFD_SESSION = " neighbor {node} bfd\n neighbor {node} bfd profile lab"
BFD = """\
bfd
 profile lab
  detect-multiplier {count}
  receive-interval {interval}
  transmit-interval {interval}
 exit
exit
"""


@dataclass(frozen=True)
class Change:
    """A change of a route in the kernel; at: seconds, of time.time."""

    at: float
    address: str
    gateways: frozenset[str]


class Router:
    """A router with sessions to *nodes*; *bfd* as the agent's setting of that name."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        address: str,
        nodes: Sequence[str],
        bfd: str,
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.speaker = Speaker(namespace, directory, bfd=bfd != "off")
        self.speaker.config.write_text(_config(address, nodes, bfd))
        self._changes: list[Change] = []
        self._routes: dict[str, frozenset[str]] = {}

    def start(self) -> None:
        """Begin to watch the kernel's routes, then to speak."""
        monitor = ["ip", "-o", "-ts", "monitor", "route"]
        self._monitor = self.namespace.start(monitor, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._watch, daemon=True).start()
        self.speaker.start()

    def gateways(self, address: str) -> frozenset[str]:
        """Return the nodes that the kernel sends packets for *address* to."""
        return self._routes.get(address, frozenset())

    def changes(self, since: float) -> list[Change]:
        """Return what has changed since then."""
        return [change for change in tuple(self._changes) if change.at >= since]

    def wait_for(
        self, node: str, addresses: Collection[str], since: float, seconds: float, *, there: bool
    ) -> float:
        """Wait until *addresses* lead to *node*, or do not; return when that became so.

        What was so at *since* already, and has stayed, became so then.
        """
        try:
            wait_until(
                lambda: all((node in self.gateways(one)) is there for one in addresses), seconds
            )
        except AssertionError:
            what = "no route yet" if there else "a route still"
            raise AssertionError(f"{self.address} has {what} to {node}") from None
        became: dict[str, float] = {}
        was: set[str] = set()
        for change in tuple(self._changes):
            if (node in change.gateways) is not (change.address in was):
                was ^= {change.address}
                became[change.address] = change.at
        return max([since, *(became[one] for one in addresses if one in became)])

    def _watch(self) -> None:
        assert self._monitor.stdout is not None
        for line in self._monitor.stdout:
            found = HOST_ROUTE.match(line)
            if found is None:
                continue
            gateways = frozenset() if found["gone"] else frozenset(GATEWAY.findall(found["rest"]))
            at = datetime.fromisoformat(found["at"]).timestamp()
            self._changes.append(Change(at, found["address"], gateways))
            self._routes[found["address"]] = gateways


def _config(address: str, nodes: Sequence[str], bfd: str) -> str:
    parts = [SESSION, BFD_SESSION] if bfd != "off" else [SESSION]
    sessions = "\n".join(part.format(node=node) for node in nodes for part in parts)
    policies = "\n".join(POLICY.format(node=node) for node in nodes)
    head = CONFIG.format(as_number=AS_NUMBER, address=address, sessions=sessions, policies=policies)
    if bfd == "off":
        return head
    interval, count = bfd.split("x")
    return head + BFD.format(interval=interval, count=count)
