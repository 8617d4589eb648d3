"""Any JSON, and what only looks like it: no answer is a 5xx, and HAProxy stays what the API says.

KINX_FUZZ_EXAMPLES=10000 sends so many documents to every kind.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st

from kinx_loadbalancer_agent.model.kinds import Kinds
from tests.contract import judge
from tests.fuzz import hostile
from tests.fuzz.caller import Caller
from tests.fuzz.conftest import FULL, law
from tests.fuzz.strategies import LOOPBACK, PORTS, TOKENS, Documents, Strategy
from tests.machine import Machine, free_port

pytestmark = pytest.mark.timeout(3600)

KINDS = Kinds()
ALL = [kind.name for kind in KINDS]
SCENE: dict[str, Any] = {
    "loadbalancers": [{"id": "a", "vip_address": "127.77.0.1"}],
    "listeners": [{"id": "a", "protocol": "HTTP", "protocol_port": 80}],
    "pools": [
        {
            "id": "a",
            "listener_id": "a",
            "protocol": "HTTP",
            "lb_algorithm": "ROUND_ROBIN",
            "healthmonitor": {"type": "HTTP", "delay": 60, "timeout": 5},
            "members": [{"id": "a", "address": "127.77.0.3", "protocol_port": 80}],
        },
        {"id": "b", "protocol": "TCP", "lb_algorithm": "SOURCE_IP"},
    ],
    "peers": [{"hostname": "a", "address": "127.77.0.2"}],
    "quagga": {
        "hostname": "a",
        "inter_as_number": 50235,
        "router_as_number": 60201,
        "vm_addr": "127.77.0.4",
        "primary_gateway_addr": "127.77.0.5",
        "vips": [{"vip_addr": "127.77.0.6"}],
    },
    "crontab": {"agent_addr": "a", "agent_port": 1, "tenant_id": "a", "vm_id": "a"},
}
"""What is there for documents to meet."""
TIDY_AFTER = 400
DOCUMENTS = Documents(
    names=st.sampled_from(("a", "b")) | TOKENS,
    addresses=LOOPBACK,
    fields={"protocol_port": PORTS, "port": PORTS},
)


class Client(Caller):
    """A caller who tidies up now and then."""

    def tries(self, sent: hostile.Request) -> None:
        """Send a document; the answer is decent."""
        self.send(*sent)
        if self.statuses.total() % TIDY_AFTER == 0:
            self.tidy()

    def tidy(self) -> None:
        """Leave there what documents should meet, and nothing else."""
        ports = {"listeners": "protocol_port", "peers": "port"}  # others use this machine too
        free = {
            kind: [one | {name: free_port()} for one in SCENE[kind]] for kind, name in ports.items()
        }
        scene = SCENE | free
        reply = self.send("PUT", "/api/state", json.dumps(scene).encode())
        assert reply.status in (200, 202)


@pytest.fixture(scope="module")
def set_up(shared: Machine) -> Iterator[Machine]:
    """A machine with the scene."""
    Client(shared).tidy()
    yield shared
    assert "Traceback" not in shared.log.read_text()


@pytest.mark.parametrize("kind", ALL)
def test_whatever_is_sent_the_answer_is_decent(set_up: Machine, kind: str) -> None:
    client = Client(set_up)
    right = hostile.written(DOCUMENTS.valid(kind))
    content = hostile.weighted(
        (2, right),
        (6, hostile.written(DOCUMENTS.changes(kind))),
        (48, hostile.written(hostile.nearly(DOCUMENTS, kind))),
        (25, hostile.written(hostile.anything(DOCUMENTS, kind))),
        (19, hostile.mangled(right, hostile.members(DOCUMENTS, kind))),
    )

    @law(300, FULL, Phase.generate)
    @given(sent=hostile.requests(DOCUMENTS, kind, content))
    def whatever_is_sent(sent: hostile.Request) -> None:
        client.tries(sent)

    whatever_is_sent()

    print(f"\n{kind}: {client.told()}")
    assert client.statuses.keys() >= {400, 422}
    assert client.statuses.keys() & {200, 201, 202}
    judge.assert_haproxy_agrees(set_up)
    assert set_up.condition("Applied")["status"] == "True"


def element(kind: str) -> Strategy[Any]:
    """Return what may stand where a document of *kind* should, in a larger one."""
    right, nearly = DOCUMENTS.valid(kind), hostile.nearly(DOCUMENTS, kind)
    return hostile.weighted((12, right), (1, nearly), (1, hostile.anything(DOCUMENTS, kind)))


MANY = {
    "/api/haproxy/pools/a/members": st.lists(DOCUMENTS.nested("members", element), max_size=4),
    "/api/haproxy/loadbalancers/a/tree": DOCUMENTS.tree("loadbalancers", element),
    "/api/state": DOCUMENTS.node(element),
}


@pytest.mark.parametrize("path", MANY)
def test_whatever_is_sent_of_many_resources_the_answer_is_decent(
    set_up: Machine, path: str
) -> None:
    client = Client(set_up)
    content = hostile.weighted(
        (80, hostile.written(MANY[path])),
        (10, hostile.written(hostile.JSON)),
        (10, hostile.mangled(hostile.written(MANY[path]), hostile.members(DOCUMENTS, "pools"))),
    )
    query = st.sampled_from(("", "?dry_run=true", "?dry_run=true"))

    @law(150, FULL // 4, Phase.generate)
    @given(content=content, query=query)
    def whatever_is_sent(content: bytes, query: str) -> None:
        client.tries(hostile.Request("PUT", path + query, content))

    whatever_is_sent()
    client.tidy()

    print(f"\n{path}: {client.told()}")
    assert client.statuses.keys() >= {200, 400, 422}
    judge.assert_haproxy_agrees(set_up)
    assert set_up.condition("Applied")["status"] == "True"
