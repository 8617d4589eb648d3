"""The one choke point: every effect on the machine happens inside a :func:`step`.

Steps are announced as Python audit events (PEP 578), which cost nothing while nobody listens. A
test that adds an audit hook sees every effect, right before and right after, and can end the
process there. This module must never do anything else.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EVENT = "kinx_loadbalancer_agent.effect"


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announce the effect *name* before it happens, and again when it has succeeded."""
    sys.audit(EVENT, name, "before")
    yield
    sys.audit(EVENT, name, "after")
