"""What a member says of its pool, and who may say what of a pool's monitor."""

from typing import Any

import pytest

from kinx_loadbalancer_agent.errors import Conflict, Unprocessable
from tests.unit.desired import Desired

MEMBER = {"id": "m", "address": "192.0.2.7", "protocol_port": 80}
MONITOR = {"type": "HTTP", "delay": 3, "timeout": 2, "max_retries": 2, "max_retries_down": 2}
POOL = {"id": "po", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}


def carrying(**carried: Any) -> dict[str, Any]:
    return MEMBER | carried


# --- what members carry ---------------------------------------------------------------------


def test_a_new_member_brings_its_pools_monitor_and_persistence(web: Desired) -> None:
    folded = web.post(
        "members", carrying(type="APP_COOKIE", cookie_name="SID", healthmonitor=MONITOR), "po"
    )

    assert folded.status == 201
    assert web.get("pools", "po")["session_persistence"] == {
        "type": "APP_COOKIE",
        "cookie_name": "SID",
    }
    assert web.get("healthmonitors", "po")["delay"] == 3
    assert web.get("healthmonitors", "po")["http_method"] == "GET"


def test_a_member_answers_with_what_it_carried_last(web: Desired) -> None:
    web.post("members", carrying(type="SOURCE_IP", healthmonitor=MONITOR), "po")

    web.put("members", "m", {"weight": 4}, "po")

    member = web.get("members", "m", "po")
    assert (member["type"], member["healthmonitor"]) == ("SOURCE_IP", MONITOR)
    assert member["pool_id"] == "po"


@pytest.mark.parametrize("nothing", [None, "", {}], ids=["null", "empty text", "empty object"])
@pytest.mark.parametrize("carried", ["type", "cookie_name", "healthmonitor"])
def test_null_and_empty_values_say_nothing(web: Desired, carried: str, nothing: Any) -> None:
    web.post("members", carrying(type="APP_COOKIE", cookie_name="SID", healthmonitor=MONITOR), "po")
    pool, monitor = web.get("pools", "po"), web.get("healthmonitors", "po")

    folded = web.put("members", "m", {carried: nothing}, "po")

    assert (folded.status, folded.changes) == (200, ())
    assert (web.get("pools", "po"), web.get("healthmonitors", "po")) == (pool, monitor)


def test_a_monitor_of_nulls_says_nothing(web: Desired) -> None:
    web.post("members", carrying(healthmonitor=MONITOR), "po")

    web.put("members", "m", {"healthmonitor": {"type": None}}, "po")

    assert web.get("members", "m", "po")["healthmonitor"] == MONITOR


def test_repeating_what_a_member_carried_does_not_undo_what_came_after(web: Desired) -> None:
    web.post("members", carrying(type="SOURCE_IP", healthmonitor=MONITOR), "po")
    web.put("pools", "po", {"session_persistence": {"type": "HTTP_COOKIE"}})
    web.put("healthmonitors", "po", {"delay": 30})

    posted = web.post("members", carrying(type="SOURCE_IP", healthmonitor=MONITOR), "po")
    put = web.put("members", "m", {"type": "SOURCE_IP", "healthmonitor": MONITOR}, "po")

    assert [posted.changes, put.changes] == [(), ()]
    assert web.get("pools", "po")["session_persistence"]["type"] == "HTTP_COOKIE"
    assert web.get("healthmonitors", "po")["delay"] == 30


def test_repeating_a_persistence_that_once_had_a_cookie_is_no_news_either(web: Desired) -> None:
    web.post("members", carrying(type="APP_COOKIE", cookie_name="SID"), "po")
    changed = web.put("members", "m", {"type": "HTTP_COOKIE"}, "po")
    applied = web.get("pools", "po")["session_persistence"]
    web.put("pools", "po", {"session_persistence": {"type": "SOURCE_IP"}})

    folded = web.put("members", "m", {"type": "HTTP_COOKIE"}, "po")

    assert (applied, changed.warnings) == ({"type": "HTTP_COOKIE", "cookie_name": None}, ())
    assert folded.changes == ()
    assert web.get("pools", "po")["session_persistence"]["type"] == "SOURCE_IP"


