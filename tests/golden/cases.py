"""The cases: a directory each, with the documents that callers sent and the files that follow."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy.view import Node, Renderer
from kinx_loadbalancer_agent.services.text import Templates
from kinx_loadbalancer_agent.settings import HaproxySettings
from tests.unit.desired import Desired

DIRECTORY = Path(__file__).with_name("cases")
CASES = sorted(path.name for path in DIRECTORY.iterdir() if path.is_dir())
NODE = Node(
    node_name="lbv-37f0c3aa-a754-4f2c-9712-e35422002cea",
    is_root=True,
    settings=HaproxySettings(),  # its sockets are named only: ``haproxy -c`` binds nothing
)


def documents(case: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the documents of *case* in order: kind, body, parent."""
    for document in _given(case)["documents"]:
        yield document["kind"], document["body"], document.get("parent", "")


def rendered(case: str) -> dict[str, bytes]:
    """Return the files that the agent makes of the documents of *case*."""
    desired = Desired()
    for kind, body, parent in documents(case):
        desired.post(kind, body, parent)
    node = replace(NODE, is_root=_given(case)["is_root"])
    local = local_peer(case, desired.state)
    target = Renderer(desired.kinds, Templates(), node).render(desired.state, local_peer=local)
    return {name: part.content for name, part in target.parts.items()}


def local_peer(case: str, state: State) -> str:
    """Return the peer that the node of *case* is, '' while *state* does not have it."""
    name = str(_given(case).get("local_peer", ""))
    return name if name in state.table("peers") else ""


def expected(case: str) -> dict[str, bytes]:
    """Return the files that *case* holds."""
    return {path.name: path.read_bytes() for path in (DIRECTORY / case).glob("*.cfg")}


def _given(case: str) -> dict[str, Any]:
    given: dict[str, Any] = json.loads((DIRECTORY / case / "state.json").read_text())
    return given
