"""The directory HAProxy loads: staged whole, swapped by one rename, and back."""

import os
import stat
from pathlib import Path

import pytest

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.services.haproxy.confd import ConfD

MARK = b"# ours\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conf.d"


def parts(**files: str) -> dict[str, Part]:
    """Return fragments by file name: ``a="1"`` is ``a.cfg`` with the content 1."""
    return {
        f"{name}.cfg": Part(MARK + content.encode() + b"\n", Ref("listeners", "", name), "")
        for name, content in files.items()
    }


def contents(directory: Path) -> dict[str, str]:
    """Return the fragments in *directory*, without mark and newline."""
    return {
        file.stem: file.read_text().removeprefix(MARK.decode()).rstrip("\n")
        for file in directory.glob("*.cfg")
    }


def live(path: Path, **files: str) -> ConfD:
    """Return a directory in which *files* were made live."""
    confd = ConfD(path, MARK)
    confd.stage(parts(**files))
    confd.swap()
    return confd


def test_what_is_staged_is_not_loaded_until_the_swap(path: Path) -> None:
    confd = live(path, a="1", b="1")

    staged = confd.stage(parts(a="2", c="1"))
    before = contents(path)
    confd.swap()

    assert contents(staged) == contents(path) == {"a": "2", "c": "1"}
    assert before == {"a": "1", "b": "1"}


def test_a_swap_can_be_taken_back(path: Path) -> None:
    confd = live(path, a="1")
    confd.stage(parts(a="2"))
    back = confd.swap()

    back()

    assert contents(path) == {"a": "1"}
    assert confd.read() == {"a.cfg": b"# ours\n1\n"}


def test_after_a_swap_that_was_taken_back_the_next_one_works(path: Path) -> None:
    confd = live(path, a="1", b="1")
    confd.stage(parts(a="2", b="1"))
    confd.swap()()

    confd.stage(parts(a="3", b="1"))
    confd.swap()

    assert contents(path) == {"a": "3", "b": "1"}


def test_a_directory_that_was_there_before_is_kept_aside(path: Path) -> None:
    path.mkdir()
    (path / "haproxy.cfg").write_text("global\n")
    confd = ConfD(path, MARK)
    confd.stage(parts(a="1"))

    back = confd.swap()

    aside = path.with_name("conf.d.before-kinx")
    assert contents(path) == {"a": "1"}
    assert (aside / "haproxy.cfg").read_text() == "global\n"
    back()
    assert not path.is_symlink()
    assert contents(path) == {"haproxy": "global"}
    assert not aside.exists()


def test_a_second_directory_kept_aside_does_not_replace_the_first(path: Path) -> None:
    path.with_name("conf.d.before-kinx").mkdir()
    path.mkdir()
    (path / "second.cfg").write_text("global\n")

    live(path, a="1")

    assert contents(path.with_name("conf.d.before-kinx.2")) == {"second": "global"}


def test_a_link_of_somebody_else_comes_back_too(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "haproxy.cfg").write_text("global\n")
    path.symlink_to(elsewhere)
    confd = ConfD(path, MARK)
    confd.stage(parts(a="1"))
    back = confd.swap()

    back()

    assert contents(path) == {"haproxy": "global"}


def test_a_fragment_that_stays_is_one_file_in_both_slots(path: Path) -> None:
    confd = live(path, a="1", b="1")

    staged = confd.stage(parts(a="2", b="1"))

    assert os.path.samefile(staged / "b.cfg", path / "b.cfg")
    assert not os.path.samefile(staged / "a.cfg", path / "a.cfg")


@pytest.mark.parametrize("is_restarted", [False, True], ids=["same agent", "restarted agent"])
def test_a_file_that_somebody_edited_is_shared_by_no_link(path: Path, is_restarted: bool) -> None:
    confd = live(path, a="1", b="1")
    confd.stage(parts(a="1", b="2"))
    confd.swap()  # a.cfg is one file in both slots now
    with (path / "a.cfg").open("a") as file:
        file.write("edited\n")
    if is_restarted:
        confd = ConfD(path, MARK)
    drifted = confd.read()["a.cfg"]

    staged = confd.stage(parts(a="1", b="2"))

    assert drifted == b"# ours\n1\nedited\n"
    assert contents(staged) == {"a": "1", "b": "2"}
    assert not os.path.samefile(staged / "a.cfg", path / "a.cfg")
    assert contents(path)["a"] == "1\nedited"


def test_an_edit_that_keeps_the_size_is_seen(path: Path) -> None:
    confd = live(path, a="1")
    before = (path / "a.cfg").stat()
    (path / "a.cfg").write_bytes(b"# ours\n2\n")
    os.utime(path / "a.cfg", ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    assert confd.read() == {"a.cfg": b"# ours\n2\n"}
    assert contents(confd.stage(parts(a="1"))) == {"a": "1"}


def test_a_slot_holds_exactly_what_was_staged_whatever_was_in_it(path: Path) -> None:
    confd = live(path, a="1")
    idle = confd.stage(parts(a="1", b="1"))
    (idle / "b.cfg").write_text("edited\n")
    (idle / "z.cfg").write_text("foreign\n")
    (idle / ".a.cfg.new").write_text("a draft that a crash left\n")

    confd.stage(parts(a="1", b="1"))

    assert contents(idle) == {"a": "1", "b": "1"}
    assert sorted(file.name for file in idle.iterdir()) == ["a.cfg", "b.cfg"]


def test_foreign_fragments_are_put_aside_and_ours_are_not(path: Path) -> None:
    confd = live(path, a="1")
    for content in ("first\n", "second\n"):
        (path / "z.cfg").write_text(content)
        confd.put_foreign_aside(None)

    aside = path.with_name("conf.d.foreign")
    assert contents(path) == {"a": "1"}
    assert {file.name: file.read_text() for file in aside.iterdir()} == {
        "z.cfg": "first\n",
        "z.cfg.2": "second\n",
    }


def test_only_what_haproxy_would_load_is_read(path: Path) -> None:
    confd = live(path, a="1")
    (path / "notes.txt").write_text("x")
    (path / ".hidden.cfg").write_text("x")
    (path / "directory.cfg").mkdir()
    (path / "z.cfg").write_text("foreign\n")

    assert confd.read() == {"a.cfg": b"# ours\n1\n", "z.cfg": b"foreign\n"}


def test_a_directory_that_somebody_made_inside_stops_no_later_change(path: Path) -> None:
    confd = live(path, a="1")
    (path / "certificates").mkdir()

    for content in ("2", "3", "4"):
        confd.stage(parts(a=content))
        confd.swap()

    assert contents(path) == {"a": "4"}


def test_an_agent_that_starts_goes_on_with_what_the_last_one_left(path: Path) -> None:
    live(path, a="1", b="1")
    confd = ConfD(path, MARK)

    read = confd.read()
    staged = confd.stage(parts(a="1", b="2"))
    confd.swap()

    assert read == {name: part.content for name, part in parts(a="1", b="1").items()}
    assert staged == confd.current
    assert contents(path) == {"a": "1", "b": "2"}


def test_there_is_nothing_to_read_before_the_first_swap(path: Path) -> None:
    confd = ConfD(path, MARK)

    assert confd.read() == {}
    assert confd.current is None


def test_files_are_for_root_and_its_group_only(path: Path) -> None:
    confd = live(path, a="1")

    slot = confd.current
    assert slot is not None
    assert stat.S_IMODE(slot.stat().st_mode) == 0o750
    assert stat.S_IMODE((slot / "a.cfg").stat().st_mode) == 0o640
