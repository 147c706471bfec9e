"""What a network costs: parameters, multiply-accumulates, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .modes import evaluation_mode

__all__ = ["count_macs", "count_parameters", "measure_latencies"]

_WARM_UP = 3


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, sample: Tensor) -> int:
    """Multiply-accumulates of convolutions, linear layers and matrix products on one input, by torch's own counter.

    The network runs in evaluation mode, so that its batch statistics stay what they are."""
    # The counter does not know every one of torch's attentions in one operation, but the products that they stand for.
    with evaluation_mode(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(sample)
    return counter.get_total_flops() // 2


@torch.no_grad()
def measure_latencies(models: Sequence[nn.Module], batch: Tensor, repeats: int = 31) -> list[float]:
    """Shortest of the times in milliseconds that each model takes for a batch, in evaluation mode, after a warm-up.

    They take turns, so that a machine that slows down does so for all of them; the shortest time is the one that other
    work on the machine disturbed the least.

    Args:
        models: the networks, on the device of the batch.
        batch: what they are run on.
        repeats: how often each is timed.
    """
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(evaluation_mode(model))
        for repeat in range(repeats + _WARM_UP):
            for model, taken in zip(models, times, strict=True):
                if batch.is_cuda:
                    torch.cuda.synchronize(batch.device)
                start = time.perf_counter()
                model(batch)
                if batch.is_cuda:
                    torch.cuda.synchronize(batch.device)
                if repeat >= _WARM_UP:
                    taken.append(time.perf_counter() - start)
    return [1e3 * min(taken) for taken in times]
