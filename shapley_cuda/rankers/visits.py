"""Visits of samples by walks, by number, and what they add to the sums of an estimate.

Some visits take further blocks of walks, from which errors are told: see :mod:`~shapley_cuda.rankers.variance`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..game import ChannelGame
from ..samplers import WalkSampler, fold_halves
from .base import NonFinitePayoff
from .guide import Guide
from .processes import Statistics
from .stopping import FEWEST_DRAWS, Boundary, Found
from .variance import PER_PLAYER, n_couples, values_and_errors

__all__ = ["Visits"]

_DEFAULT_WALKS = 64  # per sample, that an estimate may take when no budget is given
# Which visits are repeated, and which couples of visits: the first so many, and then every so many.
_REPEATS = (16, 16)
_COUPLES = (4, 32)
# Added to the seed for the walks of further blocks.
_REPEAT_KEY = 0x5265_7065_6174
_COUPLE_KEY = 0x436F_7570_6C65
_FEWEST_FOLDED = 32  # samples; with fewer, repeating the first couples would cost more than folding gains
_NEVER = 1 << 62


class _Walks(NamedTuple):
    """The walks of some visits: first those with one further block, then those with three, then the others.

    Attributes:
        permutations: int32 ``[R, C]``; a visit's own block comes first.
        samples: int64 ``[R]``.
        n_repeats: how many visits have one further block.
        n_couples: how many have three.
    """

    permutations: Tensor
    samples: Tensor
    n_repeats: int
    n_couples: int


class Visits:
    """The visits of a game's samples, by number.

    Attributes:
        n_units: how many visits to take at most.
        chunk_units: how many at once, as many as fit the game's memory budget.
        chunks_between_decisions: about which players are not evaluated any more, with a race.
        folded: whether passes are folded.
        guide: makes the spread of marginals smaller, if there is one; set before the first chunk.
        rows_before: that were evaluated for it.
    """

    def __init__(
        self,
        game: ChannelGame,
        seed: int,
        antithetic: bool,
        folded: bool,
        shared: bool,
        repeats: bool,
        race: Boundary | None,
    ):
        self._race = race
        self.guide: Guide | None = None
        self.rows_before = 0
        self.chunks_between_decisions = _NEVER if race is None else 8
        self._game, self._seed, self._antithetic, self._shared = game, seed, antithetic, shared
        self._n_samples = 1 if shared else game.n_samples  # that a visit can be of
        self._repeats = repeats and self._n_samples > 1
        self.folded = folded and antithetic and self._repeats and self._n_samples >= _FEWEST_FOLDED
        self._sampler = WalkSampler(game.n_players, self._n_samples, seed, antithetic, self.folded)
        self._rows_per_walk = (game.n_players + 1) * (game.n_samples if shared else 1)
        self.n_units = _DEFAULT_WALKS // self._sampler.block * self._n_samples
        fitting = game.chunk_walks // self._sampler.block // (game.n_samples if shared else 1)
        if self._repeats:  # further blocks are a sixteenth of the others, or where couples are repeated a tenth
            fitting = fitting * 10 // 11 if self.folded else fitting * 16 // 17
        self.chunk_units = max(1, fitting)

    def n_walks(self, n_visits: int) -> int:
        """Walks in the first so many visits."""
        further = self._n_repeats(n_visits) + 3 * self._n_couples(n_visits)
        return (n_visits + further) * self._sampler.block

    def n_rows(self, n_visits: int) -> int:
        """Rows that the first so many visits evaluate, and the guide's."""
        return self.rows_before + self.n_walks(n_visits) * self._rows_per_walk

    def n_within(self, budget: int) -> int:
        """The most visits that evaluate no more rows than the budget."""
        at_most = max(0, budget) // (self._sampler.block * self._rows_per_walk)
        return bisect_right(range(at_most + 1), budget, key=self.n_rows) - 1

    def nothing(self) -> Statistics:
        """The sums of no visit at all."""
        shapes = dict.fromkeys(PER_PLAYER, self._game.n_players) | {"bad_walks": 1, "rows": 1}
        return {name: torch.zeros(size, dtype=torch.float64) for name, size in shapes.items()}

    def chunk(self, first: int, count: int, sums: Statistics) -> Statistics:
        """What visits first .. first + count - 1 add to the sums of :func:`values_and_errors`.

        With a race, settled players add nothing: neither to their sums nor to their numbers of visits. Steps of a walk
        between two of them are not evaluated.
        """
        rows_before = self._game.n_evaluations
        walks, samples, n_repeats, n_couples = self._draw(first, count)
        active = sums["settled"] == 0
        payoffs = self._payoffs(walks, samples, None if bool(active.all()) else active.to(walks.device)[walks.long()])
        found = self._sums(payoffs, walks, n_repeats, n_couples).cpu()
        numbers = torch.tensor([[count], [n_repeats], [n_couples], [0]]).expand(4, len(active))
        n_bad = int((~payoffs.isfinite()).any(1).sum())
        return dict(zip(PER_PLAYER, torch.cat([found, numbers]) * active, strict=True)) | {
            "bad_walks": torch.tensor([n_bad], dtype=torch.float64),
            "rows": torch.tensor([self._game.n_evaluations - rows_before], dtype=torch.float64),
        }

    def _sums(self, payoffs: Tensor, walks: Tensor, n_repeats: int, n_couples: int) -> Tensor:
        """The sums of :data:`PER_PLAYER` that are no numbers of visits, ``[8, C]``."""
        block = self._sampler.block
        ends = [2 * block * n_repeats, block * (2 * n_repeats + 4 * n_couples)]
        repeats, couples, others = zip(payoffs.tensor_split(ends), walks.tensor_split(ends), strict=True)
        # A visit counts as the mean of both blocks if it is repeated, else as its own block.
        own = [part.view(n_couples, 4 * block, part.shape[1])[:, :block].flatten(0, 1) for part in couples]
        total, squares = ops.marginals(*(torch.cat(both) for both in zip(own, others, strict=True)), block=block)
        of_repeats, squares_of_means = self._repeated(*repeats, 1)
        of_couples, _ = self._repeated(*couples, 2)
        total, squares = total / block + of_repeats[0], squares + squares_of_means
        return torch.cat([torch.stack([total, squares]), of_repeats, of_couples])

    def _repeated(self, payoffs: Tensor, walks: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
        """Sums over visits of two repeats, each of so many blocks.

        Returns:
            ``[3, C]``: means over the blocks, of their squares, and half the square of the two repeats' difference; and
            ``[C]``, squares of the means.
        """
        block = self._sampler.block
        in_all = 2 * n_blocks * block
        total, squares_of_blocks = ops.marginals(payoffs, walks, block=block)
        _, squares_of_repeats = ops.marginals(payoffs, walks, block=n_blocks * block)
        _, squares_of_means = ops.marginals(payoffs, walks, block=in_all)
        # (x - y)^2 / 2 = x^2 + y^2 - 2 ((x + y) / 2)^2
        differences = (squares_of_repeats - 2 * squares_of_means).clamp_min(0)
        return torch.stack([total / in_all, squares_of_blocks / (2 * n_blocks), differences]), squares_of_means

    def check(self, statistics: Statistics) -> None:
        """Refuse payoffs that are not finite.

        Raises:
            NonFinitePayoff: some were; says on how many walks.
        """
        n_bad = int(statistics["bad_walks"])
        if n_bad:
            n_blocks = statistics["visits"] + statistics["repeats"] + 3 * statistics["couples"]
            n_walks = int(n_blocks.max()) * self._sampler.block
            raise NonFinitePayoff(
                f"{n_bad} of the last {n_walks} walks met a payoff that is NaN or infinite; "
                "look for non-finite inputs, weights or outputs of the network"
            )

    def found(self, sums: Statistics) -> Found:
        """Means over visits, and their standard errors."""
        return values_and_errors(sums, self._n_samples if self._repeats else 1, self.folded)

    def decide(self, sums: Statistics) -> Statistics:
        """Mark the players whose side of the boundary is settled: what follows does not evaluate them."""
        found = self.found(sums)
        if self._race is None or found.n_draws < FEWEST_DRAWS:
            return sums
        return {**sums, "settled": (self._race.effort(found) <= 1).double()}

    def _n_repeats(self, n_visits: int) -> int:
        """How many of the first so many visits take a further block. If folded, those of the first pass do."""
        if not self._repeats:
            return 0
        return _n_chosen(min(n_visits, self._n_samples) if self.folded else n_visits, *_REPEATS)

    def _n_couples(self, n_visits: int) -> int:
        """How many of the first so many visits take three further blocks."""
        if not self.folded:
            return 0
        return _n_chosen(n_couples(n_visits, self._n_samples), *_COUPLES)

    def _draw(self, first: int, count: int) -> _Walks:
        """Walks and samples of some visits."""
        block, n_players, device = self._sampler.block, self._game.n_players, self._game.device
        permutations, samples = self._sampler.walks(first * block, count * block, device)
        if not self._repeats:
            return _Walks(permutations, samples, 0, 0)
        own, samples = permutations.view(count, block, n_players), samples.view(count, block)
        visits = torch.arange(first, first + count)
        passes, places = visits // self._n_samples, visits % self._n_samples
        repeated = _is_chosen(visits, *_REPEATS) & ((passes == 0) | (not self.folded))
        coupled = _is_chosen(passes // 2 * self._n_samples + places, *_COUPLES) & (passes % 2 == 1) & self.folded
        repeated, coupled, others = (chosen.to(device) for chosen in (repeated, coupled, ~(repeated | coupled)))
        n_repeats, n_couples = int(repeated.sum()), int(coupled.sum())

        def further(key: int, first: int, count: int) -> Tensor:
            return ops.sample_permutations(
                self._seed ^ key, first * block, count * block, n_players, antithetic=self._antithetic, device=device
            ).view(count, block, n_players)

        def fold(blocks: Tensor) -> Tensor:
            reverses = (torch.arange(block, device=device) == 1).repeat(len(blocks))
            return fold_halves(blocks.flatten(0, 1), reverses).view_as(blocks)

        again = further(_REPEAT_KEY, self._n_repeats(first), n_repeats)
        couple = further(_COUPLE_KEY, self._n_couples(first), n_couples)
        of_visits = [
            torch.cat([own[repeated], again], 1),
            torch.cat([own[coupled], fold(own[coupled]), couple, fold(couple)], 1),
            own[others],
        ]
        numbers_of_blocks = (2, 4, 1)
        of_samples = [
            samples[c].repeat(1, n) for c, n in zip((repeated, coupled, others), numbers_of_blocks, strict=True)
        ]
        walks = torch.cat([blocks.flatten(0, 1) for blocks in of_visits])
        return _Walks(walks, torch.cat([s.flatten() for s in of_samples]), n_repeats, n_couples)

    def _payoffs(self, walks: Tensor, samples: Tensor, active: Tensor | None) -> Tensor:
        """Payoffs before and after active players join, ``[walks, C + 1]``; of shared walks, means over samples."""
        game = self._game
        if self.guide is not None:
            return self.guide.payoffs(game, walks, samples)
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


def _is_chosen(numbers: Tensor, first: int, every: int) -> Tensor:
    """Which visits or couples are repeated."""
    return (numbers < first) | (numbers % every == 0)


def _n_chosen(count: int, first: int, every: int) -> int:
    """How many of the numbers below ``count`` are chosen."""
    return min(count, first) + max(0, -(-count // every) - -(-first // every))
