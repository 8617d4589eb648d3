"""A lab that the tests of a module share: two nodes behind two routers, settled before each."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.lab import frr, lab
from tests.lab.lab import Lab
from tests.lab.network import Namespace


def need_a_lab() -> None:
    """Skip a test where there can be no lab, and say why."""
    for program in ("haproxy", "ip", "sysctl", "vtysh"):
        need(program)
    if missing := frr.missing():
        pytest.skip(f"{missing} is not installed")
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    try:
        Namespace("klab-trial-", str(os.getpid())).end()
    except OSError as error:
        pytest.skip(f"no network namespaces: {error}")


@pytest.fixture(scope="module")
def built() -> Iterator[Lab]:
    """A lab of two nodes."""
    need_a_lab()
    with lab.lab() as found:
        yield found


@pytest.fixture(name="lab")
def settled(built: Lab) -> Lab:
    """The lab, with both nodes announced by both routers."""
    built.settle()
    return built
