"""How much memory a chunk of rows may take, and how much one row takes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PeakMemory", "default_budget"]

_DEFAULT_CPU = 32 << 20  # beyond this, the C library takes fresh pages for every chunk


def default_budget(device: torch.device) -> int:
    """Bytes that a chunk of rows may take: 32 MiB on the CPU, a quarter of what is free on a GPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 4
    return _DEFAULT_CPU


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is active, at the moment when most of them are alive.

    Works on every device alike. What a kernel takes and gives back within one call goes unseen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors(args):  # weights and data were there before; views of them cost nothing
            self._seen.add(tensor.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage not in self._seen:
                self._seen.add(storage)
                size = storage.nbytes()
                self.live += size
                weakref.finalize(storage, self._freed, size)
        self.peak = max(self.peak, self.live)
        return result

    def _freed(self, size: int) -> None:
        self.live -= size


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for item in values:
            yield from _tensors(item)
