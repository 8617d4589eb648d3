"""Who is refused when HAProxy refuses a batch: the guilty document, and nobody else."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from werkzeug.serving import make_server

from kinx_loadbalancer_agent import app, settings
from kinx_loadbalancer_agent.model.kinds import KINDS, Kind, Kinds, Reference
from kinx_loadbalancer_agent.model.resources import Resource
from kinx_loadbalancer_agent.model.types import Text, Token
from kinx_loadbalancer_agent.services.text import Templates
from tests.conftest import need
from tests.integration.checks import SlowChecks
from tests.machine import Machine, Reply, free_port, running, wait_until

OTHERS = 15


def post_listener(machine: Machine, id: str, port: int, **more: Any) -> Reply:
    """Make a listener on loopback."""
    document = {"id": id, "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    return machine.post("/api/haproxy/listeners", {**document, **more})


def post_pool(machine: Machine, id: str, **more: Any) -> Reply:
    """Make a pool."""
    document = {"id": id, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
    return machine.post("/api/haproxy/pools", {**document, **more})


def backends(machine: Machine) -> set[str]:
    """Return the backends of the running process."""
    lines = machine.show("show backend").splitlines()
    return {line for line in lines if line.startswith(("backend-", "raw-"))}


def ids(machine: Machine, kind: str) -> set[str]:
    """Return the ids of what the agent keeps of *kind*."""
    return {found["id"] for found in machine.get(f"/api/haproxy/{kind}").json[kind]}


def fetched(machine: Machine, port: int) -> str:
    """Return what a listener answers, '' while nobody listens."""
    with contextlib.suppress(OSError):
        return machine.fetch(port)
    return ""


def between(guilty: list[Callable[[], Reply]], good: list[Callable[[], Reply]]) -> Any:
    """Return *good* with *guilty* in its middle."""
    half = len(good) // 2
    return [*good[:half], *guilty, *good[half:]]


@pytest.fixture
def checks(tmp_path: Path) -> SlowChecks:
    """A haproxy that lets a test decide what waits together."""
    need("haproxy")
    return SlowChecks(tmp_path)


# --- HAProxy names no fragment of ours ---------------------------------------------------------


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """An operator's own section, in a file that HAProxy loads after ours."""
    path = tmp_path / "extra.cfg"
    path.write_text("backend backend-guilty\n    mode http\n")
    return path


@pytest.fixture
def beside(checks: SlowChecks, extra: Path) -> Iterator[Machine]:
    """An agent whose HAProxy loads *extra* too."""
    with running(
        environment={**checks.environment, "KINX_HAPROXY_EXTRA_CONFIG": str(extra)}
    ) as machine:
        yield machine


def test_of_many_pools_the_one_named_like_an_operators_backend_is_refused_alone(
    beside: Machine, checks: SlowChecks
) -> None:
    good = [f"pool-{number}" for number in range(2 * OTHERS)]
    before, checked = beside.reloads(), checks.count

    _, replies = checks.one_batch(
        partial(post_listener, beside, "opener", free_port()),
        between(
            [partial(post_pool, beside, "guilty")], [partial(post_pool, beside, id) for id in good]
        ),
    )

    guilty = replies.pop(OTHERS)
    assert guilty.status == 422, guilty.body
    assert "'backend-guilty'" in guilty.json["detail"]
    assert "same name" in guilty.json["errors"][0]["detail"]
    assert {reply.status for reply in replies} == {201}
    assert [reply.json["id"] for reply in replies] == good
    assert len({reply.json["applied"]["pid"] for reply in replies}) == 1
    assert ids(beside, "pools") == {*good}
    assert backends(beside) == {f"backend-{id}" for id in (*good, "guilty")}
    assert beside.reloads() == before + 2
    assert checks.count - checked < OTHERS  # by halves, and never by reload


def test_children_of_a_pool_that_is_refused_unnamed_are_answered_as_if_they_were_alone(
    beside: Machine, checks: SlowChecks
) -> None:
    port, backend = free_port(), beside.backend("one")
    member = {"id": "one", "address": backend.address, "protocol_port": backend.port}
    children: list[Callable[[], Reply]] = [
        partial(beside.post, "/api/haproxy/pools/guilty/members", member),
        partial(post_listener, beside, "early", port, default_pool_id="guilty"),
        partial(post_pool, beside, "other"),
    ]

    _, (guilty, *born) = checks.one_batch(
        partial(post_listener, beside, "opener", free_port()),
        [partial(post_pool, beside, "guilty"), *children],
    )
    alone = [call() for call in children]

    assert guilty.status == 422
    assert [reply.status for reply in born] == [404, 201, 201]
    assert born[0].json["detail"] == alone[0].json["detail"] == "there is no pool guilty"
    assert [reply.status for reply in alone] == [404, 200, 200]
    assert ids(beside, "pools") == {"other"}
    assert "503 Service Unavailable" in beside.fetch(port)


