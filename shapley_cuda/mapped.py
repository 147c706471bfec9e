"""Tensors in memory-mapped files, for what is larger than memory."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from .batch_reader import read_batches

__all__ = ["TensorFile", "stream_data"]


class TensorFile:
    """A tensor written batch by batch into a temporary file, and read through a memory map.

    The file has no name from the moment that it is mapped, so that nothing is left of it when the tensor goes, not even
    where the process is killed.

    Args:
        folder: where there is room for it; default the system's folder for temporary files, which ``TMPDIR`` names.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self._file = tempfile.NamedTemporaryFile(prefix="shapley-", dir=folder)  # noqa: SIM115
        self._length = 0
        self._like: Tensor | None = None

    def append(self, batch: Tensor) -> None:
        """Write a batch ``[n, ...]``, from any device.

        Raises:
            OSError: there is no room for it.
            ValueError: it differs from the first batch in its type or in another size than n.
        """
        batch = batch.detach().cpu().contiguous()
        if self._like is None:
            self._like = batch[:0].clone()
        if (batch.dtype, batch.shape[1:]) != (self._like.dtype, self._like.shape[1:]):
            raise ValueError(
                f"batches must all be {self._like.dtype} with samples of {list(self._like.shape[1:])}, "
                f"got {batch.dtype} {list(batch.shape)}"
            )
        self._file.write(batch.flatten().view(torch.uint8).numpy().data)
        self._length += batch.shape[0]

    def tensor(self) -> Tensor:
        """All that was written, on the CPU; only what is read of it comes into memory, as long as there is room."""
        assert self._like is not None
        shape, dtype = (self._length, *self._like.shape[1:]), self._like.dtype
        with self._file as file:
            file.flush()
            size = torch.Size(shape).numel()
            return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(shape)


def stream_data(data: Any, folder: str | os.PathLike[str] | None = None) -> tuple[Tensor, Tensor]:
    """Read data that are larger than memory, once, into a memory-mapped file that :class:`ChannelGame` reads from.

    Use :func:`as_tensors` for data that fit memory. A game of such data caches what the network's prefix gives for
    every sample, which may be as large: ``ChannelGame(..., prefix="disk")`` or ``"recompute"``.

    Args:
        data: a DataLoader (its workers and pinned memory as the user set them), a Dataset, or any other iterable of
            batches, pairs of tensors (inputs ``[n, ...]``, targets ``[n, ...]``). Hand in data without augmentation:
            a game evaluates each sample many times, and this is the one time that it is loaded.
        folder: where there is room for the inputs; default the system's folder for temporary files (``TMPDIR``).

    Returns:
        inputs, memory-mapped, and targets, in memory; both on the CPU. The file goes with the inputs; it has no name
        that anybody could see, and nothing of it is left if the process ends. Inputs must not be written to.

    Raises:
        ValueError: there are no samples, or sizes do not fit together.
        TypeError: a batch is no pair of tensors.
        OSError: there is no room in the folder.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.zeros(10, 3), torch.arange(10)), batch_size=4)
        >>> inputs, targets = stream_data(loader)
        >>> inputs.shape, targets.tolist()
        (torch.Size([10, 3]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    file, all_targets = TensorFile(folder), list[Tensor]()
    with torch.random.fork_rng(devices=[]):
        for inputs, targets in read_batches("stream_data", data):
            file.append(inputs)
            all_targets.append(targets.cpu())
    return file.tensor(), torch.cat(all_targets)