@pytest.mark.parametrize("verb", ["POST", "PUT"])
def test_what_differs_from_what_the_member_carried_last_is_applied(web: Desired, verb: str) -> None:
    web.post("members", carrying(type="SOURCE_IP", healthmonitor=MONITOR), "po")
    news = {"type": "HTTP_COOKIE", "healthmonitor": MONITOR | {"delay": "7"}}

    if verb == "POST":
        folded = web.post("members", MEMBER | news, "po")
    else:
        folded = web.put("members", "m", news, "po")

    assert folded.status == 200
    assert web.get("pools", "po")["session_persistence"]["type"] == "HTTP_COOKIE"
    assert web.get("healthmonitors", "po")["delay"] == 7
    assert web.get("members", "m", "po")["healthmonitor"]["delay"] == 7


def test_another_cookie_of_the_type_carried_before_is_applied(web: Desired) -> None:
    web.post("members", carrying(type="APP_COOKIE", cookie_name="SID"), "po")

    web.put("members", "m", {"cookie_name": "JSESSIONID"}, "po")

    assert web.get("pools", "po")["session_persistence"]["cookie_name"] == "JSESSIONID"


def test_what_a_member_carries_is_no_part_of_its_content(web: Desired) -> None:
    web.post("members", carrying(healthmonitor=MONITOR), "po")
    before = web.etag("members", "m", "po")

    web.put("members", "m", {"healthmonitor": MONITOR | {"delay": 8}, "type": "SOURCE_IP"}, "po")

    assert web.etag("members", "m", "po") == before
    assert web.post("members", MEMBER, "po").status == 200


def test_a_member_made_again_applies_what_it_carries_again(web: Desired) -> None:
    web.post("members", carrying(healthmonitor=MONITOR), "po")
    web.put("healthmonitors", "po", {"delay": 30})
    web.delete("members", "m", "po")

    web.post("members", carrying(healthmonitor=MONITOR), "po")

    assert web.get("healthmonitors", "po")["delay"] == 3


@pytest.mark.parametrize(
    ("carried", "pointer"),
    [
        ({"healthmonitor": MONITOR | {"type": "PING"}}, "/healthmonitor/type"),
        ({"healthmonitor": MONITOR | {"delay": 0}}, "/healthmonitor/delay"),
        ({"healthmonitor": MONITOR | {"colour": "red"}}, "/healthmonitor/colour"),
        ({"healthmonitor": {"delay": 3, "timeout": 2}}, "/healthmonitor/type"),
        ({"healthmonitor": "HTTP"}, "/healthmonitor"),
        ({"type": "COOKIE"}, "/type"),
        ({"type": "APP_COOKIE"}, "/cookie_name"),
        ({"type": "APP_COOKIE", "cookie_name": "a b"}, "/cookie_name"),
        ({"cookie_name": "SID"}, "/type"),
    ],
)
def test_what_is_wrong_with_it_is_said_where_the_member_has_it(
    web: Desired, carried: dict[str, Any], pointer: str
) -> None:
    with web.refuses(Unprocessable, pointer):
        web.post("members", MEMBER | carried, "po")


def test_a_cookie_cannot_be_carried_into_a_tcp_pool(web: Desired) -> None:
    web.post("pools", POOL | {"id": "tcp", "protocol": "TCP"})

    with web.refuses(Unprocessable, "/type"):
        web.post("members", carrying(type="HTTP_COOKIE"), "tcp")


# --- the monitor's own documents ------------------------------------------------------------


def test_a_monitor_that_members_brought_is_taken_over_by_a_post(web: Desired) -> None:
    web.post("members", carrying(healthmonitor=MONITOR), "po")

    folded = web.post("healthmonitors", {"pool_id": "po", "type": "TCP", "delay": 5, "timeout": 1})

    assert folded.status == 201
    monitor = web.get("healthmonitors", "po")
    assert (monitor["type"], monitor["delay"], monitor["max_retries"]) == ("TCP", 5, 3)