def test_two_guilty_pools_in_one_batch_are_both_refused(
    beside: Machine, checks: SlowChecks, extra: Path
) -> None:
    extra.write_text("backend backend-guilty\nbackend backend-accomplice\n")
    good = [f"pool-{number}" for number in range(OTHERS)]
    bad: list[Callable[[], Reply]] = [
        partial(post_pool, beside, id) for id in ("guilty", "accomplice")
    ]

    _, replies = checks.one_batch(
        partial(post_listener, beside, "opener", free_port()),
        between(bad, [partial(post_pool, beside, id) for id in good]),
    )

    half = OTHERS // 2
    refused, accepted = replies[half : half + 2], replies[:half] + replies[half + 2 :]
    assert [reply.status for reply in refused] == [422, 422]
    assert "'backend-guilty'" in refused[0].json["errors"][0]["detail"]
    assert "'backend-accomplice'" in refused[1].json["errors"][0]["detail"]
    assert {reply.status for reply in accepted} == {201}
    assert ids(beside, "pools") == {*good}


# --- HAProxy names the fragment ----------------------------------------------------------------


class Raw(Resource):
    """A backend with a line that nobody parses: what no kind of ours allows."""

    kind = "raws"

    id: Token = Field(description="Identity.")
    line: Text = Field("", description="A line of the backend, as it is.")


class Remark(Resource):
    """A child that needs its parent and renders nothing."""

    kind = "remarks"

    id: Token = Field(description="Identity.")
    raw_id: Token = Field(description="What it is about.")


class Echo(Resource):
    """A child that is rendered, so that it could be blamed itself."""

    kind = "echoes"

    id: Token = Field(description="Identity.")
    raw_id: Token = Field(description="Its parent.")


ROWS = (
    Kind(model=Raw, collection="/api/haproxy/raws", fragment=("70-raw-", "test/raw.cfg.j2")),
    Kind(
        model=Remark,
        collection="/api/haproxy/remarks",
        references=(Reference("raw_id", "raws", owns=False),),
    ),
    Kind(
        model=Echo,
        collection="/api/haproxy/echoes",
        references=(Reference("raw_id", "raws"),),
        fragment=("80-echo-", "test/echo.cfg.j2"),
    ),
)
TEMPLATES: Mapping[str, str] = {
    "raw": "backend raw-{{ resource.id }}\n    mode http\n    {{ resource.line }}\n",
    "echo": "backend raw-{{ resource.id }}\n    mode http\n",
}


