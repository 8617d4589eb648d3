"""Pools and members (CONTRACT section 2)."""

import http.client
from dataclasses import dataclass
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import HEALTHMONITORS, LISTENERS, POOLS
from tests.machine import Backend, Machine, free_port


@dataclass(frozen=True)
class Serving:
    """A listener, its pool, and the ids of its members, which answer with their ids."""

    machine: Machine
    listener: str
    pool: str
    port: int
    members: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"{POOLS}/{self.pool}"

    def member(self, number: int) -> str:
        return f"{self.url}/members/{self.members[number]}"

    def lines(self) -> list[str]:
        """Return the lines of the backend's fragment."""
        head = f"\nbackend backend-{self.listener}\n"
        text = next(found for found in self.machine.fragments().values() if head in found)
        return [line.strip() for line in text.splitlines()]

    def get(self, cookie: str = "") -> tuple[int, str, dict[str, str]]:
        """Return status, body and headers of one GET through the listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, answer.read().decode(), headers
        finally:
            connection.close()


def backend_named(machine: Machine, name: str) -> Backend:
    """Return the machine's back end that answers *name*, a new one at first."""
    known = (backend for backend in machine.backends if backend.name == name)
    return next(known, None) or machine.backend(name)


def serving(machine: Machine, members: int = 2, **pool: Any) -> Serving:
    """Make a listener with a pool of *members* back ends, in as few reloads as can be."""
    listener = documents.listener(protocol_port=free_port(), enabled=False)
    listener["protocol"] = pool.get("protocol", "HTTP")
    body = documents.pool(enabled=False, listener_id=listener["id"], **pool)
    assert machine.post(LISTENERS, listener).status == 201
    assert machine.post(POOLS, body).status == 201
    made = []
    for name in ("one", "two")[:members]:
        member = documents.member(id=name, protocol_port=backend_named(machine, name).port)
        assert machine.post(f"{POOLS}/{body['id']}/members", member).status == 201
        made.append(name)
    assert machine.put(f"{POOLS}/{body['id']}", {"enabled": True}).status == 200
    assert machine.put(f"{LISTENERS}/{listener['id']}", {"enabled": True}).status == 200
    return Serving(machine, listener["id"], body["id"], listener["protocol_port"], tuple(made))


# --- pools ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "balance"),
    [("ROUND_ROBIN", "roundrobin"), ("LEAST_CONNECTIONS", "leastconn"), ("SOURCE_IP", "source")],
)
def test_the_algorithm_chooses_the_member(shared: Machine, algorithm: str, balance: str) -> None:
    found = serving(shared, lb_algorithm=algorithm)

    split = shared.split(found.port, 6)

    assert f"balance {balance}" in found.lines()
    assert sum(split.values()) == 6
    if algorithm == "ROUND_ROBIN":
        assert set(split.values()) == {3}
    if algorithm == "SOURCE_IP":
        assert len(split) == 1


def test_a_disabled_pool_is_not_rendered_and_its_listener_answers_503(shared: Machine) -> None:
    found = serving(shared, members=1)

    shared.put(found.url, {"enabled": False})

    assert found.get()[0] == 503
    judge.assert_haproxy_agrees(shared)
    shared.put(found.url, {"enabled": True})
    assert found.get()[0] == 200


def test_a_pool_without_members_answers_503(shared: Machine) -> None:
    assert serving(shared, members=0).get()[0] == 503


def test_stick_members_or_source_ip_keep_a_client_by_its_address(shared: Machine) -> None:
    sized = serving(shared, stick_size="300k", stick_expire="2h")
    named = serving(shared, session_persistence={"type": "SOURCE_IP"})

    for found, table in ((sized, "size 300k expire 2h"), (named, "size 200k expire 1d")):
        assert f"stick-table type ip {table}" in found.lines()
        assert "stick on src" in found.lines()
        assert len(shared.split(found.port, 6)) == 1


def test_an_inserted_cookie_keeps_a_client(shared: Machine) -> None:
    found = serving(shared, session_persistence={"type": "HTTP_COOKIE"})

    _, first, headers = found.get()
    cookie = headers["set-cookie"].split(";")[0]
    again = {found.get(cookie)[1] for _ in range(4)}

    assert cookie == f"SRV={first}"
    assert again == {first}
    assert "cookie SRV insert indirect nocache" in found.lines()


