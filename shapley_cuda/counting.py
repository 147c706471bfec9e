"""What a network costs: parameters, multiply-accumulates, time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .modes import evaluation_mode

__all__ = ["count_macs", "count_parameters", "measure_latencies", "time_in_turns"]

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
    flops: int = counter.get_total_flops()
    return flops // 2


def measure_latencies(models: Sequence[nn.Module], batch: Tensor, repeats: int = 31) -> list[float]:
    """Shortest of the times in milliseconds that each model takes for a batch, in evaluation mode, after a warm-up.

    They take turns, so that a machine that slows down does so for all of them; the shortest time is the one that other
    work on the machine disturbed the least. To see whether one network is faster than another, and how sure that is,
    use :func:`compare_latencies`.

    Args:
        models: the networks, on the device of the batch.
        batch: what they are run on.
        repeats: how often each is timed.
    """
    return [min(taken) for taken in time_in_turns(models, batch, repeats)]


@torch.no_grad()
def time_in_turns(
    models: Sequence[nn.Module], batch: Tensor, repeats: int, max_seconds: float = math.inf, fewest: int = 1
) -> list[list[float]]:
    """Times in milliseconds that each model takes for a batch, in evaluation mode, after a warm-up.

    Args:
        models: the networks, on the device of the batch. They take turns.
        batch: what they are run on.
        repeats: how often each is timed, at most.
        max_seconds: after this time no further turn begins, unless there were fewer than ``fewest``.
        fewest: how often each is timed, at least.

    Returns:
        For each model its times, in the order of the turns.
    """
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(evaluation_mode(model))
        begun = time.perf_counter()
        for turn in range(-_WARM_UP, repeats):
            if turn >= fewest and time.perf_counter() - begun > max_seconds:
                break
            for model, taken in zip(models, times, strict=True):
                if batch.is_cuda:
                    torch.cuda.synchronize(batch.device)
                start = time.perf_counter()
                model(batch)
                if batch.is_cuda:
                    torch.cuda.synchronize(batch.device)
                if turn >= 0:
                    taken.append(1e3 * (time.perf_counter() - start))
    return times
