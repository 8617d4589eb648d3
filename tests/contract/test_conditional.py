"""ETag, If-Match and If-None-Match (CONTRACT section 1, row "concurrency"; RFC 9110, 13)."""

from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import CHANGE, answered
from tests.machine import Machine

every_kind = pytest.mark.parametrize("kind", documents.NAMES)
every_changeable_kind = pytest.mark.parametrize("kind", documents.CHANGEABLE)


def tag(machine: Machine, url: str) -> str:
    return machine.get(url).headers["ETag"]


# --- the tag --------------------------------------------------------------------------------


@every_changeable_kind
def test_an_etag_is_strong_and_changes_with_what_is_published(shared: Machine, kind: str) -> None:
    place = documents.made(shared, kind)
    first = tag(shared, place.item)

    changed = shared.put(place.item, CHANGE[kind]).headers["ETag"]
    back = shared.put(place.item, dict.fromkeys(CHANGE[kind])).headers["ETag"]

    assert first.startswith('"')
    assert changed != first
    assert back == first


def test_two_resources_have_etags_of_their_own(shared: Machine) -> None:
    one, two = documents.made(shared, "pools"), documents.made(shared, "pools")

    assert tag(shared, one.item) != tag(shared, two.item)


def test_what_a_member_carries_is_no_part_of_its_etag(shared: Machine) -> None:
    place = documents.made(shared, "members")
    before = tag(shared, place.item)
    carried = {"type": "SOURCE_IP", "healthmonitor": documents.monitor()}

    reply = shared.put(place.item, carried)

    assert reply.status == 200
    assert reply.json["type"] == "SOURCE_IP"
    assert reply.json["healthmonitor"] == documents.monitor()
    assert reply.headers["ETag"] == before == tag(shared, place.item)


def test_a_repeated_post_with_news_of_the_pool_keeps_the_members_etag(shared: Machine) -> None:
    place = documents.made(shared, "members")
    before = tag(shared, place.item)

    reply = shared.post(place.collection, place.body | {"type": "SOURCE_IP"})

    assert (reply.status, reply.headers["ETag"]) == (200, before)
    pool = shared.get(place.collection.removesuffix("/members")).json
    assert pool["session_persistence"]["type"] == "SOURCE_IP"


# --- If-Match -------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_another_state_than_if_match_names_is_a_412_and_nothing_happens(
    shared: Machine, method: str, kind: str
) -> None:
    place = documents.made(shared, kind)
    before = judge.kept(shared)
    body = None if method == "DELETE" else CHANGE[kind]

    for wrong in ('"other"', '""', '"a", "b"', f"W/{tag(shared, place.item)}"):
        reply = shared.request(method, place.item, body, headers={"If-Match": wrong})
        judge.assert_is_problem(reply, 412)

    assert judge.kept(shared) == before


@every_kind
@pytest.mark.parametrize("form", ["{}", '"other", {}', "W/{}, {}", "*"])
def test_the_state_that_if_match_names_is_changed(shared: Machine, form: str, kind: str) -> None:
    place = documents.made(shared, kind)
    headers = {"If-Match": form.replace("{}", tag(shared, place.item))}

    changed = shared.put(place.item, CHANGE[kind], headers=headers)
    again = {"If-Match": form.replace("{}", changed.headers["ETag"])}
    deleted = shared.delete(place.item, headers=again)

    assert (changed.status, deleted.status) == (answered(kind, 200), answered(kind, 204))


@every_kind
def test_if_match_does_not_match_what_is_not_there(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)

    for wanted in ("*", '"other"'):
        reply = shared.post(place.collection, place.body, headers={"If-Match": wanted})
        judge.assert_is_problem(reply, 412)

    judge.assert_is_problem(shared.get(place.item), 404)


def test_one_of_two_who_saw_the_same_state_is_told(shared: Machine) -> None:
    place = documents.made(shared, "members")
    seen = {"If-Match": tag(shared, place.item)}

    first = shared.put(place.item, {"weight": 5}, headers=seen)
    second = shared.put(place.item, {"weight": 6}, headers=seen)

    assert (first.status, second.status) == (200, 412)
    assert shared.get(place.item).json["weight"] == 5


