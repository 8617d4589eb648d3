"""A network of a test's own: the thread, and every process it starts, has nothing but a lo."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import need

CLONE_NEWNET = 0x40000000  # linux/sched.h
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """Run the block in a network namespace that ends with it; needs root."""
    need("ip")
    if os.geteuid() != 0:
        pytest.skip("a network of its own takes root")
    with open("/proc/thread-self/ns/net") as own:
        if LIBC.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        try:
            ip("link set lo up")
            yield
        finally:
            assert LIBC.setns(own.fileno(), CLONE_NEWNET) == 0


def ip(words: str) -> str:
    """Return what ip(8) says to *words*."""
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout


def addresses() -> dict[str, str]:
    """Return the addresses on lo with their labels."""
    found = {}
    for line in ip("-o addr show dev lo").splitlines():
        words = line.split()
        found[words[3]] = words[-1] if "label" in line or words[-1].startswith("lo") else ""
        if "lo:0" in words or any(word.startswith("lo:0") for word in words):
            found[words[3]] = "lo:0"
    return found
