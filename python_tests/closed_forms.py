"""Games whose Shapley values are known in closed form, with the interface that rankers use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from walk_masks import all_masks_of_walks

import shapley_cuda as sc

Payoff = Callable[[Tensor, Tensor], Tensor]


@dataclass
class ClosedFormGame:
    """A game whose payoffs are a function of (masks bool [R, C], samples int64 [R]), giving float64 [R]."""

    payoff: Payoff
    n_players: int
    n_samples: int = 1
    chunk_walks: int = 64
    chunk_rows: int = 256
    memory_budget: int = 1
    n_evaluations: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="closed form"))

    def __call__(self, masks: Tensor) -> Tensor:
        self.n_evaluations += masks.shape[0] * self.n_samples
        rows, samples = masks.repeat_interleave(self.n_samples, 0), torch.arange(self.n_samples)
        return self.payoff(rows, samples.repeat(masks.shape[0])).view(-1, self.n_samples).mean(1)

    def all_payoffs(self) -> Tensor:
        codes = torch.arange(2**self.n_players)
        return self((codes[:, None] >> torch.arange(self.n_players)) % 2 == 1)

    def row_values(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        self.n_evaluations += masks.shape[0]
        return self.payoff(masks, sample_index).float()

    def walk_values(self, permutations: Tensor, sample_index: Tensor, needed: Tensor | None = None) -> Tensor:
        if needed is None:
            needed = torch.ones(permutations.shape[0], permutations.shape[1] + 1, dtype=torch.bool)
        masks = all_masks_of_walks(permutations)[needed]
        self.n_evaluations += masks.shape[0]
        rows = sample_index.repeat_interleave(needed.shape[1])[needed.flatten()]
        return torch.zeros(needed.shape).masked_scatter_(needed, self.payoff(masks, rows).float())


def rank(game: ClosedFormGame, **options: Any) -> sc.Estimate:
    return sc.rank(cast(sc.ChannelGame, game), **options)


WEIGHTS = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.25, 3.0], dtype=torch.float64)


def additive(masks: Tensor, samples: Tensor) -> Tensor:
    return masks.double() @ WEIGHTS


def unanimity(masks: Tensor, samples: Tensor) -> Tensor:
    """1 where players 1, 2 and 4 are all there."""
    return masks[:, [1, 2, 4]].all(1).double()


def glove(masks: Tensor, samples: Tensor) -> Tensor:
    """1 where a left glove (players 0, 1) meets the only right one (player 2)."""
    return (masks[:, :2].any(1) & masks[:, 2]).double()


def majority(masks: Tensor, samples: Tensor) -> Tensor:
    return (masks.sum(1) > masks.shape[1] / 2).double()


PAIRS = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).triu(1)


def pairwise(masks: Tensor, samples: Tensor) -> Tensor:
    """The additive game and an interaction of every pair."""
    present = masks.double()
    return present @ WEIGHTS + ((present @ PAIRS) * present).sum(1)


def by_sample(masks: Tensor, samples: Tensor) -> Tensor:
    """Samples that disagree about everything: sample n multiplies the additive game and shifts it."""
    return (samples + 1) * additive(masks, samples) - 3.0 * samples


CLOSED_FORMS: dict[str, tuple[Payoff, int, int, list[float]]] = {
    "additive": (additive, 6, 1, WEIGHTS.tolist()),
    "unanimity": (unanimity, 6, 1, [0, 1 / 3, 1 / 3, 0, 1 / 3, 0]),
    "glove": (glove, 3, 1, [1 / 6, 1 / 6, 4 / 6]),
    "majority": (majority, 7, 1, [1 / 7] * 7),
    "pairwise": (pairwise, 6, 1, (WEIGHTS + (PAIRS + PAIRS.T).sum(1) / 2).tolist()),
    "by_sample": (by_sample, 6, 4, (2.5 * WEIGHTS).tolist()),
}


def closed_form(name: str, **options: Any) -> tuple[ClosedFormGame, Tensor]:
    payoff, n_players, n_samples, values = CLOSED_FORMS[name]
    return ClosedFormGame(payoff, n_players, n_samples, **options), torch.tensor(values, dtype=torch.float64)
