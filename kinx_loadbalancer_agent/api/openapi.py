"""The API as OpenAPI 3.1, from the table of kinds and the models that its documents are read into.

Where the wire differs from those, ``WIRE`` says so; the routes of no kind are in ``OTHERS``.
"""

import json
import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Literal

from flask import Blueprint, render_template

from kinx_loadbalancer_agent.api.documents.document import MEANINGLESS, SYNONYMS
from kinx_loadbalancer_agent.api.problems import respond
from kinx_loadbalancer_agent.api.resources import IF, PAGE, routes
from kinx_loadbalancer_agent.model import export
from kinx_loadbalancer_agent.model.kinds import Kind, Kinds

Schema = dict[str, Any]

ABOUT = (
    "A PUT is a PATCH: absent members keep their value, null is the default. Numbers may be "
    "strings. Members that LBaaS sends and that mean nothing here are ignored, others are refused. "
    "dry_run says what would be and keeps nothing; cascade takes along what is in the way. 202: "
    "kept; the change at Location tells when it is in effect. Errors (RFC 9457) keep nothing."
)
POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
SCHEMES = {name: {"type": "http", "scheme": name} for name in ("basic", "bearer")}
READ_ERRORS = [400, 401, 404, 405, 412, 429, 500, 503]
WRITE_ERRORS = [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 500, 503, 507]
HEADERS = {
    **{200: "(ETag) (Server-Timing)", 201: "ETag Server-Timing Location", 204: "Server-Timing"},
    **{202: "(ETag) Server-Timing Location", 401: "WWW-Authenticate", 405: "Allow"},
    **{429: "Retry-After", 503: "Retry-After"},
}
PARAMETERS = {
    "path": "id parent generation:int",
    "query": "limit:int marker cascade:bool dry_run:bool",
    "header": "If-Match If-None-Match",
}
OPERATING = "operating_status:ONLINE|OFFLINE|DEGRADED|DRAINING|ERROR|NO_MONITOR|DISABLED reason"
ROUTED = "(assigned:bool?) (served:bool?) (announced:bool?) (since?) (reason?)"
TOLD = "(applied:Applied) (warnings:[string])"
COUNTED = f"(added:int) (changed:int) (removed:int) {TOLD}"
COMPONENTS = {  # Objects: name:type, a string without a type; optional in brackets.
    "Fault": "pointer detail",
    "Problem": "type title status:int detail instance errors:[Fault] faultstring (current:object)",
    "Applied": "by:runtime|reload|none because pid:int? change:int",
    "Gone": TOLD,
    "DryRun": "dry_run:bool would:int reload:bool because commands:[string] diff",
    "Touched": "kind id operation:create|update|delete (parent) (before:object?) (after:object?)",
    "Change": "generation:int state:applied|pending|failed objects:[Touched] who remote"
    " requested_at applied:Applied? reason",
    "Condition": "type status:True|False|Unknown severity:info|warning|error reason message since",
    "Operating": OPERATING,
    "Master": "pid:int? worker_pid:int? version? reloads:int? failed_reloads:int? old_workers:int?",
    "Drift": "last_scan? found:int repaired:int",
    "Status": "ready:bool generation:int observed_generation:int conditions:[Condition]"
    " objects:{{Operating}} haproxy:Master drift:Drift",
    "Branch": f"id name provisioning_status {OPERATING} (listeners:[Branch]) (pools:[Branch])"
    " (members:[Branch]) (healthmonitor:HealthMonitor?)",
    "Explained": "kind id (parent) wished:object file lines:[string] live:{string}"
    " operating_status? because:[string]",
    "Hold": "held:bool who? reason? until?",
    "HoldChange": "minutes:int reason",
    "Info": "versions:{string?} host:object state_digest digests:{string}",
    "SpeakersVip": f"(address) (vip_addr) {ROUTED}",
    "Session": "gateway state? uptime_seconds:int? prefixes_sent:int? last_error?",
    "VipOfLbaas": "(ip_address:LoadBalancerCreate/properties/vip_address) ...",
}
HOLD = "/api/hold"
OTHERS = (  # Path, method, summary, types of the answer and of the body, parameters.
    ("/healthz", "get", "Whether the process is alive; asks for no credential.", "{string}"),
    ("/readyz", "get", "Whether the node may get work.", "{string}"),
    ("/metrics", "get", "Counters and gauges, in the text format of Prometheus.", ""),
    ("/api/status", "get", "What the node is doing.", "Status"),
    ("/api/changes", "get", "The changes; marker is a generation.", "{[Change]}", "", *PAGE),
    ("/api/changes/{generation}", "get", "What became of a change.", "Change"),
    ("/api/changes/{generation}/restore", "post", "Make all as it was after a change.", "State"),
    ("/api/info", "get", "Versions, facts of the host, and digests.", "Info"),
    ("/api/explain/{id}", "get", "Why an object gets no traffic.", "{[Explained]}"),
    (HOLD, "get", "Whether, why and for how long nothing is changed.", "Hold"),
    (HOLD, "put", "Change nothing for some minutes; ends by itself.", "Hold", "HoldChange"),
    (HOLD, "delete", "Go on.", ""),
    ("/api/state", "get", "All that is wanted of the node.", "State"),
    ("/api/state", "put", "Make this all there is.", "State", "StateChange"),
    ("/api/haproxy/loadbalancers/{id}/status", "get", "How all of it does.", "{Branch}"),
    ("/api/haproxy/loadbalancers/{id}/stats", "get", "Counters that never go back.", "{int}"),
    ("/api/openapi.json", "get", "This document.", "object"),
    ("/api/docs", "get", "This document as a page.", ""),
)
WIRE = {  # An example | what documents say | what answers show, besides the fields.
    "loadbalancers": "id=lb vip_address=192.0.2.10 | (vip:VipOfLbaas) |",
    "listeners": "id=web loadbalancer_id=lb protocol=HTTP protocol_port=80 | |",
    "pools": "id=app listener_id=web protocol=HTTP lb_algorithm=LEAST_CONNECTIONS | |",
    "members": "id=a address=192.0.2.21 protocol_port=80 | (healthmonitor:HealthMonitorChange) |",
    "healthmonitors": "pool_id=app type=HTTP delay=3 timeout=2"
    " | (id:PoolCreate/properties/id) (listener_id:PoolCreate/properties/id) | listener_id?",
    "peers": "hostname=lbv-1 address=192.0.2.2 | |",
    "quagga": "hostname=lbv-1 vm_addr=192.0.2.2 inter_as_number=64512 router_as_number=64511"
    " primary_gateway_addr=192.0.2.1 vip_addr=192.0.2.10 | vip_addr:VipCreate/properties/vip_addr"
    " | vip_addr? vips:[SpeakersVip] (sessions:[Session])",
    "vips": f"vip_addr=192.0.2.11 | | {ROUTED}",
    "crontab": "agent_addr=192.0.2.9 agent_port=8080 tenant_id=shop vm_id=lbv-1 | |",
}


