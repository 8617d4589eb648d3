"""Whatever happens to a node, no router sends it a VIP that it does not serve."""

import pytest

from tests.lab.lab import Lab
from tests.lab.walk import walk

STEPS = 20
LONGEST_SECONDS = (
    0.5  # 0.25 is the aim that bin/lab judges; other tests may take the machine's time
)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_vip_is_not_announced_while_it_is_not_served(lab: Lab, seed: int) -> None:
    longest, wrong = walk(lab, lab.nodes[0], STEPS, seed)

    print(f"announced while not served: at most {1000 * longest:.0f} ms")
    assert wrong == []
    assert 0 < longest < LONGEST_SECONDS
