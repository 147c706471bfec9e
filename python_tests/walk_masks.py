"""All coalitions along walks at once."""

from __future__ import annotations

import torch
from torch import Tensor

from shapley_cuda.walks import masks_of_walks


def all_masks_of_walks(permutations: Tensor) -> Tensor:
    """Bool ``[R, C + 1, C]`` for int32 ``[R, C]``."""
    n_walks, n_players = permutations.shape
    masks = masks_of_walks(permutations, torch.arange(n_walks * (n_players + 1)))
    return masks.view(n_walks, n_players + 1, n_players)
