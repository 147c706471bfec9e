"""Visits of samples by walks, by number, and what they add to the sums of an estimate."""

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
from .stopping import FEWEST_DRAWS, Boundary, Found
from .variance import values_and_errors

__all__ = ["Visits"]

_DEFAULT_WALKS = 64  # per sample, that an estimate may take when no budget is given
_REPEAT_EVERY = 16
_REPEAT_KEY = 0x5265_7065_6174  # added to the seed for the walks of second blocks
_PER_PLAYER = (
    "total", "squares", "repeat_total", "repeat_squares", "repeat_differences", "visits", "repeats", "settled",
)  # fmt: skip
_NEVER = 1 << 62


class Visits:
    """The visits of a game's samples, by number.

    Attributes:
        n_units: how many visits to take at most.
        chunk_units: how many at once, as many as fit the game's memory budget.
        chunks_between_decisions: about which players are not evaluated any more, with a race.
    """

    def __init__(self, game: ChannelGame, seed: int, antithetic: bool, shared: bool, race: Boundary | None):
        self._race = race
        self.chunks_between_decisions = _NEVER if race is None else 8
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
        shapes = dict.fromkeys(_PER_PLAYER, self._game.n_players) | {"bad_walks": 1, "rows": 1}
        return {name: torch.zeros(size, dtype=torch.float64) for name, size in shapes.items()}

    def chunk(self, first: int, count: int, sums: Statistics) -> Statistics:
        """What visits first .. first + count - 1 add to the sums of :func:`values_and_errors`.

        With a race, settled players add nothing: neither to their sums nor to their numbers of visits. Steps of a walk
        between two of them are not evaluated.
        """
        block, rows_before = self._sampler.block, self._game.n_evaluations
        walks, samples, n_repeats = self._draw(first, count)
        active = sums["settled"] == 0
        payoffs = self._payoffs(walks, samples, None if bool(active.all()) else active.to(walks.device)[walks.long()])
        twice = 2 * block * n_repeats
        once_total, once_squares = ops.marginals(payoffs[twice:], walks[twice:], block=block)
        both_total, block_squares = ops.marginals(payoffs[:twice], walks[:twice], block=block)
        _, both_squares = ops.marginals(payoffs[:twice], walks[:twice], block=2 * block)
        repeat_total = both_total / (2 * block)
        total, squares = once_total / block + repeat_total, once_squares + both_squares
        # Of the blocks x, y of a visit: (x - y)^2 / 2 = x^2 + y^2 - 2 ((x + y) / 2)^2.
        differences = (block_squares - 2 * both_squares).clamp_min(0)
        found = torch.stack([total, squares, repeat_total, both_squares, differences]).cpu()
        numbers = torch.tensor([[count], [n_repeats], [0]]).expand(3, len(active))
        n_bad = int((~payoffs.isfinite()).any(1).sum())
        return dict(zip(_PER_PLAYER, torch.cat([found, numbers]) * active, strict=True)) | {
            "bad_walks": torch.tensor([n_bad], dtype=torch.float64),
            "rows": torch.tensor([self._game.n_evaluations - rows_before], dtype=torch.float64),
        }

    def check(self, statistics: Statistics) -> None:
        """Refuse payoffs that are not finite.

        Raises:
            NonFinitePayoff: some were; says on how many walks.
        """
        n_bad = int(statistics["bad_walks"])
        if n_bad:
            n_walks = int((statistics["visits"] + statistics["repeats"]).max()) * self._sampler.block
            raise NonFinitePayoff(
                f"{n_bad} of the last {n_walks} walks met a payoff that is NaN or infinite; "
                "look for non-finite inputs, weights or outputs of the network"
            )

    def found(self, sums: Statistics) -> Found:
        """Means over visits, and their standard errors."""
        return values_and_errors(sums, self._n_samples)

    def decide(self, sums: Statistics) -> Statistics:
        """Mark the players whose side of the boundary is settled: what follows does not evaluate them."""
        found = self.found(sums)
        if self._race is None or found.n_draws < FEWEST_DRAWS:
            return sums
        return {**sums, "settled": (self._race.effort(found) <= 1).double()}

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

    def _payoffs(self, walks: Tensor, samples: Tensor, active: Tensor | None) -> Tensor:
        """Payoffs before and after active players join, ``[walks, C + 1]``; of shared walks, means over samples."""
        game = self._game
        needed = None
        if active is not None:
            needed = torch.nn.functional.pad(active, (1, 0)) | torch.nn.functional.pad(active, (0, 1))
        if not self._shared:
            return game.walk_values(walks, samples, needed)
        everyone = torch.arange(game.n_samples, device=game.device)
        means = []
        for i in range(len(walks)):
            of_all = None if needed is None else needed[i].expand(game.n_samples, -1)
            payoffs = game.walk_values(walks[i].expand(game.n_samples, -1), everyone, of_all)
            means.append(payoffs.double().mean(0))
        return torch.stack(means)
