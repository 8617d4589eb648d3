"""``/api/state``: the whole node as one document, and a node built from it (CONTRACT section 2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import NOTHING, Body
from tests.machine import Machine, Reply, free_port, running, wait_until

STATE = "/api/state"
MEMBERS = ("loadbalancers", "listeners", "pools", "peers", "quagga", "crontab")


@pytest.fixture(scope="module")
def other() -> Iterator[Machine]:
    """A second node."""
    need("haproxy")
    with running(environment={"KINX_AGENT_NODE_NAME": "other-node"}) as found:
        yield found


def export(machine: Machine) -> Body:
    reply = machine.get(STATE)
    assert reply.status == 200
    found: Body = reply.json
    return found


def digest(machine: Machine) -> str:
    return str(machine.get("/api/info").json["state_digest"])


def build(machine: Machine, wanted: Body) -> Reply:
    """Send a whole state and assert that it was taken; with a speaker it is not all applied."""
    reply = machine.put(STATE, wanted)
    assert reply.status == (202 if wanted["quagga"] else 200), reply.body
    return reply


def shop() -> Body:
    """Return a small state: one listener, one pool, two members."""
    return NOTHING | {
        "loadbalancers": [documents.loadbalancer(id="lb", vip_address=documents.loopback())],
        "listeners": [
            {"id": "li", "loadbalancer_id": "lb", "protocol": "HTTP", "protocol_port": free_port()}
        ],
        "pools": [
            documents.pool(
                id="po",
                listener_id="li",
                loadbalancer_id="lb",
                members=[documents.member(id="one"), documents.member(id="two")],
                healthmonitor=documents.monitor(),
            )
        ],
    }


def served(machine: Machine) -> dict[str, str]:
    """Return the frontends and backends of a node."""
    found = machine.fragments()
    return {name: found[name] for name in found if name.startswith(("50-", "60-"))}


def ids(found: list[Body]) -> list[str]:
    return [one["id"] for one in found]


# --- GET ------------------------------------------------------------------------------------


def test_a_state_is_all_that_the_node_keeps(shared: Machine) -> None:
    build(shared, NOTHING)
    for kind in documents.NAMES:
        documents.made(shared, kind)

    found = export(shared)

    assert tuple(found) == MEMBERS
    for kind in ("loadbalancers", "listeners", "peers"):
        assert found[kind] == shared.get(f"{documents.ROOT}/{kind}").json[kind]
    for pool in found["pools"]:
        url = f"{documents.POOLS}/{pool['id']}"
        monitor = shared.get(f"{documents.HEALTHMONITORS}/{pool['id']}")
        assert pool.pop("members") == shared.get(f"{url}/members").json["members"]
        assert pool.pop("healthmonitor") == (monitor.json if monitor.status == 200 else None)
        assert pool == shared.get(url).json
    speaker = shared.get(documents.QUAGGA).json
    vips = found["quagga"].pop("vips")
    assert [vip["vip_addr"] for vip in vips] == [vip["address"] for vip in speaker["vips"]]
    assert found["quagga"].items() <= speaker.items()
    assert found["crontab"] == shared.get(documents.CRONTAB).json


def test_a_node_that_keeps_nothing_says_so(other: Machine) -> None:
    assert export(other) == NOTHING


# --- a node built from another's state ------------------------------------------------------


def every_option(machine: Machine) -> None:
    """Make one of everything, in every way it can be made, by the verbs of each kind."""
    one, two = documents.loopback(), documents.loopback()

    def post(url: str, body: Body) -> None:
        reply = machine.post(url, body)
        assert reply.status in (201, 202), reply.body

    def member(pool: str, **members: Any) -> None:
        post(f"{documents.POOLS}/{pool}/members", documents.member(**members))

    post(documents.LISTENERS, documents.listener(id="nobodys", name="náme", description="Ω"))
    post(documents.POOLS, documents.pool(id="of-nobody", listener_id="nobodys"))
    for id, address, enabled in (("lb-1", one, True), ("lb-2", two, False), ("lb-6", "::1", True)):
        body = documents.loadbalancer(id=id, vip_address=address, enabled=enabled, project_id="p")
        post(documents.LOADBALANCERS, body)
    for id, owner, more in (
        ("http", "lb-1", {"connection_limit": 77, "protocol_mode": "http"}),
        ("tcp", "lb-1", {"protocol": "TCP"}),
        ("tls", "lb-1", {"protocol": "HTTPS", "tls_certificate_id": "c", "sni_containers": ["s"]}),
        ("off", "lb-1", {"enabled": False}),
        ("of-off", "lb-2", {"default_pool_id": "later"}),
        ("six", "lb-6", {}),
    ):
        own = {"id": id, "loadbalancer_id": owner, "protocol": "HTTP"}
        post(documents.LISTENERS, {**own, "protocol_port": free_port(), **more})
    cookie = {"type": "APP_COOKIE", "cookie_name": "sid"}
    for id, members in {
        "source": {"listener_id": "http", "lb_algorithm": "SOURCE_IP", "name": "x"},
        "stick": {"listener_id": "tcp", "protocol": "TCP", "stick_size": "5k"},
        "app": {"loadbalancer_id": "lb-1", "session_persistence": cookie},
        "six": {"listener_id": "six", "session_persistence": {"type": "SOURCE_IP"}},
        "carried": {"loadbalancer_id": "lb-2", "lb_algorithm": "LEAST_CONNECTIONS"},
        "idle": {"loadbalancer_id": "lb-2", "enabled": False, "protocol_mode": "HTTP"},
    }.items():
        expire = {"stick_expire": "2h"} if "stick_size" in members else {}
        post(documents.POOLS, documents.pool(id=id, **expire, **members))
    member("source", id="a", weight=0, backup=True, monitor_address="127.0.0.2", monitor_port=80)
    member("source", id="b", enabled=False, name="x", project_id="p")
    member("six", id="a", address="::1")
    carried = documents.monitor(type="HTTPS", url_path="/x", expected_codes="200-204")
    member("carried", id="a", type="HTTP_COOKIE", healthmonitor=carried)
    member("carried", id="b")
    for pool, more in (
        ("source", {"type": "HTTP", "http_method": "HEAD", "expected_codes": "200,202"}),
        ("stick", {"type": "TLS-HELLO", "max_retries": 7, "max_retries_down": 2}),
        ("six", {"enabled": False}),
    ):
        post(documents.HEALTHMONITORS, documents.monitor(pool_id=pool, **more))
    post(documents.PEERS, documents.peer(hostname="node-1", address="198.18.0.1", port=1025))
    post(documents.PEERS, documents.peer(hostname="node-2", address="2001:db8::2"))
    second = {"secondary_gateway_addr": "192.0.2.253"}
    post(documents.QUAGGA, documents.quagga(vip_addr="203.0.113.2", **second))
    for address in ("203.0.113.1", "203.0.113.10", "2001:db8::1"):
        post(documents.VIPS, {"vip_addr": address})
    post(documents.CRONTAB, documents.crontab(schedule="*/5 * * * 1-5", agent_addr="collector"))


def test_a_node_built_from_an_export_is_the_same(shared: Machine, other: Machine) -> None:
    build(other, shop())
    build(shared, NOTHING)
    every_option(shared)
    exported, info = export(shared), shared.get("/api/info").json
    fragments = served(shared)
    judge.assert_haproxy_agrees(shared)
    build(shared, NOTHING)  # or its ports are taken

    reply = build(other, exported)

    assert judge.content(reply) == exported == export(other)
    theirs = other.get("/api/info").json
    assert theirs["state_digest"] == info["state_digest"]
    assert theirs["digests"]["routing"] == info["digests"]["routing"]
    judge.assert_haproxy_agrees(other)
    assert served(other) == fragments


def test_the_export_put_where_it_comes_from_changes_nothing(shared: Machine) -> None:
    build(shared, NOTHING)
    every_option(shared)
    exported, before = export(shared), judge.kept(shared)

    reply = shared.put(STATE, exported)

    assert reply.status == 202  # the speaker is not applied, as before
    assert reply.json["applied"]["by"] == "none"
    assert judge.content(reply) == exported
    assert judge.kept(shared) == before


def test_what_belongs_to_no_load_balancer_belongs_to_none_on_the_next_node(
    shared: Machine, other: Machine
) -> None:
    build(shared, NOTHING)
    documents.made(shared, "listeners", id="before")
    documents.made(shared, "pools", id="before", listener_id="before")
    documents.made(shared, "loadbalancers", id="the-only-one")
    exported, known = export(shared), digest(shared)
    build(other, NOTHING)

    build(other, exported)

    assert export(other) == exported
    assert digest(other) == known


def test_a_pool_whose_listener_is_gone_is_built_on_the_next_node(
    shared: Machine, other: Machine
) -> None:
    build(shared, NOTHING)
    documents.made(shared, "listeners", id="gone")
    documents.made(shared, "pools", id="stays", enabled=True, listener_id="gone")
    assert shared.delete(f"{documents.LISTENERS}/gone").status == 204
    exported = export(shared)
    build(other, NOTHING)

    reply = other.put(STATE, exported)

    assert reply.status == 200, reply.body
    assert export(other) == exported
    assert other.fragments()["60-backend-stays.cfg"] == shared.fragments()["60-backend-stays.cfg"]


# --- PUT ------------------------------------------------------------------------------------


def test_a_state_is_one_transaction_and_one_reload(shared: Machine) -> None:
    build(shared, NOTHING)
    wanted = shop()
    reloads, generation = shared.reloads(), shared.get("/api/status").json["generation"]

    reply = build(shared, wanted)

    assert reply.json["applied"]["by"] == "reload"
    assert shared.reloads() == reloads + 1
    assert shared.get("/api/status").json["generation"] == generation + 1
    assert "Server-Timing" in reply.headers
    assert judge.content(reply) == export(shared)
    judge.assert_haproxy_agrees(shared)


def test_what_a_state_lacks_goes_and_what_an_element_does_not_name_is_its_default(
    shared: Machine,
) -> None:
    first, second = shop(), shop()
    first["listeners"][0]["connection_limit"] = 77
    first["pools"][0]["members"][0]["weight"] = 7
    second["pools"][0] |= {"id": "new", "members": first["pools"][0]["members"][:1]}
    build(shared, first | {"crontab": documents.crontab(), "peers": [documents.peer()]})
    del first["listeners"][0]["connection_limit"]
    del first["pools"][0]["members"][0]["weight"], first["pools"][0]["healthmonitor"]

    renewed = build(shared, first).json
    replaced = build(shared, second).json

    assert renewed["listeners"][0]["connection_limit"] == -1
    assert renewed["pools"][0]["members"][0]["weight"] == 1
    assert renewed["pools"][0]["healthmonitor"] is None
    assert (renewed["crontab"], renewed["peers"]) == (None, [])
    assert (ids(replaced["listeners"]), ids(replaced["pools"])) == (["li"], ["new"])
    assert ids(replaced["pools"][0]["members"]) == ["one"]
    judge.assert_is_problem(shared.get(f"{documents.POOLS}/po"), 404)
    judge.assert_is_problem(shared.get(documents.CRONTAB), 404)


def test_the_same_state_ends_the_same_wherever_it_is_put(shared: Machine, other: Machine) -> None:
    wanted = shop()
    build(shared, NOTHING)
    for kind in documents.NAMES:
        documents.made(shared, kind)
    build(other, NOTHING)

    mine, known = build(shared, wanted), digest(shared)
    judge.assert_haproxy_agrees(shared)
    build(shared, NOTHING)
    theirs = build(other, wanted)

    assert judge.content(mine) == judge.content(theirs) == export(other)
    assert digest(other) == known
    judge.assert_haproxy_agrees(other)


def test_explicit_empties_wipe_the_node(shared: Machine) -> None:
    build(shared, shop() | {"crontab": documents.crontab(), "quagga": documents.quagga()})
    kept = ("etc/frr/frr.conf", "var/spool/cron/crontabs/root")
    written = [bool((shared.root / path).read_text()) for path in kept]

    reply = build(shared, NOTHING)

    assert judge.content(reply) == NOTHING == export(shared)
    assert written == [True, True]
    wait_until(lambda: not (shared.root / kept[0]).exists(), 5)
    wait_until(lambda: not (shared.root / kept[1]).read_text(), 5)
    assert [name for name in shared.fragments() if name != "00-global.cfg"] == []
    judge.assert_haproxy_agrees(shared)


def test_a_speaker_of_a_state_may_name_its_vip_as_a_post_does(shared: Machine) -> None:
    reply = build(shared, NOTHING | {"quagga": documents.quagga(vip_addr="203.0.113.9")})

    assert reply.json["quagga"]["vip_addr"] == "203.0.113.9"
    assert [vip["address"] for vip in shared.get(documents.QUAGGA).json["vips"]] == ["203.0.113.9"]


# --- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_that_is_missing_at_the_top_is_a_422(shared: Machine, name: str) -> None:
    build(shared, shop())
    before = judge.kept(shared)
    wanted = {member: NOTHING[member] for member in NOTHING if member != name}

    reply = shared.put(STATE, wanted)

    judge.assert_is_problem(reply, 422, f"/{name}")
    assert judge.kept(shared) == before


def test_every_fault_of_a_state_is_named_at_its_own_place_and_nothing_kept(
    shared: Machine,
) -> None:
    build(shared, shop())
    before = judge.kept(shared)
    wrong = shop() | {"hat/": 1, "peers": "peer", "quagga": [], "crontab": {"agent_port": 0}}
    wrong["listeners"] += [{**wrong["listeners"][0]}, "listener"]
    wrong["pools"][0]["members"][1] |= {"weight": 257, "healthmonitor": {"type": "PING"}}
    wrong["pools"][0]["healthmonitor"] = documents.monitor(delay=0)

    reply = shared.put(STATE, wrong)

    judge.assert_is_problem(reply, 422)
    assert judge.pointers(reply) >= {
        *("/hat~1", "/peers", "/quagga", "/crontab/agent_port"),
        *("/listeners/1/id", "/listeners/2"),
        *("/pools/0/members/1/weight", "/pools/0/members/1/healthmonitor/type"),
        "/pools/0/healthmonitor/delay",
    }
    assert judge.kept(shared) == before


@pytest.mark.parametrize(
    ("status", "pointer", "change"),
    [
        (422, "/listeners/0/loadbalancer_id", {"loadbalancers": []}),
        (422, "/crontab/agent_addr", {"crontab": {"agent_port": 1, "tenant_id": "t"}}),
        (409, "/listeners/0/vip_address", {"listeners": [documents.listener(vip_address="::9")]}),
    ],
    ids=["no load balancer", "no collector", "not on this host"],
)
def test_a_state_that_does_not_hold_together_is_refused_whole(
    shared: Machine, status: int, pointer: str, change: Body
) -> None:
    build(shared, shop())
    before = judge.kept(shared)
    pools = {"pools": []} if status == 409 else {}

    reply = shared.put(STATE, shop() | change | pools)

    judge.assert_is_problem(reply, status)
    assert pointer in judge.pointers(reply)
    after = judge.kept(shared)
    del before["files"], after["files"]  # what is checked is staged in the idle directory
    assert after == before


def test_a_state_that_haproxy_refuses_is_kept_in_no_part(tmp_path: Path) -> None:
    need("haproxy")
    extra = tmp_path / "extra.cfg"
    extra.write_text("backend backend-guilty\n    mode http\n")

    with running(environment={"KINX_HAPROXY_EXTRA_CONFIG": str(extra)}) as machine:
        build(machine, shop())
        before, loaded, worker = export(machine), machine.fragments(), machine.worker_pid()
        guilty = NOTHING | {"pools": [documents.pool(id="guilty")], "crontab": documents.crontab()}

        reply = machine.put(STATE, guilty)

        judge.assert_is_problem(reply, 422)
        assert "backend-guilty" in reply.json["detail"]
        assert (export(machine), machine.fragments(), machine.worker_pid()) == (
            *(before, loaded),
            worker,
        )


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b"{", b"[{}]"])
def test_what_is_no_object_is_a_400_and_wipes_nothing(shared: Machine, body: bytes) -> None:
    build(shared, shop())

    reply = shared.put(STATE, body)

    judge.assert_is_problem(reply, 400)
    assert ids(export(shared)["pools"]) == ["po"]


def test_a_state_may_have_16_mib(shared: Machine) -> None:
    build(shared, NOTHING)
    content = b"".join([b'{"crontab": null, "quagga": null, "peers": [], "pools": [],'])
    content += b'"listeners": [], "loadbalancers": []}'

    largest = shared.put(STATE, content + b" " * (16 * 1024 * 1024 - len(content)))
    above = shared.put(STATE, content + b" " * (16 * 1024 * 1024 + 1 - len(content)))

    assert largest.status == 200
    judge.assert_is_problem(above, 413)


def test_a_state_has_no_etag_that_if_match_could_name(shared: Machine) -> None:
    build(shared, shop())

    reply = shared.put(STATE, NOTHING, headers={"If-Match": '"seen"'})

    judge.assert_is_problem(reply, 412)
    assert ids(export(shared)["pools"]) == ["po"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_another_verb_is_a_405_with_allow(shared: Machine, method: str) -> None:
    reply = shared.request(method, STATE, {})

    judge.assert_is_problem(reply, 405)
    allowed = {name.strip() for name in reply.headers["Allow"].split(",")}
    assert allowed == {"GET", "HEAD", "OPTIONS", "PUT"}
