"""Values and their standard errors from the sums over visits of samples.

A visit is one block of walks on one sample: an antithetic pair, or one walk. Passes follow each other, each visiting
every sample once in a random order. Two things make visits differ: the samples, whose own Shapley values differ
(variance b between them), and the orders that the walks happened to take (variance w within a sample). If folded, a
sample's visits in two passes are a couple, whose mean has a variance u of its own within a sample, mostly less than
w / 2. After k visits, n couples among them and m in a pass that has begun, the mean has the variance

    V / k^2 + (m / k)^2 (1 - m / N) b / m,  V = (k - 2 n) w + 4 n u,    for the N samples at hand;
    the same + b / N                        for the population that the samples were drawn from.

Whole passes leave out no sample, so that b enters the first only by the pass that has begun.

To tell w from b without a state for each sample, the first 16 visits and then every 16th, if folded of the first pass
only, take a second block, after which the visit counts as the mean of both: half the square of their difference is w on
average. To tell u, the first 4 couples and then every 32nd are repeated: the couple's second visit takes the first
one's walks once more, and another couple's. Half the square of the difference of the two couples' means is u on
average; the visit counts without them. Before there are 8 of them u is taken to be w / 2, as if nothing were gained.

The marginals of many players are heavy-tailed, a few samples carrying most of the variance, and those are missed by so
few repeats. So they tell only which shares of the variance w and u are, and all visits how large the variance is; and a
share is drawn towards the mean share of all players, by as much as 8 further repeats would.

Where one order serves the whole data set, or there is one sample, a visit is a draw of an order and nothing else: no
repeats are needed, and what another choice of samples would do cannot be told. Where repeats are left out, all of the
variance is taken for that of the orders: right for fewer visits than samples, too large after whole passes.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from .processes import Statistics
from .stopping import Found

__all__ = ["PER_PLAYER", "n_couples", "values_and_errors"]

PER_PLAYER = (
    "total", "squares",
    "repeat_total", "repeat_squares", "repeat_differences",
    "couple_total", "couple_squares", "couple_differences",
    "visits", "repeats", "couples", "settled",
)  # fmt: skip
"""Sums over visits, one number for each player: of the visit's marginal and of its square; over the visits that were
repeated, by themselves or as couples, of the mean over the blocks, the mean of their squares, and half the square of
the two repeats' difference; how many visits there were, and of them repeated; 1 for players that are not evaluated any
more."""

_Number = TypeVar("_Number", int, Tensor)
_PRIOR_REPEATS = 8
_FEWEST_COUPLES = 8


def n_couples(n_visits: _Number, n_samples: int) -> _Number:
    """How many couples are complete after so many visits of N samples: their second visits are every second pass."""
    passes, begun = n_visits // n_samples, n_visits % n_samples
    return passes // 2 * n_samples + passes % 2 * begun


def values_and_errors(sums: Statistics, n_samples: int, folded: bool) -> Found:
    """Means over visits, and their standard errors.

    Args:
        sums: by the names of :data:`PER_PLAYER`, float64 ``[C]``.
        n_samples: N; 1 where visits differ in their orders alone, or where that is assumed.
        folded: whether a sample's visits come in couples.
    """
    k, n = sums["visits"], n_samples
    active, n_draws = sums["settled"] == 0, int(k.min())
    values = sums["total"] / k.clamp_min(1)
    if n_draws < 2:
        unknown = torch.full_like(values, math.inf)
        return Found(values, unknown, None if n == 1 else unknown, n_draws, active)
    spread = _variance(sums["squares"], sums["total"], k)
    if n == 1:
        return Found(values, (spread / k).sqrt(), None, n_draws, active)
    within, of_repeats = _within(sums, "repeat", spread), sums["repeats"] / (2 * k)
    # A repeated visit has half of w, so that spread = b + w (1 - r / 2k), b being what samples contribute to it.
    within = within / (1 - within / spread * of_repeats).where(spread > 0, 1.0)
    noise = within * (1 - of_repeats)
    orders = k * noise
    if folded:
        couples = n_couples(k, n)
        of_couples = _within(sums, "couple", spread).where(sums["couples"] >= _FEWEST_COUPLES, within / 2)
        orders = (k - 2 * couples) * noise + 4 * couples * of_couples
    m = k % n
    # The expected sum of squares about the mean is k noise - orders / k + freedom * b.
    freedom = k * (n - 1) / n - m / k * (1 - m / n)
    between = ((k - 1) * spread - k * noise + orders / k).clamp_min(0) / freedom
    variance = (orders + m * (1 - m / n) * between) / k.square()
    return Found(values, variance.sqrt(), (variance + between / n).sqrt(), n_draws, active)


def _within(sums: Statistics, kind: str, spread: Tensor) -> Tensor:
    """The variance of a repeat within a sample, ``[C]``: as a share of the variance of single blocks."""
    r = sums[f"{kind}s"]
    within = sums[f"{kind}_differences"] / r
    whole = _variance(sums[f"{kind}_squares"], sums[f"{kind}_total"], r)
    seen = whole > 0
    mean_share = (within[seen] / whole[seen]).mean().clamp(max=1) if bool(seen.any()) else torch.tensor(1.0)
    prior = _PRIOR_REPEATS * spread
    share = (r * within + mean_share * prior) / (r * whole + prior)
    return share.nan_to_num(1.0).clamp(max=1) * spread


def _variance(squares: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Sample variance from sums."""
    return (squares - total.square() / count).clamp_min(0) / (count - 1)
