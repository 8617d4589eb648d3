"""Files, links and locks, each change one atomic step. Nothing else writes to the disk."""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from kinx_loadbalancer_agent.errors import StateLocked
from kinx_loadbalancer_agent.system import effects
from kinx_loadbalancer_agent.system.clock import Clock, Deadline

Signature = tuple[int, int, int]
AT_CWD, RENAME_EXCHANGE = -100, 2  # rename(2)


def write(
    path: Path,
    content: bytes,
    *,
    mode: int,
    durable: bool = False,
    owner_of: Path | None = None,
    replacing: Signature | None = None,
) -> None:
    """Put *content* at *path* in one step; a reader sees the old file or the new one.

    The draft is a dotfile beside it: HAProxy's directory loading passes those over.
    durable: True also survives a power cut (fsync of file and directory).
    owner_of: as root, give it the owner and group of that path.
    replacing: what *path* must still be; raises FileExistsError where somebody was faster.
    """
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, mode)
    try:
        if owner_of is not None and os.geteuid() == 0:
            owner = owner_of.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, mode)
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(content)
        if durable:
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
    if replacing is not None and signature(path) != replacing:
        raise FileExistsError(errno.EEXIST, "somebody else changes it", str(path))
    with effects.step(f"write {path.name}"):
        if durable or replacing is not None:
            os.rename(draft, path)
        else:
            _exchange(draft, path)
    if durable:
        _sync_directory(path.parent)


def _exchange(draft: Path, path: Path) -> None:
    """Put *draft* in the place of *path* in one step, and remove what was there after it.

    ext4 starts to write a file out when a rename replaces another one, which takes three times as
    long (measured: 0.16 ms against 0.06).
    """
    is_there = path.is_file() and not path.is_symlink()
    names = (AT_CWD, bytes(draft), AT_CWD, bytes(path))
    if is_there and _libc().renameat2(*names, RENAME_EXCHANGE) == 0:
        draft.unlink()
    else:
        os.rename(draft, path)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def append(path: Path, content: bytes, *, mode: int) -> None:
    """Add *content* at the end of *path*, which is made with *mode* where there is none."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    with effects.step(f"append to {path.name}"):
        descriptor = os.open(path, flags, mode)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)


def link(source: Path, target: Path) -> None:
    """Make *target* another name of the file *source*."""
    with effects.step(f"link {target.name}"):
        os.link(source, target)


def remove(path: Path) -> None:
    """Remove *path*, a directory with all it holds; a missing one is fine."""
    with effects.step(f"remove {path.name}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Rename *source* to *target*, on the same file system."""
    with effects.step(f"move {source.name}"):
        os.rename(source, target)


def put_aside(path: Path, target: Path) -> Path:
    """Rename *path* to *target*, or to target.2, target.3, … if that exists; return where it is."""
    candidate, number = target, 1
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = target.with_name(f"{target.name}.{number}")
    move(path, candidate)
    return candidate


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory that only this user can read, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="kinx-") as directory:
        yield Path(directory)


def point(path: Path, target: str) -> None:
    """Make *path* a symbolic link to *target* in one step, replacing the link that is there."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    with effects.step(f"point {path.name}"):
        os.rename(draft, path)


def make_directory(directory: Path, mode: int) -> None:
    """Make *directory* and its parents exist; *mode* is that of a new one."""
    if not directory.is_dir():
        with effects.step(f"make {directory.name}"):
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=mode, exist_ok=True)
            directory.chmod(mode)


def protect(path: Path, mode: int) -> None:
    """Give *path* the *mode*, whatever it had."""
    with effects.step(f"protect {path.name}"):
        path.chmod(mode)


def free_bytes(path: Path) -> int:
    """Return how much can still be written where *path* is, by whoever asks."""
    return shutil.disk_usage(path).free


def signature(path: Path | str) -> Signature | None:
    """Return what changes when somebody edits *path*; None when there is no file."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


class Lock:
    """An exclusive lock on a file, held until released or until every holder's process ended.

    A forked child shares it: gunicorn's worker keeps its master's lock alive. Source: flock(2).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take the lock if it is free, and say whether it is held now."""
        if self._descriptor is not None:
            return True
        make_directory(self._path.parent, 0o700)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def take_or_fail(self, clock: Clock, patience_seconds: float = 0.0) -> None:
        """Take the lock, waiting *patience_seconds*; raises StateLocked when it stays taken."""
        if not Deadline.after(clock, patience_seconds).wait_for(self.take, 0.05):
            raise StateLocked(str(self._path))

    def release(self) -> None:
        """Give the lock back; a lock that is not held is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
