"""How much memory there is, how much work takes, and what to do when it runs out."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PeakMemory", "Portions", "check_budget", "free_memory", "resolve_budget"]

_DEFAULT_CPU = 32 << 20  # beyond this, the C library takes fresh pages for every chunk
_DEFAULT_GPU = 0.25
# Texts of a GPU, the CPU, a library. An op of this package, with torch before 2.13, cannot tell what torch said to it.
_OUT_OF_MEMORY = ("API call failed", "out of memory", "can't allocate memory", "ALLOC_FAILED")

T = TypeVar("T")


def check_budget(budget: int | float | None) -> None:
    """Refuse what is neither bytes, nor a share of what is free, nor None."""
    share = isinstance(budget, float) and 0 < budget <= 1
    size = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 1
    if not (share or size or budget is None):
        raise ValueError(
            "memory_budget must be at least 1 byte, an int, or a share of the free memory, a float in (0, 1], "
            f"got {budget!r}"
        )


def resolve_budget(budget: int | float | None, device: torch.device) -> int:
    """A budget in bytes: as given, or a share of what is free now. Default: 32 MiB on the CPU, a quarter on a GPU."""
    if budget is None:
        budget = _DEFAULT_GPU if device.type == "cuda" else _DEFAULT_CPU
    return max(1, int(budget * free_memory(device))) if isinstance(budget, float) else budget


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device: what the system calls free and, on a GPU, what torch holds in reserve."""
    if device.type == "cuda":
        in_reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + in_reserve
    try:
        with open("/proc/meminfo") as file:  # counts what the page cache would give back
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Portions:
    """Work in portions that are halved where memory runs out, from then on: the results are the same to rounding.

    Args:
        what: one item of the work.
        sizes: says how large items and budget are, for the error when memory does not suffice for a single item.

    Attributes:
        limit: the most items in a portion; None until memory has run out.
    """

    def __init__(self, what: str, sizes: Callable[[], str]):
        self.limit: int | None = None
        self._what, self._sizes = what, sizes

    def run(self, count: int, at_once: int, work: Callable[[int, int], T]) -> Iterator[T]:
        """Results of ``work(first, last)`` in order, for portions of at most ``at_once`` items that make up ``count``.

        Raises:
            torch.OutOfMemoryError: memory does not suffice for a single item.
        """
        first = 0
        while first < count:
            last = min(count, first + min(at_once, self.limit or at_once))
            try:
                yield work(first, last)  # which has no name here, so that nothing holds it while the next is made
                first = last
            except RuntimeError as error:
                self._halve(last - first, error)
            # The error is gone, and with it all that it kept alive: torch hands that memory out again.

    def fill(self, results: Tensor, at_once: int, work: Callable[[int, int], Tensor]) -> Tensor:
        """Write the results of work, one entry for each item, into a tensor of as many entries as there are items."""
        first = 0
        for part in self.run(results.shape[0], at_once, work):
            results[first : first + part.shape[0]] = part
            first += part.shape[0]
        return results

    def _halve(self, n_items: int, error: RuntimeError) -> None:
        if not _ran_out(error):
            raise error
        if n_items == 1:
            raise torch.OutOfMemoryError(
                f"memory ran out on a single {self._what}; {self._sizes()}; torch says: {error}"
            ) from error
        self.limit = n_items // 2


def _ran_out(error: RuntimeError) -> bool:
    """Whether memory was the reason. Only torch's own operations say so by the type of their error."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is active, at the moment when most of them are alive.

    Works on every device alike. What a kernel takes and gives back within one call goes unseen. Memory-mapped files
    count as nothing: the system takes their memory back when it needs it.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
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
                size = 0 if storage.filename else storage.nbytes()
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
