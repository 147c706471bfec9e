"""Latencies compared: two networks take turns, and what is said about them is as sure as it claims."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import time
from collections.abc import Iterable
from dataclasses import asdict

import pytest
import torch
from architectures import build
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda import latency


class Clock:
    """A clock that only networks move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def network(self, name: str, times: Iterable[float]) -> nn.Module:
        clock, passes = self, iter(times)

        class Timed(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                clock.now += next(passes)
                clock.ran.append(name)
                return x

        return Timed()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_compare_takes_turns_and_sums_up_the_times_after_the_warm_up(clock: Clock) -> None:
    before = clock.network("before", itertools.chain([9.0] * 3, [0.004, 0.002, 0.006, 0.008, 0.010, 0.012, 0.014]))
    after = clock.network("after", itertools.chain([7.0] * 3, [0.002] * 7))
    compared = sc.compare_latencies(before, after, torch.zeros(5, 1), turns=7)
    assert clock.ran == ["before", "after"] * 10
    assert compared.batch_size == 5
    assert (compared.turns, compared.device, compared.threads) == (7, "cpu", torch.get_num_threads())
    times = (compared.before.lower_quartile_ms, compared.before.median_ms, compared.before.upper_quartile_ms)
    assert times == pytest.approx((5, 8, 11))
    assert compared.after.median_ms == pytest.approx(2)
    assert compared.speed_up == pytest.approx(4)
    assert (compared.speed_up_low, compared.speed_up_high) == pytest.approx((1, 7))  # of seven, the outermost


def test_compare_pairs_times_of_the_same_turn(clock: Clock) -> None:
    slowing_down = [2.0**turn for turn in range(10)]  # the machine, not the network
    before = clock.network("before", (3e-3 * slow for slow in slowing_down))
    after = clock.network("after", (1e-3 * slow for slow in slowing_down))
    compared = sc.compare_latencies(before, after, torch.zeros(1), turns=7, max_seconds=math.inf)
    assert (compared.speed_up, compared.speed_up_low, compared.speed_up_high) == pytest.approx((3, 3, 3))


def test_compare_stops_after_its_time_but_not_before_seven_turns(clock: Clock) -> None:
    def compared(seconds: float, max_seconds: float) -> int:
        networks = [clock.network(name, itertools.repeat(seconds)) for name in ("before", "after")]
        return sc.compare_latencies(*networks, torch.zeros(1), max_seconds=max_seconds).turns

    assert compared(0.1, 20.0) == 31
    assert compared(100.0, 20.0) == 7
    assert compared(1.0, 39.5) == 17  # 3 of warm-up and 17, of 2 seconds each


@pytest.mark.parametrize(
    ("low", "high", "verdict", "text"),
    [
        (1.01, 1.5, "faster", "at batch 8 pruning made the network 1.25 times as fast (95 % interval 1.01 to 1.50): "
         "0.520 ± 0.020 ms before, 1235 ± 100 ms after"),
        (0.9, 1.5, "no faster", "at batch 8 pruning did not speed the network up: 0.520 ± 0.020 ms before, "
         "1235 ± 100 ms after, 1.25 times as fast (95 % interval 0.90 to 1.50)"),
        (1.0, 1.5, "no faster", "at batch 8 pruning did not speed the network up: "),
        (0.9, 1.0, "no faster", "at batch 8 pruning did not speed the network up: "),
        (0.8, 0.9, "slower", "at batch 8 pruning slowed the network down: 0.520 ± 0.020 ms before, "),
    ],
)  # fmt: skip
def test_verdict_is_what_the_interval_leaves_no_doubt_about(low: float, high: float, verdict: str, text: str) -> None:
    before, after = sc.LatencyTimes(0.52, 0.50, 0.54), sc.LatencyTimes(1235.0, 1150, 1350)
    compared = sc.LatencyComparison(8, before, after, 1.25, low, high, 31, "cpu", 2)
    assert compared.verdict == verdict
    assert str(compared).startswith(text)


def test_comparison_comes_back_from_its_record() -> None:
    times = sc.LatencyTimes(2.0, 1.0, 3.0)
    compared = sc.LatencyComparison(8, times, times, 1.0, 0.5, 2.0, 31, "cpu", 2)
    assert sc.LatencyComparison.from_record(json.loads(json.dumps(asdict(compared)))) == compared


@pytest.mark.parametrize("n", [7, 16, 31])
def test_interval_holds_the_median_as_often_as_it_says(n: int) -> None:
    generator, tries = random.Random(0), 4000
    held = 0
    for _ in range(tries):
        low, high = latency._median_interval([generator.expovariate(1.0) for _ in range(n)])
        held += low <= math.log(2) <= high
    tails = [sum(math.comb(n, below) for below in range(k + 1)) / 2**n for k in range(n)]
    promised = 1 - 2 * max(tail for tail in tails if tail <= 0.025)
    assert promised >= 0.95
    assert abs(held / tries - promised) < 4 * math.sqrt(promised * (1 - promised) / tries)


def test_compare_leaves_batch_statistics_and_modes_alone() -> None:
    model, inputs, _ = build("vgg")
    model.train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    sc.compare_latencies(model, copy.deepcopy(model), inputs, turns=7)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model[1].training


def test_compare_too_few_turns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^compare_latencies: turns must be 7 or more, got 6$"):
        sc.compare_latencies(nn.Identity(), nn.Identity(), torch.zeros(1), turns=6)
