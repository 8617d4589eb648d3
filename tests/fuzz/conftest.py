"""How long a law is tried: some examples in the suite, many more where somebody asks for them."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

FULL = 10_000
ASKED = int(os.environ.get("KINX_FUZZ_EXAMPLES", "0"))
SLOW_MACHINE = (HealthCheck.too_slow, HealthCheck.data_too_large)
ROUND = 10


def examples(suite: int, full: int) -> int:
    """Return *suite*, or *full* for each 10 000 that KINX_FUZZ_EXAMPLES asks for."""
    return max(1, ASKED * full // FULL) if ASKED else suite


def law(suite: int, full: int, *phases: Phase) -> settings:
    """Return the settings of a law that is tried with so many examples, the same each time."""
    return settings(
        phases=phases or (Phase.generate, Phase.shrink),
        max_examples=examples(suite, full),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=SLOW_MACHINE,
    )


def tried(suite: int, full: int, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """Have a law tried with so many examples of *strategies*, in rounds of their own.

    Hypothesis spends five sixths of a longer round on variations of what it has, which says
    little of documents that meet.
    """

    def decorate(rule: Callable[..., None]) -> Callable[[], None]:
        def every_round() -> None:
            for number in range(-(-examples(suite, full) // ROUND)):
                round_settings = settings(law(suite, full), max_examples=ROUND, derandomize=False)
                seed(number)(round_settings(given(**strategies)(rule)))()

        every_round.__name__, every_round.__doc__ = rule.__name__, rule.__doc__
        return every_round

    return decorate
