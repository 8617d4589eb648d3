"""schemathesis against a real agent: no answer above 499, and none outside the document.

It sends what the document describes and what it does not, half of it to resources that are there.
Addresses are of the loopback network, as HAProxy connects to members and peers.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import schemathesis
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks
from schemathesis.specs.openapi import checks as conformance
from schemathesis.specs.openapi import unregister_string_format

from kinx_loadbalancer_agent import __version__
from kinx_loadbalancer_agent.api.openapi import document
from kinx_loadbalancer_agent.model.kinds import Kinds
from tests.contract import judge
from tests.fuzz.conftest import law
from tests.machine import Machine, free_port

API = document(Kinds(), __version__)
METHODS = ("get", "post", "put", "patch", "delete")
OPERATIONS = [(m, path) for path, item in API["paths"].items() for m in METHODS if m in item]
CASES = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    # Nothing that takes nothing can be asked for wrongly.
    if mode.is_positive or API["paths"][path][method]["parameters"]
]
CHECKS = [
    checks.not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_headers_conformance,
    conformance.response_schema_conformance,
]
IDENTITIES = ("id", "hostname", "vip_addr")
THERE = {"members": "one", "peers": "lbv-2", "vips": "127.0.0.9", "loadbalancers": "lb"}
THERE |= {"listeners": "web", "pools": "app", "healthmonitors": "app", "changes": "1"}
THERE |= {"explain": "app"}
"""What the node holds, by the word of its URL."""
OUTSIDE = re.compile(r"(?<![\d.])(?!127\.)\d+\.\d+\.\d+\.\d+(?![\d.])|[0-9a-f]+:[0-9a-f:]*:")


@cache
def port() -> int:
    """Return the port of the listener: always the same, so that there is less to reload."""
    return free_port()


def node(without: str) -> dict[str, Any]:
    """Return a state with resources of each kind, but none where a POST to *without* makes one."""
    monitor = {"type": "TCP", "delay": 5, "timeout": 3} if "monitors" not in without else None
    member = {"id": "one", "address": "127.0.0.1", "protocol_port": 9}
    pool = {"id": "app", "listener_id": "web", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    speaker = {"hostname": "lbv-1", "inter_as_number": 64512, "router_as_number": 64511}
    addresses = {"vm_addr": "127.0.0.1", "primary_gateway_addr": "127.0.0.2"}
    vips = [{"vip_addr": "127.0.0.9"}, {"vip_addr": "127.0.0.10"}]
    report = {"agent_addr": "127.0.0.1", "agent_port": 9, "tenant_id": "shop", "vm_id": "lbv-1"}
    listener = {"id": "web", "protocol": "HTTP", "protocol_port": port()}
    return {
        "loadbalancers": [{"id": "lb", "vip_address": "127.0.0.1"}],
        "listeners": [{**listener, "loadbalancer_id": "lb"}],
        "pools": [{**pool, "members": [member], "healthmonitor": monitor}],
        "peers": [{"hostname": "lbv-2", "address": "127.0.0.2"}],
        "quagga": None if without == "/api/quagga" else {**speaker, **addresses, "vips": vips},
        "crontab": None if without == "/api/crontab" else report,
    }


@pytest.fixture(scope="module")
def described(shared: Machine) -> Iterator[schemathesis.BaseSchema]:
    """The document that the agent serves; the addresses drawn for it are on this host."""
    schemathesis.openapi.format("ipv4", st.integers(1, 9).map("127.0.0.{}".format))
    schemathesis.openapi.format("ipv6", st.just("::1"))
    yield schemathesis.openapi.from_dict(shared.get("/api/openapi.json").json)
    for name in ("ipv4", "ipv6"):
        unregister_string_format(name)


def example(method: str, path: str) -> dict[str, Any]:
    """Return what a request may well say, {} if that may be nothing; addresses are of this host."""
    if path == "/api/state":
        return node("")
    content = API["paths"][path].get(method, {}).get("requestBody", {}).get("content", {})
    name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
    (found,) = API["components"]["schemas"].get(name, {}).get("examples", [{}])
    return dict(json.loads(json.dumps(found).replace("192.0.2.", "127.0.0.")))


def tamed(body: Any, method: str, path: str) -> Any:
    """Return *body* without being wrong in too many ways at once."""
    if isinstance(body, list):
        return [tamed(element, "post", path) for element in body[:2]]
    if not isinstance(body, dict):
        return body
    some = {*IDENTITIES, *sorted(body)[: len(body) % 3]} & body.keys()
    return example(method, path) | {name: body[name] for name in some}


def aimed(case: Case, method: str, path: str) -> None:
    """Let *case* be about what is there, unconditional, and tame."""
    words = path.split("/")
    for name in case.path_parameters:
        case.path_parameters[name] = THERE[words[words.index(f"{{{name}}}") - 1]]
    for name in ("If-Match", "If-None-Match"):
        case.headers.pop(name, None)
    case.body = tamed(case.body, method, path)


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_every_answer_is_described(
    shared: Machine,
    described: schemathesis.BaseSchema,
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    shared.delete("/api/hold")
    assert shared.put("/api/state", node(path if method == "post" else "")).status in (200, 202)
    statuses: Counter[int] = Counter()
    headers = {"Authorization": f"Bearer {shared.secret}"}

    @settings(law(10, 500))
    @given(case=described[path][method.upper()].as_strategy(mode), is_aimed=st.booleans())
    def tried(case: Case, is_aimed: bool) -> None:
        if is_aimed:
            aimed(case, method, path)
        assume(not OUTSIDE.search(str(case.body)))
        url = f"http://127.0.0.1:{shared.port}"
        answer = case.call_and_validate(url, headers=headers, checks=CHECKS)
        statuses[answer.status_code] += 1

    tried()

    if mode.is_positive:
        assert statuses.keys() - {400, 404}, statuses


def test_after_all_that_the_agent_serves_and_has_no_traceback_to_show(shared: Machine) -> None:
    shared.delete("/api/hold")
    assert shared.get("/readyz").status == 200
    assert shared.condition("Applied")["status"] == "True"
    assert "Traceback" not in shared.log.read_text()
    judge.assert_haproxy_agrees(shared)