def document(kinds: Kinds, version: str) -> dict[str, Any]:
    """Return the OpenAPI document of the resources *kinds* and of the routes that are none's."""
    paths: Schema = {}
    for path, method, summary, *rest in _operations(kinds):
        paths.setdefault(path, {})[method] = {"summary": summary, **_operation(path, method, *rest)}
    paths["/healthz"]["get"]["security"] = []
    for path, media in (("/api/docs", "text/html"), ("/metrics", "text/plain")):
        paths[path]["get"]["responses"]["200"]["content"] = {media: {}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "kinx_loadbalancer_agent", "version": version, "description": ABOUT},
        "security": [{scheme: []} for scheme in SCHEMES],
        "paths": paths,
        "components": {
            "schemas": _schemas(kinds),
            "responses": {str(n): _answer(n, "Problem", HEADERS.get(n, "")) for n in WRITE_ERRORS},
            "parameters": {
                name: {"name": name, "in": at, "required": at == "path", "schema": _type(type)}
                for at, words in PARAMETERS.items()
                for name, type in re.findall(r"([\w-]+):?(\w*)", words)
            },
            "securitySchemes": SCHEMES,
        },
    }


def blueprint(kinds: Kinds, version: str) -> Blueprint:
    """Return the routes of the document and of the page made from it."""
    found, api = Blueprint("openapi", __name__), document(kinds, version)
    found.add_url_rule("/api/openapi.json", "document", lambda: respond(api))
    found.add_url_rule("/api/docs", "page", lambda: (render_template("docs.html", api=api), POLICY))
    return found