@pytest.fixture
def more_kinds(checks: SlowChecks, tmp_path: Path) -> Iterator[Machine]:
    """An agent in this process that knows three kinds more."""
    directory = tmp_path / "templates"
    (directory / "test").mkdir(parents=True)
    for name, text in TEMPLATES.items():
        (directory / f"test/{name}.cfg.j2").write_text(text)
    machine = Machine(environment=checks.environment)
    machine.secret = machine.cli("credentials", "add", "test").stdout.strip()
    found = settings.load(root=machine.root, environment=checks.environment)
    kinds = Kinds(KINDS + ROWS)
    engine = app.build_engine(
        found, own_haproxy=True, kinds=kinds, templates=Templates([directory])
    )
    application = app.build_app(found, engine, kinds=kinds)
    server = make_server("127.0.0.1", machine.port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    engine.start()
    try:
        wait_until(machine.is_ready, 20)
        yield machine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        engine.stop()
        machine.end()


def post_raw(machine: Machine, id: str, line: str = "") -> Reply:
    """Make a backend with *line* in it."""
    return machine.post("/api/haproxy/raws", {"id": id, "line": line})


def test_of_many_documents_the_one_whose_fragment_haproxy_names_is_refused_alone(
    more_kinds: Machine, checks: SlowChecks
) -> None:
    good = [f"raw-{number}" for number in range(2 * OTHERS)]
    before, checked = more_kinds.reloads(), checks.count

    _, replies = checks.one_batch(
        partial(post_listener, more_kinds, "opener", free_port()),
        between(
            [partial(post_raw, more_kinds, "guilty", "balance nonsense")],
            [partial(post_raw, more_kinds, id) for id in good],
        ),
    )

    guilty = replies.pop(OTHERS)
    assert guilty.status == 422, guilty.body
    assert "parsing [70-raw-guilty.cfg:4] : balance" in guilty.json["errors"][0]["detail"]
    assert str(more_kinds.root) not in guilty.body.decode()
    assert {reply.status for reply in replies} == {201}
    assert [reply.json["id"] for reply in replies] == good
    assert len({reply.json["applied"]["pid"] for reply in replies}) == 1
    assert ids(more_kinds, "raws") == {*good}
    assert backends(more_kinds) == {f"raw-{id}" for id in good}
    assert more_kinds.reloads() == before + 2
    assert checks.count - checked == 3  # the opener's, the refused one, the one without it


def test_children_of_a_document_that_is_refused_by_name_are_answered_as_if_they_were_alone(
    more_kinds: Machine, checks: SlowChecks
) -> None:
    children: list[Callable[[], Reply]] = [
        partial(more_kinds.post, f"/api/haproxy/{kind}", {"id": kind, "raw_id": "guilty"})
        for kind in ("remarks", "echoes")
    ]

    _, (guilty, *born) = checks.one_batch(
        partial(post_listener, more_kinds, "opener", free_port()),
        [
            partial(post_raw, more_kinds, "guilty", "balance nonsense"),
            *children,
            partial(post_raw, more_kinds, "innocent"),
        ],
    )
    alone = [call() for call in children]

    innocent = born.pop()
    assert (guilty.status, innocent.status) == (422, 201)
    absent = [{"pointer": "/raw_id", "detail": "there is no raw guilty"}]
    assert [(reply.status, reply.json["errors"]) for reply in born] == [(422, absent)] * 2
    assert [(reply.status, reply.json["errors"]) for reply in alone] == [(422, absent)] * 2
    assert backends(more_kinds) == {"raw-innocent"}


def test_who_wrote_a_line_that_is_right_is_not_refused_for_who_makes_it_wrong(
    more_kinds: Machine, checks: SlowChecks
) -> None:
    path = "/api/haproxy/raws/shared"

    _, (made, spoilt, *others) = checks.one_batch(
        partial(post_listener, more_kinds, "opener", free_port()),
        [
            partial(post_raw, more_kinds, "shared", "balance roundrobin"),
            partial(more_kinds.put, path, {"line": "balance nonsense"}),
            partial(post_raw, more_kinds, "other"),
        ],
    )

    assert spoilt.status == 422
    assert "parsing [70-raw-shared.cfg:4] : balance" in spoilt.json["detail"]
    assert [made.status, *(reply.status for reply in others)] == [201, 201], made.body
    assert more_kinds.get(path).json["line"] == "balance roundrobin"
    assert backends(more_kinds) == {"raw-shared", "raw-other"}


def test_a_document_is_not_compared_with_one_of_the_same_id_that_is_refused(
    more_kinds: Machine, checks: SlowChecks
) -> None:
    _, (guilty, innocent) = checks.one_batch(
        partial(post_listener, more_kinds, "opener", free_port()),
        [
            partial(post_raw, more_kinds, "same", "balance nonsense"),
            partial(post_raw, more_kinds, "same", "balance roundrobin"),
        ],
    )

    assert guilty.status == 422
    assert innocent.status == 201, innocent.body
    assert more_kinds.get("/api/haproxy/raws/same").json["line"] == "balance roundrobin"


# --- an address that is taken ------------------------------------------------------------------


def test_children_of_a_listener_that_cannot_be_bound_are_answered_as_if_they_were_alone(
    checks: SlowChecks,
) -> None:
    with running(environment=checks.environment) as machine:
        taken = machine.backend("holder").port
        pool = partial(post_pool, machine, "child", listener_id="taken")

        _, (listener, child, other) = checks.one_batch(
            partial(post_listener, machine, "opener", free_port()),
            [
                partial(post_listener, machine, "taken", taken),
                pool,
                partial(post_listener, machine, "other", free_port()),
            ],
        )
        alone = pool()

        assert (listener.status, other.status) == (409, 201)
        assert listener.json["errors"][0]["pointer"] == "/protocol_port"
        absent = [{"pointer": "/listener_id", "detail": "there is no listener taken"}]
        assert (alone.status, alone.json["errors"]) == (422, absent)
        assert (child.status, child.json["errors"]) == (422, absent)


def test_who_made_a_listener_is_not_refused_for_who_moves_it_to_a_taken_port(
    checks: SlowChecks,
) -> None:
    with running(environment=checks.environment) as machine:
        taken, port = machine.backend("holder").port, free_port()

        _, (made, named, moved) = checks.one_batch(
            partial(post_listener, machine, "opener", free_port()),
            [
                partial(post_listener, machine, "li", port),
                partial(machine.put, "/api/haproxy/listeners/li", {"connection_limit": 7}),
                partial(machine.put, "/api/haproxy/listeners/li", {"protocol_port": taken}),
            ],
        )

        assert (made.status, named.status, moved.status) == (201, 200, 409)
        assert moved.json["errors"][0]["pointer"] == "/protocol_port"
        found = machine.get("/api/haproxy/listeners/li").json
        assert (found["protocol_port"], found["connection_limit"]) == (port, 7)
        assert "503 Service Unavailable" in machine.fetch(port)


# --- a base configuration that is broken -------------------------------------------------------

WRONG = "backend of-the-operator\n    nonsense\n"
RIGHT = "backend of-the-operator\n    mode http\n"


@pytest.fixture
def broken(extra: Path, checks: SlowChecks) -> Iterator[Machine]:
    """An agent with one listener, ``served``, whose operator then broke his own file."""
    extra.write_text(RIGHT)
    environment = {**checks.environment, "KINX_HAPROXY_EXTRA_CONFIG": str(extra)}
    with running(environment=environment) as machine:
        assert post_listener(machine, "served", free_port()).status == 201
        extra.write_text(WRONG)
        yield machine


def test_a_caller_is_not_blamed_for_an_operators_file_that_became_wrong(
    broken: Machine, extra: Path
) -> None:
    port, worker = free_port(), broken.worker_pid()
    served = broken.get("/api/haproxy/listeners/served").json["protocol_port"]

    refused = post_listener(broken, "new", port)

    assert refused.status == 503, refused.body
    assert int(refused.headers["Retry-After"]) > 0
    assert "nonsense" in refused.json["detail"]
    assert ids(broken, "listeners") == {"served"}
    assert broken.worker_pid() == worker
    assert "503 Service Unavailable" in broken.fetch(served)
    extra.write_text(RIGHT)
    assert post_listener(broken, "new", port).status == 201
    assert "503 Service Unavailable" in broken.fetch(port)


def test_no_caller_of_a_batch_is_blamed_for_an_operators_file_that_became_wrong(
    broken: Machine, checks: SlowChecks
) -> None:
    opener, replies = checks.one_batch(
        partial(post_listener, broken, "opener", free_port()),
        [partial(post_listener, broken, f"li-{number}", free_port()) for number in range(OTHERS)],
    )

    assert {reply.status for reply in (opener, *replies)} == {503}
    assert all("nonsense" in reply.json["detail"] for reply in replies)
    assert all(int(reply.headers["Retry-After"]) > 0 for reply in replies)
    assert ids(broken, "listeners") == {"served"}


def test_what_needs_no_change_of_haproxy_is_accepted_beside_an_operators_wrong_file(
    broken: Machine,
) -> None:
    replies = [
        broken.put("/api/haproxy/listeners/served", {"name": "still served"}),
        broken.post("/api/haproxy/loadbalancers", {"id": "lb"}),
    ]

    assert [reply.status for reply in replies] == [200, 201]


def test_drift_beside_an_operators_wrong_file_is_repaired_once_that_is_right_again(
    broken: Machine, extra: Path
) -> None:
    worker = broken.worker_pid()
    edited = broken.conf_d / "50-frontend-served.cfg"
    content = edited.read_text()

    edited.write_text(content + "    # by hand\n")
    wait_until(lambda: broken.condition("Applied")["status"] == "False")
    message = broken.condition("Applied")["message"]
    still = broken.worker_pid()
    extra.write_text(RIGHT)
    wait_until(lambda: broken.condition("Applied")["status"] == "True")

    assert "nonsense" in message
    assert still == worker
    assert edited.read_text() == content


def test_haproxy_that_died_beside_an_operators_wrong_file_is_back_once_that_is_right_again(
    broken: Machine, extra: Path
) -> None:
    served = broken.get("/api/haproxy/listeners/served").json["protocol_port"]
    for pid in broken.haproxy_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not broken.haproxy_pids())

    refused = post_listener(broken, "new", free_port())
    extra.write_text(RIGHT)
    answer = wait_until(lambda: fetched(broken, served))

    assert refused.status == 503, refused.body
    assert "503 Service Unavailable" in answer
    assert ids(broken, "listeners") == {"served"}
