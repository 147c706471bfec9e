"""Counting what is alive at once, from which a game tells how many rows fit its memory budget."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from shapley_cuda.memory import PeakMemory, default_budget

KIBI = torch.zeros(256)  # 1024 bytes


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    with PeakMemory() as memory:
        first = KIBI + 1
        second = first * 2
        del first
        third = second + 1
        del second, third
        fourth = torch.cat([KIBI, KIBI])
    assert memory.peak == 2 * 1024
    assert memory.live == fourth.untyped_storage().nbytes() == 2 * 1024


def test_peak_memory_views_and_what_was_there_before_cost_nothing() -> None:
    weight = torch.zeros(64, 64)
    with PeakMemory() as memory:
        F.linear(torch.zeros(1, 64), weight.t().t())
        KIBI.view(16, 16).t()[3:].detach()
        KIBI.add_(0)
    assert memory.peak == 2 * 64 * 4  # the input and the output of the linear layer


def test_peak_memory_of_several_outputs_counts_each_once() -> None:
    with PeakMemory() as memory:
        halves = torch.arange(256.0).chunk(2)  # views of one kibibyte
        values, indices = halves[0].topk(4)
    assert memory.peak == 1024 + values.untyped_storage().nbytes() + indices.untyped_storage().nbytes()


def test_default_budget_of_the_cpu_is_32_mib() -> None:
    assert default_budget(torch.device("cpu")) == 32 * 1024 * 1024
