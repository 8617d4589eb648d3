"""The store: what was committed is there again, all of it or nothing."""

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kinx_loadbalancer_agent.engine import store
from kinx_loadbalancer_agent.errors import StateError, StateNewer
from kinx_loadbalancer_agent.model.intents import Folded
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.services.haproxy.view import Renderer
from kinx_loadbalancer_agent.services.text import Templates
from tests.golden.cases import CASES, NODE, documents
from tests.unit.desired import Desired

READERS: dict[str, Callable[[Path], object]] = {
    "serve": store.read_format,
    "render, check and plan": lambda path: store.read_state(path, Kinds()),
    "the engine": lambda path: store.Store(path, Kinds()),
}
"""What opens a store that somebody else may have written, by who does."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def record(generation: int, folded: Folded) -> store.Record:
    return store.Record(
        generation,
        "2018-01-01T00:00:00.000Z",
        "driver",
        "192.0.2.200",
        f"request-{generation}",
        folded.changes,
        {"by": "reload", "because": "new", "pid": 7, "change": generation},
    )


def kept(path: Path, folds: Iterator[Folded]) -> None:
    """Commit *folds*, a generation each, into the store at *path*."""
    with closing(store.Store(path, Kinds())) as opened:
        for generation, folded in enumerate(folds, 1):
            opened.commit([record(generation, folded)])


def reopened(path: Path) -> Desired:
    """Return what the store at *path* holds, to go on from."""
    with closing(store.Store(path, Kinds())) as opened:
        return Desired(state=opened.load()[0])


@pytest.mark.parametrize("case", CASES)
def test_a_state_that_is_opened_again_is_the_same(path: Path, case: str) -> None:
    desired = Desired()
    kept(path, (desired.post(kind, body, parent) for kind, body, parent in documents(case)))

    again = reopened(path)

    assert again.state.tables == desired.state.tables
    renderers = [Renderer(Kinds(), Templates(), NODE) for _ in range(2)]
    assert renderers[0].render(again.state) == renderers[1].render(desired.state)


def test_whatever_a_caller_may_say_is_there_again(path: Path, web: Desired) -> None:
    text = "a \"b\" 'c' \\ # é 漢 🙂"
    folds = [
        web.put("loadbalancers", "lb", {"name": text, "project_id": "p", "enabled": False}),
        web.put("listeners", "li", {"sni_containers": ["a", "b"], "connection_limit": 5}),
        web.put("pools", "po", {"stick_size": "1k", "stick_expire": "1d"}),
        web.put("pools", "po", {"session_persistence": {"type": "APP_COOKIE", "cookie_name": "c"}}),
        web.post(
            "members",
            {
                "id": "m",
                "address": "2001:db8::7",
                "protocol_port": "80",
                "type": "SOURCE_IP",
                "monitor_address": "192.0.2.9",
                "healthmonitor": {"type": "HTTP", "delay": "3", "timeout": 2, "url_path": "/x"},
            },
            "po",
        ),
    ]

    kept(path, iter(folds))

    changed = {change.ref for folded in folds for change in folded.changes}
    again = reopened(path)
    assert {ref: again.state.get(ref) for ref in changed} == {
        ref: web.state.get(ref) for ref in changed
    }


def test_what_was_deleted_stays_deleted(path: Path) -> None:
    desired = Desired()
    folds = [
        desired.post("loadbalancers", {"id": "a"}),
        desired.post("loadbalancers", {"id": "b"}),
        desired.delete("loadbalancers", "a"),
    ]

    kept(path, iter(folds))

    assert reopened(path).ids("loadbalancers") == ["b"]
    with closing(store.Store(path, Kinds())) as opened:
        assert opened.load()[1] == 3


def test_a_commit_keeps_all_its_records_or_none(path: Path) -> None:
    desired = Desired()
    first = record(1, desired.post("loadbalancers", {"id": "a"}))
    second = record(2, desired.post("loadbalancers", {"id": "b"}))
    same_number = record(1, desired.post("loadbalancers", {"id": "c"}))

    with closing(store.Store(path, Kinds())) as opened:
        opened.commit([first])
        with pytest.raises(StateError):
            opened.commit([second, same_number])
        refused = opened.load()[0]
        opened.commit([second])

    assert list(refused.table("loadbalancers")) == ["a"]
    assert reopened(path).ids("loadbalancers") == ["a", "b"]


def test_a_change_can_be_looked_up_by_its_generation(path: Path, web: Desired) -> None:
    member = {"id": "m", "address": "192.0.2.7", "protocol_port": 80}
    kept(path, iter([web.post("members", member, "po"), web.delete("pools", "po")]))

    made, gone = store.read_changes(path, 0, 2)

    (object,) = made["objects"]
    assert object["before"] is None
    assert object["after"]["address"] == "192.0.2.7"
    assert (object["kind"], object["id"], object["parent"]) == ("members", "m", "po")
    assert (made["generation"], made["who"], made["applied"]["by"]) == (1, "driver", "reload")
    assert {(one["kind"], one["operation"]) for one in gone["objects"]} == {
        ("pools", "delete"),
        ("members", "delete"),
    }
    assert store.read_changes(path, 1, 1) == [gone]
    assert store.read_changes(path, 2, 1) == []


def test_the_state_can_be_read_beside_the_agent_that_writes_it(path: Path) -> None:
    desired = Desired()
    before = store.read_state(path, Kinds())

    with closing(store.Store(path, Kinds())) as opened:
        opened.commit([record(1, desired.post("loadbalancers", {"id": "a"}))])
        beside = store.read_state(path, Kinds())

    assert list(before.table("loadbalancers")) == []
    assert list(beside.table("loadbalancers")) == ["a"]


def test_nobody_else_may_read_the_files(path: Path) -> None:
    with closing(store.Store(path, Kinds())) as opened:
        opened.commit([record(1, Desired().post("loadbalancers", {"id": "a"}))])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


@pytest.mark.parametrize("who", READERS)
def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(path: Path, who: str) -> None:
    kept(path, iter([Desired().post("loadbalancers", {"id": "a"})]))
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {store.FORMAT + 1}")
    before = path.read_bytes()

    with pytest.raises(StateNewer, match="install the version that wrote it"):
        READERS[who](path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("who", READERS)
def test_a_file_that_is_no_store_is_refused(path: Path, who: str) -> None:
    path.write_bytes(b"this is no database, and long enough to be sure of that\n" * 40)

    with pytest.raises(StateError):
        READERS[who](path)


@pytest.mark.parametrize(
    "row",
    [
        ("printers", "", "a", "{}"),
        ("loadbalancers", "", "a", "{"),
        ("loadbalancers", "", "a", '{"id": "a", "enabled": "yes"}'),
        ("loadbalancers", "", "a", '{"id": "a\\nb"}'),
    ],
    ids=["unknown kind", "no JSON", "wrong type", "forbidden value"],
)
def test_a_resource_that_cannot_be_one_is_refused_not_guessed(
    path: Path, row: tuple[str, str, str, str]
) -> None:
    kept(path, iter([]))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO resources VALUES (?, ?, ?, ?)", row)

    with closing(store.Store(path, Kinds())) as opened, pytest.raises(StateError):
        opened.load()
