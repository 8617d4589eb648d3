"""``?dry_run=true`` (CONTRACT section 1, row "dry run"): what would become of a request.

Each rehearsal is followed by the real request, which must do what the dry run said.
"""

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, LOADBALANCERS, NOTHING, POOLS, QUAGGA, Body
from tests.fault.load import load
from tests.fault.node import kill_haproxy
from tests.machine import Machine, Reply, free_port, running, wait_until

MEMBERS = {"dry_run", "would", "reload", "because", "commands", "diff"}
HUNK = re.compile(r"@@ -(?P<at>\d+)(?:,(?P<lines>\d+))? \+\d+(?:,\d+)? @@")
BESIDES = {"routing": "etc/frr/frr.conf", "schedule": "var/spool/cron/crontabs/root"}
"""The name of a diff, and the file that is kept, of what is no part of conf.d."""
VERBS = ("POST", "POST again", "PUT", "PUT again", "DELETE")

SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A node that loads an operator's own backend, ``backend-guilty``, after ours."""
    need("haproxy")
    extra = tmp_path_factory.mktemp("operator") / "extra.cfg"
    extra.write_text("backend backend-guilty\n    mode http\n")
    with running(environment={"KINX_HAPROXY_EXTRA_CONFIG": str(extra)}) as found:
        yield found


# --- before and after -----------------------------------------------------------------------


def everything(machine: Machine) -> dict[str, Any]:
    """Return all that a dry run must leave alone; traffic counters are kept all the time."""
    found: dict[str, Any] = {
        "state": machine.get("/api/state").json,
        "store": judge.stored(machine),
        "generation": machine.get("/api/status").json["generation"],
        "files": judge.files(machine),
        "reloads": machine.reloads(),
        "worker": machine.worker_pid(),
    }
    paths = [*machine.root.glob("etc/**/*"), *machine.root.glob("var/**/*")]
    paths += machine.root.glob("opt/**/*")
    found["written"] = {
        path: (path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in paths
        if (path.is_symlink() or path.is_file())
        and path.name != "counters.json"
        and not path.name.endswith(("-shm", "-wal"))
    }
    return found


def texts(machine: Machine) -> dict[str, str]:
    """Return what a diff is about, by the name it has there."""
    besides = {name: machine.root / path for name, path in BESIDES.items()}
    found = {name: path.read_text() for name, path in besides.items() if path.exists()}
    return {name: text for name, text in (machine.fragments() | found).items() if text}


def patched(old: Mapping[str, str], diff: str) -> dict[str, str]:
    """Return the texts *old* with the unified *diff* applied, as ``patch -p1`` does it."""
    found = {name: text.splitlines() for name, text in old.items()}
    sections = re.split(r"^--- a/(.*)\n\+\+\+ b/\1\n", diff, flags=re.MULTILINE)
    assert sections[0] == ""
    for name, hunks in zip(sections[1::2], sections[2::2], strict=True):
        before, after, done = found.get(name, []), list[str](), 0
        for line in hunks.splitlines():
            if match := HUNK.fullmatch(line):
                start = int(match["at"]) - (match["lines"] != "0")
                after += before[done:start]
                done = start
            elif line[0] == "+":
                after.append(line[1:])
            else:
                assert before[done] == line[1:]
                after += [line[1:]] if line[0] == " " else []
                done += 1
        found[name] = after + before[done:]
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in found.items() if lines}


def dry(path: str) -> str:
    """Return the URL *path* as a dry run."""
    return f"{path}{'&' if '?' in path else '?'}dry_run=true"


