"""From whatever comes in batches to a pair of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .splits import Split

_BATCH = 256  # samples read at once from a data set that has no loader


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
    batches = [_checked(data, "data")] if _is_pair(data) else _read(data, limit)
    if not any(inputs.shape[0] for inputs, _ in batches):
        raise ValueError("as_tensors: data must hold at least one sample, got none")
    inputs, targets = batches[0] if len(batches) == 1 else map(torch.cat, zip(*batches, strict=True))
    name = split or (data.name if isinstance(data, Split) else None)
    return Split(inputs[:limit], targets[:limit], name) if name else (inputs[:limit], targets[:limit])


def _read(data: Any, limit: int | None) -> list[tuple[Tensor, Tensor]]:
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=min(_BATCH, limit or _BATCH))
    if not isinstance(data, Iterable):
        raise TypeError(f"as_tensors: data must be a pair of tensors or give batches, got {type(data).__name__}")
    batches: list[tuple[Tensor, Tensor]] = []
    n_samples = 0
    # Every pass through a DataLoader draws a seed from the global generator.
    with torch.random.fork_rng(devices=[]):
        for index, batch in enumerate(data):
            inputs, targets = _checked(batch, f"batch {index} of data")
            if batches and (inputs.shape[1:], targets.shape[1:]) != (batches[0][0].shape[1:], batches[0][1].shape[1:]):
                raise ValueError(
                    f"as_tensors: batch {index} of data must have samples of {list(batches[0][0].shape[1:])} and "
                    f"targets of {list(batches[0][1].shape[1:])} as batch 0, got {list(inputs.shape[1:])} and "
                    f"{list(targets.shape[1:])}"
                )
            batches.append((inputs, targets))
            n_samples += inputs.shape[0]
            if limit is not None and n_samples >= limit:
                break
    return batches


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


def _checked(batch: Any, what: str) -> tuple[Tensor, Tensor]:
    if not _is_pair(batch):
        got = [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"as_tensors: {what} must be a pair of tensors (inputs, targets), got {got}")
    inputs, targets = batch
    if inputs.ndim < 1 or targets.ndim < 1 or inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"as_tensors: {what} must have one target per input, got shapes {list(inputs.shape)} and "
            f"{list(targets.shape)}"
        )
    return inputs, targets
