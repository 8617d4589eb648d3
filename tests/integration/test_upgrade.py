"""What an earlier agent kept is used by this one as it is.

``tests/golden/state/<commit>.sql`` is the store of the agent of that commit, after one of each
kind it knew was made by its API, and some were changed and deleted (``sqlite3 state.db .dump``).
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kinx_loadbalancer_agent.model.kinds import Kinds
from tests.conftest import need
from tests.contract.documents import LISTENERS, loopback
from tests.machine import Machine

STATES = sorted((Path(__file__).parents[1] / "golden/state").glob("*.sql"))


@dataclass
class Upgraded:
    """An agent on the state of an earlier one, at addresses of its own."""

    machine: Machine
    resources: dict[str, dict[str, Any]]
    """What the earlier one had kept, by its URL."""
    changes: list[tuple[Any, ...]]
    """The generation, the time and the caller of each change it had kept."""

    def others(self) -> dict[str, Any]:
        """Return what is there now in the place of each resource that is not as it was."""
        found = {url: self.machine.get(url).json for url in self.resources}
        was = self.resources
        return {url: now for url, now in found.items() if not was[url].items() <= now.items()}


@pytest.fixture(params=STATES, ids=lambda path: path.stem)
def upgraded(request: pytest.FixtureRequest) -> Iterator[Upgraded]:
    need("haproxy")
    kinds, resources = Kinds(), {}
    machine = Machine(environment={"KINX_AGENT_NODE_NAME": "lbv-1"})
    path = machine.root / "opt/kinx_loadbalancer_agent/state.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(request.param.read_text().replace("127.0.98.1", loopback()))
        changes = database.execute("SELECT generation, requested_at, who FROM changes").fetchall()
        for kind, parent, id, text in database.execute("SELECT * FROM resources"):
            at = kinds[kind].collection.replace("<parent>", parent)
            url = at if kinds[kind].is_singleton else f"{at}/{id}"
            private = kinds[kind].model.private
            body = json.loads(text)
            resources[url] = {name: body[name] for name in body.keys() - private}
    try:
        yield Upgraded(machine.start(), resources, changes)
    finally:
        machine.end()


def test_the_state_of_an_earlier_agent_is_there_and_live(upgraded: Upgraded) -> None:
    machine = upgraded.machine

    served = {line.split(",")[0] for line in machine.show("show stat").splitlines()}
    listed = machine.get("/api/changes").json["changes"]

    assert upgraded.others() == {}
    assert {"web", "mail", "backend-web", "backend-smtp"} <= served
    assert machine.condition("Applied")["status"] == "True"
    assert [(one["generation"], one["requested_at"], one["who"]) for one in listed] == (
        upgraded.changes
    )


def test_the_state_of_an_earlier_agent_is_changed_and_restored(upgraded: Upgraded) -> None:
    machine, known = upgraded.machine, len(upgraded.changes)

    changed = machine.put(f"{LISTENERS}/web", {"name": "new", "connection_limit": 7})
    machine.stop()
    machine.start()
    kept = machine.get(f"{LISTENERS}/web").json
    tried = [
        machine.post(f"/api/changes/{number}/restore?dry_run=true", None).status
        for number in range(1, known + 2)
    ]
    restored = machine.post(f"/api/changes/{known}/restore", None)

    assert (changed.status, changed.json["applied"]["change"]) == (200, known + 1)
    assert (kept["name"], kept["connection_limit"]) == ("new", 7)
    assert tried == [200] * (known + 1)
    assert restored.status in (200, 202)  # 202: the speaker's file is written, FRR was not told
    assert upgraded.others() == {}