def _operations(kinds: Kinds) -> Iterator[tuple[str, ...]]:
    yield from OTHERS
    for kind in kinds:
        for path, method, _, *about in routes(kind, kinds):
            yield re.sub("<(.*?)>", r"{\1}", path), method, *about


def _operation(path: str, method: str, answer: str, body: str = "", *parameters: str) -> Schema:
    names = [*re.findall(r"{(\w+)}", path), *parameters]
    if path == HOLD:
        errors, told = WRITE_ERRORS, {204: ("", "")} if method == "delete" else {200: (answer, "")}
    elif method == "get":
        errors, tag = READ_ERRORS, "ETag" if "If-Match" in names else ""
        told = {200: (answer, tag), **({304: ("", tag)} if tag else {})}
    else:
        errors, names = WRITE_ERRORS, [*names, "dry_run", *IF]
        types = {200: f"{answer}! DryRun", 202: f"{answer}!"}
        types |= {"post": {201: f"{answer}!"}, "delete": {200: "DryRun", 204: ""}}.get(method, {})
        told = {status: (type, HEADERS[status]) for status, type in types.items()}
    content = {"application/json": {"schema": _type(body)}}
    return {
        "parameters": [_ref("parameters", name) for name in names],
        **({"requestBody": {"required": True, "content": content}} if body else {}),
        "responses": {
            **{str(status): _answer(status, *rest) for status, rest in told.items()},
            **{str(status): _ref("responses", str(status)) for status in errors},
        },
    }


def _answer(status: int, types: str, headers: str) -> Schema:
    """Return an answer with *status*: one of *types*, if any; headers in brackets may be absent."""
    media = "application/problem+json" if status >= 400 else "application/json"
    named = re.findall(r"(\(?)([\w-]+)", f"{headers} X-Request-Id")
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {n: {"required": not at, "schema": {"type": "string"}} for at, n in named},
        **({"content": {media: {"schema": _type(types)}}} if types else {}),
    }


def _ref(place: str, name: str) -> Schema:
    return {"$ref": f"#/components/{place}/{name}"}


def _type(word: str) -> Schema:
    """Return a type: Component, of JSON, ``a|b``, ``[item]``, ``{value}``, ``null?``, ``told!``."""
    if " " in word:
        return {"anyOf": [_type(one) for one in word.split()]}
    if word.endswith("?"):
        return {"anyOf": [_type(word[:-1]), {"type": "null"}]}
    if word.endswith("!"):
        return _type(word[:-1]) | {"required": ["applied", "warnings"]}
    if word[:1] == "[":
        return {"type": "array", "items": _type(word[1:-1])}
    if word[:1] == "{":
        return {"type": "object", "additionalProperties": _type(word[1:-1])}
    if "|" in word:
        return {"enum": word.split("|")}
    names = {"int": "integer", "bool": "boolean", "": "string"}
    return _ref("schemas", word) if word[:1].isupper() else {"type": names.get(word, word)}


