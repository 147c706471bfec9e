"""Shapley values from random orders of joining: the default."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..game import ChannelGame
from ..samplers import WalkSampler
from .base import NonFinitePayoff, OnProgress, Ranker, RankingProgress, Scores, check_seed, register

__all__ = ["Permutation"]

_DEFAULT_PASSES = 64  # walks per sample that an estimate may take when no budget is given
_MIN_BLOCKS = 64  # standard errors from fewer independent draws are not trusted to stop on


@register("permutation")
@dataclass(frozen=True, kw_only=True)
class Permutation(Ranker):
    """Estimate Shapley values from random orders of joining.

    A player's Shapley value is its mean marginal contribution over all orders in which the players can join. Every
    walk takes one order on one sample, so orders and samples are averaged over together (Covert et al., "Understanding
    Global Feature Contributions With Additive Importance Measures", 2020). With ``shared=True`` one order serves the
    whole data set, as in "Shapley Pruning for Neural Network Compression" (Adamczewski et al., 2024): at equal cost
    its error is several times larger, since the orders' variance is not divided by the number of samples.

    Unbiased for the game on the data it was given. The values sum to v(all) - v(none) over the walks taken. The
    standard errors come from the spread between walks (antithetic pairs count as one) and so include the choice of the
    samples among others like them; for the game on these very samples they are too large rather than too small. Same
    seed, device and chunk size (recorded in the estimate's options): same bits.

    Attributes:
        tolerance: stop when the largest standard error is below this share of the range of the values.
            0 goes on to the budget.
        budget: rows to evaluate at most; default 64 walks for every sample. A walk costs C + 1 rows (shared: times
            N). At least two blocks of walks are taken to have a standard error.
        seed: decides all sampling; the same seed gives the same walks on every device.
        antithetic: walks come in pairs, each the reverse of the other.
        shared: one order for all samples.

    Raises:
        ValueError: an option is out of range, or the budget is too small for two blocks.
        NonFinitePayoff: a payoff was NaN or infinite.
    """

    tolerance: float = 0.025
    budget: int | None = None
    seed: int = 0
    antithetic: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.budget is not None and self.budget != int(self.budget):
            raise ValueError(f"budget must be a whole number of rows, got {self.budget!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {self.tolerance}")

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        start, already = time.perf_counter(), game.n_evaluations
        samples_per_walk = game.n_samples if self.shared else 1
        sampler = WalkSampler(game.n_players, 1 if self.shared else game.n_samples, self.seed, self.antithetic)
        rows_per_block = sampler.block * samples_per_walk * (game.n_players + 1)
        default = _DEFAULT_PASSES * game.n_samples * (game.n_players + 1)
        budget = default if self.budget is None else int(self.budget)
        n_blocks = budget // rows_per_block
        if n_blocks < 2:
            raise ValueError(f"budget must be at least {2 * rows_per_block} rows (two blocks of walks), got {budget}")
        blocks_per_chunk = max(1, game.chunk_walks // (sampler.block * samples_per_walk))
        sums = _MarginalSums(game.n_players, sampler.block)
        stopped = "budget"
        while sums.n_blocks < n_blocks:
            count = min(blocks_per_chunk, n_blocks - sums.n_blocks) * sampler.block
            permutations, samples = sampler.walks(sums.n_blocks * sampler.block, count, game.device)
            sums.add(_walk_payoffs(game, permutations, samples, self.shared), permutations)
            error = sums.relative_error()
            if on_progress is not None:
                done, seconds = game.n_evaluations - already, time.perf_counter() - start
                on_progress(RankingProgress(done, n_blocks * rows_per_block, error, self.tolerance, seconds))
            if error < self.tolerance and sums.n_blocks >= _MIN_BLOCKS:
                stopped = "tolerance"
                break
        values, standard_error = sums.estimate()
        taken = {
            "budget": budget,
            "n_samples": game.n_samples,
            "n_walks": sums.n_blocks * sampler.block,
            "chunk_walks": blocks_per_chunk * sampler.block,
        }
        return Scores(values, standard_error, stopped, taken)


def _walk_payoffs(game: ChannelGame, permutations: Tensor, samples: Tensor, shared: bool) -> Tensor:
    """Payoffs at every step, ``[walks, C + 1]``; of shared walks, the mean over all samples."""
    if not shared:
        return game.walk_values(permutations, samples)
    means = []
    for permutation in permutations:
        everyone = torch.arange(game.n_samples, device=game.device)
        values = game.walk_values(permutation.expand(game.n_samples, -1), everyone)
        means.append(values.double().mean(0))
    return torch.stack(means)


class _MarginalSums:
    """Running sums of marginal contributions, by blocks of walks."""

    def __init__(self, n_players: int, block: int):
        self.block, self.n_blocks = block, 0
        self.total = torch.zeros(n_players, dtype=torch.float64)
        self.squares = torch.zeros(n_players, dtype=torch.float64)

    def add(self, values: Tensor, permutations: Tensor) -> None:
        total, squares = ops.marginals(values, permutations, block=self.block)
        self.total += total.cpu()
        self.squares += squares.cpu()
        self.n_blocks += values.shape[0] // self.block
        if not bool(self.total.isfinite().all()):
            bad = int((~values.isfinite()).any(1).sum())
            raise NonFinitePayoff(
                f"{bad} of the last {values.shape[0]} walks met a payoff that is NaN or infinite; "
                "look for non-finite inputs, weights or outputs of the network"
            )

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Means and their standard errors."""
        mean = self.total / (self.n_blocks * self.block)
        variance = (self.squares - self.n_blocks * mean**2).clamp_min(0) / max(1, self.n_blocks - 1)
        return mean, (variance / self.n_blocks).sqrt()

    def relative_error(self) -> float:
        """Largest standard error over the range of the values (the stopping rule of SAGE)."""
        if self.n_blocks < 2:
            return math.inf
        mean, error = self.estimate()
        if not bool(error.any()):
            return 0.0
        spread = float(mean.max() - mean.min())
        return float(error.max()) / spread if spread > 0 else math.inf
