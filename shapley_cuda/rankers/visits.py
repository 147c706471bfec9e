"""Visits of samples by walks: what they add to the sums of an estimate, and what the sums say about its error.

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
from bisect import bisect_right

import torch
from torch import Tensor

from .. import ops
from ..game import ChannelGame
from ..samplers import WalkSampler
from .base import NonFinitePayoff
from .processes import Statistics
from .stopping import Found

__all__ = ["Visits"]

_DEFAULT_WALKS = 64  # per sample, that an estimate may take when no budget is given
_REPEAT_EVERY = 16
_PRIOR_REPEATS = 8
_REPEAT_KEY = 0x5265_7065_6174  # added to the seed for the walks of second blocks
_PER_PLAYER = ("total", "squares", "repeat_total", "repeat_squares", "repeat_differences")


class Visits:
    """The visits of a game's samples, by number.

    Attributes:
        n_units: how many visits to take at most.
        chunk_units: how many at once, as many as fit the game's memory budget.
    """

    def __init__(self, game: ChannelGame, seed: int, antithetic: bool, shared: bool):
        self._game, self._seed, self._antithetic, self._shared = game, seed, antithetic, shared
        self._n_samples = 1 if shared else game.n_samples  # that a visit can be of
        self._sampler = WalkSampler(game.n_players, self._n_samples, seed, antithetic)
        self._rows_per_walk = (game.n_players + 1) * (game.n_samples if shared else 1)
        self.n_units = _DEFAULT_WALKS // self._sampler.block * self._n_samples
        fitting = game.chunk_walks // self._sampler.block // (game.n_samples if shared else 1)
        if self._n_samples > 1:
            fitting = fitting * _REPEAT_EVERY // (_REPEAT_EVERY + 1)
        self.chunk_units = max(1, fitting)

    def n_walks(self, n_visits: int) -> int:
        """Walks in the first so many visits."""
        return (n_visits + self._n_repeats(n_visits)) * self._sampler.block

    def n_rows(self, n_visits: int) -> int:
        """Rows that the first so many visits evaluate."""
        return self.n_walks(n_visits) * self._rows_per_walk

    def n_within(self, budget: int) -> int:
        """The most visits that evaluate no more rows than the budget."""
        at_most = max(0, budget) // (self._sampler.block * self._rows_per_walk)
        return bisect_right(range(at_most + 1), budget, key=self.n_rows) - 1

    def nothing(self) -> Statistics:
        """The sums of no visit at all."""
        players = {name: torch.zeros(self._game.n_players, dtype=torch.float64) for name in _PER_PLAYER}
        return players | {name: torch.zeros(1, dtype=torch.float64) for name in ("visits", "repeats", "bad_walks")}

    def chunk(self, first: int, count: int) -> Statistics:
        """What visits first .. first + count - 1 add to the sums.

        ``total`` and ``squares`` are of the visits' mean marginals; ``repeat_total`` and ``repeat_squares`` the same
        for visits of two blocks, and ``repeat_differences`` half the squares of their blocks' differences.
        """
        block = self._sampler.block
        walks, samples, n_repeats = self._draw(first, count)
        payoffs = self._payoffs(walks, samples)
        twice = 2 * block * n_repeats
        once_total, once_squares = ops.marginals(payoffs[twice:], walks[twice:], block=block)
        both_total, block_squares = ops.marginals(payoffs[:twice], walks[:twice], block=block)
        _, both_squares = ops.marginals(payoffs[:twice], walks[:twice], block=2 * block)
        repeat_total = both_total / (2 * block)
        total, squares = once_total / block + repeat_total, once_squares + both_squares
        # Of the blocks x, y of a visit: (x - y)^2 / 2 = x^2 + y^2 - 2 ((x + y) / 2)^2.
        differences = (block_squares - 2 * both_squares).clamp_min(0)
        sums = torch.stack([total, squares, repeat_total, both_squares, differences]).cpu()
        counts = {"visits": count, "repeats": n_repeats, "bad_walks": int((~payoffs.isfinite()).any(1).sum())}
        return dict(zip(_PER_PLAYER, sums, strict=True)) | {
            name: torch.tensor([count], dtype=torch.float64) for name, count in counts.items()
        }

    def check(self, statistics: Statistics) -> None:
        """Refuse payoffs that are not finite.

        Raises:
            NonFinitePayoff: some were; says on how many walks.
        """
        n_bad = int(statistics["bad_walks"])
        if n_bad:
            n_walks = int(statistics["visits"] + statistics["repeats"]) * self._sampler.block
            raise NonFinitePayoff(
                f"{n_bad} of the last {n_walks} walks met a payoff that is NaN or infinite; "
                "look for non-finite inputs, weights or outputs of the network"
            )

    def found(self, sums: Statistics) -> Found:
        """Means over visits, and their standard errors."""
        k, n = int(sums["visits"]), self._n_samples
        if k < 2:
            unknown = torch.full_like(sums["total"], math.inf)
            return Found(sums["total"] / max(1, k), unknown, None if n == 1 else unknown, k)
        values = sums["total"] / k
        spread = _variance(sums["squares"], sums["total"], k)
        if n == 1:
            return Found(values, (spread / k).sqrt(), None, k)
        r, m = int(sums["repeats"]), k % n
        # A repeated visit has half of w, so spread = b + w (1 - r / 2k) where b is what samples contribute to it.
        share = self._share_of_walks(sums, spread, r)
        within = share * spread / (1 - share * r / (2 * k))
        noise = within * (1 - r / (2 * k))
        # The expected sum of squares about the mean is (k - 1) noise + freedom * between.
        freedom = k * (n - 1) / n - m / k * (1 - m / n)
        between = (k - 1) / freedom * (spread - noise).clamp_min(0)
        variance = noise / k + m * (1 - m / n) / k**2 * between
        return Found(values, variance.sqrt(), (variance + between / n).sqrt(), k)

    def _share_of_walks(self, sums: Statistics, spread: Tensor, r: int) -> Tensor:
        """Which share of the variance of single blocks is w, ``[C]``."""
        within = sums["repeat_differences"] / r
        whole = _variance(sums["repeat_squares"], sums["repeat_total"], r) + within / 2
        seen = whole > 0
        mean_share = (within[seen] / whole[seen]).mean().clamp(max=1) if bool(seen.any()) else torch.tensor(1.0)
        prior = _PRIOR_REPEATS * spread
        share = (r * within + mean_share * prior) / (r * whole + prior)
        return share.nan_to_num(1.0).clamp(max=1)

    def _n_repeats(self, n_visits: int) -> int:
        """How many of the first so many visits take a second block."""
        if self._n_samples == 1:
            return 0
        return min(n_visits, _REPEAT_EVERY) + max(0, math.ceil(n_visits / _REPEAT_EVERY) - 1)

    def _draw(self, first: int, count: int) -> tuple[Tensor, Tensor, int]:
        """Walks and samples of some visits, those of two blocks first, and how many those are."""
        block, n_players, device = self._sampler.block, self._game.n_players, self._game.device
        permutations, samples = self._sampler.walks(first * block, count * block, device)
        if self._n_samples == 1:
            return permutations, samples, 0
        numbers = torch.arange(first, first + count)
        twice = ((numbers < _REPEAT_EVERY) | (numbers % _REPEAT_EVERY == 0)).to(device)
        n_before, n_repeats = self._n_repeats(first), self._n_repeats(first + count) - self._n_repeats(first)
        second = ops.sample_permutations(
            self._seed ^ _REPEAT_KEY, n_before * block, n_repeats * block, n_players,
            antithetic=self._antithetic, device=device,
        )  # fmt: skip
        permutations, samples = permutations.view(count, block, n_players), samples.view(count, block)
        both = torch.cat([permutations[twice], second.view(n_repeats, block, n_players)], 1)
        walks = torch.cat([both.flatten(0, 1), permutations[~twice].flatten(0, 1)])
        return walks, torch.cat([samples[twice].repeat(1, 2).flatten(), samples[~twice].flatten()]), n_repeats

    def _payoffs(self, walks: Tensor, samples: Tensor) -> Tensor:
        """Payoffs at every step, ``[walks, C + 1]``; of shared walks, the mean over all samples."""
        game = self._game
        if not self._shared:
            return game.walk_values(walks, samples)
        everyone = torch.arange(game.n_samples, device=game.device)
        means = [game.walk_values(walk.expand(game.n_samples, -1), everyone).double().mean(0) for walk in walks]
        return torch.stack(means)


def _variance(squares: Tensor, total: Tensor, count: int) -> Tensor:
    """Sample variance from sums."""
    return (squares - total.square() / count).clamp_min(0) / (count - 1)
