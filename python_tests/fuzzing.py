"""How generated calls are tested: seeded, without a data base or a deadline, and counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CALLS = int(os.environ.get("SHAPLEY_FUZZ_CALLS", "12000"))
"""Generated calls in all; SHAPLEY_FUZZ_CALLS makes a run longer or shorter."""

SHARES = {"ops": 0.75, "games": 0.24, "construction of games": 0.01}
"""Of all calls."""

made: Counter[str] = Counter()
"""Calls made so far, by outcome."""

Case = TypeVar("Case")


def run(share: float, cases: st.SearchStrategy[Case], check: Callable[[Case], str]) -> Counter[str]:
    """Check a share of all calls, one for each generated case, and count them by the outcomes that `check` gives.

    The same cases come in every run. A failing one is made as small as hypothesis can and printed.
    """
    planned = max(1, round(CALLS * share))
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=planned,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def each(case: Case) -> None:
        outcomes[check(case)] += 1

    each()
    assert outcomes.total() >= planned
    made.update(outcomes)
    return outcomes
