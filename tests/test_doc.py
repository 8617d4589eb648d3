"""doc/operating.rst explains every condition that is stated, and every metric there is."""

import re
from pathlib import Path

from tests.machine import Machine

CHECKOUT = Path(__file__).parent.parent
DOC = CHECKOUT / "doc/operating.rst"
PACKAGE = CHECKOUT / "kinx_loadbalancer_agent"
STATED = re.compile(r'(?:conditions\.set\(|Claim\(|condition = |CONDITION = )\s*"([A-Z]\w+)"')


def test_every_condition_is_explained(shared: Machine) -> None:
    explained = set(re.findall(r"^``([A-Z]\w+)``$", DOC.read_text(), re.MULTILINE))

    stated = {found for path in PACKAGE.rglob("*.py") for found in STATED.findall(path.read_text())}
    shown = {one["type"] for one in shared.get("/api/status").json["conditions"]}

    assert len(stated) > 8
    assert stated | shown <= explained


def test_every_metric_is_explained(shared: Machine) -> None:
    explained = set(re.findall(r"``(kinx_\w+)``", DOC.read_text()))

    shown = re.findall(r"^# TYPE (kinx_\w+) ", shared.get("/metrics").body.decode(), re.MULTILINE)

    assert set(shown) <= explained
