"""Batches of samples from whatever gives them, checked one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["check_pair", "is_pair", "read_batches"]

_BATCH = 256  # samples read at once from a data set that has no loader


def read_batches(caller: str, data: Any, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Read the batches of a DataLoader, a Dataset, or any other iterable of pairs of tensors.

    Callers keep the global random state: every pass through a DataLoader draws a seed from it.

    Args:
        caller: named in errors.
        data: what gives the batches (inputs ``[n, ...]``, targets ``[n, ...]``).
        limit: read no batch beyond the first so many samples.

    Raises:
        ValueError: there are no samples, or sizes do not fit together.
        TypeError: a batch is no pair of tensors.
    """
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=min(_BATCH, limit or _BATCH))
    if not isinstance(data, Iterable):
        raise TypeError(f"{caller}: data must be a pair of tensors or give batches, got {type(data).__name__}")
    n_samples, wanted = 0, None
    for index, batch in enumerate(data):
        inputs, targets = check_pair(caller, batch, f"batch {index} of data")
        sizes = inputs.shape[1:], targets.shape[1:]
        wanted = wanted or sizes
        if sizes != wanted:
            raise ValueError(
                f"{caller}: batch {index} of data must have samples of {list(wanted[0])} and targets of "
                f"{list(wanted[1])} as batch 0, got {list(sizes[0])} and {list(sizes[1])}"
            )
        yield inputs, targets
        n_samples += inputs.shape[0]
        if limit is not None and n_samples >= limit:
            break
    if n_samples == 0:
        raise ValueError(f"{caller}: data must hold at least one sample, got none")


def is_pair(value: Any) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Whether it is a pair of tensors."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


def check_pair(caller: str, batch: Any, what: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets, if that is what it is."""
    if not is_pair(batch):
        got = [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"{caller}: {what} must be a pair of tensors (inputs, targets), got {got}")
    inputs, targets = batch
    if inputs.ndim < 1 or targets.ndim < 1 or inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"{caller}: {what} must have one target per input, got shapes {list(inputs.shape)} and "
            f"{list(targets.shape)}"
        )
    return inputs, targets
