"""Whether a pruned network is faster than the original: both timed in turns, with how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .counting import time_in_turns

__all__ = ["LatencyComparison", "LatencyTimes", "compare_latencies"]

FEWEST_TURNS = 7  # an interval of 95 % takes six
_TAIL = 0.025


@dataclass(frozen=True)
class LatencyTimes:
    """How long a network took for a batch.

    Attributes:
        median_ms: median of the times, in milliseconds.
        lower_quartile_ms: a quarter of them was no longer.
        upper_quartile_ms: a quarter of them was no shorter.
    """

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float

    @classmethod
    def of(cls, times: Sequence[float]) -> LatencyTimes:
        """Sum up times in milliseconds, two or more."""
        lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
        return cls(median, lower, upper)

    def __str__(self) -> str:
        spread = (self.upper_quartile_ms - self.lower_quartile_ms) / 2
        digits = max(0, 2 - math.floor(math.log10(self.median_ms)))
        return f"{self.median_ms:.{digits}f} ± {spread:.{digits}f} ms"


@dataclass(frozen=True)
class LatencyComparison:
    """Times of a network and of what pruning left of it, for batches of one size.

    Attributes:
        batch_size: samples in the batch.
        before: times of the original network.
        after: times of the pruned network.
        speed_up: how many times as fast the pruned network is: the median over the turns of the time before over the
            time after.
        speed_up_low: lower end of a 95 % confidence interval of that median.
        speed_up_high: its upper end.
        turns: how often each network was timed.
        device: what they ran on.
        threads: torch's number of threads.
    """

    batch_size: int
    before: LatencyTimes
    after: LatencyTimes
    speed_up: float
    speed_up_low: float
    speed_up_high: float
    turns: int
    device: str
    threads: int

    @property
    def verdict(self) -> str:
        """``"faster"`` or ``"slower"``, where the interval leaves no doubt; else ``"no faster"``."""
        if self.speed_up_low > 1:
            return "faster"
        return "slower" if self.speed_up_high < 1 else "no faster"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> LatencyComparison:
        """Make one of what ``dataclasses.asdict`` gave."""
        times = {name: LatencyTimes(**record[name]) for name in ("before", "after")}
        return cls(**record | times)

    def __str__(self) -> str:
        times = f"{self.before} before, {self.after} after"
        sure = f"{self.speed_up:.2f} times as fast (95 % interval {self.speed_up_low:.2f} to {self.speed_up_high:.2f})"
        if self.verdict == "faster":
            return f"at batch {self.batch_size} pruning made the network {sure}: {times}"
        did = "slowed the network down" if self.verdict == "slower" else "did not speed the network up"
        return f"at batch {self.batch_size} pruning {did}: {times}, {sure}"


def compare_latencies(
    before: nn.Module, after: nn.Module, batch: Tensor, *, turns: int = 31, max_seconds: float = 20.0
) -> LatencyComparison:
    """Time a network and what pruning left of it on a batch, and tell whether it became faster.

    They take turns, so that whatever else the machine does meets both alike, and each turn gives one ratio. The
    interval is made of order statistics of the ratios: it holds for noise of any shape, as long as turns are
    independent. Measure batches of the sizes that you will use: the time of a small one is often that of so many
    layers, whatever their width, and pruning leaves as many.

    Args:
        before: the original network, on the device of the batch.
        after: the pruned network, there too. Both run in evaluation mode; their modes are put back.
        batch: what they are run on, ``[N, ...]``.
        turns: how often each is timed after a warm-up, 7 or more.
        max_seconds: no further turn begins after this time, but for the first seven.

    Raises:
        ValueError: there are too few turns.

    Example:
        >>> for size in (1, 64):
        ...     print(sc.compare_latencies(model, pruned, images[:size]))
    """
    if turns < FEWEST_TURNS:
        raise ValueError(f"compare_latencies: turns must be {FEWEST_TURNS} or more, got {turns}")
    times_before, times_after = time_in_turns([before, after], batch, turns, max_seconds, FEWEST_TURNS)
    ratios = [one / other for one, other in zip(times_before, times_after, strict=True)]
    low, high = _median_interval(ratios)
    return LatencyComparison(
        batch_size=len(batch),
        before=LatencyTimes.of(times_before),
        after=LatencyTimes.of(times_after),
        speed_up=statistics.median(ratios),
        speed_up_low=low,
        speed_up_high=high,
        turns=len(ratios),
        device=str(batch.device),
        threads=torch.get_num_threads(),
    )


def _median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A confidence interval of the median of six values or more, 95 % or a little more: how many lie below it is
    binomial."""
    ordered, n = sorted(values), len(values)
    left_out, tail = 0, 0.5**n
    while tail <= _TAIL:
        left_out += 1
        tail += math.comb(n, left_out) * 0.5**n
    return ordered[left_out - 1], ordered[-left_out]
