"""When an estimate is good enough: rules, of which the first to hold ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["FEWEST_DRAWS", "Boundary", "Found", "StoppingRules"]

FEWEST_DRAWS = 64
"""Standard errors from fewer independent draws are not trusted to stop on."""


@dataclass(frozen=True)
class Found:
    """What the sums of an estimate say.

    Attributes:
        values: ``[C]``.
        standard_error: ``[C]``, for the samples at hand; infinite while there is too little to tell.
        population_standard_error: ``[C]``, with the choice of the samples, or None.
        n_draws: how many independent draws the errors come from.
        active: bool ``[C]``, False for players that are settled and not evaluated any more.
    """

    values: Tensor
    standard_error: Tensor
    population_standard_error: Tensor | None
    n_draws: int
    active: Tensor

    def relative_error(self) -> float:
        """Largest standard error of an active player over the range of the values, as in SAGE (Covert et al., 2020)."""
        error = float(self.standard_error[self.active].max()) if bool(self.active.any()) else 0.0
        if error == 0:
            return 0.0
        spread = float(self.values.max() - self.values.min())
        return error / spread if spread > 0 else math.inf


@dataclass(frozen=True)
class Boundary:
    """The boundary between the players that are kept and those that are removed.

    It lies half-way between the last player kept and the first removed. A player's side is settled when its
    confidence interval does not reach across. Intervals are widened so that at one look all C of them hold together
    with the wanted confidence (Bonferroni: each at 1 - (1 - confidence) / C, from the normal distribution). That the
    rule looks after every chunk, and stops when it likes what it sees, is not corrected for.

    Attributes:
        n_kept: how many players are kept.
        confidence: that the kept set is that of the true values.
    """

    n_kept: int
    confidence: float

    def effort(self, found: Found) -> Tensor:
        """How many times as many draws each player's side is expected to need, ``[C]``; at most 1 where it is settled.

        A player whose value is known exactly to lie on the boundary is settled: either side is right. One that is not
        evaluated any more stays settled.
        """
        n_players = len(found.values)
        if not 0 < self.n_kept < n_players:
            return torch.zeros(n_players, dtype=torch.float64)
        last_kept, first_removed = found.values.sort(descending=True).values[self.n_kept - 1 : self.n_kept + 1]
        z = NormalDist().inv_cdf(1 - (1 - self.confidence) / (2 * n_players))
        reach = z * found.standard_error
        distance = (found.values - (last_kept + first_removed) / 2).abs()
        return torch.where((reach <= distance) | ~found.active, 1.0, reach / distance).square()


@dataclass(frozen=True)
class StoppingRules:
    """Rules of which the first to hold ends an estimate; its budget of rows ends it anyway.

    Attributes:
        tolerance: the largest standard error over the range of the values is below this.
        boundary: every player's side of it is settled.
        max_seconds: this time has passed.
    """

    tolerance: float
    boundary: Boundary | None = None
    max_seconds: float = math.inf

    def reason(self, found: Found) -> str | None:
        """Say which rule holds, if one does: ``"settled"`` or ``"tolerance"``."""
        if found.n_draws < FEWEST_DRAWS:
            return None
        if self.boundary is not None and bool((self.boundary.effort(found) <= 1).all()):
            return "settled"
        return "tolerance" if found.relative_error() < self.tolerance else None
