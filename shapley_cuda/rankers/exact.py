"""The Shapley value by its definition, and its terms with few players removed or present. Nothing is random here."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..game import ChannelGame
from ..samplers import CoalitionsBySize
from .base import OnProgress, Ranker, RankingProgress, Scores, register

__all__ = ["Exact", "LeaveOneOut", "Partial", "check_budget", "shapley_values"]

_MASK_BYTES_AT_ONCE = 1 << 22


def check_budget(budget: int | None, rows: int, what: str) -> None:
    """Refuse a budget that is less than what something takes; None is as much as it takes."""
    if budget is not None and budget < rows:
        raise ValueError(f"budget must be at least {rows} rows ({what}), got {budget}")


def shapley_values(payoffs: Tensor) -> Tensor:
    """Shapley values from the payoffs of all coalitions.

    Args:
        payoffs: float64 ``[2^C]``; in entry T the players c are present whose bit c of T is set.

    Returns:
        float64 ``[C]``: ``phi_c = sum over S without c of |S|! (C - |S| - 1)! / C! (v(S with c) - v(S))``. Takes less
        than twice the memory of the payoffs beside them.

    Example:
        >>> shapley_values(torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64))
        tensor([2., 3.], dtype=torch.float64)
    """
    n_players = payoffs.numel().bit_length() - 1
    # Coalitions without player c, in the order of their codes less bit c, have the same sizes whichever player c is.
    sizes = torch.zeros(1, dtype=torch.int64, device=payoffs.device)
    for _ in range(n_players - 1):
        sizes = torch.cat([sizes, sizes + 1])
    weights = torch.tensor(_term_weights(n_players), dtype=torch.float64, device=payoffs.device)[sizes]
    values = []
    for player in range(n_players):
        absent, present = payoffs.view(-1, 2, 1 << player).unbind(1)
        values.append((present - absent).flatten().dot(weights))
    return torch.stack(values)


@register("exact")
@dataclass(frozen=True, kw_only=True)
class Exact(Ranker):
    """Shapley values from all 2^C coalitions, for at most 24 players. No error but rounding.

    Attributes:
        budget: rows that may be evaluated; it takes 2^C times N.

    Raises:
        ValueError: more than 24 players, or the budget is too small; nothing has been evaluated.
    """

    budget: int | None = None

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        rows = 2**game.n_players * game.n_samples
        check_budget(self.budget, rows, f"2^{game.n_players} coalitions of {game.n_samples} samples")
        return Scores(shapley_values(game.all_payoffs()))


@register("partial")
@dataclass(frozen=True, kw_only=True)
class Partial(Ranker):
    """The terms of the exact sum in which few players are removed, or few are present, with the exact sum's weights.

    Marginal contributions where at most ``order`` players are removed say what a player is worth in a network that is
    nearly whole; where at most ``order`` are present, in one that is nearly empty. These are no Shapley values, and do
    not add up to v(all) - v(none), until ``order`` is C: then they are exact. Order 1 removing ranks as
    :class:`LeaveOneOut` does. Source: "Shapley Pruning for Neural Network Compression", Adamczewski et al., 2024.

    Attributes:
        order: largest number of players removed (present), from 1 to C. The cost grows like C^order.
        direction: ``"removing"`` (default) or ``"adding"``.
        budget: rows that may be evaluated. It takes the coalitions with up to ``order`` players removed (present),
            times N.

    Raises:
        ValueError: an option is out of range, or the budget is too small; nothing has been evaluated.
    """

    order: int = 2
    direction: str = "removing"
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("removing", "adding"):
            raise ValueError(f"direction must be 'removing' or 'adding', got {self.direction!r}")

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        start, already, n_players = time.perf_counter(), game.n_evaluations, game.n_players
        if not 1 <= self.order <= n_players:
            raise ValueError(f"order must be in [1, {n_players}], got {self.order}")
        removing = self.direction == "removing"
        sizes = range(n_players - self.order, n_players + 1) if removing else range(self.order + 1)
        coalitions = CoalitionsBySize(n_players, tuple(sizes))
        rows = coalitions.count * game.n_samples
        check_budget(self.budget, rows, f"{coalitions.count} coalitions of {game.n_samples} samples")

        weights = torch.tensor(_term_weights(n_players), dtype=torch.float64, device=game.device)
        weights[: sizes[0]] = 0
        weights[sizes[-1] :] = 0
        zero = weights.new_zeros(1)
        # Of every coalition: it is the one with the player for those in it, and the one without for the others.
        if_present, if_absent = torch.cat([zero, weights]), torch.cat([weights, zero])
        values = weights.new_zeros(n_players)
        offset: Tensor | None = None
        at_once = max(1, _MASK_BYTES_AT_ONCE // n_players)
        for first in range(0, coalitions.count, at_once):
            masks = coalitions.masks(first, min(at_once, coalitions.count - first), game.device)
            payoffs, size = game(masks), masks.sum(1)
            if offset is None:  # a player's weights add up to 0: any number may be taken off, for smaller sums
                offset = payoffs[0]
            payoffs = payoffs - offset
            present = masks.double()
            values += (payoffs * if_present[size]) @ present - (payoffs * if_absent[size]) @ (1 - present)
            if on_progress is not None:
                done, seconds = game.n_evaluations - already, time.perf_counter() - start
                on_progress(RankingProgress(done, rows, math.inf, 0.0, seconds))
        return Scores(values)


@register("leave_one_out")
@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(Ranker):
    """Each player by what is lost without it alone: v(all) - v(all but the player). Takes (C + 1) N rows.

    Attributes:
        budget: rows that may be evaluated.

    Raises:
        ValueError: the budget is too small; nothing has been evaluated.
    """

    budget: int | None = None

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        rows = (game.n_players + 1) * game.n_samples
        check_budget(self.budget, rows, f"{game.n_players + 1} coalitions of {game.n_samples} samples")
        removed = torch.eye(game.n_players, dtype=torch.bool, device=game.device)
        payoffs = game(torch.cat([torch.ones_like(removed[:1]), ~removed]))
        return Scores(payoffs[0] - payoffs[1:])


def _term_weights(n_players: int) -> list[float]:
    """Weight of a player's marginal contribution to a coalition of s others, for s = 0 .. C - 1."""
    return [1 / (n_players * math.comb(n_players - 1, size)) for size in range(n_players)]
