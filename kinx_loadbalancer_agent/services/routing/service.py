"""The speaker's configuration, checked by ``vtysh -C`` and kept in its file.

Nothing applies it to a running daemon yet, and the condition says so. This module must never
decide what is announced.
"""

import re
from collections.abc import Mapping
from typing import Any

from kinx_loadbalancer_agent.engine.ports import Claim
from kinx_loadbalancer_agent.errors import CheckRefused, ProgramMissing
from kinx_loadbalancer_agent.model.resources import Quagga, Resource, Vip
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.routing import view
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import RoutingSettings
from kinx_loadbalancer_agent.system import files, process, sockets
from kinx_loadbalancer_agent.system.clock import Deadline

MARK = b"! kinx_loadbalancer_agent writes this file; edits are undone.\n"
FILES = {"frr": "frr.conf", "quagga": "bgpd.conf"}
REFUSED = re.compile(r"line (?P<line>\d+): % (?P<words>[^:]*): *(?P<text>.*)")
NOT_APPLIED = "written, not applied: the routing daemon reads it when it starts"
UNKNOWN_VIP = {
    "assigned": None,
    "served": None,
    "announced": None,
    "since": None,
    "reason": NOT_APPLIED,
}
UNKNOWN_SESSION = {
    "gateway": None,
    "state": None,
    "uptime_seconds": None,
    "prefixes_sent": None,
    "last_error": None,
}


class Routing:
    """The speaker of one node (Service of engine.ports)."""

    name = "routing"
    condition = "RoutingApplied"
    kinds = awaited = frozenset({"quagga", "vips"})

    def __init__(self, settings: RoutingSettings, templates: Templates) -> None:
        self._settings = settings
        self._templates = templates
        self._path = settings.directory / FILES[settings.dialect]

    def render(self, state: State) -> bytes:
        shown = view.view(state, self._settings)
        if shown is None:
            return b""
        template = f"routing/{self._settings.dialect}.conf.j2"
        return MARK + self._templates.render(template, {"bgp": shown})

    def readable(self, content: bytes) -> str:
        password = self._settings.password
        return content.decode().replace(f" password {password}\n", " password ...\n")

    def check(self, content: bytes, deadline: Deadline) -> None:
        """Ask ``vtysh -C``, which knows the syntax of FRR and takes Quagga's; where it is missing
        the configuration goes unchecked.

        bgpd's own ``-C`` ends with 0 whatever it reads (measured on 8.4.4 and 10.3).
        """
        with files.scratch() as directory:
            path = directory / self._path.name
            files.write(path, content, mode=0o600)
            try:
                ended = process.run(["vtysh", "-C", "-f", str(path)], deadline.remaining())
            except ProgramMissing:
                return
        if ended.status != 0:
            said = ended.stdout + ended.stderr
            first = REFUSED.search(said)
            words = f"{first['words'].split('[')[0].lower()}: {first['text']}" if first else said
            raise CheckRefused(words.strip()[-500:], program="vtysh")

    def observe(self, deadline: Deadline) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def plan(self, state: State, observation: Any) -> tuple[str, ...]:
        wanted = self.render(state)
        if wanted == observation or (not wanted and not observation.startswith(MARK)):
            return ()
        return (f"write {self._path}" if wanted else f"remove {self._path}",)

    def apply(self, state: State, observation: Any, deadline: Deadline) -> None:
        content = self.render(state)
        if not content:
            files.remove(self._path)
            return
        files.make_directory(self._path.parent, 0o750)
        if observation and not observation.startswith(MARK):
            aside = self._path.with_name(f"{self._path.name}.before-kinx")
            files.put_aside(self._path, aside)
        mode = 0o600 if self._settings.password else 0o640
        files.write(self._path, content, mode=mode, owner_of=self._path.parent)

    def claim(self, state: State) -> Claim:
        if not self.render(state):
            return Claim(self.condition, "True", "NoSpeaker", "there is no BGP speaker")
        return Claim(self.condition, "False", "NotApplied", NOT_APPLIED, "warning")

    def shows(self, resource: Resource, shown: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(resource, Vip):
            return _observed(resource.vip_addr)
        if not isinstance(resource, Quagga):
            return {}
        gateways = filter(None, (resource.primary_gateway_addr, resource.secondary_gateway_addr))
        return {
            "vips": [vip | _observed(vip["address"]) for vip in shown["vips"]],
            "sessions": [UNKNOWN_SESSION | {"gateway": gateway} for gateway in gateways],
        }


def _observed(address: str) -> dict[str, Any]:
    return UNKNOWN_VIP | {"assigned": sockets.is_local(address)}
