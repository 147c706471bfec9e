"""Processes that share the work of a ranking, through ``torch.distributed``.

Nothing is pickled: what travels are float64 sums and the bytes of records. What each process computes depends on the
number of a chunk alone, and all add up the same sums in the same order, so that every number of processes gives the
same bits, as long as each runs the same kernels: the same kind of device, libraries and number of threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["ProcessError", "Processes", "Statistics"]

Statistics = Mapping[str, Tensor]
"""What a chunk adds to the sums of an estimate: named float64 tensors of fixed shapes, on the CPU."""


class ProcessError(RuntimeError):
    """Another process failed, ended or did not answer."""


@dataclass(frozen=True)
class Processes:
    """The processes that take part in a ranking, and which of them this one is. Without arguments: this one alone.

    Attributes:
        rank: number of this process, from 0. Process 0 writes checkpoints and decides about time limits.
        size: how many there are.
        device: where tensors must be to travel: the CPU for gloo, this process's GPU for NCCL.

    Example:
        Under ``torchrun --nproc-per-node 4 script.py``:

        >>> with sc.Processes.join() as processes:
        ...     estimate = sc.rank(game, checkpoint="conv2.state", processes=processes)
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    _made_here: bool = False

    @classmethod
    def join(cls, timeout_seconds: float = 600.0) -> Processes:
        """Join the other processes that ``torchrun`` started, or the process group that the program made already.

        With CUDA, process r of a machine takes its GPU number r (``LOCAL_RANK``) and NCCL, else gloo. NCCL has not been
        tried yet.

        Args:
            timeout_seconds: how long to wait for the others' share of a round before giving up. More than a chunk of
                walks takes, or with :func:`~shapley_cuda.rank_groups` a whole group. Ignored where there is a process
                group already.

        Raises:
            RuntimeError: there is no process group, and no torchrun that started this process.
        """
        made_here = not dist.is_initialized()
        if made_here:
            if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
                raise RuntimeError("Processes.join must be called under torchrun, or after init_process_group")
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        on_gpu = dist.get_backend() == "nccl"
        device = f"cuda:{torch.cuda.current_device()}" if on_gpu else "cpu"
        return cls(dist.get_rank(), dist.get_world_size(), device, made_here)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # After a failure the others may be gone; leaving the group in order could wait for them.
        if kind is None and self._made_here:
            dist.destroy_process_group()

    def deal(
        self, numbers: Sequence[int], compute: Callable[[int], Statistics], like: Statistics, clock: Callable[[], float]
    ) -> tuple[list[Statistics], float]:
        """Compute one piece of work in each process, and tell every process all results.

        Args:
            numbers: of the pieces, at most one for each process; process r computes ``numbers[r]``.
            compute: from a number to its result.
            like: names and shapes of a result.
            clock: tells the time that has passed in this process; asked when its piece is done.

        Returns:
            The results in the order of ``numbers``, and the time that has passed in process 0.

        Raises:
            ProcessError: another process failed, ended or did not answer.
            Exception: what ``compute`` raised here.
        """
        if self.size == 1:
            return [compute(number) for number in numbers], clock()
        failure: Exception | None = None
        mine: Statistics = like
        try:
            if self.rank < len(numbers):
                mine = compute(numbers[self.rank])
        except Exception as error:  # the others wait for a result: they must hear of it
            failure = error
        flat = torch.cat([torch.tensor([failure is not None, clock()]), *(mine[name].flatten() for name in like)])
        gathered = [row.cpu() for row in self._gather(flat.double())]
        self._raise_failures([bool(row[0]) for row in gathered], failure)
        sizes = [2, *(tensor.numel() for tensor in like.values())]
        results: list[Statistics] = []
        for row in gathered[: len(numbers)]:
            parts = row.split(sizes)[1:]
            results.append({n: p.view(like[n].shape) for n, p in zip(like, parts, strict=True)})
        return results, float(gathered[0][1])

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """Have process 0 make something and tell all.

        Raises:
            ProcessError: process 0 failed, ended or did not answer.
            Exception: what ``make`` raised here, in process 0.
        """
        return self.exchange(make if self.rank == 0 else lambda: b"")[0]

    def exchange(self, make: Callable[[], bytes]) -> list[bytes]:
        """Have every process make something and tell all, in the order of the processes; raises as :meth:`deal`."""
        if self.size == 1:
            return [make()]
        failure: Exception | None = None
        mine = b""
        try:
            mine = make()
        except Exception as error:
            failure = error
        header = torch.tensor([failure is not None, len(mine)], dtype=torch.float64)
        headers = [row.cpu() for row in self._gather(header)]
        self._raise_failures([bool(row[0]) for row in headers], failure)
        lengths = [int(row[1]) for row in headers]
        content = torch.zeros(max(*lengths, 1), dtype=torch.uint8)
        content[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8) if mine else content[:0]
        everything = self._gather(content)
        return [row[:n].cpu().numpy().tobytes() for row, n in zip(everything, lengths, strict=True)]

    def check_same(self, what: str, content: bytes) -> None:
        """Make sure that all processes have the same content.

        Raises:
            ValueError: some have another than process 0.
        """
        digests = self.exchange(lambda: hashlib.sha256(content).digest())
        others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise ValueError(f"{what} must be the same in all processes, got another than process 0's in {others}")

    def _gather(self, mine: Tensor) -> list[Tensor]:
        mine = mine.to(self.device)
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(gathered, mine)
        except RuntimeError as error:
            raise ProcessError(
                f"process {self.rank} of {self.size} lost another: it ended, or did not answer in time. A ranking with "
                f"a checkpoint goes on from there with any number of processes. ({error})"
            ) from error
        return gathered

    def _raise_failures(self, failed: list[bool], own: Exception | None) -> None:
        if own is not None:
            raise own
        if any(failed):
            raise ProcessError(f"process {failed.index(True)} of {self.size} failed; its own message says why")
