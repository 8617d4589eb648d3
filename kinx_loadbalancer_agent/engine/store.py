"""The durable state: resources as they are, and every generation as a delta. SQLite, one writer.

The commit is the decision: what is in here is what the node must do, after any crash. This
module must never judge what it keeps.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinx_loadbalancer_agent.errors import StateError, StateFull, StateNewer
from kinx_loadbalancer_agent.model.intents import Change
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Resource
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.system import effects

FORMAT = 1
MAGIC = b"SQLite format 3\0"
WAY_OUT = (
    "; stop the agent, remove what begins with that name, put a backup in its place and start it; "
    "without a backup the node serves nothing from then on until PUT /api/state; "
    "HAProxy serves on meanwhile"
)
SCHEMA = """
CREATE TABLE resources (
    kind TEXT NOT NULL, parent TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, parent, id)
) WITHOUT ROWID;
CREATE TABLE changes (
    generation INTEGER PRIMARY KEY, requested_at TEXT NOT NULL, who TEXT NOT NULL,
    remote TEXT NOT NULL, request_id TEXT NOT NULL, delta TEXT NOT NULL, applied TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Record:
    """One generation: who asked for what, when, and how it was made live."""

    generation: int
    requested_at: str
    who: str
    remote: str
    request_id: str
    changes: tuple[Change, ...]
    applied: Mapping[str, Any]


class Store:
    """The store in one file. Opened, written and closed by one thread.

    Raises StateNewer if a newer version wrote it, StateError if it cannot be read.
    Source: SQLite documentation, WAL and ``synchronous``.
    """

    def __init__(self, path: Path, kinds: Kinds) -> None:
        self.path = path
        self._kinds = kinds
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            self._file = _identity(path)
            found = self._database.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                raise StateNewer(str(path), found, FORMAT)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            if found < FORMAT:
                with effects.step("store.create"):
                    script = f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"
                    self._database.executescript(script)
        except sqlite3.Error as error:
            raise StateError(f"cannot open {path}: {error}{WAY_OUT}") from error

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def load(self) -> tuple[State, int]:
        """Return the state and its generation; raises StateError if it cannot be read."""
        return _load(self._database, self.path, self._kinds)

    def verify(self) -> None:
        """Raise StateError if the file is not the one that was opened, or no database any more."""
        try:
            with self.path.open("rb") as file:
                is_whole = file.read(len(MAGIC)) == MAGIC and _identity(self.path) == self._file
        except OSError:
            is_whole = False
        if not is_whole:
            words = "was replaced or damaged behind the agent: save GET /api/state"
            raise StateError(f"{self.path} {words}, restart the agent and PUT it")

    def commit(self, records: Iterable[Record]) -> None:
        """Keep *records* and what they change, all or nothing, durably.

        Raises StateFull if the disk is, StateError if the file cannot be written.
        """
        self.verify()
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for record in records:
                    self._keep(record)
                with effects.step("store.commit"):
                    self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StateFull(f"cannot keep the change: no space for {self.path}") from error
            raise StateError(f"cannot write {self.path}: {error}") from error

    def _keep(self, record: Record) -> None:
        delta = []
        for change in record.changes:
            body = change.after.model_dump_json() if change.after else None
            if body is None:
                self._database.execute(
                    "DELETE FROM resources WHERE kind = ? AND parent = ? AND id = ?", change.ref
                )
            else:
                self._database.execute(
                    "INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)", (*change.ref, body)
                )
            before = change.before.model_dump_json() if change.before else None
            delta.append([*change.ref, before, body])
        self._database.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                record.generation,
                record.requested_at,
                record.who,
                record.remote,
                record.request_id,
                json.dumps(delta),
                json.dumps(record.applied),
            ),
        )


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def read_state(path: Path, kinds: Kinds) -> State:
    """Return the state kept at *path*, beside a running agent; an empty one where there is none."""
    return read(path, kinds)[0]


