"""Fixtures of the fault tests."""

from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.fault.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    """A node without an agent: the test forks it."""
    need("haproxy")
    found = Node()
    yield found
    found.end()
