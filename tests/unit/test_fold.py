"""What POST, PUT and DELETE make of a state, and when they keep nothing of it."""

from typing import Any

import pytest

from kinx_loadbalancer_agent.errors import (
    Conflict,
    NotFound,
    PreconditionFailed,
    Unprocessable,
)
from kinx_loadbalancer_agent.model.intents import Preconditions
from tests.unit.desired import Desired

MEMBER = {"id": "m", "address": "192.0.2.7", "protocol_port": 80}
MONITOR = {"type": "TCP", "delay": 3, "timeout": 2}
POOL = {"id": "p2", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}
LISTENER = {"id": "l2", "protocol": "HTTP", "protocol_port": 81}


# --- POST -----------------------------------------------------------------------------------


def test_a_post_gives_what_the_document_leaves_out_its_default(desired: Desired) -> None:
    folded = desired.post("loadbalancers", {"id": "lb"})

    assert folded.status == 201
    assert desired.get("loadbalancers", "lb") == {
        "id": "lb",
        "name": "",
        "description": "",
        "enabled": True,
        "project_id": None,
        "vip_address": None,
    }


@pytest.mark.parametrize(
    "repeated",
    [
        MEMBER | {"weight": 5},
        MEMBER | {"weight": "5", "protocol_port": "80"},
        {"id": "m", "ip_address": "192.0.2.7", "protocol_port": 80, "admin_state_up": True},
        MEMBER | {"weight": None, "name": None},
        MEMBER | {"operating_status": "ONLINE", "tags": ["a"]},
    ],
    ids=["equal", "numbers as strings", "synonyms", "nulls", "absent and meaningless"],
)
def test_a_post_of_the_same_content_changes_nothing(web: Desired, repeated: dict[str, Any]) -> None:
    web.post("members", MEMBER | {"weight": 5}, "po")

    folded = web.post("members", repeated, "po")

    assert (folded.status, folded.changes) == (200, ())


def test_a_post_of_other_content_names_each_difference_and_shows_what_is_there(
    web: Desired,
) -> None:
    web.post("members", MEMBER, "po")

    with web.refuses(Conflict, "/weight", "/protocol_port") as caught:
        web.post("members", MEMBER | {"weight": 9, "protocol_port": 81}, "po")

    assert caught.value.current.published(web.state) == web.get("members", "m", "po")
    assert caught.value.etag == web.etag("members", "m", "po")


def test_a_difference_is_named_where_the_document_has_it(web: Desired) -> None:
    web.post("members", MEMBER, "po")

    with web.refuses(Conflict, "/ip_address", "/admin_state_up"):
        web.post(
            "members",
            {"id": "m", "ip_address": "192.0.2.8", "protocol_port": 80, "admin_state_up": False},
            "po",
        )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("listeners", LISTENER | {"loadbalancer_id": "nobody", "vip_address": "192.0.2.1"}),
        ("pools", POOL | {"loadbalancer_id": "nobody"}),
        ("pools", POOL | {"listener_id": "nobody"}),
        ("healthmonitors", MONITOR | {"pool_id": "nobody"}),
    ],
)
def test_a_body_that_names_what_is_not_there_is_faulty_where_it_does(
    web: Desired, kind: str, body: dict[str, Any]
) -> None:
    member = next(name for name, value in body.items() if value == "nobody")

    with web.refuses(Unprocessable, f"/{member}"):
        web.post(kind, body)


def test_a_url_that_names_what_is_not_there_is_not_found(web: Desired) -> None:
    with web.refuses(NotFound):
        web.post("members", MEMBER, "nobody")
    with web.refuses(NotFound):
        web.post("healthmonitors", MONITOR, id="nobody")
    with web.refuses(NotFound):
        web.put("members", "nobody", {"weight": 2}, "po")
    with web.refuses(NotFound):
        web.put("pools", "nobody", {"enabled": False})
    with web.refuses(NotFound):
        web.delete("healthmonitors", "po")


def test_a_default_pool_may_come_after_its_listener(web: Desired) -> None:
    web.post("listeners", LISTENER | {"default_pool_id": "p2"})

    folded = web.post("pools", POOL)

    assert folded.status == 201
    assert web.get("listeners", "l2")["default_pool_id"] == "p2"


def test_a_listener_without_a_load_balancer_gets_the_only_one_for_good(web: Desired) -> None:
    web.post("loadbalancers", {"id": "other"})
    web.post("listeners", LISTENER | {"vip_address": "192.0.2.1"})

    assert web.get("listeners", "li")["loadbalancer_id"] == "lb"
    assert web.get("listeners", "l2")["loadbalancer_id"] is None