def test_an_application_cookie_is_what_the_stick_table_holds(shared: Machine) -> None:
    persistence = {"type": "APP_COOKIE", "cookie_name": "JSESSIONID"}

    found = serving(shared, session_persistence=persistence)

    table = next(line for line in found.lines() if line.startswith("stick-table"))
    assert table.startswith("stick-table type string len 64 ")
    assert "stick on src" not in found.lines()
    assert "JSESSIONID" in " ".join(found.lines())


@pytest.mark.parametrize("type", ["HTTP_COOKIE", "APP_COOKIE"])
def test_a_cookie_wins_over_the_stick_members(shared: Machine, type: str) -> None:
    persistence = {"type": type, "cookie_name": "X"}

    found = serving(shared, stick_size="1k", stick_expire="1h", session_persistence=persistence)

    lines = found.lines()
    assert "stick on src" not in lines
    assert not any(line.startswith("stick-table type ip") for line in lines)
    assert len(shared.split(found.port, 4)) == 2


def test_a_cookie_by_a_members_type_wins_over_the_stick_members_too(shared: Machine) -> None:
    found = serving(shared, stick_size="1k", stick_expire="1h")

    reply = shared.put(found.member(0), {"type": "HTTP_COOKIE"})

    assert reply.status == 200
    assert shared.get(found.url).json["session_persistence"]["type"] == "HTTP_COOKIE"
    assert "stick on src" not in found.lines()
    assert "cookie SRV insert indirect nocache" in found.lines()


@pytest.mark.parametrize("type", ["SOURCE_IP", "HTTP_COOKIE"])
def test_a_cookie_name_with_another_type_is_ignored_with_a_warning(
    shared: Machine, type: str
) -> None:
    place = documents.place(shared, "pools")
    persistence = {"type": type, "cookie_name": "ignored"}

    reply = shared.post(place.collection, place.body | {"session_persistence": persistence})

    assert reply.status == 201
    assert len(reply.json["warnings"]) == 1
    assert "cookie_name" in reply.json["warnings"][0]


@pytest.mark.parametrize("protocol", ["TCP", "HTTPS"])
@pytest.mark.parametrize(
    "persistence", [{"type": "HTTP_COOKIE"}, {"type": "APP_COOKIE", "cookie_name": "x"}]
)
def test_a_cookie_persistence_on_a_tcp_pool_is_a_422(
    shared: Machine, persistence: dict[str, str], protocol: str
) -> None:
    body = documents.pool(protocol=protocol, session_persistence=persistence)

    judge.assert_is_problem(shared.post(POOLS, body), 422, "/session_persistence/type")


def test_source_ip_on_a_tcp_pool_is_fine(shared: Machine) -> None:
    found = serving(shared, protocol="TCP", session_persistence={"type": "SOURCE_IP"})

    assert len(shared.split(found.port, 4)) == 1


def test_an_app_cookie_without_a_name_is_a_422(shared: Machine) -> None:
    for persistence in ({"type": "APP_COOKIE"}, {"type": "APP_COOKIE", "cookie_name": None}):
        reply = shared.post(POOLS, documents.pool(session_persistence=persistence))
        judge.assert_is_problem(reply, 422, "/session_persistence/cookie_name")


@pytest.mark.parametrize(
    ("given", "missing"), [("stick_size", "stick_expire"), ("stick_expire", "stick_size")]
)
def test_stick_size_and_expire_come_together(shared: Machine, given: str, missing: str) -> None:
    body = documents.pool(**{given: "1k" if given == "stick_size" else "1h"})

    judge.assert_is_problem(shared.post(POOLS, body), 422, f"/{missing}")


def test_the_clients_address_is_forwarded_in_http(shared: Machine) -> None:
    assert "option forwardfor" in serving(shared, members=0).lines()
    assert "option forwardfor" not in serving(shared, members=0, protocol="TCP").lines()


# --- members --------------------------------------------------------------------------------


