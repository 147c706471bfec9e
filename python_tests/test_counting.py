"""What a network costs is counted as by hand, and counting changes nothing."""

from __future__ import annotations

import copy
import itertools
import time

import pytest
import torch
from architectures import build
from torch import nn

import shapley_cuda as sc
from shapley_cuda.counting import measure_latencies


def test_count_macs_leaves_batch_statistics_and_modes_alone() -> None:
    model, inputs, _ = build("vgg")
    model.train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    assert sc.count_macs(model, inputs[:1]) == 6 * 27 * 144 + 8 * 54 * 36 + 7 * 72 * 36 + 8 * 28 + 5 * 8
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model[1].training


def test_measure_latencies_is_the_shortest_time_and_skips_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    slow_passes = itertools.chain([0.0005] * 3, itertools.cycle([0.004, 0.002, 0.9]))

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += next(slow_passes)
            return x

    class Fast(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += 0.001
            return x

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    latencies = measure_latencies([Slow(), Fast()], torch.zeros(1), repeats=9)
    assert latencies == pytest.approx([2.0, 1.0])


def test_measure_latencies_leaves_batch_statistics_and_modes_alone() -> None:
    model, inputs, _ = build("vgg")
    model.train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    measure_latencies([model], inputs, repeats=1)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model[1].training
