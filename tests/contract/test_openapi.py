"""The API described by itself (CONTRACT section 2, ``/api/openapi.json`` and ``/api/docs``)."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs
import pytest
import schemathesis
from pydantic import Field

from kinx_loadbalancer_agent import __version__, app, settings
from kinx_loadbalancer_agent.api.openapi import document
from kinx_loadbalancer_agent.model.kinds import KINDS, Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Resource
from kinx_loadbalancer_agent.model.types import Port, Token
from tests.conftest import need
from tests.contract import judge
from tests.integration.test_samples import BAD, DRIVER, POOL, REQUESTS, WEIGHT
from tests.machine import Machine, Reply, free_port, running

API = document(Kinds(), __version__)
METHODS = ("get", "post", "put", "patch", "delete")
OPERATIONS = [(m, path) for path, item in API["paths"].items() for m in METHODS if m in item]
CODES = {304, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 500, 503, 507}
"""The contract's row "codes"."""


def schema_faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """Return what *schema*, a part of the document, has against *value*."""
    whole = {**schema, "components": API["components"]}
    validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    return [
        f"{''.join(f'/{step}' for step in error.instance_path)}: {error.message}"
        for error in validator.iter_errors(value)
    ]


def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *node*, or the component that it names."""
    found: Any = node
    if "$ref" in node:
        found = API
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
    return dict(found)


def operation_of(method: str, path: str) -> tuple[str, str]:
    """Return method and path of the operation that describes a request."""
    for wanted, template in sorted(OPERATIONS, key=lambda found: found[1].count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if wanted == method.lower() and re.fullmatch(pattern, path.partition("?")[0]):
            return wanted, template
    raise AssertionError(f"{method} {path} is not described")


def body_faults(method: str, path: str, body: Any) -> list[str]:
    """Return what the described schema of a request has against *body*."""
    verb, template = operation_of(method, path)
    content = API["paths"][template][verb]["requestBody"]["content"]
    return schema_faults(content["application/json"]["schema"], body)


def assert_is_described(method: str, path: str, reply: Reply) -> None:
    """Assert that *reply* has a status, headers and a body that the document describes."""
    verb, template = operation_of(method, path)
    described = API["paths"][template][verb]["responses"]
    assert str(reply.status) in described, (method, path, reply.status)
    answer = resolved(described[str(reply.status)])
    sent = {name.lower() for name in reply.headers}
    for name, header in answer["headers"].items():
        assert name.lower() in sent or not header["required"], (method, path, name)
    if "content" not in answer:
        assert reply.body == b""
        return
    (media,) = answer["content"]
    assert reply.headers["Content-Type"].split(";")[0] == media
    if answer["content"][media]:
        faults = schema_faults(answer["content"][media]["schema"], reply.json)
        assert faults == [], (method, path, reply.json)


# --- the document ---------------------------------------------------------------------------


def test_the_document_is_valid_openapi_3_1() -> None:
    assert API["openapi"].startswith("3.1.")

    schemathesis.openapi.from_dict(API).validate()
    for schema in API["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": API["components"]})


def test_every_reference_names_a_component() -> None:
    text = json.dumps(API)

    for name in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        assert resolved({"$ref": f"#/{name}"})


def test_the_document_has_the_routes_of_the_application_and_no_other(tmp_path: Path) -> None:
    found = settings.load(root=tmp_path, environment={})
    application = app.build_app(found, app.build_engine(found))

    routes = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in application.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }

    assert routes == set(OPERATIONS)


class Ninth(Resource):
    """A kind that nobody knew."""

    kind: ClassVar[str] = "ninths"

    id: Token = Field(description="Identity.")
    port: Port = Field(9, description="A number.")


def test_a_new_row_of_the_table_of_kinds_is_described_as_the_others_are() -> None:
    ninth = Kind(model=Ninth, collection="/api/haproxy/ninths")

    found = document(Kinds((*KINDS, ninth)), "1")

    schemathesis.openapi.from_dict(found).validate()
    assert found["paths"].keys() - API["paths"] == {
        "/api/haproxy/ninths",
        "/api/haproxy/ninths/{id}",
    }
    created = found["components"]["schemas"]["NinthCreate"]
    assert created["required"] == ["id"]
    assert created["properties"]["port"]["anyOf"][0]["default"] == 9
    assert "ninths" in found["components"]["schemas"]["State"]["properties"]


def test_every_code_of_the_contract_is_described_and_errors_are_problem_documents() -> None:
    described = {
        int(status): resolved(answer)
        for method, path in OPERATIONS
        for status, answer in API["paths"][path][method]["responses"].items()
    }

    assert described.keys() == CODES | {200, 201, 202, 204}
    for status in CODES - {304}:
        assert list(described[status]["content"]) == [judge.PROBLEM]
    for status in (429, 503):
        assert "Retry-After" in described[status]["headers"]


def test_every_field_is_described() -> None:
    for kind in KINDS:
        name = kind.model.__name__
        published = kind.model.model_fields.keys() - kind.model.private
        for suffix in ("", "Create", "Change"):
            schema = API["components"]["schemas"][name + suffix]
            properties = (schema if "properties" in schema else schema["anyOf"][0])["properties"]
            assert published <= properties.keys()
            for field in published - {"healthmonitor"}:
                inner = properties[field].get("anyOf", [{}])[0]
                assert (properties[field] | inner)["description"], (name, field)


def test_only_the_probe_of_the_process_asks_for_no_credential() -> None:
    is_open = [(m, path) for m, path in OPERATIONS if API["paths"][path][m].get("security") == []]

    assert is_open == [("get", "/healthz")]
    schemes = API["components"]["securitySchemes"]
    assert {scheme["scheme"] for scheme in schemes.values()} == {"basic", "bearer"}
    assert API["security"] == [{name: []} for name in schemes]


# --- what documents may say -----------------------------------------------------------------


@pytest.mark.parametrize(("sample", "method", "path", "status"), [*DRIVER, WEIGHT])
def test_a_sample_is_what_the_document_says_of_its_request(
    sample: str, method: str, path: str, status: int
) -> None:
    body = json.loads((REQUESTS / f"{sample}.json").read_text())

    assert body_faults(method, path, body) == []


def test_the_bad_sample_is_not_what_the_document_says() -> None:
    sample, method, path, _ = BAD
    body = json.loads((REQUESTS / f"{sample}.json").read_text())

    found = body_faults(method, path, body)

    assert any("colour" in words for words in found)


ONE = f"{POOL}/members/one"
ACCEPTED: tuple[tuple[str, str, Any], ...] = (
    ("POST", f"{POOL}/members", {"id": "a", "ip_address": "::1", "protocol_port": "80"}),
    ("POST", f"{POOL}/members", {"id": "a", "address": "::1", "protocol_port": 80, "type": ""}),
    ("PUT", ONE, {"healthmonitor": {}, "cookie_name": "", "tenant_id": "x", "vip": {"a": 1}}),
    ("PUT", ONE, {"healthmonitor": {"rise_threshold": "2", "type": "TCP"}, "weight": None}),
    ("PUT", ONE, {"healthmonitor": "", "admin_state_up": False, "operating_status": 3}),
    ("PATCH", ONE, {}),
    ("PUT", f"{POOL}/members", [{"id": "a", "weight": 3}]),
    ("PUT", f"{POOL}/members", {"members": []}),
    ("POST", "/api/haproxy/loadbalancers", {"id": "a", "vip": {"ip_address": "127.0.0.1"}}),
    ("POST", "/api/haproxy/loadbalancers", {"id": "a", "vip": None, "name": None}),
    ("POST", "/api/haproxy/healthmonitors", {"type": "TCP", "delay": "1", "timeout": 2, "id": "p"}),
    ("POST", "/api/haproxy/healthmonitors/p", {"type": "TCP", "delay": 1, "timeout": 2}),
    ("PUT", "/api/haproxy/healthmonitors/p", {"healthmonitor": {"delay": 3}, "name": "pool"}),
    ("PUT", "/api/quagga", {"vips": [], "sessions": [], "inter_as_number": "64512"}),
    ("PUT", "/api/haproxy/loadbalancers/a/tree", {"name": "a", "pools": [{"id": "p"}]}),
)
REFUSED: tuple[tuple[str, str, Any], ...] = (
    ("POST", f"{POOL}/members", {"id": "a", "address": "::1"}),
    ("POST", f"{POOL}/members", {"id": "a", "protocol_port": 80}),
    ("POST", f"{POOL}/members", {"id": "a b", "address": "::1", "protocol_port": 80}),
    ("PUT", ONE, {"weight": 257}),
    ("PUT", ONE, {"weight": "heavy"}),
    ("PUT", ONE, {"address": "192.0.2.256"}),
    ("PUT", ONE, {"address": None}),
    ("PUT", ONE, {"colour": "blue"}),
    ("PUT", "/api/haproxy/pools/p", {"stick_size": "1t"}),
    ("POST", "/api/haproxy/healthmonitors", {"pool_id": "p", "healthmonitor": {"type": "PING"}}),
    ("POST", "/api/haproxy/loadbalancers", {"id": "a", "vip": {"ip_address": "web"}}),
    ("POST", "/api/quagga/vips", {}),
    ("PUT", "/api/crontab", {"schedule": "* * * *"}),
    ("PUT", "/api/state", {"listeners": []}),
)


@pytest.mark.parametrize(("method", "path", "body"), ACCEPTED)
def test_what_documents_may_say_is_described(method: str, path: str, body: Any) -> None:
    assert body_faults(method, path, body) == []


@pytest.mark.parametrize(("method", "path", "body"), REFUSED)
def test_what_documents_may_not_say_is_described(method: str, path: str, body: Any) -> None:
    assert body_faults(method, path, body) != []


# --- what the running agent answers ---------------------------------------------------------


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the first example of the POST of each kind."""
    for kind in KINDS:
        path = re.sub("<(.*?)>", r"{\1}", kind.collection)
        (example, *_) = API["components"]["schemas"][f"{kind.model.__name__}Create"]["examples"]
        yield path, example