def test_a_weight_is_a_share_of_the_load(shared: Machine) -> None:
    found = serving(shared)

    assert shared.put(found.member(0), {"weight": 3}).json["weight"] == 3
    split = shared.split(found.port, 8)

    assert split == {found.members[0]: 6, found.members[1]: 2}
    judge.assert_haproxy_agrees(shared)


@pytest.mark.parametrize("change", [{"weight": 0}, {"enabled": False}, {"backup": True}])
def test_a_member_without_a_share_gets_nothing_while_another_can(
    shared: Machine, change: dict[str, Any]
) -> None:
    found = serving(shared)

    assert shared.put(found.member(0), change).status == 200

    assert set(shared.split(found.port, 4)) == {found.members[1]}
    judge.assert_haproxy_agrees(shared)


def test_a_backup_serves_when_nobody_else_does(shared: Machine) -> None:
    found = serving(shared)
    shared.put(found.member(0), {"backup": True})

    shared.put(found.member(1), {"enabled": False})

    assert set(shared.split(found.port, 4)) == {found.members[0]}


def test_a_deleted_member_gets_nothing(shared: Machine) -> None:
    found = serving(shared)

    assert shared.delete(found.member(0)).status == 204

    assert set(shared.split(found.port, 4)) == {found.members[1]}
    judge.assert_haproxy_agrees(shared)


def test_a_member_that_moves_is_served_where_it_is(shared: Machine) -> None:
    found = serving(shared, members=1)
    other = shared.backend("elsewhere")

    shared.put(found.member(0), {"protocol_port": other.port})

    assert found.get()[1] == "elsewhere"
    judge.assert_haproxy_agrees(shared)


def test_two_members_of_a_pool_at_one_address_and_port_are_a_409_that_names_the_first(
    shared: Machine,
) -> None:
    first = documents.made(shared, "members")
    where = {name: first.body[name] for name in ("address", "protocol_port")}
    second = documents.member()
    assert shared.post(first.collection, second).status == 201

    posted = shared.post(first.collection, documents.member(**where))
    changed = shared.put(f"{first.collection}/{second['id']}", where)

    for reply in (posted, changed):
        assert reply.status == 409
        assert first.body["id"] in reply.json["detail"]
        assert reply.json["errors"]


def test_member_ids_and_addresses_are_unique_per_pool_only(shared: Machine) -> None:
    first, second = documents.place(shared, "members"), documents.place(shared, "members")

    replies = [shared.post(place.collection, first.body) for place in (first, second)]

    assert [reply.status for reply in replies] == [201, 201]
    assert replies[0].json["pool_id"] != replies[1].json["pool_id"]


# --- what members carry ---------------------------------------------------------------------


def monitor_of(machine: Machine, place: documents.Place) -> Any:
    """Return the answer about the monitor of a member's pool."""
    return machine.get(f"{HEALTHMONITORS}/{place.collection.split('/')[-2]}")


def pool_of(machine: Machine, place: documents.Place) -> Any:
    return machine.get(place.collection.removesuffix("/members")).json


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_a_type_a_cookie_or_a_monitor_that_says_nothing_says_nothing(
    shared: Machine, nothing: Any
) -> None:
    place = documents.made(shared, "members", type="SOURCE_IP", healthmonitor=documents.monitor())
    pool, monitor = pool_of(shared, place), monitor_of(shared, place).json
    silent = {"type": nothing, "cookie_name": nothing, "healthmonitor": nothing}

    changed = shared.put(place.item, silent)
    created = shared.post(place.collection, documents.member(**silent))

    assert (changed.status, created.status) == (200, 201)
    assert pool_of(shared, place) == pool
    assert monitor_of(shared, place).json == monitor
    assert changed.json["type"] == "SOURCE_IP"
    assert created.json["healthmonitor"] is None


def test_what_a_new_member_carries_is_applied_to_its_pool(shared: Machine) -> None:
    place = documents.place(shared, "members")
    monitor = documents.monitor(type="HTTP", url_path="/up")
    carried = {"type": "APP_COOKIE", "cookie_name": "SID", "healthmonitor": monitor}

    reply = shared.post(place.collection, place.body | carried)

    assert reply.status == 201
    assert {name: reply.json[name] for name in carried} == carried
    wanted = {"type": "APP_COOKIE", "cookie_name": "SID"}
    assert pool_of(shared, place)["session_persistence"] == wanted
    assert monitor_of(shared, place).json.items() >= monitor.items()