def test_a_pool_without_a_load_balancer_gets_that_of_its_listener(web: Desired) -> None:
    web.post("loadbalancers", {"id": "other", "vip_address": "192.0.2.2"})
    web.post("listeners", LISTENER | {"loadbalancer_id": "other"})

    web.post("pools", POOL | {"listener_id": "l2"})

    assert web.get("pools", "p2")["loadbalancer_id"] == "other"


def test_a_pool_never_writes_itself_into_its_listener(web: Desired) -> None:
    assert web.get("pools", "po")["listener_id"] == "li"
    assert web.get("listeners", "li")["default_pool_id"] is None


def test_a_pool_is_found_by_the_id_of_its_listener(web: Desired) -> None:
    web.post("members", MEMBER, "li")
    web.post("healthmonitors", MONITOR, id="li")
    web.put("members", "m", {"weight": 3}, "li")
    web.put("pools", "li", {"name": "found"})
    web.put("healthmonitors", "li", {"delay": 9})

    assert web.get("members", "m", "po")["weight"] == 3
    assert web.get("members", "m", "po")["pool_id"] == "po"
    assert web.get("pools", "po")["name"] == "found"
    assert web.get("healthmonitors", "po")["delay"] == 9


# --- PUT ------------------------------------------------------------------------------------


def test_a_put_keeps_what_it_does_not_name(web: Desired) -> None:
    web.post("members", MEMBER | {"name": "one", "weight": 5, "backup": True}, "po")
    before = web.get("members", "m", "po")

    folded = web.put("members", "m", {"enabled": False}, "po")

    assert folded.status == 200
    assert web.get("members", "m", "po") == before | {"enabled": False}


@pytest.mark.parametrize(
    ("kind", "id", "named", "default"),
    [
        ("loadbalancers", "lb", "enabled", True),
        ("listeners", "li", "name", ""),
        ("listeners", "li", "connection_limit", -1),
        ("listeners", "li", "default_pool_id", None),
        ("listeners", "li", "sni_containers", ()),
        ("pools", "po", "session_persistence", None),
        ("pools", "po", "listener_id", None),
        ("members", "m", "weight", 1),
        ("members", "m", "monitor_address", None),
        ("healthmonitors", "po", "max_retries", 3),
        ("healthmonitors", "po", "url_path", "/"),
        ("healthmonitors", "po", "expected_codes", "200"),
    ],
)
def test_a_null_in_a_put_means_the_default(
    web: Desired, kind: str, id: str, named: str, default: Any
) -> None:
    parent = "po" if kind == "members" else ""
    web.post(
        "members", MEMBER | {"weight": 7, "backup": True, "monitor_address": "192.0.2.8"}, "po"
    )
    web.post(
        "healthmonitors",
        MONITOR | {"pool_id": "po", "max_retries": 7, "url_path": "/x", "expected_codes": "204"},
    )
    web.put("loadbalancers", "lb", {"enabled": False})
    web.put(
        "listeners",
        "li",
        {
            "name": "n",
            "connection_limit": 5,
            "default_pool_id": "po",
            "sni_containers": ["a"],
        },
    )
    web.put("pools", "po", {"session_persistence": {"type": "SOURCE_IP"}})
    assert web.get(kind, id, parent)[named] != default

    web.put(kind, id, {named: None}, parent)

    assert web.get(kind, id, parent)[named] == default


@pytest.mark.parametrize(
    ("kind", "id", "named"),
    [
        ("loadbalancers", "lb", "id"),
        ("listeners", "li", "protocol"),
        ("listeners", "li", "protocol_port"),
        ("pools", "po", "lb_algorithm"),
        ("members", "m", "address"),
        ("members", "m", "protocol_port"),
        ("healthmonitors", "po", "type"),
        ("healthmonitors", "po", "delay"),
    ],
)
def test_a_null_is_a_fault_where_there_is_no_default(
    web: Desired, kind: str, id: str, named: str
) -> None:
    parent = "po" if kind == "members" else ""
    web.post("members", MEMBER, "po")
    web.post("healthmonitors", MONITOR | {"pool_id": "po"})

    with web.refuses(Unprocessable, f"/{named}"):
        web.put(kind, id, {named: None}, parent)


