"""Samplers: which coalitions, on which samples, in which order. Each yields walks or masks from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import ops

__all__ = ["WalkSampler"]

_SAMPLE_ORDER_KEY = 0x5368_6170_6C65_79  # another Philox key than the walks': the two streams must not be one


@dataclass(frozen=True)
class WalkSampler:
    """Walks by number: walk w is the same permutation on the same sample, whoever asks for it and in which batch.

    Every pass over the data gives each sample one walk (antithetic: one pair of walks, the second the reverse of the
    first), the samples in an order that is shuffled anew, so that a pass cut short is still a fair sample.

    Attributes:
        n_players: C.
        n_samples: N.
        seed: any 64-bit integer.
        antithetic: pair each walk with its reverse. Marginals at opposite ends of the walk are negatively correlated
            for most networks, so pairs have a smaller variance than independent walks.
    """

    n_players: int
    n_samples: int
    seed: int = 0
    antithetic: bool = True

    @property
    def block(self) -> int:
        """Walks that belong together: 2 for antithetic pairs, else 1. Only blocks are independent of each other."""
        return 2 if self.antithetic else 1

    def walks(self, first: int, count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Walks first .. first + count - 1.

        Returns:
            permutations int32 ``[count, C]`` and sample_index int64 ``[count]``, on ``device``.
        """
        permutations = ops.sample_permutations(
            self.seed, first, count, self.n_players, antithetic=self.antithetic, device=device
        )
        return permutations, self._samples(first, count).to(device)

    def _samples(self, first: int, count: int) -> Tensor:
        draws = torch.arange(first, first + count) // self.block
        passes, places = draws // self.n_samples, draws % self.n_samples
        if count == 0:
            return places
        first_pass, last_pass = int(passes[0]), int(passes[-1])
        key = self.seed ^ _SAMPLE_ORDER_KEY
        orders = ops.sample_permutations(key, first_pass, last_pass - first_pass + 1, self.n_samples)
        return orders[passes - first_pass, places].long()
