"""A control variate for walks that takes no evaluation of its own: what channels do to logits on average.

Let a player c add e_c to the logits, whatever is kept. Along a walk, at a row whose class probabilities are p, it would
then change the cross-entropy's payoff by

    g_c = e_c[y] - log(p . exp(e_c))    where it is absent, and would join,
    g_c = e_c[y] + log(p . exp(-e_c))   where it is present, and would leave.

Given who is kept after j of C players have joined, each of the C - j absent ones is next with the same probability, and
each of the j present ones was last. So the predictions at the two rows of a player's own step, before it weighted by
(C - j) / C and after it by (j + 1) / C, have the same mean as 1 / C times the sum of its predictions at all C + 1 rows.
Their difference is a control variate: zero on average over orders, whatever e is, if e is not made from the same walk.
The closer e is to the truth, the more of a marginal's spread over the sets that it may happen to meet is taken away.
The labels' terms e_c[y] cancel, and the difference's mean over players is taken off, so that walks still add up.

What e is: the mean shift over the samples of a class, from a walk on each of some samples. How much of the control to
take off is told by trials: two estimates of each of some samples by walks of their own, and how what the guide says of
the two differs goes with how they themselves do, less a standard error. Their samples are others than those that the
means come from, if there are others. So where e says nothing about the network, little or nothing is taken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..game import ChannelGame
from ..samplers import WalkSampler
from ..walks import by_player

__all__ = ["Guide", "GuidePlan"]

# The seed is changed by these, for walks that no estimate takes.
_KEY = 0x4775_6964_65
_TRIAL_KEY = 0x5472_6961_6C
_WALKS = 128
_TRIALS = 16
_SHARE = 16  # of a budget, one part is for a guide's means at most, and one for its trials
_FEWEST_TRIALS = 8  # with fewer, what they say is not to be relied on
_PRIOR = 4  # samples of all classes that count in each class's mean
_LARGEST = 1 << 24  # numbers in a table by class; beyond it one mean serves all
_MOST = 20.0  # logits that a channel may add


@dataclass(frozen=True)
class GuidePlan:
    """What a guide is made from.

    Attributes:
        n_shifts: walks that tell the shifts, each on a sample of its own.
        n_trials: samples that tell how much to take off, one after the other where there are fewer.
        antithetic, folded: how a sample is visited, which trials do twice.
    """

    n_shifts: int
    n_trials: int
    antithetic: bool
    folded: bool

    @staticmethod
    def within(budget: int, game: ChannelGame, antithetic: bool, folded: bool) -> GuidePlan | None:
        """The plan for a budget of rows, if it is large enough for one."""
        affordable = budget // (_SHARE * (game.n_players + 1))
        plan = GuidePlan(min(_WALKS, game.n_samples, affordable), 0, antithetic, folded)
        n_trials = min(_TRIALS, affordable // (2 * plan.walks_of_a_visit))
        return replace(plan, n_trials=n_trials) if n_trials >= _FEWEST_TRIALS else None

    @property
    def walks_of_a_visit(self) -> int:
        """Walks of one of a trial's two estimates."""
        return (2 if self.antithetic else 1) * (2 if self.folded else 1)

    @property
    def n_walks(self) -> int:
        """All walks that making the guide takes."""
        return self.n_shifts + 2 * self.n_trials * self.walks_of_a_visit


