"""Walks as coalitions: a permutation of the players, joining one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["by_player", "hold_everyone_once", "masks_of_walks"]


def masks_of_walks(permutations: Tensor, rows: Tensor) -> Tensor:
    """Coalitions along walks; in step j of a walk its first j players are kept.

    Args:
        permutations: int32 ``[R, C]``.
        rows: int64 ``[n]``, which of the ``R * (C + 1)`` steps, walk after walk.

    Returns:
        bool ``[n, C]``.
    """
    n_walks, n_players = permutations.shape
    # The CPU compares 16-bit numbers fastest, and several times faster where the result has their type and place.
    numbers = torch.arange(n_players + 1, device=permutations.device)
    numbers = numbers.to(torch.int16 if n_players < 1 << 15 else torch.int32)
    joins = numbers.new_empty(n_walks, n_players)
    joins.scatter_(1, permutations.long(), numbers[:-1].expand(n_walks, -1))
    joins = joins.index_select(0, rows // (n_players + 1))
    return torch.lt(joins, numbers[rows % (n_players + 1), None], out=joins).bool()


def by_player(steps: Tensor, permutations: Tensor) -> Tensor:
    """What belongs to the steps of walks, in the order of the players.

    Args:
        steps: ``[R, C, ...]``, entry j of a walk is of the player that joins in step j + 1.
        permutations: ``[R, C]``.

    Returns:
        of the same shape, entry c of a walk is player c's.
    """
    players = permutations.long().view(*permutations.shape, *[1] * (steps.dim() - 2)).expand_as(steps)
    return torch.empty_like(steps).scatter_(1, players, steps)


def hold_everyone_once(permutations: Tensor) -> bool:
    """Whether each row of ``[R, C]`` holds 0 to C - 1, in any order."""
    n_walks, n_players = permutations.shape
    seen = torch.zeros(n_walks, n_players + 2, dtype=torch.bool, device=permutations.device)
    seen.scatter_(1, permutations.clamp(-1, n_players).long() + 1, True)  # what is out of range marks the ends
    return bool(seen[:, 1:-1].all())
