"""From whatever comes in batches to a pair of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..batch_reader import check_pair, is_pair, read_batches
from .splits import Split


def as_tensors(data: Any, limit: int | None = None, split: str | None = None) -> tuple[Tensor, Tensor]:
    """Gather inputs and targets in memory, as `ChannelGame` and `train` take them.

    Hand in data without augmentation: a game evaluates each sample many times, and this is the one time that it is
    loaded. A loader that shuffles gives its first samples in an order of its own.

    Args:
        data: a pair of tensors (inputs [N, ...], targets [N, ...]), a `Split`, a DataLoader, a Dataset, or any other
            iterable of such pairs, its batches.
        limit: take the first `limit` samples, or all if there are fewer; no batch is read beyond them.
        split: name the result, see `Split`; a `Split` keeps its name without.

    Returns:
        (inputs, targets), a `Split` where it has a name. Views of a pair of tensors, else on the device of the
        batches. Global random state is left as it was, also by loaders that shuffle.

    Raises:
        ValueError: when there are no samples, sizes do not fit together, or `limit` or `split` is out of range.
        TypeError: when a batch is no pair of tensors; the text says which.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.zeros(10, 3), torch.arange(10)), batch_size=4)
        >>> inputs, targets = as_tensors(loader, limit=6)
        >>> inputs.shape, targets.tolist()
        (torch.Size([6, 3]), [0, 1, 2, 3, 4, 5])
    """
    if limit is not None and not (isinstance(limit, int) and limit >= 1):
        raise ValueError(f"as_tensors: limit must be a positive integer or None, got {limit!r}")
    with torch.random.fork_rng(devices=[]):
        batches = (
            [check_pair("as_tensors", data, "data")] if is_pair(data) else [*read_batches("as_tensors", data, limit)]
        )
    if not any(inputs.shape[0] for inputs, _ in batches):
        raise ValueError("as_tensors: data must hold at least one sample, got none")
    inputs, targets = batches[0] if len(batches) == 1 else map(torch.cat, zip(*batches, strict=True))
    name = split or (data.name if isinstance(data, Split) else None)
    return Split(inputs[:limit], targets[:limit], name) if name else (inputs[:limit], targets[:limit])
