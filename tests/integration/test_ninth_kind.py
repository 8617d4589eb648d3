"""A ninth kind is a class, a row and a template; everything else follows from them."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from werkzeug.serving import make_server

from kinx_loadbalancer_agent import app, settings
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.model.kinds import KINDS, Kind, Kinds
from kinx_loadbalancer_agent.model.resources import Resource
from kinx_loadbalancer_agent.model.types import Flag, HostAddress, Port, Text, Token
from kinx_loadbalancer_agent.services.haproxy.view import MARK
from kinx_loadbalancer_agent.services.text import Templates
from tests.conftest import need
from tests.contract import judge
from tests.machine import Machine, Reply, free_port, wait_until

# --- all there is to it -------------------------------------------------------------------------


class Mailer(Resource):
    """Who gets mail about servers: a ``mailers`` section (HAProxy 2.6, 3.6)."""

    kind = "mailers"

    id: Token = Field(description="Identity, and the section's name.")
    name: Text = Field("", description="Free text.")
    enabled: Flag = Field(True, description="Kept and returned.")
    address: HostAddress = Field(description="Where the mail server is.")
    port: Port = Field(25, description="TCP port of the mail server.")


ROW = Kind(
    model=Mailer,
    collection="/api/haproxy/mailers",
    fragment=("20-mailers-", "test/mailers.cfg.j2"),
)
TEMPLATE = """\
mailers {{ resource.id }}
    mailer {{ resource.id }} {{ resource.address }}:{{ resource.port }}
"""

# ------------------------------------------------------------------------------------------------

MAILERS = ROW.collection
ONE = f"{MAILERS}/one"
DOCUMENT = {"id": "one", "address": "192.0.2.25", "name": "the post office"}
WHOLE = {**DOCUMENT, "enabled": True, "port": 25}


class Node(Machine):
    """A machine whose agent is in this process and knows one kind more."""

    engine: Engine

    @contextlib.contextmanager
    def agent(self, templates: Templates) -> Iterator[None]:
        """The agent, for the time of the block."""
        if not self.secret:
            self.secret = self.cli("credentials", "add", "test").stdout.strip()
        found = settings.load(root=self.root, environment={})
        kinds = Kinds((*KINDS, ROW))
        engine = app.build_engine(found, own_haproxy=True, kinds=kinds, templates=templates)
        application = app.build_app(found, engine, kinds=kinds)
        server = make_server("127.0.0.1", self.port, application, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        engine.start()
        try:
            wait_until(self.is_ready, 20)
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            engine.stop()

    def empty(self) -> None:
        for found in self.get(MAILERS).json["mailers"]:
            assert self.delete(f"{MAILERS}/{found['id']}").status == 204


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """The product's, and the one of the new kind."""
    directory: Path = tmp_path_factory.mktemp("templates")
    (directory / "test").mkdir()
    (directory / "test/mailers.cfg.j2").write_text(TEMPLATE)
    return Templates([directory])


@pytest.fixture(scope="module")
def running_node(templates: Templates) -> Iterator[Node]:
    need("haproxy")
    found = Node()
    try:
        with found.agent(templates):
            yield found
    finally:
        found.end()


@pytest.fixture
def node(running_node: Node) -> Node:
    """A node without mailers."""
    running_node.empty()
    return running_node


def made(node: Node, **members: Any) -> Reply:
    reply = node.post(MAILERS, DOCUMENT | members)
    assert reply.status == 201, reply.body
    return reply


# --- the verbs ----------------------------------------------------------------------------------


def test_a_post_makes_it_live_and_says_where_it_is(node: Node) -> None:
    before = node.worker_pid()

    reply = made(node)

    assert judge.content(reply) == WHOLE == node.get(ONE).json
    assert reply.headers["Location"].endswith(ONE)
    assert reply.headers["ETag"] == node.get(ONE).headers["ETag"]
    assert reply.json["applied"]["by"] == "reload"
    assert reply.json["applied"]["pid"] == node.worker_pid() != before
    fragment = "mailers one\n    mailer one 192.0.2.25:25\n"
    assert node.fragments()["20-mailers-one.cfg"] == MARK.decode() + fragment
    assert "mailers" in node.get(f"/api/changes/{reply.json['applied']['change']}").body.decode()


def test_a_post_of_the_same_is_a_200_and_of_another_a_409_that_shows_it(node: Node) -> None:
    first = made(node)
    reloads = node.reloads()

    same = node.post(MAILERS, DOCUMENT | {"port": "25", "admin_state_up": True})
    other = node.post(MAILERS, DOCUMENT | {"port": 26})

    assert (same.status, same.json["applied"]["by"]) == (200, "none")
    judge.assert_is_problem(other, 409, "/port")
    assert other.json["current"] == WHOLE
    assert other.headers["ETag"] == first.headers["ETag"]
    assert node.reloads() == reloads


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_put_changes_what_it_names_and_null_is_the_default(node: Node, method: str) -> None:
    made(node)

    changed = node.request(method, ONE, {"port": 587})
    fragment = node.fragments()["20-mailers-one.cfg"]
    default = node.request(method, ONE, {"port": None})

    assert (changed.status, judge.content(changed)) == (200, WHOLE | {"port": 587})
    assert fragment.endswith("mailer one 192.0.2.25:587\n")
    assert (default.status, judge.content(default)) == (200, WHOLE)


