"""The digest of a shape, and differences in words."""

from typing import Any

import pytest

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.services.haproxy import shape
from kinx_loadbalancer_agent.services.haproxy.shape import Limit, Live, Server


def part(content: bytes) -> Part:
    return Part(content, Ref("listeners", "", "a"), shape.of(content, is_live=True))


def server(name: str = "one", **values: Any) -> Server:
    given: dict[str, Any] = {"address": "192.0.2.1", "port": 80, "weight": 1} | values
    return Server("backend-a", name, **given)


def told(before: list[Live], wanted: list[Live]) -> tuple[str, ...]:
    """Return the commands from *before* to *wanted*, which must be possible."""
    found = shape.difference(before, wanted)
    assert found.reload == ""
    return found.commands


def reload(before: list[Live], wanted: list[Live]) -> str:
    """Return why only a reload makes *before* into *wanted*."""
    found = shape.difference(before, wanted)
    assert found.commands == ()
    return found.reload


def test_the_digest_is_of_names_and_contents_in_no_order() -> None:
    one, two = part(b"one\n"), part(b"two\n")
    digest = shape.digest({"a.cfg": one, "b.cfg": two})

    assert shape.digest({"b.cfg": two, "a.cfg": one}) == digest
    assert shape.digest({"a.cfg": two, "b.cfg": one}) != digest
    assert shape.digest({"a.cfg": one, "c.cfg": two}) != digest
    assert shape.digest({"a.cfg": part(b"one\nb.cfg 4\ntwo\n")}) != digest


def test_a_change_is_told_by_the_fragments_it_concerns() -> None:
    before = {shape.GLOBAL: part(b"1"), "a.cfg": part(b"1"), "b.cfg": part(b"1")}
    after = {shape.GLOBAL: part(b"2"), "a.cfg": part(b"2"), "c.cfg": part(b"1")}

    assert shape.changes(before, after) == "a.cfg changes, b.cfg goes, c.cfg is new"
    assert shape.changes(before, before) == ""


def test_a_change_of_the_global_section_alone_is_told_too() -> None:
    before, after = {shape.GLOBAL: part(b"1")}, {shape.GLOBAL: part(b"2")}

    assert shape.changes(before, after) == "00-global.cfg changes"


def test_drift_is_told_from_what_was_wanted() -> None:
    wanted = {"a.cfg": b"1", "b.cfg": b"1", "c.cfg": b"1"}

    drift = shape.drift(wanted, {"a.cfg": b"2", "c.cfg": b"1", "d.cfg": b"1"})

    assert drift == "a.cfg was edited, b.cfg is missing, d.cfg is not ours"
    assert shape.drift(wanted, dict(wanted)) == ""


def test_many_differences_are_told_by_the_first_and_a_number() -> None:
    drift = shape.drift({}, {f"{name}.cfg": b"" for name in "abcdefg"})

    assert drift.count("is not ours") == 4
    assert drift.endswith("and 3 more")


# --- what can be told ---------------------------------------------------------------------------


def test_the_shape_is_what_no_command_can_change() -> None:
    one = part(b"backend a\n    mode http\n    server x 192.0.2.1:80 weight 1\n")
    two = part(b"backend a\n    mode http\n    server y 192.0.2.2:80 weight 2\n")
    other = part(b"backend a\n    mode tcp\n    server x 192.0.2.1:80 weight 1\n")

    assert one.shape == two.shape == shape.of(b"backend a\n    mode http\n", is_live=True)
    assert one.shape != other.shape
    assert shape.of(one.content, is_live=False) != shape.of(two.content, is_live=False)


def test_what_is_the_same_needs_no_command() -> None:
    assert told([server(), Limit("li", 7)], [server(), Limit("li", 7)]) == ()


@pytest.mark.parametrize(
    ("before", "wanted", "commands"),
    [
        ({}, {"weight": 5}, ("weight 5",)),
        ({}, {"mode": "maint"}, ("state maint",)),
        ({"mode": "maint"}, {}, ("state ready",)),
        ({"mode": "drain"}, {}, ("state ready",)),
        ({}, {"address": "192.0.2.9"}, ("addr 192.0.2.9 port 80",)),
        ({}, {"address": "2001:db8::1", "port": 8080}, ("addr 2001:db8::1 port 8080",)),
        ({"check": "- 0"}, {"check": "- 99"}, ("check-port 99",)),
        ({"check": "- 9"}, {"check": "- 0"}, ("check-port 0",)),
        (
            {"check": "- 0"},
            {"check": "192.0.2.7 99"},
            ("check-addr 192.0.2.7", "check-port 99"),
        ),
    ],
)
def test_what_a_server_is_told(
    before: dict[str, Any], wanted: dict[str, Any], commands: tuple[str, ...]
) -> None:
    found = told([server(**before)], [server(**wanted)])

    assert found == tuple(f"set server backend-a/one {command}" for command in commands)


def test_what_others_did_to_a_server_is_undone() -> None:
    checked = server(check="- 0")

    assert told([server(check="")], [checked]) == ("enable health backend-a/one",)
    assert told([checked], [server(check="")]) == (
        "disable health backend-a/one",
        "set server backend-a/one health up",
    )
    assert told([server(limit=7)], [server()]) == ("set maxconn server backend-a/one 0",)


def test_a_server_comes_with_all_it_has() -> None:
    checked = server(
        "new", address="::1", mode="maint", check="192.0.2.7 99", checks=" check inter 3s"
    )

    assert told([], [server("new")]) == (
        "add server backend-a/new 192.0.2.1:80 weight 1",
        "enable server backend-a/new",
    )
    assert told([], [checked]) == (
        "add server backend-a/new [::1]:80 weight 1 check inter 3s addr 192.0.2.7 port 99",
        "enable health backend-a/new",
    )


def test_what_comes_is_there_before_what_goes_has_gone() -> None:
    commands = told([server("old")], [server("new")])

    assert commands == (
        "add server backend-a/new 192.0.2.1:80 weight 1",
        "enable server backend-a/new",
        "set server backend-a/old state maint",
        "del server backend-a/old",
    )


def test_a_server_is_made_anew_where_another_one_serves_meanwhile() -> None:
    before = [server("one"), server("two")]
    wanted = [server("one", backup=True), server("two")]

    assert told([*before], [*wanted]) == (
        "set server backend-a/one state maint",
        "del server backend-a/one",
        "add server backend-a/one 192.0.2.1:80 weight 1 backup",
        "enable server backend-a/one",
    )


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ([server()], [server(backup=True)]),
        ([server(), server("two", mode="maint")], [server(backup=True), server("two")][:1]),
        ([], [server(words=" cookie one", is_addable=False)]),
        ([server(check="192.0.2.7 0")], [server(check="- 0")]),
        ([], [Limit("li", 7)]),
        ([Limit("li", 7, "STOP")], [Limit("li", 7)]),
    ],
    ids=["the only one", "the only one in use", "a cookie", "an address to unset", "new", "ended"],
)
def test_what_cannot_be_told_is_a_reload(before: list[Live], wanted: list[Live]) -> None:
    assert reload(before, wanted)


def test_a_frontend_is_told_its_limit_and_to_go_on() -> None:
    assert told([Limit("li", 7)], [Limit("li", 9)]) == ("set maxconn frontend li 9",)
    assert told([Limit("li", 7, "PAUSED")], [Limit("li", 7)]) == ("enable frontend li",)