def test_the_examples_are_accepted_in_the_order_of_the_document(machine: Machine) -> None:
    for path, example in examples():
        assert body_faults("POST", path, example) == []
        text = json.dumps(example).replace("192.0.2.", "127.0.2.")
        ports = {"protocol_port": free_port()} if "protocol_port" in example else {}
        path = path.replace("{parent}", "app")

        reply = machine.post(path, json.loads(text) | ports)

        assert reply.status in (201, 202), reply.body
        assert_is_described("POST", path, reply)


def test_every_answer_in_a_drivers_order_is_described() -> None:
    need("haproxy")
    node_name = json.loads((REQUESTS / "11-peer-one.json").read_text())["hostname"]
    ports = {8080: free_port(), 1024: free_port(), 9001: free_port(), 9002: free_port()}
    answered: set[tuple[str, str, int]] = set()

    def send(method: str, path: str, body: Any = None, **options: Any) -> Reply:
        reply = machine.request(method, path, body, **options)
        assert_is_described(method, path, reply)
        answered.add((*operation_of(method, path), reply.status))
        return reply

    with running(environment={"KINX_AGENT_NODE_NAME": node_name}) as machine:
        urls = []
        for sample, method, path, _ in DRIVER:
            body = json.loads((REQUESTS / f"{sample}.json").read_text())
            for name in ("protocol_port", "port"):
                body |= {name: ports[body[name]]} if name in body else {}
            send(method, path, body, headers={"If-Match": '"none"'})
            trial = send(method, f"{path}?dry_run=true", body).json
            made = send(method, path, body)
            again = send(method, path, body)
            assert trial["would"] == made.status
            assert again.status in (200, 202)
            keys = ("id", "hostname", "pool_id")
            id = next((made.json[key] for key in keys if key in made.json), "")
            is_single = path in ("/api/quagga", "/api/crontab")
            urls.append(path if is_single else f"{path}/{id}")
            shown = send("GET", urls[-1])
            send("GET", urls[-1], headers={"If-None-Match": shown.headers["ETag"]})
            send("GET", path)
            send("PUT", urls[-1], {})
            send("PUT", urls[-1], {"colour": "blue"})
            send("PATCH", urls[-1], b"{")
            send("PUT", urls[-1], b"{}", headers={"Content-Type": "text/plain"})
            send("POST", path, {**body, "enabled": not body.get("enabled"), "agent_port": 1})
        sample, method, path, _ = WEIGHT
        send(method, path, json.loads((REQUESTS / f"{sample}.json").read_text()))
        send("POST", "/api/quagga/vips", {"vip_addr": "198.51.100.7"})
        send("GET", "/api/quagga/vips")
        send("PUT", "/api/quagga/vips", {"vips": [{"vip_addr": "198.51.100.8"}]})
        send("PUT", f"{POOL}/members?dry_run=true", [])
        send("PUT", f"{POOL}/members", send("GET", f"{POOL}/members").json)
        tree = send("GET", f"{urls[0]}/tree").json
        send("PUT", f"{urls[0]}/tree", tree)
        state = send("GET", "/api/state").json
        send("PUT", "/api/state?dry_run=true", state)
        send("PUT", "/api/state", state)
        for path in ("/api/status", "/api/info", "/api/changes", "/api/changes/1", "/readyz"):
            send("GET", path)
        for path in ("/healthz", "/api/openapi.json", "/api/docs", "/api/changes/99999"):
            send("GET", path)
        for path in ("status", "stats"):
            send("GET", f"{urls[0]}/{path}")
            send("GET", f"/api/haproxy/loadbalancers/none/{path}")
        send("GET", "/api/status", auth=False)
        send("GET", "/api/haproxy/listeners?limit=0")
        send("DELETE", urls[0])
        send("DELETE", f"{urls[0]}/delete_cascade?dry_run=true")
        for url in reversed(urls):
            send("DELETE", f"{url}?dry_run=true")
            send("DELETE", url)
            send("DELETE", url)
            send("GET", url)

    assert {status for *_, status in answered} >= {200, 201, 202, 204, 304, 400, 401, 404, 409}
    assert {status for *_, status in answered} >= {412, 415, 422}
    assert len({found[:2] for found in answered}) >= len(OPERATIONS) * 3 // 4