def test_a_monitor_that_was_posted_is_not_taken_over(web: Desired) -> None:
    web.post("members", carrying(healthmonitor=MONITOR), "po")
    web.post("healthmonitors", MONITOR | {"pool_id": "po"})

    assert web.post("healthmonitors", MONITOR | {"pool_id": "po"}).status == 200
    with web.refuses(Conflict, "/delay"):
        web.post("healthmonitors", MONITOR | {"pool_id": "po", "delay": 4})
    with web.refuses(Conflict, "/healthmonitor/delay"):
        web.post("healthmonitors", {"id": "po", "healthmonitor": MONITOR | {"delay": 4}})


@pytest.mark.parametrize("name", ["pool_id", "id", "listener_id"])
@pytest.mark.parametrize("is_nested", [True, False], ids=["nested", "flat"])
def test_a_monitor_is_posted_nested_or_flat_with_any_name_of_its_pool(
    web: Desired, name: str, is_nested: bool
) -> None:
    named = {name: "li" if name == "listener_id" else "po"}
    body = named | ({"healthmonitor": MONITOR} if is_nested else MONITOR)

    folded = web.post("healthmonitors", body)

    assert (folded.status, folded.warnings) == (201, ())
    monitor = web.get("healthmonitors", "po")
    assert (monitor["pool_id"], monitor["listener_id"]) == ("po", "li")


def test_a_monitor_is_posted_to_the_url_of_its_pool(web: Desired) -> None:
    folded = web.post("healthmonitors", MONITOR, id="li")

    assert folded.status == 201
    assert web.get("healthmonitors", "po")["type"] == "HTTP"


def test_the_url_of_a_monitor_and_its_document_must_name_one_pool(web: Desired) -> None:
    web.post("pools", POOL | {"id": "p2"})

    with web.refuses(Unprocessable, "/pool_id"):
        web.post("healthmonitors", MONITOR | {"pool_id": "p2"}, id="po")
    with web.refuses(Unprocessable, "/id"):
        web.post("healthmonitors", {"id": "p2", "healthmonitor": MONITOR}, id="po")


def test_a_monitor_must_say_whose_it_is(web: Desired) -> None:
    with web.refuses(Unprocessable, "/pool_id"):
        web.post("healthmonitors", MONITOR)


def test_a_pool_sent_with_a_monitor_is_compared_and_not_written(web: Desired) -> None:
    pool = POOL | {"listener_id": "li", "name": "other", "lb_algorithm": "SOURCE_IP"}

    folded = web.post("healthmonitors", pool | {"healthmonitor": MONITOR})

    assert folded.status == 201
    assert sorted(warning.split(" ")[0] for warning in folded.warnings) == ["lb_algorithm", "name"]
    assert [str(change.ref) for change in folded.changes] == ["healthmonitor po"]


def test_what_a_pool_sent_with_a_monitor_does_not_say_is_no_difference(web: Desired) -> None:
    web.put("pools", "po", {"session_persistence": {"type": "SOURCE_IP"}, "name": "n"})
    silent = {"id": "po", "session_persistence": None, "stick_size": None, "name": None}

    folded = web.post("healthmonitors", silent | {"healthmonitor": MONITOR})

    assert (folded.status, folded.warnings) == (201, ())


def test_a_fault_of_the_pool_beside_a_monitor_is_a_fault(web: Desired) -> None:
    with web.refuses(Unprocessable, "/lb_algorithm", "/healthmonitor/type"):
        web.post(
            "healthmonitors",
            POOL | {"lb_algorithm": "FASTEST", "healthmonitor": MONITOR | {"type": "PING"}},
        )


def test_checks_that_overlap_are_worth_a_warning(web: Desired) -> None:
    folded = web.post("healthmonitors", MONITOR | {"pool_id": "po", "timeout": 4})

    assert folded.status == 201
    assert folded.warnings == ("timeout (4 s) is above delay (3 s): checks overlap",)
    assert web.put("healthmonitors", "po", {"timeout": 3}).warnings == ()


def test_a_cookie_name_nobody_uses_is_worth_a_warning(web: Desired) -> None:
    persistence = {"type": "SOURCE_IP", "cookie_name": "SID"}

    folded = web.put("pools", "po", {"session_persistence": persistence})

    assert folded.status == 200
    assert folded.warnings == ("cookie_name is ignored: session persistence is SOURCE_IP",)
