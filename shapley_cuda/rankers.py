"""Rankers: from a game to the players' values.

A ranker is a function ``(game, **options) -> Estimate``, registered under the name that ``rank(game, method=...)``
takes.
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import ops
from .estimate import Estimate
from .game import ChannelGame
from .samplers import WalkSampler

__all__ = ["RANKERS", "NonFinitePayoff", "RankingProgress", "rank", "rank_magnitude", "rank_permutation", "rank_random"]

_DEFAULT_PASSES = 64  # walks per sample that an estimate may take when no budget is given
_MIN_BLOCKS = 64  # standard errors from fewer independent draws are not trusted to stop on


class NonFinitePayoff(ValueError):
    """Some payoffs were NaN or infinite, which would poison every value of the ranking."""


@dataclass(frozen=True)
class RankingProgress:
    """Where a running estimate stands.

    Attributes:
        n_evaluations: rows evaluated so far.
        budget: rows it may take.
        error: largest standard error over the range of the values; infinite while there is too little to tell.
        tolerance: the error at which it stops.
        seconds: time since it began.
    """

    n_evaluations: int
    budget: int
    error: float
    tolerance: float
    seconds: float

    @property
    def seconds_left(self) -> float:
        """Expected time to the end: the error falls with the root of the rows, the budget caps them."""
        if self.n_evaluations == 0:
            return math.inf
        more = self.budget / self.n_evaluations
        if math.isfinite(self.error) and self.tolerance > 0:
            more = min(more, (self.error / self.tolerance) ** 2)
        return max(0.0, self.seconds * (more - 1))


def rank(game: ChannelGame, method: str = "permutation", **options: Any) -> Estimate:
    """Value the players of a game.

    Args:
        game: the game.
        method: ``"permutation"`` (default) estimates Shapley values; ``"magnitude"`` and ``"random"`` are the
            baselines that such a ranking has to beat.
        options: see the method's own function, e.g. :func:`rank_permutation`.

    Example:
        >>> estimate = sc.rank(game, tolerance=0.05, seed=0)
        >>> estimate.ranking()[:5]  # the five channels to remove first
    """
    if method not in RANKERS:
        near = difflib.get_close_matches(method, RANKERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"method must be one of {', '.join(RANKERS)}, got {method!r}{hint}")
    return RANKERS[method](game, **options)


def rank_permutation(
    game: ChannelGame,
    *,
    tolerance: float = 0.025,
    budget: int | None = None,
    seed: int = 0,
    antithetic: bool = True,
    shared: bool = False,
    on_progress: Callable[[RankingProgress], None] | None = None,
) -> Estimate:
    """Estimate Shapley values from random orders of joining.

    A player's Shapley value is its mean marginal contribution over all orders in which the players can join. Every
    walk takes one order on one sample, so orders and samples are averaged over together (Covert et al., "Understanding
    Global Feature Contributions With Additive Importance Measures", 2020). With ``shared=True`` one order serves the
    whole data set, as in "Shapley Pruning for Neural Network Compression" (Adamczewski et al., 2024): at equal cost
    its error is several times larger, since the orders' variance is not divided by the number of samples.

    Unbiased for the game on the data it was given. The values sum to v(all) - v(none) over the walks taken. The
    standard errors come from the spread between walks (antithetic pairs count as one) and so include the choice of the
    samples among others like them; for the game on these very samples they are too large rather than too small.

    Args:
        game: the game to rank.
        tolerance: stop when the largest standard error is below this share of the range of the values.
            0 goes on to the budget.
        budget: rows to evaluate at most; default 64 walks for every sample. A walk costs C + 1 rows (shared: times
            N). At least two blocks of walks are taken to have a standard error.
        seed: decides all sampling; the same seed gives the same walks on every device.
        antithetic: walks come in pairs, each the reverse of the other.
        shared: one order for all samples.
        on_progress: called after every chunk.

    Returns:
        An :class:`~shapley_cuda.Estimate`. Same seed, device and chunk size (recorded in its options): same bits.

    Raises:
        ValueError: an option is out of range, or the budget is too small for two blocks.
        NonFinitePayoff: a payoff was NaN or infinite.
    """
    start, already = time.perf_counter(), game.n_evaluations
    if type(seed) is not int:
        raise TypeError(f"seed must be an int, got {seed!r}")
    if budget is not None and budget != int(budget):
        raise ValueError(f"budget must be a whole number of rows, got {budget!r}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    samples_per_walk = game.n_samples if shared else 1
    sampler = WalkSampler(game.n_players, 1 if shared else game.n_samples, seed, antithetic)
    rows_per_block = sampler.block * samples_per_walk * (game.n_players + 1)
    budget = _DEFAULT_PASSES * game.n_samples * (game.n_players + 1) if budget is None else int(budget)
    n_blocks = budget // rows_per_block
    if n_blocks < 2:
        raise ValueError(f"budget must be at least {2 * rows_per_block} rows (two blocks of walks), got {budget}")
    blocks_per_chunk = max(1, game.chunk_walks // (sampler.block * samples_per_walk))
    sums = _MarginalSums(game.n_players, sampler.block)
    stopped = "budget"
    while sums.n_blocks < n_blocks:
        count = min(blocks_per_chunk, n_blocks - sums.n_blocks) * sampler.block
        permutations, samples = sampler.walks(sums.n_blocks * sampler.block, count, game.device)
        sums.add(_walk_payoffs(game, permutations, samples, shared), permutations)
        error = sums.relative_error()
        if on_progress is not None:
            done, seconds = game.n_evaluations - already, time.perf_counter() - start
            on_progress(RankingProgress(done, n_blocks * rows_per_block, error, tolerance, seconds))
        if error < tolerance and sums.n_blocks >= _MIN_BLOCKS:
            stopped = "tolerance"
            break
    values, standard_error = sums.estimate()
    return Estimate(
        group=game.group.name,
        method="permutation",
        values=values,
        standard_error=standard_error,
        n_evaluations=game.n_evaluations - already,
        seconds=time.perf_counter() - start,
        seed=seed,
        stopped=stopped,
        options={
            "tolerance": tolerance,
            "budget": budget,
            "antithetic": antithetic,
            "shared": shared,
            "n_samples": game.n_samples,
            "n_walks": sums.n_blocks * sampler.block,
            "chunk_walks": blocks_per_chunk * sampler.block,
        },
    )


def rank_random(game: ChannelGame, *, seed: int = 0) -> Estimate:
    """Give the players values in random order: the baseline that any ranking has to beat. Costs nothing."""
    start = time.perf_counter()
    order = ops.sample_permutations(seed, 0, 1, game.n_players)[0]
    seconds = time.perf_counter() - start
    return Estimate(game.group.name, "random", order.double(), None, 0, seconds, seed, "complete")


def rank_magnitude(game: ChannelGame, *, p: float = 1) -> Estimate:
    """Value each channel by the p-norm of the weights that produce it, in the group's first layer ("Pruning Filters for
    Efficient ConvNets", Li et al., 2017, uses p = 1). Costs no evaluation."""
    start = time.perf_counter()
    layer = game.model.get_submodule(game.group.name)
    assert isinstance(layer.weight, Tensor)
    channel_dim = 1 if getattr(layer, "transposed", False) else 0
    norms = layer.weight.detach().double().movedim(channel_dim, 0).flatten(1).norm(p, dim=1).cpu()
    seconds = time.perf_counter() - start
    return Estimate(game.group.name, "magnitude", norms, None, 0, seconds, None, "complete", {"p": p})


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


RANKERS: dict[str, Callable[..., Estimate]] = {
    "permutation": rank_permutation,
    "magnitude": rank_magnitude,
    "random": rank_random,
}
