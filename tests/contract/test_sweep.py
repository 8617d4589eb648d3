"""Anything anywhere: never a 500, never HTML, never a traceback; free text is in no file."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import HEALTHMONITORS, LISTENERS, LOADBALANCERS, POOLS
from tests.contract.test_fields import FIELDS
from tests.machine import Machine

VALUES = (
    *("null", "true", "false", "0", "-1", "1.5", "1e400", "-1e400"),
    *("18446744073709551616", "1" * 4000, '""', '"0"', '"\\u0000"'),
    *("[]", '["a",1,null,{}]', "{}", '{"":null}', '{"a":{"b":[1e400]}}'),
    *('{"type":"HTTP"}', '{"type":{"type":[]}}', '{"ip_address":1e400}'),
)
"""JSON as text, so that a number may be what no float holds."""
MORE = ("vip", "tags", "project_id", "session_persistence", "stick_size", "cookie_name", "colour")
ALL = [(kind, name) for kind in FIELDS for name in (*FIELDS[kind], *MORE)]


def text(members: dict[str, Any], name: str, value: str) -> bytes:
    """Return the document *members* with the JSON *value* as *name*."""
    rest = {key: found for key, found in members.items() if key != name}
    own = ", ".join(f"{json.dumps(key)}: {json.dumps(found)}" for key, found in rest.items())
    comma = ", " if own else ""
    return f"{{{own}{comma}{json.dumps(name)}: {value}}}".encode()


@pytest.mark.parametrize(("kind", "name"), sorted(set(ALL)))
def test_every_value_in_every_member_gets_a_decent_answer(
    shared: Machine, kind: str, name: str
) -> None:
    there = documents.made(shared, kind)
    parents = there if kind in documents.SINGLETONS else documents.place(shared, kind)

    for value in VALUES:
        changed = shared.put(there.item, text({}, name, value))
        if kind in documents.SINGLETONS:
            shared.delete(there.item)
        fresh = {"id": documents.fresh("x")} if "id" in parents.body else {}
        posted = shared.post(parents.collection, text(parents.body | fresh, name, value))
        if posted.status >= 400 and kind in documents.SINGLETONS:
            shared.post(there.collection, there.body)

        for reply in (posted, changed):
            judge.assert_is_decent(reply)
            wanted = {documents.answered(kind, status) for status in (200, 201)} | {409, 422}
            assert reply.status in wanted | ({400} if len(value) > 1000 else set())
            if reply.status in (409, 422):
                assert reply.json["errors"]


@pytest.mark.parametrize("value", VALUES)
def test_every_value_as_the_whole_body_gets_a_decent_answer(shared: Machine, value: str) -> None:
    for kind in documents.NAMES:
        there = documents.made(shared, kind)
        for method, path in (("POST", there.collection), ("PUT", there.item)):
            judge.assert_is_decent(shared.request(method, path, value.encode()))


def test_after_all_that_the_agent_and_haproxy_agree(shared: Machine) -> None:
    judge.assert_haproxy_agrees(shared)

    assert shared.condition("Applied")["status"] == "True"
    assert "Traceback" not in shared.log.read_text()


# --- free text ------------------------------------------------------------------------------

MARK = "zqzq"
FREE = (
    f"{MARK} two words",
    f"\"{MARK}\" '{MARK}'",
    f"# {MARK}",
    f"{MARK}\\n\\ bind *:1",
    f"${{{MARK}}} %[{MARK}] $({MARK}) `{MARK}`",
    f"\U0001f600 {MARK} e\u0301 \u05d0 \u202e",
    f"<script>{MARK}</script> &amp;",
    MARK + "x" * 251,
    MARK + "\U0001f600" * 251,
    f" {MARK} ",
)


@pytest.fixture(scope="module")
def texts(shared: Machine) -> dict[str, dict[str, str]]:
    """Return, by URL, the members that hold free text, of one rendered resource of each kind."""
    listener, pool, member = documents.listener(), documents.pool(), documents.member()
    pool["listener_id"] = listener["id"]
    owner = documents.loadbalancer()
    for collection, body in (
        (LOADBALANCERS, owner),
        (LISTENERS, listener),
        (POOLS, pool),
        (f"{POOLS}/{pool['id']}/members", member),
        (HEALTHMONITORS, documents.monitor(pool_id=pool["id"])),
    ):
        assert shared.post(collection, body).status == 201
    both = {"name": "", "description": ""}
    return {
        f"{LOADBALANCERS}/{owner['id']}": {**both, "project_id": ""},
        f"{LISTENERS}/{listener['id']}": {**both, "tls_certificate_id": ""},
        f"{POOLS}/{pool['id']}": both,
        f"{POOLS}/{pool['id']}/members/{member['id']}": {"name": "", "project_id": ""},
    }


def mentions(directory: Path, word: str) -> list[str]:
    """Return the files below *directory* that hold *word*, or are named by it."""
    needle = word.encode()
    return [
        str(path)
        for path in directory.rglob("*")
        if word in path.name or (path.is_file() and needle in path.read_bytes())
    ]


@pytest.mark.parametrize("given", FREE)
def test_free_text_comes_back_unchanged_and_is_in_no_file(
    shared: Machine, texts: dict[str, dict[str, str]], given: str
) -> None:
    before, reloads = judge.files(shared), shared.reloads()

    for url, members in texts.items():
        sent = dict.fromkeys(members, given)
        reply = shared.put(url, sent)

        assert reply.status == 200, reply.body
        assert shared.get(url).json.items() >= sent.items()
        assert judge.files(shared) == before
        assert shared.reloads() == reloads
    for directory in ("etc", "run"):
        assert mentions(shared.root / directory, MARK) == []
    assert MARK not in shared.log.read_text()


def test_free_text_of_a_new_resource_is_in_no_file_either(shared: Machine) -> None:
    given = f'{MARK} "a" # b \U0001f600'
    listener = documents.listener(name=given, description=given, sni_containers=[given])
    pool = documents.pool(name=given, description=given, listener_id=listener["id"])
    member = documents.member(name=given, project_id=given)

    replies = [
        shared.post(LISTENERS, listener),
        shared.post(POOLS, pool),
        shared.post(f"{POOLS}/{pool['id']}/members", member),
    ]

    assert [reply.status for reply in replies] == [201] * 3
    assert [reply.json["name"] for reply in replies] == [given] * 3
    assert replies[0].json["sni_containers"] == [given]
    assert mentions(shared.root / "etc", MARK) == []
    store = shared.root / "opt/kinx_loadbalancer_agent"
    assert mentions(store, MARK)


def test_free_text_survives_a_restart(machine: Machine) -> None:
    place = documents.place(machine, "loadbalancers", name=FREE[5], description=FREE[1])
    machine.post(place.collection, place.body)

    machine.stop()
    machine.start()

    found = machine.get(place.item).json
    assert (found["name"], found["description"]) == (FREE[5], FREE[1])
