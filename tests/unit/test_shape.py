"""The digest of a shape, and differences in words."""

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.services.haproxy import shape


def part(content: bytes) -> Part:
    return Part(content, Ref("listeners", "", "a"))


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
