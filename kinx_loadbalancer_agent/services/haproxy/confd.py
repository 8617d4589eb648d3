"""The configuration directory: two slots and a link to the one that HAProxy loads.

A target goes whole into the idle slot, is checked there and takes effect by one rename of the
link. A projection of the store: renamed, never fsynced. This module must never judge content.
"""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from kinx_loadbalancer_agent.engine.ports import Part
from kinx_loadbalancer_agent.errors import NotProven
from kinx_loadbalancer_agent.system import files

log = structlog.get_logger()

MODE = 0o640
DIRECTORY_MODE = 0o750


class ConfD:
    """The directory at *path*; *mark* is the first line of every file the agent writes."""

    def __init__(self, path: Path, mark: bytes) -> None:
        self._path = path
        self._mark = mark
        self._slots = (path.with_name(f"{path.name}.a"), path.with_name(f"{path.name}.b"))
        self._known: dict[str, tuple[files.Signature, bytes]] = {}

    @property
    def current(self) -> Path | None:
        """The slot that HAProxy loads; None before the first swap."""
        if self._path.is_symlink():
            target = self._path.parent / self._path.readlink()
            if target in self._slots:
                return target
        return None

    @property
    def idle(self) -> Path:
        """The slot that nothing loads."""
        return self._slots[1] if self.current == self._slots[0] else self._slots[0]

    def read(self) -> dict[str, bytes]:
        """Return the fragments that HAProxy would load now; only what was touched is read."""
        if not self._path.is_dir():
            return {}
        found, directory = {}, str(self._path.resolve())
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".cfg") and not name.startswith(".") and not entry.is_dir():
                    found[name] = self._content(f"{directory}/{name}")
        return found

    def stage(self, parts: Mapping[str, Part]) -> Path:
        """Make the idle slot hold exactly *parts* and return it.

        Files that are right already stay; one that the current slot has is linked.
        """
        idle, current = self.idle, self.current
        files.make_directory(idle, DIRECTORY_MODE)
        with os.scandir(idle) as entries:
            present = {entry.name for entry in entries if entry.is_symlink() or entry.is_file()}
        for name in present - parts.keys():
            files.remove(idle / name)
            self._known.pop(f"{idle}/{name}", None)
        for name, part in parts.items():
            file = f"{idle}/{name}"
            if name in present and self._content(file) == part.content:
                continue
            files.remove(Path(file))
            if current is not None and self._content(f"{current}/{name}") == part.content:
                files.link(current / name, Path(file))
            else:
                files.write(Path(file), part.content, mode=MODE)
            self._remember(file, part.content)
        return idle

    def rewrite(self, parts: Mapping[str, Part]) -> Callable[[], None]:
        """Put *parts* into the slot that HAProxy loads, file by file; return how to go back."""
        current = self.current
        if current is None:
            raise NotProven(f"there is no configuration at {self._path}")
        found = {name: self._content(f"{current}/{name}") for name in parts}
        before = {name: was for name, was in found.items() if was != parts[name].content}

        def write(contents: Mapping[str, bytes]) -> None:
            for name, content in contents.items():
                files.write(current / name, content, mode=MODE)
                self._remember(f"{current}/{name}", content)

        try:
            write({name: parts[name].content for name in before})
        except OSError:
            with suppress(OSError):
                write(before)
            raise
        return lambda: write(before)

    def swap(self) -> Callable[[], None]:
        """Make the idle slot the one that HAProxy loads; return how to go back.

        A directory that is in the way, as a distribution or an operator left it, is kept aside.
        """
        link = self._path.readlink() if self._path.is_symlink() else None
        aside = None
        files.make_directory(self._path.parent, 0o755)
        if link is None and self._path.is_dir():
            aside = files.put_aside(
                self._path, self._path.with_name(f"{self._path.name}.before-kinx")
            )
            log.warning("directory kept aside", directory=str(self._path), kept=str(aside))
        files.point(self._path, self.idle.name)

        def back() -> None:
            if link is not None:
                files.point(self._path, str(link))
                return
            files.remove(self._path)
            if aside is not None:
                files.move(aside, self._path)

        return back

    def put_foreign_aside(self, ours: Collection[str] | None) -> tuple[str, ...]:
        """Move everything in the current slot that the agent did not write beside it.

        ours: the names it has written there; None when that is not known and the mark must do.
        """
        current = self.current
        if current is None:
            return ()
        aside = self._path.with_name(f"{self._path.name}.foreign")
        with os.scandir(current) as entries:
            foreign = sorted(entry.name for entry in entries if not self._is_ours(entry, ours))
        for name in foreign:
            files.make_directory(aside, DIRECTORY_MODE)
            files.put_aside(current / name, aside / name)
        return tuple(foreign)

    def _is_ours(self, entry: os.DirEntry[str], ours: Collection[str] | None) -> bool:
        name = entry.name
        if name.startswith("."):  # HAProxy passes it over, and so do we
            return True
        if entry.is_dir() or not name.endswith(".cfg") or (ours is not None and name not in ours):
            return False
        return self._content(entry.path).startswith(self._mark)

    def _content(self, file: str) -> bytes:
        """Return what is in *file*, read only when it was touched; nothing where there is none."""
        signature = files.signature(file)
        known = self._known.get(file)
        if known is not None and known[0] == signature:
            return known[1]
        try:
            content = Path(file).read_bytes()
        except (FileNotFoundError, IsADirectoryError):  # a link to nothing; somebody's directory
            content = b""
        if signature is not None:
            self._known[file] = (signature, content)
        return content

    def _remember(self, file: str, content: bytes) -> None:
        signature = files.signature(file)
        if signature is not None:
            self._known[file] = (signature, content)