def test_a_delete_takes_it_from_haproxy_too(node: Node) -> None:
    made(node)

    reply = node.delete(ONE)

    assert (reply.status, reply.body) == (204, b"")
    assert "20-mailers-one.cfg" not in node.fragments()
    judge.assert_is_problem(node.get(ONE), 404)
    judge.assert_is_problem(node.delete(ONE), 404)
    judge.assert_is_problem(node.put(ONE, {}), 404)


def test_head_options_and_other_verbs_are_as_everywhere(node: Node) -> None:
    made(node)

    head, options = node.request("HEAD", ONE), node.request("OPTIONS", ONE)
    other, collection = node.request("TRACE", ONE), node.request("DELETE", MAILERS)

    assert (head.status, head.body) == (200, b"")
    assert head.headers["ETag"] == node.get(ONE).headers["ETag"]
    assert options.status == 204
    assert {"GET", "PUT", "PATCH", "DELETE"} <= set(options.headers["Allow"].split(", "))
    judge.assert_is_problem(other, 405)
    judge.assert_is_problem(collection, 405)


def test_faults_are_named_all_at_once_and_nothing_is_kept(node: Node) -> None:
    before = judge.kept(node)

    wrong = {"id": "a b", "port": 0, "enabled": "yes", "name": "a\nb", "colour": 1}
    reply = node.post(MAILERS, wrong)

    judge.assert_is_problem(reply, 422, "/id", "/port", "/enabled", "/name", "/colour", "/address")
    assert judge.kept(node) == before


# --- what comes with them -----------------------------------------------------------------------


def test_preconditions_are_judged(node: Node) -> None:
    tag = made(node).headers["ETag"]

    unchanged = node.get(ONE, headers={"If-None-Match": tag})
    refused = node.put(ONE, {"port": 26}, headers={"If-Match": '"other"'})
    changed = node.put(ONE, {"port": 26}, headers={"If-Match": tag})
    late = node.delete(ONE, headers={"If-Match": tag})

    assert (unchanged.status, unchanged.body) == (304, b"")
    judge.assert_is_problem(refused, 412)
    assert changed.status == 200
    assert changed.headers["ETag"] != tag
    judge.assert_is_problem(late, 412)


def test_the_collection_has_pages_in_id_order(node: Node) -> None:
    for number in (3, 1, 5, 2, 4):
        made(node, id=f"m{number}")

    first = node.get(f"{MAILERS}?limit=2").json
    second = node.get(f"{MAILERS}?limit=2&marker=m2").json
    rest = node.get(f"{MAILERS}?marker=m4").json

    pages = [[one["id"] for one in page["mailers"]] for page in (first, second, rest)]
    assert pages == [["m1", "m2"], ["m3", "m4"], ["m5"]]
    assert first.keys() == {"mailers"}
    judge.assert_is_problem(node.get(f"{MAILERS}?limit=0"), 400)


def test_a_dry_run_says_what_would_become_of_it(node: Node) -> None:
    before = judge.kept(node)

    reply = node.post(f"{MAILERS}?dry_run=true", DOCUMENT)
    refused = node.post(f"{MAILERS}?dry_run=true", {"id": "one"})

    assert reply.status == 200
    assert (reply.json["dry_run"], reply.json["would"], reply.json["reload"]) == (True, 201, True)
    assert "+    mailer one 192.0.2.25:25\n" in reply.json["diff"]
    judge.assert_is_problem(refused, 422, "/address")
    assert judge.kept(node) == before


def test_the_whole_state_has_it_and_takes_it(node: Node) -> None:
    made(node)
    state = node.get("/api/state").json
    node.empty()

    reply = node.put("/api/state", state)

    assert state["mailers"] == [WHOLE]
    assert reply.status == 200
    assert node.get(ONE).json == WHOLE
    assert "20-mailers-one.cfg" in node.fragments()


def test_the_document_of_the_api_describes_it(node: Node) -> None:
    described = node.get("/api/openapi.json").json

    verbs = described["paths"]["/api/haproxy/mailers"].keys()
    item = described["paths"]["/api/haproxy/mailers/{id}"].keys()
    assert {"get", "post"} <= verbs
    assert {"get", "put", "patch", "delete"} <= item
    schema = described["components"]["schemas"]["Mailer"]
    assert schema["properties"].keys() >= WHOLE.keys()
    assert schema["properties"]["port"]["description"] == "TCP port of the mail server."


def test_it_is_kept_over_a_restart_of_the_agent_and_drift_of_it_is_repaired(
    templates: Templates,
) -> None:
    need("haproxy")
    node = Node()
    try:
        with node.agent(templates):
            tag = made(node, port=free_port()).headers["ETag"]
            shown, worker = node.get(ONE).json, node.worker_pid()
        with node.agent(templates):
            again = node.get(ONE)
            adopted = node.worker_pid()
            (node.conf_d / "20-mailers-one.cfg").write_text("mailers one\n")
            wait_until(
                lambda: f":{shown['port']}\n" in node.fragments().get("20-mailers-one.cfg", "")
            )
    finally:
        node.end()

    assert (again.json, again.headers["ETag"]) == (shown, tag)
    assert adopted == worker
