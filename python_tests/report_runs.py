"""Runs to make reports of: small ones, one of many layers, and one that a stranger has made with ill will."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

import shapley_cuda as sc
from shapley_cuda.html_report import Cut, Run
from shapley_cuda.latency import LatencyComparison, LatencyTimes
from shapley_cuda.run_record import RoundAccuracies, RunRecord, SizePoint, Stage

HOSTILE = (
    '</title></style><script src="https://evil.example/x.js">alert(1)</script><img src=x onerror=alert(2)> & "\' '
    "\x00\ud800"
)
LAYERS = {"conv1": (20, 14), "conv2": (50, 35), "fc1": (500, 350)}


def estimate(group: str, n: int, *, method: str = "permutation", has_errors: bool = True, seed: int = 0) -> sc.Estimate:
    """Values as layers have them: most are small, a few are large, one or two do harm."""
    generator = torch.Generator().manual_seed(seed + n)
    values = torch.rand(n, generator=generator, dtype=torch.float64) ** 3 / n - 0.02 / n
    errors = (0.01 + 0.04 * torch.rand(n, generator=generator, dtype=torch.float64)) / n if has_errors else None
    spread = None if errors is None else 2 * errors
    return sc.Estimate(
        group, method, values, errors, 1000 * n, 0.01 * n, seed, "tolerance", {"tolerance": 0.05}, spread
    )


def cut(layers: dict[str, tuple[int, int]], **how: object) -> Cut:
    """Estimates of layers, by their numbers of channels and how many went, and the plan that follows."""
    estimates = {name: estimate(name, n, **how) for name, (n, _) in layers.items()}  # type: ignore[arg-type]
    removed = {name: sorted(estimates[name].ranking()[:gone].tolist()) for name, (_, gone) in layers.items()}
    n_players = {name: n for name, (n, _) in layers.items()}
    plan = sc.PruningPlan(removed, n_players, (431_080, 40_081), (2_293_000, 267_900), (1, 1, 28, 28), None,
                          {"keep": 0.3, "across": "uniform", "normalise": "none", "multiple_of": 1})  # fmt: skip
    return Cut(plan, estimates)


def latency(batch_size: int, before_ms: float, after_ms: float) -> LatencyComparison:
    times = [LatencyTimes(ms, 0.97 * ms, 1.05 * ms) for ms in (before_ms, after_ms)]
    ratio = before_ms / after_ms
    return LatencyComparison(batch_size, *times, ratio, 0.95 * ratio, 1.05 * ratio, 31, "cpu", 2)


def record(**fields: object) -> RunRecord:
    """A run with everything, but for the fields that are given."""
    sizes = (431_080, 2_293_000, 1_724_320), (40_081, 267_900, 160_324)
    points = [(0.9, 0.905), (0.6, 0.89), (0.3, 0.83), (0.15, 0.7), (0.02, 0.3)]
    complete = {
        "command": ("shapley-cuda", "prune", "--values", "runs/the values", "--keep", "0.3", "--epochs", "2"),
        "named": {"model": "lenet5", "checkpoint": None, "data": "fashion-mnist", "metric": None, "seed": 0},
        "stages": (
            Stage("original", *sizes[0], 0.909),
            Stage("pruned", *sizes[1], 0.611),
            Stage("retrained", *sizes[1], 0.852),
        ),
        "latencies": (latency(1, 0.5, 0.51), latency(64, 3.3, 0.8)),
        "n_test": 1000,
        "curve": tuple(SizePoint(int(431_080 * s), int(2_293_000 * s), a) for s, a in points),
        "rounds": (),
        "n_select": 0,
        "select_before": None,
        "retraining": {"epochs": 2, "lr": 0.01},
        "refused": {"fc2": "its channels are the network's outputs"},
        "environment": {"device": "cpu", "threads": "2", "torch": "2.13.0"},
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
    }  # fmt: skip
    return RunRecord(**complete | fields)  # type: ignore[arg-type]


def complete_run() -> Run:
    ranking = ("shapley-cuda", "rank", "--model", "lenet5", "--out", "runs/the values")
    return Run("pruned", cut(LAYERS), (), record(), record().named, {"conv9": "it mixes channels"}, ranking)


def many_layers() -> Run:
    """Forty layers of up to 2,048 channels, with long names."""
    sizes = [64 * 2 ** min(5, number // 8) for number in range(40)]
    layers = {
        f"features.denseblock{number // 8 + 1}.denselayer{number % 8 + 1}.bottleneck.conv{number}": (n, n * 5 // 8)
        for number, n in enumerate(sizes)
    }
    return Run("deep", cut(layers), (), record(), record().named)


def hostile_run() -> Run:
    """Everything that a record has room for is an attack on the page."""
    layers = {f"{HOSTILE}{number}": (4, 2) for number in range(2)}
    wicked = cut(layers, method=HOSTILE)
    stages = record().stages
    renamed = tuple(Stage(HOSTILE, s.parameters, s.macs, s.weight_bytes, s.accuracy) for s in stages)
    written = record(
        command=(HOSTILE,), named={"model": HOSTILE, HOSTILE: HOSTILE, "metric": HOSTILE}, stages=renamed,
        retraining={HOSTILE: [HOSTILE]}, refused={HOSTILE: HOSTILE}, environment={HOSTILE: HOSTILE}, finished=HOSTILE,
        latencies=(LatencyComparison(**vars(record().latencies[0]) | {"device": HOSTILE}),),
    )  # fmt: skip
    for found in wicked.estimates.values():
        found.options[HOSTILE] = {HOSTILE: [math.inf]}
    return Run(HOSTILE, wicked, (), written, written.named, {HOSTILE: HOSTILE}, (HOSTILE,))


def run_in_rounds() -> Run:
    """Two rounds, by a method that tells no errors."""
    first = cut({"conv1": (20, 7), "fc1": (500, 184)}, method="taylor", has_errors=False)
    second = cut({"conv1": (13, 5), "fc1": (316, 116)}, method="taylor", has_errors=False, seed=1)
    stages = (record().stages[0], replace(record().stages[1], name="after 2 rounds", accuracy=0.87))
    rounds = (RoundAccuracies(0.82, 0.85, 0.9), RoundAccuracies(0.57, 0.6, 0.88))
    written = record(stages=stages, curve=(), rounds=rounds, n_select=500, select_before=0.92)
    whole = Cut(cut({"conv1": (20, 12), "fc1": (500, 300)}).plan, {})
    return Run("rounds", whole, (first, second), written)


def bare_run() -> Run:
    """A plan alone."""
    return Run("bare", Cut(cut(LAYERS).plan, {}))