def _object(words: str, **members: Schema) -> Schema:
    """Return an object of *members*, all of them required, and of those that *words* name."""
    named = re.findall(r"(\(?)(\w+):?([^\s().]*)", words)
    return {
        "type": "object",
        "properties": members | {name: _type(type) for _, name, type in named},
        "required": [*members, *(name for bracket, name, _ in named if not bracket)],
        "additionalProperties": words.endswith("..."),
    }


def _nested(rows: Iterable[Kind], suffix: str = "") -> Schema:
    """Return the members that hold resources of *rows* where those are nested."""
    forms = [("{}?" if row.named_by or row.is_singleton else "[{}]", row) for row in rows]
    return {row.nested_as: _type(form.format(row.model.__name__ + suffix)) for form, row in forms}


def _schemas(kinds: Kinds) -> Schema:
    """Return what is said and answered about the resources of *kinds*, by name."""
    found = {name: _object(words) for name, words in COMPONENTS.items()}
    for kind in kinds:
        name, fields = kind.model.__name__, _fields(kind, "serialization")
        example, said, shown = WIRE.get(kind.name, "||").split("|")
        found |= fields.pop("$defs", {})
        found[name] = answer = _object(f"{shown} {TOLD}", **fields["properties"])
        found[f"{name}List"] = _object(f"{kind.name}:[{name}] {COUNTED}")
        create = _said(kind, said)
        change = {word: create[word] for word in create if word not in ("required", "anyOf")}
        below = [*kinds.owned_by(kind), *(row for row, _ in kinds.held_by(kind))]
        answer["properties"] = _nested(below) | answer["properties"]
        change["properties"] = _nested(below, "Change") | create["properties"]
        if kind.named_by:
            around = found[f"{kinds[kind.named_by].model.__name__}Change"]
            named = around["properties"] | {kind.model.id_field: {}}
            other = around | {"properties": named, "required": [kind.nested_as]}
            create["required"].remove(kind.model.id_field)
            create, change = {"anyOf": [create, other]}, {"anyOf": [change, other]}
        values = {n: int(v) if v.isdecimal() else v for n, v in re.findall(r"(\S+)=(\S+)", example)}
        found[f"{name}Create"] = create | ({"examples": [values]} if values else {})
        found[f"{name}Change"] = change
    found["State"] = _object(TOLD, **_nested(export.top(kinds)))
    found["StateChange"] = _object("", **_nested(export.top(kinds), "Change"))
    return found


def _fields(kind: Kind, mode: Literal["validation", "serialization"]) -> Schema:
    """Return the schema of *kind* in the words of JSON Schema, without private fields."""
    template = "#/components/schemas/{model}"
    text = json.dumps(kind.model.model_json_schema(mode=mode, ref_template=template))
    found: Schema = json.loads(text.replace('"ge":', '"minimum":').replace('"le":', '"maximum":'))
    own = {n: s for n, s in found["properties"].items() if n not in kind.model.private}
    return found | {"properties": own}


def _said(kind: Kind, words: str) -> Schema:
    """Return what a POST says of one of *kind*: its fields, and members that *words* name."""
    model, fields, more = kind.model, _fields(kind, "validation"), _object(words)
    own = fields["properties"] | more["properties"]
    needed = {*fields["required"], *more["required"]} & own.keys() - {model.parent_field}
    members: Schema = {n: {"description": "Ignored."} for n in sorted(MEANINGLESS | model.derived)}
    whole = needed | {n for n in own if own[n].get("default", n) is None}  # null is a type of it
    members |= {n: own[n] if n in whole else {"anyOf": [own[n], {"type": "null"}]} for n in own}
    for name in model.carried:
        members[name] |= {"anyOf": [*members[name]["anyOf"], {"const": ""}]}
    for other, name in SYNONYMS.items():
        if name in own and other not in own:
            members[other] = {**members[name], "description": f"Another name of {name}."}
            if name in needed:
                needed.remove(name)
                more["anyOf"] = [{"required": [name]}, {"required": [other]}]
    return more | {"properties": members, "required": sorted(needed)}
