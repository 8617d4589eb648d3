"""Fixtures: desired states to send documents to."""

import hypothesis
import pytest

from tests.unit.desired import Desired

# How long an example takes says how busy the machine is, not whether a law holds.
hypothesis.settings.register_profile(
    "laws", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("laws")


@pytest.fixture
def desired() -> Desired:
    """An empty state."""
    return Desired()


@pytest.fixture
def web() -> Desired:
    """A load balancer with one HTTP listener ``li`` and its pool ``po``."""
    desired = Desired()
    desired.post("loadbalancers", {"id": "lb", "vip_address": "192.0.2.1"})
    desired.post("listeners", {"id": "li", "protocol": "HTTP", "protocol_port": 80})
    desired.post(
        "pools",
        {"id": "po", "listener_id": "li", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"},
    )
    return desired
