"""Fixtures: a machine for one test, or one shared by the tests of a module."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.machine import Machine, running


def need(program: str) -> None:
    """Skip a test whose *program* is missing; in CI that is a failure."""
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A fresh agent with its own HAProxy."""
    need("haproxy")
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """An agent that the tests of a module share: each uses ids and ports of its own."""
    need("haproxy")
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def idle() -> Iterator[Machine]:
    """An agent whose HAProxy is somebody else's to start, and was not started."""
    need("haproxy")
    with running(own_haproxy=False) as found:
        yield found