@pytest.mark.parametrize(
    ("kind", "id", "named"),
    [
        ("loadbalancers", "lb", "id"),
        ("listeners", "li", "id"),
        ("listeners", "li", "loadbalancer_id"),
        ("pools", "po", "id"),
        ("pools", "po", "loadbalancer_id"),
        ("members", "m", "id"),
        ("members", "m", "pool_id"),
        ("healthmonitors", "po", "pool_id"),
        ("healthmonitors", "po", "id"),
    ],
)
def test_a_put_cannot_say_that_a_resource_is_another_or_anothers(
    web: Desired, kind: str, id: str, named: str
) -> None:
    parent = "po" if kind == "members" else ""
    web.post("loadbalancers", {"id": "other"})
    web.post("pools", POOL | {"id": "other"})
    web.post("members", MEMBER, "po")
    web.post("healthmonitors", MONITOR | {"pool_id": "po"})

    with web.refuses(Unprocessable, f"/{named}"):
        web.put(kind, id, {named: "other"}, parent)


@pytest.mark.parametrize("named", ["po", "li"], ids=["its id", "its listener's id"])
def test_a_put_may_repeat_the_pool_by_either_name(web: Desired, named: str) -> None:
    web.post("members", MEMBER, "po")
    web.post("healthmonitors", MONITOR | {"pool_id": "po"})

    member = web.put("members", "m", {"pool_id": named, "weight": 2}, "po")
    monitor = web.put("healthmonitors", "po", {"pool_id": named, "delay": 4})

    assert [member.status, monitor.status] == [200, 200]
    assert web.get("members", "m", "po")["pool_id"] == "po"


@pytest.mark.parametrize("kind", ["listeners", "pools"])
def test_a_null_load_balancer_may_become_one_once(desired: Desired, kind: str) -> None:
    document = LISTENER | {"vip_address": "192.0.2.1"} if kind == "listeners" else POOL
    id = str(document["id"])
    desired.post(kind, document)
    desired.post("loadbalancers", {"id": "a"})
    desired.post("loadbalancers", {"id": "b"})

    desired.put(kind, id, {"loadbalancer_id": "a"})

    assert desired.get(kind, id)["loadbalancer_id"] == "a"
    with desired.refuses(Unprocessable, "/loadbalancer_id"):
        desired.put(kind, id, {"loadbalancer_id": "b"})


def test_a_put_of_what_is_there_changes_nothing(web: Desired) -> None:
    web.post("members", MEMBER | {"weight": 5}, "po")

    folded = web.put("members", "m", {"weight": "5", "ip_address": "192.0.2.7"}, "po")

    assert (folded.status, folded.changes) == (200, ())


def test_all_faults_of_a_put_come_at_once_and_only_those(web: Desired) -> None:
    web.put("pools", "po", {"stick_size": "1k", "stick_expire": "1d"})

    with web.refuses(Unprocessable, "/lb_algorithm"):
        web.put("pools", "po", {"stick_size": "2k", "lb_algorithm": "FASTEST"})
    with web.refuses(Unprocessable, "/stick_expire", "/lb_algorithm"):
        web.put("pools", "po", {"stick_expire": None, "lb_algorithm": "FASTEST"})
    with web.refuses(Unprocessable, "/protocol", "/protocol_port"):
        web.put("listeners", "li", {"protocol": None, "protocol_port": 0})
    with web.refuses(Unprocessable, "/id", "/protocol_port"):
        web.put("listeners", "li", {"id": "l2", "protocol_port": 0})


def test_a_fault_of_a_null_synonym_is_where_the_document_has_it(web: Desired) -> None:
    web.post("members", MEMBER, "po")

    with web.refuses(Unprocessable, "/ip_address"):
        web.put("members", "m", {"ip_address": None}, "po")


# --- DELETE ---------------------------------------------------------------------------------


def test_a_listener_goes_and_its_pools_stay_named_as_before(web: Desired) -> None:
    before, backend = web.get("pools", "po"), web.backend("po")

    folded = web.delete("listeners", "li")

    assert folded.status == 204
    assert web.ids("listeners") == []
    assert (web.get("pools", "po"), web.backend("po")) == (before, backend)
    assert web.put("pools", "li", before | {"name": "still found"}).status == 200


def test_a_pool_goes_with_its_members_and_its_monitor_only(web: Desired) -> None:
    web.post("pools", POOL)
    for pool in ("po", "p2"):
        web.post("members", MEMBER, pool)
        web.post("healthmonitors", MONITOR, id=pool)
    web.put("listeners", "li", {"default_pool_id": "po"})

    folded = web.delete("pools", "po")

    assert folded.status == 204
    assert [web.ids(kind) for kind in ("pools", "members", "healthmonitors")] == [
        ["p2"],
        ["m"],
        ["p2"],
    ]
    assert web.get("members", "m", "p2")
    assert web.get("listeners", "li")["default_pool_id"] == "po"