@dataclass(frozen=True)
class Guide:
    """Mean shifts of the logits.

    Attributes:
        shifts: float32 ``[G, C, K]``, what each player adds to the logits, of samples of G kinds.
        kinds: int64 ``[N]``, the kind of each sample.
        strength: how much of the control variate is taken off, 0 to 1.
    """

    shifts: Tensor
    kinds: Tensor
    strength: float = 1.0

    @staticmethod
    def made(game: ChannelGame, seed: int, plan: GuidePlan) -> Guide:
        """Take the walks of a plan, and learn from them."""
        guide = Guide.measured(game, seed, plan.n_shifts)
        return replace(guide, strength=guide._strength_in_trials(game, seed, plan))

    @staticmethod
    def measured(game: ChannelGame, seed: int, n_walks: int) -> Guide:
        """Take walks, each on a sample of its own, and average what they find by class."""
        walks, samples = _walks_of_shifts(game, seed, 0, n_walks)
        classes, kinds = game.data.targets.unique(return_inverse=True)
        n_kinds, total, last, at_once = len(classes), None, 0, 1
        while last < n_walks:
            chosen = slice(last, last + at_once)
            steps = game.walk_outputs(walks[chosen], samples[chosen]).float().diff(dim=1)  # [R, C, K]
            last += at_once
            if total is None:
                at_once = _walks_at_once(game, steps.shape[2])
                if n_kinds * steps[0].numel() > _LARGEST:
                    n_kinds, kinds = 1, torch.zeros_like(kinds)
                total = steps.new_zeros(n_kinds, *steps.shape[1:])
            shifts = by_player(steps, walks[chosen]).flatten(1)
            # A product, since adding by index is done in any order on a GPU.
            total += (F.one_hot(kinds[samples[chosen]], n_kinds).T.float() @ shifts).view_as(total)
        assert total is not None
        count = torch.bincount(kinds[samples], minlength=n_kinds).float()
        of_all = total.sum(0) / n_walks
        by_class = (total + _PRIOR * of_all) / (count + _PRIOR)[:, None, None]
        by_class -= by_class.mean(2, keepdim=True)
        return Guide(by_class.nan_to_num(0, 0, 0).clamp(-_MOST, _MOST), kinds)

    def payoffs(self, game: ChannelGame, walks: Tensor, samples: Tensor) -> Tensor:
        """Payoffs along walks less the control variate: the players' differences have the same means, less spread.

        Args:
            game: with cross-entropy for its metric.
            walks: int32 ``[R, C]``.
            samples: int64 ``[R]``.

        Returns:
            float64 ``[R, C + 1]``; the first and the last column are the payoffs themselves.
        """
        payoffs, control = self._evaluated(game, walks, samples)
        # A product, since sums along a dimension are not told to be the same twice on a GPU.
        until = torch.ones(control.shape[1], control.shape[1], dtype=control.dtype, device=control.device).triu()
        payoffs[:, 1:] -= self.strength * (control @ until)
        return payoffs

    def _strength_in_trials(self, game: ChannelGame, seed: int, plan: GuidePlan) -> float:
        """By which the control variate is to be multiplied, for the least variance of estimates of a sample."""
        sampler = WalkSampler(game.n_players, plan.n_trials, seed ^ _TRIAL_KEY, plan.antithetic, plan.folded)
        n_walks = plan.n_trials * plan.walks_of_a_visit  # of one estimate of all trials
        walks, trials = sampler.walks(0, 2 * n_walks, game.device)
        _, samples = _walks_of_shifts(game, seed, plan.n_shifts, plan.n_trials)
        payoffs, control = self._evaluated(game, walks, samples[trials])
        signs = torch.ones_like(payoffs[:, :1])
        signs[n_walks:] = -1
        by_trial = trials.argsort(stable=True).view(plan.n_trials, -1)
        # What a trial's two estimates differ by, [trials, C], times the walks of one.
        found, guided = ((signs * by_player(steps, walks))[by_trial].sum(1) for steps in (payoffs.diff(dim=1), control))
        products, squares = (found * guided).sum(1), guided.square().sum(1)
        strength = products.sum() / squares.sum()
        error = (products - strength * squares).square().sum().mul(plan.n_trials / (plan.n_trials - 1)).sqrt()
        error = error / squares.sum()
        cautious = float(strength - error)
        return min(1.0, max(0.0, cautious)) if math.isfinite(cautious) else 0.0

    def _evaluated(self, game: ChannelGame, walks: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Payoffs ``[R, C + 1]`` along walks, and the control variate ``[R, C]`` of who joins: float64."""
        steps = game.n_players + 1
        at_once, found = _walks_at_once(game, self.shifts.shape[2]), []
        for some, of_some in zip(walks.split(at_once), samples.split(at_once), strict=True):
            outputs = game.walk_outputs(some, of_some)
            payoffs = game.data.payoffs(outputs.flatten(0, 1), of_some.repeat_interleave(steps)).view(-1, steps)
            found.append((payoffs.double(), self._control(outputs.float(), some.long(), of_some).double()))
        payoffs, control = (torch.cat(parts) for parts in zip(*found, strict=True))
        return payoffs, control

    def _control(self, logits: Tensor, walks: Tensor, samples: Tensor) -> Tensor:
        """The control variate ``[R, C]`` of the player that joins at each step."""
        n_players = walks.shape[1]
        shifts = self.shifts[self.kinds[samples][:, None], walks]  # [R, C, K], in the order of joining
        probabilities = logits.softmax(2)
        joining = probabilities @ shifts.expm1().mT  # [R, C + 1, C]
        leaving = probabilities @ (-shifts).expm1().mT
        step = torch.arange(n_players, device=walks.device)
        absent = torch.arange(n_players + 1, device=walks.device)[:, None] <= step
        predicted = torch.where(absent, joining, leaving).clamp_min_(1e-6 - 1).log1p_()
        predicted = torch.where(absent, -predicted, predicted)
        before = predicted.diagonal(dim1=1, dim2=2) * (n_players - step)
        after = predicted[:, 1:].diagonal(dim1=1, dim2=2) * (step + 1)
        control = (before + after - predicted.sum(1)) / n_players
        return control - control.mean(1, keepdim=True)


def _walks_at_once(game: ChannelGame, n_logits: int) -> int:
    """As many as fit the memory budget: per row some tables of the logits' width, and some of the players'."""
    rows = game.n_players + 1
    return max(1, min(game.chunk_walks, game.memory_budget // (4 * rows * (8 * n_logits + 7 * rows))))


def _walks_of_shifts(game: ChannelGame, seed: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Walks ``[count, C]``, each on another sample, ``[count]``, while there are others."""
    sampler = WalkSampler(game.n_players, game.n_samples, seed ^ _KEY, antithetic=False)
    return sampler.walks(first, count, game.device)
