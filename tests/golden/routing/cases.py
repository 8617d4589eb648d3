"""The cases of routing: settings and documents in, the file of the routing daemon out."""

import json
from pathlib import Path
from typing import Any

from kinx_loadbalancer_agent.services.routing.service import Routing
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import RoutingSettings
from tests.unit.desired import Desired

DIRECTORY = Path(__file__).with_name("cases")
CASES = sorted(path.name for path in DIRECTORY.iterdir() if path.is_dir())
FILES = {"frr": "frr.conf", "quagga": "bgpd.conf"}


def rendered(case: str) -> dict[str, bytes]:
    """Return the file that the agent makes of *case*, by its name."""
    given: dict[str, Any] = json.loads((DIRECTORY / case / "state.json").read_text())
    desired = Desired()
    for document in given["documents"]:
        desired.post(document["kind"], document["body"], document.get("parent", ""))
    settings = RoutingSettings(**given["settings"])
    return {FILES[settings.dialect]: Routing(settings, Templates()).render(desired.state)}


def expected(case: str) -> dict[str, bytes]:
    """Return the file that *case* holds, by its name."""
    return {path.name: path.read_bytes() for path in (DIRECTORY / case).glob("*.conf")}