def test_a_load_balancer_in_use_is_not_deleted_and_its_users_are_named(web: Desired) -> None:
    with web.refuses(Conflict, "") as caught:
        web.delete("loadbalancers", "lb")

    assert caught.value.detail == "loadbalancer lb is in use by listener li, pool po"


def test_a_cascade_takes_all_of_a_load_balancer_and_nothing_of_another(web: Desired) -> None:
    web.post("members", MEMBER, "po")
    web.post("healthmonitors", MONITOR, id="po")
    web.post("loadbalancers", {"id": "lb2", "vip_address": "192.0.2.2"})
    web.post("listeners", LISTENER | {"loadbalancer_id": "lb2"})
    web.post("pools", POOL | {"listener_id": "l2"})
    web.post("members", MEMBER, "p2")
    kinds = ("loadbalancers", "listeners", "pools", "healthmonitors", "members")

    folded = web.delete("loadbalancers", "lb", cascade=True)

    assert folded.status == 204
    assert {kind: web.ids(kind) for kind in kinds} == {
        "loadbalancers": ["lb2"],
        "listeners": ["l2"],
        "pools": ["p2"],
        "healthmonitors": [],
        "members": ["m"],
    }
    assert sorted(str(change.ref) for change in folded.changes) == [
        "healthmonitor po",
        "listener li",
        "loadbalancer lb",
        "member m",
        "pool po",
    ]
    assert all(change.after is None for change in folded.changes)


def test_a_load_balancer_nobody_uses_is_deleted(web: Desired) -> None:
    web.delete("pools", "po")
    web.delete("listeners", "li")

    folded = web.delete("loadbalancers", "lb")

    assert folded.status == 204
    assert web.ids("loadbalancers") == []


# --- preconditions and ETags ----------------------------------------------------------------


def test_if_match_lets_only_the_state_it_names_be_changed(web: Desired) -> None:
    before = web.etag("pools", "po")
    current = Preconditions(match=frozenset({before, "another"}))

    folded = web.put("pools", "po", {"name": "new"}, only=current)

    assert folded.status == 200
    assert web.etag("pools", "po") != before
    with web.refuses(PreconditionFailed):
        web.put("pools", "po", {"name": "newer"}, only=current)
    with web.refuses(PreconditionFailed):
        web.delete("pools", "po", only=current)


@pytest.mark.parametrize(
    ("only", "may_create", "may_change"),
    [
        (Preconditions(match=frozenset("*")), False, True),
        (Preconditions(none_match=frozenset("*")), True, False),
        (Preconditions(match=frozenset({"0"})), False, False),
        (Preconditions(none_match=frozenset({"0"})), True, True),
    ],
    ids=["If-Match: *", "If-None-Match: *", "If-Match: another", "If-None-Match: another"],
)
def test_preconditions_speak_of_what_is_there(
    web: Desired, only: Preconditions, may_create: bool, may_change: bool
) -> None:
    def passes(id: str) -> bool:
        try:
            web.post("pools", POOL | {"id": id}, only=only)
        except PreconditionFailed:
            return False
        return True

    web.post("pools", POOL)

    assert (passes("new"), passes("p2")) == (may_create, may_change)


def test_changes_elsewhere_leave_an_etag_alone(web: Desired) -> None:
    web.post("members", MEMBER, "po")
    pool, member = web.etag("pools", "po"), web.etag("members", "m", "po")

    web.post("members", MEMBER | {"id": "n", "protocol_port": 81}, "po")
    web.post("healthmonitors", MONITOR, id="po")
    web.put("members", "n", {"weight": 9}, "po")

    assert (web.etag("pools", "po"), web.etag("members", "m", "po")) == (pool, member)


def test_a_refused_document_keeps_nothing_of_itself(web: Desired) -> None:
    wrong = {"type": "HTTP", "delay": 3, "timeout": 2, "url_path": "no slash"}

    with web.refuses(Unprocessable, "/healthmonitor/url_path"):
        web.post("members", MEMBER | {"type": "SOURCE_IP", "healthmonitor": wrong}, "po")

    assert web.ids("members") == web.ids("healthmonitors") == []
    assert web.get("pools", "po")["session_persistence"] is None
