"""Values and their standard errors from the sums over visits of samples.

A visit is one block of walks on one sample: an antithetic pair, or one walk. Passes follow each other, each visiting
every sample once in a random order. Two things make visits differ: the samples, whose own Shapley values differ
(variance b between them), and the orders that the walks happened to take (variance w within a sample). After k visits,
m of them in a pass that has begun, the mean has the variance

    w / k + (m / k)^2 (1 - m / N) b / m    for the N samples at hand, of which whole passes leave out none;
    the same + b / N                       for the population that the samples were drawn from.

To tell w from b without a state for each sample, the first 16 visits and then every 16th take a second block, after
which the visit counts as the mean of both: half the square of their difference is w on average. The marginals of many
players are heavy-tailed, a few samples carrying most of the variance, and those are missed by so few repeats. So they
tell only which share of the variance w is, and all visits how large the variance is; and the share is drawn towards the
mean share of all players, by as much as 8 further repeats would.

Where one order serves the whole data set, or there is one sample, a visit is a draw of an order and nothing else: no
repeats are needed, and what another choice of samples would do cannot be told.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .processes import Statistics
from .stopping import Found

__all__ = ["values_and_errors"]

_PRIOR_REPEATS = 8


def values_and_errors(sums: Statistics, n_samples: int) -> Found:
    """Means over visits, and their standard errors.

    Args:
        sums: over visits, of the blocks' mean marginals, float64 ``[C]`` or ``[1]``: ``visits`` (how many there were),
            ``total`` and ``squares``; over those of two blocks ``repeats`` (how many), ``repeat_total``,
            ``repeat_squares`` and ``repeat_differences`` (half the square of the two blocks' difference); ``settled``
            (1 for players that are not evaluated any more).
        n_samples: N; 1 where visits differ in their orders alone.
    """
    k, r, n = sums["visits"], sums["repeats"], n_samples
    active, n_draws = sums["settled"] == 0, int(k.min())
    values = sums["total"] / k.clamp_min(1)
    if n_draws < 2:
        unknown = torch.full_like(values, math.inf)
        return Found(values, unknown, None if n == 1 else unknown, n_draws, active)
    spread = _variance(sums["squares"], sums["total"], k)
    if n == 1:
        return Found(values, (spread / k).sqrt(), None, n_draws, active)
    share = _share_of_orders(sums, spread)
    # A repeated visit has half of w, so that spread = b + w (1 - r / 2k), b being what samples contribute to it.
    within = share * spread / (1 - share * r / (2 * k))
    noise = within * (1 - r / (2 * k))
    m = k % n
    # The expected sum of squares about the mean is (k - 1) noise + freedom * b.
    freedom = k * (n - 1) / n - m / k * (1 - m / n)
    between = (k - 1) / freedom * (spread - noise).clamp_min(0)
    variance = noise / k + m * (1 - m / n) / k.square() * between
    return Found(values, variance.sqrt(), (variance + between / n).sqrt(), n_draws, active)


def _share_of_orders(sums: Statistics, spread: Tensor) -> Tensor:
    """Which share of the variance of single blocks is w, ``[C]``."""
    r = sums["repeats"]
    within = sums["repeat_differences"] / r
    whole = _variance(sums["repeat_squares"], sums["repeat_total"], r) + within / 2
    seen = whole > 0
    mean_share = (within[seen] / whole[seen]).mean().clamp(max=1) if bool(seen.any()) else torch.tensor(1.0)
    prior = _PRIOR_REPEATS * spread
    share = (r * within + mean_share * prior) / (r * whole + prior)
    return share.nan_to_num(1.0).clamp(max=1)


def _variance(squares: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Sample variance from sums."""
    return (squares - total.square() / count).clamp_min(0) / (count - 1)