def rehearsed(
    machine: Machine,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Body:
    """Ask what would become of a request, see that nothing does, and send it.

    Returns the answer to the dry run, which was right.
    """
    before, old, reloads = everything(machine), texts(machine), machine.reloads()
    trial = machine.request(method, dry(path), body, headers)
    assert everything(machine) == before

    reply = machine.request(method, path, body, headers)

    assert trial.status == 200, trial.body
    found: Body = trial.json
    assert found.keys() == MEMBERS
    assert found["dry_run"] is True
    assert found["would"] == reply.status, (found, reply.body)
    assert found["reload"] == (machine.reloads() != reloads)
    assert found["because"] == because(machine, reply)
    assert ("reload" in found["commands"]) == found["reload"]
    assert patched(old, found["diff"]) == texts(machine)
    assert names(found) == {
        name for name in old | texts(machine) if old.get(name) != texts(machine).get(name)
    }
    return found


def because(machine: Machine, reply: Reply) -> str:
    """Return why a write did what it did; of one without a body the change says it."""
    if reply.body:
        return str(reply.json["applied"]["because"])
    number = machine.get("/api/status").json["generation"]
    return str(machine.get(f"/api/changes/{number}").json["applied"]["because"])


def names(trial: Body) -> set[str]:
    """Return the files that the diff of a dry run names."""
    return set(re.findall(r"^\+\+\+ b/(.*)$", trial["diff"], flags=re.MULTILINE))


# --- every verb and kind --------------------------------------------------------------------


def served(machine: Machine) -> tuple[str, str]:
    """Make a listener and its pool, both rendered, and return their ids."""
    listener = documents.made(machine, "listeners", enabled=True).body["id"]
    pool = documents.made(machine, "pools", enabled=True, listener_id=listener).body["id"]
    member = documents.member()
    assert machine.post(f"{POOLS}/{pool}/members", member).status == 201
    return listener, pool


def rendered(machine: Machine, kind: str) -> tuple[documents.Place, Body]:
    """Return where a document of *kind* may go that others see, and a change that they see."""
    match kind:
        case "loadbalancers":
            place = documents.place(machine, kind)
            return place, {"vip_address": "127.0.0.1"}
        case "listeners":
            return documents.place(machine, kind, enabled=True), {"connection_limit": 77}
        case "pools":
            return documents.place(machine, kind, enabled=True), {"lb_algorithm": "SOURCE_IP"}
        case "members":
            _, pool = served(machine)
            place = documents.Place(f"{POOLS}/{pool}/members", documents.member())
            return place, {"weight": 7}
        case "healthmonitors":
            _, pool = served(machine)
            body = documents.monitor(pool_id=pool)
            return documents.Place(documents.HEALTHMONITORS, body, "pool_id"), {"delay": 9}
        case "peers":
            address = documents.loopback()
            body = documents.peer(hostname="test-node", address=address, port=free_port(address))
            return documents.Place(documents.PEERS, body, "hostname"), {"port": free_port(address)}
        case _:
            return documents.place(machine, kind), documents.CHANGE[kind]


@pytest.mark.parametrize("kind", documents.NAMES)
def test_a_dry_run_keeps_nothing_and_says_what_the_real_request_does(
    shared: Machine, kind: str
) -> None:
    place, change = rendered(shared, kind)
    known = shared.get("/api/status").json["generation"]

    trials = {
        "POST": rehearsed(shared, "POST", place.collection, place.body),
        "POST again": rehearsed(shared, "POST", place.collection, place.body),
        "PUT": rehearsed(shared, "PUT", place.item, change),
        "PUT again": rehearsed(shared, "PATCH", place.item, change),
        "DELETE": rehearsed(shared, "DELETE", place.item),
    }

    assert trials.keys() == {*VERBS}
    is_changed = {verb: bool(trial["diff"]) for verb, trial in trials.items()}
    is_shown = kind != "loadbalancers"
    assert is_changed == {
        "POST": is_shown,
        "POST again": False,
        "PUT": is_shown and bool(change),
        "PUT again": False,
        "DELETE": is_shown,
    }
    assert shared.get("/api/status").json["generation"] == known + 2 + bool(change)


@pytest.mark.parametrize("form", ["?cascade=true", "/delete_cascade"])
def test_a_dry_run_of_a_cascade_names_all_that_would_go(shared: Machine, form: str) -> None:
    owner = documents.made(shared, "loadbalancers").body["id"]
    port = documents.listener(loadbalancer_id=owner)
    pool = documents.pool(listener_id=port["id"], loadbalancer_id=owner)
    shared.post(LISTENERS, port)
    shared.post(POOLS, pool)

    trial = rehearsed(shared, "DELETE", f"{LOADBALANCERS}/{owner}{form}")

    fragments = {f"50-frontend-{port['id']}.cfg", f"60-backend-{pool['id']}.cfg"}
    assert trial["would"] == 204
    assert names(trial) == {"00-global.cfg", *fragments}


def test_a_dry_run_names_what_haproxy_would_be_told(shared: Machine) -> None:
    place = documents.place(shared, "listeners", enabled=True)

    trial = shared.post(dry(place.collection), place.body).json

    assert (trial["would"], trial["reload"], trial["commands"]) == (201, True, ["reload"])
    assert trial["because"] == f"50-frontend-{place.body['id']}.cfg is new"
    assert f"+frontend {place.body['id']}\n" in trial["diff"]
    assert trial["diff"].startswith("--- ")


@pytest.mark.parametrize(
    ("kind", "words"), [("quagga", "frr/frr.conf"), ("crontab", "crontabs/root")]
)
def test_a_dry_run_names_the_file_that_would_be_written(
    shared: Machine, kind: str, words: str
) -> None:
    place = documents.place(shared, kind)

    made = rehearsed(shared, "POST", place.collection, place.body)
    again = rehearsed(shared, "POST", place.collection, place.body)
    deleted = rehearsed(shared, "DELETE", place.item)

    assert [len(trial["commands"]) for trial in (made, again, deleted)] == [1, 0, 1]
    assert made["commands"][0].startswith("write ")
    assert made["commands"][0].endswith(words)
    assert deleted["commands"][0].startswith("remove ")


def test_a_dry_run_compares_nothing_but_what_haproxy_need_not_know(shared: Machine) -> None:
    place = documents.made(shared, "pools", enabled=True)

    trial = rehearsed(shared, "PUT", place.item, {"name": "other"})

    assert (trial["would"], trial["reload"]) == (200, False)
    assert (trial["commands"], trial["diff"]) == ([], "")


def test_dry_run_false_is_the_real_request(shared: Machine) -> None:
    place = documents.place(shared, "pools")

    made = shared.post(f"{place.collection}?dry_run=false", place.body)
    deleted = shared.delete(f"{place.item}?cascade=false&dry_run=false")

    assert (made.status, deleted.status) == (201, 204)


# --- trees, lists, the whole state ----------------------------------------------------------


def test_a_dry_run_of_a_member_list(shared: Machine) -> None:
    _, pool = served(shared)
    url = f"{POOLS}/{pool}/members"
    wanted = [documents.member(), documents.member(weight=5)]

    changed = rehearsed(shared, "PUT", url, wanted)
    again = rehearsed(shared, "PUT", url, {"members": wanted})
    emptied = rehearsed(shared, "PUT", url, [])

    backend = f"60-backend-{pool}.cfg"
    assert [trial["would"] for trial in (changed, again, emptied)] == [200] * 3
    assert names(changed) == names(emptied) == {backend}
    assert (changed["reload"], emptied["reload"]) == (False, False)
    assert (again["reload"], again["diff"], again["commands"]) == (False, "", [])


def test_a_dry_run_of_a_tree(shared: Machine) -> None:
    owner = documents.made(shared, "loadbalancers", vip_address="127.0.0.1").body["id"]
    url = f"{LOADBALANCERS}/{owner}/tree"
    port = documents.listener()
    pool = documents.pool(
        listener_id=port["id"],
        members=[documents.member(), documents.member()],
        healthmonitor=documents.monitor(),
    )
    wanted = {"listeners": [port], "pools": [pool]}

    changed = rehearsed(shared, "PUT", url, wanted)
    again = rehearsed(shared, "PUT", url, wanted)
    emptied = rehearsed(shared, "PUT", url, {"listeners": [], "pools": []})

    fragments = {f"50-frontend-{port['id']}.cfg", f"60-backend-{pool['id']}.cfg"}
    assert [trial["would"] for trial in (changed, again, emptied)] == [200] * 3
    assert names(changed) == names(emptied) == {"00-global.cfg", *fragments}
    assert (again["reload"], again["diff"], again["commands"]) == (False, "", [])


def test_a_dry_run_of_a_whole_state(shared: Machine) -> None:
    wanted = {
        "loadbalancers": [documents.loadbalancer(id="lb", vip_address="127.0.0.1")],
        "listeners": [documents.listener(id="li", loadbalancer_id="lb")],
        "pools": [documents.pool(id="po", listener_id="li", members=[], healthmonitor=None)],
        "peers": [],
        "quagga": None,
        "crontab": documents.crontab(),
    }
    speaks = wanted | {"quagga": documents.quagga()}
    assert shared.put("/api/state", NOTHING).status == 200

    built = rehearsed(shared, "PUT", "/api/state", wanted)
    again = rehearsed(shared, "PUT", "/api/state", wanted)
    speaking = rehearsed(shared, "PUT", "/api/state", speaks)
    spoken = rehearsed(shared, "PUT", "/api/state", speaks)
    emptied = rehearsed(shared, "PUT", "/api/state", NOTHING)

    fragments = {"00-global.cfg", "50-frontend-li.cfg", "60-backend-po.cfg"}
    assert names(built) == {*fragments, "schedule"}
    assert names(speaking) == {"routing"}
    assert names(emptied) == {*fragments, "schedule", "routing"}
    assert (again["would"], again["diff"], again["commands"]) == (200, "", [])
    assert (spoken["would"], spoken["diff"], spoken["commands"]) == (202, "", [])


# --- what would be refused ------------------------------------------------------------------


def refusals(machine: Machine) -> dict[str, tuple[int, str, str, Any, dict[str, str]]]:
    """Return requests that are refused: status, method, path, body, headers; by what is wrong."""
    listener, pool = served(machine)
    owner = documents.made(machine, "loadbalancers").body["id"]
    documents.made(machine, "listeners", loadbalancer_id=owner)
    there = machine.get(f"{LISTENERS}/{listener}").json
    taken = documents.listener(protocol_port=there["protocol_port"])
    taken["vip_address"] = there["vip_address"]
    members = f"{POOLS}/{pool}/members"
    tree, other = f"{LOADBALANCERS}/{owner}/tree", {"If-Match": '"other"'}
    twice = [documents.member(id="one"), documents.member(id="one")]
    return {
        "no object": (400, "POST", POOLS, b"[]", {}),
        "no JSON": (400, "PUT", members, b"[", {}),
        "an unknown id": (404, "PUT", f"{POOLS}/nothing", {"name": "x"}, {}),
        "nothing to delete": (404, "DELETE", f"{LISTENERS}/nothing", None, {}),
        "an unknown parent": (404, "PUT", f"{POOLS}/nothing/members", [], {}),
        "an unknown tree": (404, "PUT", f"{LOADBALANCERS}/nothing/tree", {}, {}),
        "other content": (409, "POST", LISTENERS, {**there, "connection_limit": 5}, {}),
        "an address taken": (409, "POST", LISTENERS, taken, {}),
        "in use": (409, "DELETE", f"{LOADBALANCERS}/{owner}", None, {}),
        "an address that is not here": (
            *(409, "POST", LISTENERS),
            *(documents.listener(vip_address="192.0.2.1"), {}),
        ),
        "another state": (412, "PUT", f"{POOLS}/{pool}", {"name": "x"}, other),
        "another state to delete": (412, "DELETE", f"{POOLS}/{pool}", None, other),
        "another state of a list's pool": (412, "PUT", members, [], other),
        "another state of a tree": (412, "PUT", tree, {"name": "x"}, other),
        "too large": (413, "POST", POOLS, b" " * (1024 * 1024 + 1), {}),
        "no type": (415, "POST", POOLS, b"{}", {"Content-Type": "text/plain"}),
        "members that are wrong": (422, "POST", POOLS, documents.pool(protocol="UDP", x=1), {}),
        "a null that has no default": (422, "PUT", f"{POOLS}/{pool}", {"protocol": None}, {}),
        "an unknown reference": (422, "POST", POOLS, documents.pool(listener_id="nothing"), {}),
        "a list that repeats": (422, "PUT", members, twice, {}),
        "a tree that is wrong": (422, "PUT", tree, {"pools": [{"id": "p"}]}, {}),
        "half a state": (422, "PUT", "/api/state", {"pools": []}, {}),
    }


def test_a_document_that_would_be_refused_gets_the_very_4xx(shared: Machine) -> None:
    cases = refusals(shared)
    before = everything(shared)

    for what, (status, method, path, body, headers) in cases.items():
        trial = shared.request(method, dry(path), body, headers)
        real = shared.request(method, path, body, headers)

        assert real.status == status, (what, real.body)
        judge.assert_is_problem(trial, status)
        assert without_instance(trial) == without_instance(real), what
        assert trial.headers.get("ETag") == real.headers.get("ETag"), what
    assert everything(shared) == before


def without_instance(reply: Reply) -> Body:
    return {name: value for name, value in reply.json.items() if name != "instance"}


def test_a_port_that_another_process_holds_is_the_409_of_a_dry_run(shared: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        body = documents.listener(protocol_port=other.getsockname()[1])
        trial, real = shared.post(dry(LISTENERS), body), shared.post(LISTENERS, body)

    judge.assert_is_problem(trial, 409, "/protocol_port")
    assert without_instance(trial) == without_instance(real)


def test_what_haproxy_refuses_is_the_422_of_a_dry_run(shared: Machine) -> None:
    before = everything(shared)

    trial = shared.post(dry(POOLS), documents.pool(id="guilty"))
    after = everything(shared)
    real = shared.post(POOLS, documents.pool(id="guilty"))

    judge.assert_is_problem(trial, 422)
    assert "backend-guilty" in trial.json["detail"]
    assert without_instance(trial) == without_instance(real)
    assert after == before


@pytest.mark.parametrize("value", ["maybe", "", "1", "TRUE", "True", "yes"])
def test_dry_run_is_true_or_false(shared: Machine, value: str) -> None:
    place = documents.made(shared, "pools")
    before = judge.kept(shared)
    owner = documents.fresh("lb")

    replies = [
        shared.post(f"{POOLS}?dry_run={value}", documents.pool()),
        shared.put(f"{place.item}?dry_run={value}", {"name": "x"}),
        shared.delete(f"{place.item}?dry_run={value}"),
        shared.delete(f"{LOADBALANCERS}/{owner}/delete_cascade?dry_run={value}"),
        shared.put(f"{place.item}/members?dry_run={value}", []),
        shared.put(f"{LOADBALANCERS}/{owner}/tree?dry_run={value}", {}),
        shared.put(f"/api/state?dry_run={value}", {}),
    ]

    for reply in replies:
        judge.assert_is_problem(reply, 400)
    assert judge.kept(shared) == before


def test_a_read_is_no_dry_run(shared: Machine) -> None:
    place = documents.made(shared, "pools")

    for path in (place.item, place.collection, "/api/state", "/api/status", "/api/changes"):
        judge.assert_is_problem(shared.get(dry(path)), 400)


# --- when not all is well -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loadbalancers", "listeners", "pools", "members", "crontab"])
def test_while_haproxy_is_down_a_dry_run_would_be_a_202(idle: Machine, kind: str) -> None:
    enabled = {"enabled": True} if kind in ("listeners", "pools") else {}
    place = documents.place(idle, kind, **enabled)
    requests = [
        ("POST", place.collection, place.body),
        ("POST", place.collection, place.body),
        ("PUT", place.item, documents.CHANGE[kind]),
        ("DELETE", place.item, None),
    ]

    for method, path, body in requests:
        old, written = texts(idle), judge.stored(idle)
        trial = idle.request(method, dry(path), body)
        assert (texts(idle), judge.stored(idle)) == (old, written)
        reply = idle.request(method, path, body)

        assert (trial.status, reply.status) == (200, 202)
        assert (trial.json["would"], trial.json["reload"]) == (202, False)
        assert "reload" not in trial.json["commands"]
        assert trial.json["because"] == reply.json["applied"]["because"]
        assert patched(old, trial.json["diff"]) == texts(idle)


def test_a_listener_that_is_left_out_would_be_a_202(shared: Machine) -> None:
    place = documents.made(shared, "listeners", enabled=True)
    shared.stop()
    kill_haproxy(shared)
    address = (place.body["vip_address"], place.body["protocol_port"])

    with wait_until(lambda: taken(address), 5):
        shared.start()
        trial = shared.put(dry(place.item), {"name": "x"}).json
        reply = shared.put(place.item, {"name": "x"})

    assert trial["would"] == reply.status == 202
    assert trial["because"] == reply.json["applied"]["because"]
    wait_until(lambda: shared.condition("ListenersBound")["status"] == "True", 10)


def taken(address: tuple[str, int]) -> socket.socket | None:
    """Return a server on *address*, None while that is somebody else's."""
    try:
        return socket.create_server(address)
    except OSError:
        return None


def test_a_crontab_that_cannot_be_written_would_be_a_202(shared: Machine) -> None:
    file = shared.root / BESIDES["schedule"]
    shared.delete(documents.CRONTAB)
    file.unlink(missing_ok=True)
    file.mkdir(parents=True, exist_ok=True)
    wait_until(lambda: shared.condition("Scheduled")["status"] == "False", 10)
    place = documents.place(shared, "crontab")

    trial = shared.post(dry(place.collection), place.body).json
    reply = shared.post(place.collection, place.body)
    file.rmdir()

    assert trial["would"] == reply.status == 202
    assert trial["because"] == reply.json["applied"]["because"]


@pytest.mark.parametrize("dialect", ["frr", "quagga"])
def test_no_secret_is_in_a_dry_run(dialect: str) -> None:
    need("haproxy")
    settings = {"KINX_ROUTING_PASSWORD": SECRET, "KINX_ROUTING_DIALECT": dialect}

    with running(environment=settings) as machine:
        place = documents.place(machine, "quagga")
        made = machine.post(dry(place.collection), place.body)
        assert machine.post(place.collection, place.body).status == 202
        others = [
            machine.put(dry(place.item), {"secondary_gateway_addr": "192.0.2.253"}),
            machine.put(dry("/api/state"), NOTHING),
            machine.delete(dry(place.item)),
        ]
        written = "".join(
            path.read_text() for path in machine.root.glob("etc/**/*.conf") if path.is_file()
        )

        assert SECRET in written
        for trial in (made, *others):
            assert trial.status == 200
            assert " password " in trial.json["diff"]
            assert SECRET.encode() not in trial.body
        for path in (QUAGGA, "/api/state", "/api/status", "/api/info", "/api/changes"):
            assert SECRET.encode() not in machine.get(path).body


def test_dry_runs_beside_sixteen_writers_lose_nothing(shared: Machine) -> None:
    shared.put("/api/state", NOTHING)
    trials: list[Reply] = []
    stop = threading.Event()

    def rehearse(number: int) -> None:
        body = documents.listener(id=f"rehearsed-{number}")
        while not stop.is_set():
            trials.append(shared.post(dry(LISTENERS), body))
            trials.append(shared.delete(dry(f"{LISTENERS}/stable")))
            trials.append(shared.put(dry(f"{POOLS}/pool/members"), []))

    with load(shared, writers=16) as callers, ThreadPoolExecutor(3) as rehearsers:
        work = [rehearsers.submit(rehearse, number) for number in range(3)]
        wait_until(lambda: len(trials) > 12, 30)
        callers.go_on()
        stop.set()
        for done in work:
            done.result()

    assert {trial.status for trial in trials} <= {200, 503}
    assert {trial.json.get("would") for trial in trials} >= {201, 204, 200}
    callers.assert_all_true()