# --- If-None-Match --------------------------------------------------------------------------


@every_kind
def test_if_none_match_star_makes_and_never_changes(shared: Machine, kind: str) -> None:
    place = documents.place(shared, kind)
    headers = {"If-None-Match": "*"}

    made = shared.post(place.collection, place.body, headers=headers)
    again = shared.post(place.collection, place.body, headers=headers)
    changed = shared.put(place.item, CHANGE[kind], headers=headers)

    assert made.status == answered(kind, 201)
    judge.assert_is_problem(again, 412)
    judge.assert_is_problem(changed, 412)
    assert shared.get(place.item).json == judge.content(made)


def test_a_write_is_refused_while_if_none_match_names_the_state(shared: Machine) -> None:
    place = documents.made(shared, "members")
    current = tag(shared, place.item)

    # Weak comparison, so that a weak tag names it too (RFC 9110, 13.1.2).
    for form in (current, f'"other", {current}', f"W/{current}"):
        reply = shared.put(place.item, {"weight": 5}, headers={"If-None-Match": form})
        judge.assert_is_problem(reply, 412)
    changed = shared.put(place.item, {"weight": 5}, headers={"If-None-Match": '"other"'})

    assert changed.status == 200


# --- GET ------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_get_of_what_one_has_already_is_a_304(
    shared: Machine, method: str, form: str, kind: str
) -> None:
    place = documents.made(shared, kind)
    current = tag(shared, place.item)
    headers = {"If-None-Match": form.replace("{}", current)}

    reply = shared.request(method, place.item, headers=headers)

    assert (reply.status, reply.body) == (304, b"")
    assert reply.headers["ETag"] == current


def test_a_get_of_what_has_changed_is_a_200(shared: Machine) -> None:
    place = documents.made(shared, "members")
    headers = {"If-None-Match": tag(shared, place.item)}
    shared.put(place.item, {"weight": 5})

    reply = shared.get(place.item, headers=headers)

    assert (reply.status, reply.json["weight"]) == (200, 5)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "{}"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "W/{}"}, 412),
        ({"If-Match": '"other"', "If-None-Match": '"third"'}, 412),
        ({"If-Match": '"other"', "If-None-Match": "{}"}, 412),
        ({"If-Match": "{}", "If-None-Match": "{}"}, 304),
        ({"If-Match": "*", "If-None-Match": "{}"}, 304),
        ({"If-Match": "*", "If-None-Match": '"other"'}, 200),
    ],
    ids=str,
)
def test_a_get_keeps_to_if_match_before_if_none_match(
    shared: Machine, headers: dict[str, str], status: int
) -> None:
    place = documents.made(shared, "pools")
    current = tag(shared, place.item)
    sent = {name: form.replace("{}", current) for name, form in headers.items()}

    reply = shared.get(place.item, headers=sent)

    assert reply.status == status
    if status == 412:
        judge.assert_is_problem(reply, 412)


# --- unrelated edits ------------------------------------------------------------------------


def test_edits_of_other_resources_do_not_conflict(shared: Machine) -> None:
    listener = documents.made(shared, "listeners", enabled=True)
    pool = documents.made(shared, "pools", enabled=True, listener_id=listener.body["id"])
    url = f"{pool.item}/members"
    for id in ("one", "two"):
        assert shared.post(url, documents.member(id=id)).status == 201
    seen: dict[str, Any] = {
        at: tag(shared, at) for at in (listener.item, pool.item, f"{url}/one", f"{url}/two")
    }

    statuses = [
        shared.put(f"{url}/two", {"weight": 5}, headers={"If-Match": seen[f"{url}/two"]}).status,
        shared.put(f"{url}/one", {"weight": 6}, headers={"If-Match": seen[f"{url}/one"]}).status,
        shared.put(pool.item, {"name": "x"}, headers={"If-Match": seen[pool.item]}).status,
        shared.put(listener.item, {"name": "x"}, headers={"If-Match": seen[listener.item]}).status,
    ]

    assert statuses == [200] * 4
    weights = [one["weight"] for one in shared.get(url).json["members"]]
    assert weights == [6, 5]