def test_what_a_member_carries_again_is_no_news(shared: Machine) -> None:
    carried = {"type": "SOURCE_IP", "healthmonitor": documents.monitor(delay=5)}
    place = documents.made(shared, "members", **carried)
    pool = place.collection.removesuffix("/members")
    monitor = f"{HEALTHMONITORS}/{pool.split('/')[-1]}"
    assert shared.put(pool, {"session_persistence": None}).status == 200
    assert shared.put(monitor, {"delay": 9}).status == 200

    changed = shared.put(place.item, {"weight": 5, **carried})
    repeated = shared.post(place.collection, place.body | {"weight": 5})

    assert (changed.status, repeated.status) == (200, 200)
    assert pool_of(shared, place)["session_persistence"] is None
    assert shared.get(monitor).json["delay"] == 9


def test_what_a_member_carries_differently_is_news(shared: Machine) -> None:
    carried = {"type": "SOURCE_IP", "healthmonitor": documents.monitor(delay=5)}
    place = documents.made(shared, "members", **carried)

    changed = shared.put(
        place.item, {"type": "HTTP_COOKIE", "healthmonitor": documents.monitor(delay=7)}
    )

    assert changed.status == 200
    assert pool_of(shared, place)["session_persistence"]["type"] == "HTTP_COOKIE"
    assert monitor_of(shared, place).json["delay"] == 7


def test_what_a_member_says_of_its_pool_may_be_partial(shared: Machine) -> None:
    carried = {
        "type": "APP_COOKIE",
        "cookie_name": "SID",
        "healthmonitor": documents.monitor(delay=5, timeout=4),
    }
    place = documents.made(shared, "members", **carried)

    repeated = shared.put(place.item, {"type": "APP_COOKIE"})
    renamed = shared.put(place.item, {"type": "APP_COOKIE", "cookie_name": "OTHER"})
    slower = shared.put(place.item, {"healthmonitor": {"delay": 9}})

    assert [reply.status for reply in (repeated, renamed, slower)] == [200] * 3
    wanted = {"type": "APP_COOKIE", "cookie_name": "OTHER"}
    assert pool_of(shared, place)["session_persistence"] == wanted
    assert monitor_of(shared, place).json.items() >= documents.monitor(delay=9, timeout=4).items()


def test_what_members_carry_is_live(shared: Machine) -> None:
    found = serving(shared)
    carried = {"type": "HTTP_COOKIE", "healthmonitor": documents.monitor(delay=60, timeout=9)}

    reply = shared.put(found.member(0), carried)

    assert reply.json["applied"]["by"] == "reload"
    lines = found.lines()
    assert "timeout check 9s" in lines
    assert sum("check inter 60s" in line for line in lines) == 2
    assert found.get()[2]["set-cookie"].startswith("SRV=")


def test_a_cookie_name_without_a_type_is_a_422(shared: Machine) -> None:
    place = documents.place(shared, "members", cookie_name="SID")

    judge.assert_is_problem(shared.post(place.collection, place.body), 422, "/type")


def test_a_cookie_name_with_another_type_on_a_member_is_a_warning(shared: Machine) -> None:
    place = documents.place(shared, "members", type="SOURCE_IP", cookie_name="SID")

    reply = shared.post(place.collection, place.body)

    assert reply.status == 201
    assert len(reply.json["warnings"]) == 1


def test_three_members_that_carry_the_same_make_one_monitor(shared: Machine) -> None:
    pool = documents.quiet_pool(shared)
    carried = {"type": "SOURCE_IP", "healthmonitor": documents.monitor()}

    for _ in range(3):
        reply = shared.post(f"{POOLS}/{pool}/members", documents.member(**carried))
        assert (reply.status, reply.json["warnings"]) == (201, [])

    monitors = shared.get(HEALTHMONITORS).json["healthmonitors"]
    assert [one["pool_id"] for one in monitors].count(pool) == 1