def read(path: Path, kinds: Kinds) -> tuple[State, int]:
    """Return what :func:`read_state` does, and its generation."""
    if not path.exists():
        return State(), 0
    read_format(path)
    with closing(_reading(path)) as database:
        return _load(database, path, kinds)


def read_format(path: Path) -> None:
    """Raise StateNewer or StateError if the store at *path* cannot be opened by this version."""
    if path.exists():
        try:
            with closing(_reading(path)) as database:
                found = database.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise StateError(f"cannot open {path}: {error}{WAY_OUT}") from error
        if found > FORMAT:
            raise StateNewer(str(path), found, FORMAT)


def read_at(path: Path, kinds: Kinds, generation: int) -> State:
    """Return the state as it was after *generation*: what came later is undone, newest first."""
    try:
        with closing(_reading(path)) as database:
            database.execute("BEGIN")  # both questions are about one moment
            rows = database.execute("SELECT kind, parent, id, body FROM resources")
            bodies = {row[:3]: row[3] for row in rows}
            later = database.execute(
                "SELECT delta FROM changes WHERE generation > ? ORDER BY generation DESC",
                (generation,),
            )
            for (delta,) in later:
                for kind, parent, id, before, _ in json.loads(delta):
                    bodies[kind, parent, id] = before
    except sqlite3.Error as error:
        raise StateError(f"cannot read {path}: {error}{WAY_OUT}") from error
    return _state(((*ref, body) for ref, body in bodies.items() if body is not None), path, kinds)


def read_changes(path: Path, after: int, limit: int) -> list[dict[str, Any]]:
    """Return what is kept of the *limit* generations after *after* (CONTRACT ``/api/changes``).

    Each object has what it was and what it became, of the members that changed.
    """
    query = "SELECT generation, requested_at, who, remote, delta, applied FROM changes"
    try:
        with closing(_reading(path)) as database:
            rows = database.execute(
                f"{query} WHERE generation > ? ORDER BY generation LIMIT ?", (after, limit)
            ).fetchall()
    except sqlite3.Error as error:
        raise StateError(f"cannot read {path}: {error}{WAY_OUT}") from error
    return [_change(*row) for row in rows]


def _change(
    generation: int, requested_at: str, who: str, remote: str, delta: str, applied: str
) -> dict[str, Any]:
    objects = [
        {"kind": kind, "id": id, "operation": _operation(before, after)}
        | ({"parent": parent} if parent else {})
        | _differing(before, after)
        for kind, parent, id, before, after in json.loads(delta)
    ]
    return {
        "generation": generation,
        "objects": objects,
        "who": who,
        "remote": remote,
        "requested_at": requested_at,
        "applied": json.loads(applied),
    }


def _differing(before: str | None, after: str | None) -> dict[str, Any]:
    old, new = json.loads(before or "{}"), json.loads(after or "{}")
    names = [name for name in old | new if old.get(name) != new.get(name)]
    was, became = ({name: body[name] for name in names if name in body} for body in (old, new))
    return {"before": was if before else None, "after": became if after else None}


def _operation(before: str | None, after: str | None) -> str:
    if before is None:
        return "create"
    return "update" if after is not None else "delete"


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2)


def _load(database: sqlite3.Connection, path: Path, kinds: Kinds) -> tuple[State, int]:
    try:
        rows = database.execute("SELECT kind, parent, id, body FROM resources").fetchall()
        newest = database.execute("SELECT max(generation) FROM changes").fetchone()[0]
    except sqlite3.Error as error:
        raise StateError(f"cannot read {path}: {error}{WAY_OUT}") from error
    return _state(rows, path, kinds), newest or 0


def _state(rows: Iterable[tuple[str, str, str, str]], path: Path, kinds: Kinds) -> State:
    tables: dict[str, dict[str, dict[str, Resource]]] = {}
    try:
        for kind, parent, id, body in rows:
            resource = kinds[kind].model.model_validate_json(body)
            tables.setdefault(kind, {}).setdefault(parent, {})[id] = resource
    except (KeyError, ValueError) as error:
        raise StateError(f"cannot read {path}: {error}{WAY_OUT}") from error
    return State(tables)