def test_the_document_served_is_the_one_of_this_version(shared: Machine) -> None:
    reply = shared.get("/api/openapi.json")

    assert reply.status == 200
    assert reply.json == API
    assert reply.json["info"]["version"] == __version__
    judge.assert_is_decent(reply)


# --- the page -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(shared: Machine) -> Reply:
    return shared.get("/api/docs")


def test_the_page_has_every_operation_parameter_member_and_answer(page: Reply) -> None:
    text = html.unescape(re.sub("<[^>]*>", "", page.body.decode()))

    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for method, path in OPERATIONS:
        assert f"{method.upper()} {path}\n" in text
    for name in (*API["components"]["parameters"], *API["components"]["responses"]):
        assert name in text
    for name, schema in API["components"]["schemas"].items():
        assert f"\n{name}\n" in text
        for member, declared in schema.get("properties", {}).items():
            if declared.get("description") != "Ignored.":
                assert member in text
                assert declared.get("description", "") in text


def test_every_link_of_the_page_leads_somewhere_on_it_or_to_the_document(page: Reply) -> None:
    text = html.unescape(page.body.decode())

    links = set(re.findall(r'(?:href|src)="([^"]*)"', text))

    assert {link.removeprefix("#") for link in links - {"openapi.json"}} <= set(
        re.findall(r'id="([^"]*)"', text)
    )


def test_page_and_document_need_no_other_host(shared: Machine, page: Reply) -> None:
    for reply in (page, shared.get("/api/openapi.json")):
        assert re.findall(rb"(?:https?:)?//\w[^\s\"]*", reply.body) == []
        assert b"<script" not in reply.body
        assert b"@import" not in reply.body


def test_a_browser_is_told_to_load_nothing_for_the_page(page: Reply) -> None:
    policy = page.headers["Content-Security-Policy"]

    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("path", ["/api/openapi.json", "/api/docs"])
def test_page_and_document_ask_for_a_credential(shared: Machine, path: str) -> None:
    reply = shared.get(path, auth=False)

    judge.assert_is_problem(reply, 401)


@pytest.mark.parametrize("path", ["/api/openapi.json", "/api/docs"])
def test_page_and_document_are_only_read(shared: Machine, path: str) -> None:
    reply = shared.post(path, {})

    judge.assert_is_problem(reply, 405)
    assert set(reply.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
