"""Values from an additive game fitted to the payoffs of random coalitions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..game import ChannelGame
from ..samplers import KernelSampler, SampleOrder, UniformSizeSampler, masks_of_codes
from .base import OnProgress, Ranker, RankingProgress, Scores, check_seed, register
from .exact import check_budget

__all__ = ["LeastSquares", "Regression"]

_DEFAULT_PASSES = 64  # rows of as many walks for every sample, when no budget is given
_COALITIONS_AT_ONCE, _SHARED_AT_ONCE = 1 << 12, 1 << 8
_OBSERVATIONS_FOR_ERRORS, _PLAYERS_FOR_ERRORS = 1 << 14, 32  # at least, and times C; enough to tell the errors from
_MOST_PLAYERS_OF_ALL = 24  # of whom a game gives all payoffs
_SMALLEST_PIVOT = 1e-9  # of a column's square: with less, the column is a combination of others


@dataclass(frozen=True, kw_only=True)
class _LinearFit(Ranker):
    """What the rankings by least squares have in common."""

    budget: int | None = None
    seed: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.budget is not None and self.budget != int(self.budget):
            raise ValueError(f"budget must be a whole number of rows, got {self.budget!r}")

    def _budget(self, game: ChannelGame) -> int:
        return _DEFAULT_PASSES * game.n_samples * (game.n_players + 1) if self.budget is None else int(self.budget)

    def _fit(
        self,
        game: ChannelGame,
        sampler: KernelSampler | UniformSizeSampler,
        count: int,
        rows_of: Callable[[Tensor], Tensor],
        response_of: Callable[[Tensor, Tensor, Tensor], Tensor],
        equations: _NormalEquations,
        report: Callable[[], None],
    ) -> tuple[Tensor, Tensor]:
        """Evaluate random coalitions, fit them, and draw some again for the errors.

        Args:
            game: the game.
            sampler: gives the coalitions.
            count: number of its blocks, each of which is one observation.
            rows_of: turns masks into the observations' rows ``[n, columns]``.
            response_of: turns (masks, payoffs, samples) into what the rows should give ``[n]``.
            equations: takes them in.
            report: called after every chunk.

        Returns:
            Coefficients and their standard errors, ``[columns]``.
        """
        block = sampler.block
        order = SampleOrder(game.n_samples, self.seed, block)
        at_once = (_SHARED_AT_ONCE if self.shared else _COALITIONS_AT_ONCE) // block
        responses: list[Tensor] = []
        for first, n in _chunks(count, at_once):
            masks = sampler.masks(first * block, n * block, game.device)
            samples = order.samples(first * block, n * block, game.device)
            payoffs = game(masks) if self.shared else game.row_values(masks, samples).double()
            response = response_of(masks, payoffs, samples)
            equations.add(rows_of(masks), response)
            if first < max(_OBSERVATIONS_FOR_ERRORS, _PLAYERS_FOR_ERRORS * game.n_players):
                responses.append(response)
            report()
        coefficients, inverse = equations.solve()
        robust, squares, used = torch.zeros_like(coefficients), 0.0, 0
        for response in responses:
            rows = rows_of(sampler.masks(used * block, len(response) * block, game.device))
            influence = rows @ inverse
            leverage = (influence * rows).sum(1)
            residual = response - rows @ coefficients
            left_out = residual / (1 - leverage).clamp_min(_SMALLEST_PIVOT)
            robust += left_out.square() @ influence.square()
            squares += float(residual.square().sum())
            used += len(response)
        alike = squares / (count - len(coefficients)) * inverse.diagonal()
        return coefficients, (torch.maximum(robust, alike) * (count / used)).sqrt()


@register("regression")
@dataclass(frozen=True, kw_only=True)
class Regression(_LinearFit):
    """Estimate Shapley values by least squares on coalitions from the Shapley kernel (KernelSHAP).

    The Shapley values are the additive game that comes nearest to the game, in the mean square over coalitions from
    the Shapley kernel, among those that share out v(all) - v(none). Coalitions come in pairs, one the complement of
    the other. An additive game gives both of a pair the same sum, whatever its values, so that only their difference
    tells values apart: it is fitted by the sum of the values in one less that of the others.

    By default each pair is evaluated on one sample of its own. What a pair of unequal sizes has of v(all) - v(none) is
    then that sample's, not the mean. With ``shared=True`` all samples are evaluated under each coalition, as in the
    sources. Where the budget pays for all 2^C coalitions of at most 24 players they are all taken, with their exact
    weights, and the values are exact (``stopped`` is then ``"complete"``).

    Consistent, but not unbiased: the error falls with the root of the number of pairs, the bias with the number. Each
    standard error is the larger of two: that of leaving out one pair at a time (the delta method with residuals over
    one minus their leverage, HC3), and that of a fit whose residuals are all alike, which is not small where a player
    is told by few pairs that happen to agree. They include the choice of the samples among others like them, so that
    for the game on these very samples they are too large rather than too small. Same seed, device and chunk size
    (recorded in the estimate's options): same bits.

    On LeNet-5 and Fashion-MNIST, at the cost of 2 to 32 walks for every sample, the permutation ranker's errors were
    1.5 to 4 times smaller than these, and those with ``shared=True`` 3 to 15 times larger. With many players the fit
    takes time of its own, C^2 multiplications a pair.

    Sources: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", 2017; Covert and Lee, "Improving
    KernelSHAP: Practical Shapley Value Estimation via Linear Regression", 2021.

    Attributes:
        budget: rows to evaluate at most, for v(all) and v(none) of every sample and at least 2 C pairs, without which
            the errors would mean nothing; default those of 64 walks for every sample.
        seed: decides all sampling.
        shared: coalitions are shared by all samples.

    Raises:
        ValueError: an option is out of range, the budget is too small, or the coalitions that were drawn cannot tell
            some players apart.
    """

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        n_players, n_samples, budget = game.n_players, game.n_samples, self._budget(game)
        rows_of_all = 2**n_players * n_samples
        if budget >= rows_of_all and n_players <= _MOST_PLAYERS_OF_ALL:
            return Scores(_fit_all_coalitions(game.all_payoffs()), options={"budget": budget, "n_samples": n_samples})
        rows_per_pair = 2 * (n_samples if self.shared else 1)
        least = 2 * n_samples + 2 * n_players * rows_per_pair
        if least < rows_of_all:
            check_budget(budget, least, f"v(all), v(none) and {2 * n_players} pairs of coalitions")
        else:
            check_budget(budget, rows_of_all, f"all 2^{n_players} coalitions")
        n_pairs = (budget - 2 * n_samples) // rows_per_pair
        report = _reporter(game, budget, on_progress)
        worth_of_sample = _worth_of_samples(game, self.shared)

        def difference(masks: Tensor, payoffs: Tensor, samples: Tensor) -> Tensor:
            _, imbalance = _centred_signs(masks[::2])
            return payoffs[::2] - payoffs[1::2] - imbalance * worth_of_sample[samples[::2]]

        values, standard_error = self._fit(
            game, KernelSampler(n_players, self.seed), n_pairs,
            lambda masks: _centred_signs(masks[::2])[0], difference,
            _NormalEquations(n_players, game.device, sum_is_zero=True), report,
        )  # fmt: skip
        taken = {"budget": budget, "n_samples": n_samples, "n_pairs": n_pairs, "chunk_rows": game.chunk_rows}
        return Scores(values + worth_of_sample.mean() / n_players, standard_error, "budget", taken)


@register("least_squares")
@dataclass(frozen=True, kw_only=True)
class LeastSquares(_LinearFit):
    """Fit plain least squares with an intercept to coalitions of uniform size: biased, to compare with.

    No weights and no constraint: this is what the public code of "Shapley Pruning for Neural Network Compression"
    (Adamczewski et al., 2024) does under the name of kernel. The values are not Shapley values, however many
    coalitions are taken, unless the game is additive, and do not add up to v(all) - v(none); they often rank alike. To
    estimate Shapley values take :class:`Regression`. The standard errors are those of the fit (see there), and say
    nothing of the bias.

    Attributes:
        budget: rows to evaluate at most, at least 2 C + 2 coalitions; default those of 64 walks for every sample.
        seed: decides all sampling.
        shared: coalitions are shared by all samples (default, as in that code), or each is evaluated on one sample.

    Raises:
        ValueError: an option is out of range, the budget is too small, or the coalitions that were drawn cannot tell
            some players apart.
    """

    shared: bool = True

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        n_players, n_samples, budget = game.n_players, game.n_samples, self._budget(game)
        rows_per_coalition = n_samples if self.shared else 1
        least = 2 * n_players + 2
        check_budget(budget, least * rows_per_coalition, f"{least} coalitions")
        n_coalitions = budget // rows_per_coalition
        values, standard_error = self._fit(
            game, UniformSizeSampler(n_players, self.seed), n_coalitions,
            lambda masks: functional.pad(masks.double(), (0, 1), value=1.0), lambda masks, payoffs, samples: payoffs,
            _NormalEquations(n_players + 1, game.device), _reporter(game, budget, on_progress),
        )  # fmt: skip
        taken = {"budget": budget, "n_samples": n_samples, "n_coalitions": n_coalitions, "chunk_rows": game.chunk_rows}
        return Scores(values[:-1], standard_error[:-1], "budget", taken)


def _worth_of_samples(game: ChannelGame, shared: bool) -> Tensor:
    """v(all) - v(none) of every sample, float64 ``[N]``; with shared coalitions the mean for each."""
    everyone = torch.ones(1, game.n_players, dtype=torch.bool, device=game.device)
    if shared:
        worth = game(torch.cat([everyone, ~everyone]))
        return (worth[0] - worth[1]).expand(game.n_samples)
    sample = torch.arange(game.n_samples, device=game.device)
    whole, empty = (game.row_values(mask.expand(game.n_samples, -1), sample) for mask in (everyone, ~everyone))
    return whole.double() - empty.double()


def _centred_signs(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Coalitions ``[M, C]`` as +1 (in) and -1 (out) less their mean, and that mean ``[M]``."""
    signs = masks.double() * 2 - 1
    means = signs.mean(1)
    return signs - means[:, None], means


class _NormalEquations:
    """Weighted least squares of rows that come in chunks.

    Args:
        n_columns: length of a row.
        device: where the rows are.
        sum_is_zero: each row adds up to 0, and the coefficients shall too.
    """

    def __init__(self, n_columns: int, device: torch.device, *, sum_is_zero: bool = False):
        self.sum_is_zero = sum_is_zero
        self.gram = torch.zeros(n_columns, n_columns, dtype=torch.float64, device=device)
        self.moments = torch.zeros(n_columns, dtype=torch.float64, device=device)

    def add(self, design: Tensor, response: Tensor, weights: Tensor | float = 1.0) -> None:
        """Take in rows ``[M, columns]``, what they should give ``[M]``, and how much they count."""
        weighted = design.T * weights
        self.gram += weighted @ design
        self.moments += weighted @ response

    def solve(self) -> tuple[Tensor, Tensor]:
        """The coefficients, and the inverse of the Gram matrix where they may vary."""
        gram, weight = self.gram, 0.0
        if self.sum_is_zero:  # a row of ones, which shall give 0: it is orthogonal to the others, so that it does
            weight = (float(gram.trace()) or 1.0) / len(gram) ** 2
        factor, failed = torch.linalg.cholesky_ex(gram + weight)
        pivots = factor.diagonal().square()
        if int(failed) or bool((pivots < _SMALLEST_PIVOT * gram.diagonal()).any()):
            raise ValueError("budget must be larger: the coalitions drawn cannot tell some players apart")
        inverse = torch.cholesky_inverse(factor)
        if self.sum_is_zero:
            inverse -= 1 / (weight * len(gram) ** 2)
        return inverse @ self.moments, inverse


def _reporter(game: ChannelGame, budget: int, on_progress: OnProgress | None) -> Callable[[], None]:
    """A function that tells how far the game's counter has come since now."""
    start, already = time.perf_counter(), game.n_evaluations

    def report() -> None:
        if on_progress is not None:
            done, seconds = game.n_evaluations - already, time.perf_counter() - start
            on_progress(RankingProgress(done, budget, math.inf, 0.0, seconds))

    return report


def _fit_all_coalitions(payoffs: Tensor) -> Tensor:
    """The fit of :class:`Regression` to all pairs of coalitions, each with its weight in the Shapley kernel."""
    n_players, last = payoffs.numel().bit_length() - 1, payoffs.numel() - 1
    worth = payoffs[last] - payoffs[0]
    by_size = [0.0, *(1 / (math.comb(n_players, s) * s * (n_players - s)) for s in range(1, n_players)), 0.0]
    kernel = torch.tensor(by_size, dtype=torch.float64, device=payoffs.device)
    equations = _NormalEquations(n_players, payoffs.device, sum_is_zero=True)
    # Of a pair, the coalition without the last player.
    for first, count in _chunks(payoffs.numel() // 2, _COALITIONS_AT_ONCE):
        codes = torch.arange(first, first + count, device=payoffs.device)
        masks = masks_of_codes(codes, n_players)
        rows, means = _centred_signs(masks)
        equations.add(rows, payoffs[codes] - payoffs[last - codes] - means * worth, kernel[masks.sum(1)])
    values, _ = equations.solve()
    return values + worth / n_players


def _chunks(count: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Pairs (first, number) that go through 0 .. count - 1."""
    return ((first, min(at_once, count - first)) for first in range(0, count, at_once))
