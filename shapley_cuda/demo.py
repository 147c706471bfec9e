"""The demo: a real network ranked, pruned, evaluated and briefly retrained, beside two other rankings."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from .counting import count_macs, count_parameters, measure_latencies
from .datasets import fashion_mnist_subset
from .environment import current_time, describe_environment
from .estimate import Estimate
from .files import write_whole
from .game import ChannelGame
from .groups import find_groups
from .latency import compare_latencies
from .networks import pretrained
from .planning import plan_pruning
from .plans import PruningPlan
from .rankers import RankingProgress, rank
from .report import ResultRow, accuracy_curve, method_label, plot_results
from .run_record import RunRecord, Stage
from .size_curve import size_curve
from .storage import count_weight_bytes, save_pruned
from .surgery import prune
from .training import Progress as TrainingProgress
from .training import evaluate, find_recipe, train

__all__ = ["DemoResult", "run_demo"]

LATENCY_BATCH = 64
_CURVE_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Report = Callable[[str, RankingProgress | TrainingProgress | None], None]
"""Called with what is being done now and, where it takes time, how far it is."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and where it wrote it."""

    rows: list[ResultRow]
    folder: Path
    plan: PruningPlan


def run_demo(
    network: str,
    keep: float,
    folder: Path,
    *,
    tolerance: float,
    epochs: int,
    seed: int,
    device: str,
    command: Sequence[str],
    report: Report,
) -> DemoResult:
    """Rank every prunable group of a shipped network by three methods, prune each to the same size, and compare.

    Values are estimated on the split "rank", retraining sees "train", accuracies are measured on "test".

    Args:
        network: name of a shipped network.
        keep: share of the channels to keep in every group.
        folder: where results go: results.json, plot.png, and for each method its plan, weights, values and record.
        tolerance: error at which the Shapley estimates stop, see :class:`~shapley_cuda.rankers.Permutation`.
        epochs: of retraining.
        seed: decides sampling and retraining.
        device: where to run.
        command: the words of the command, for the records.
        report: is told about progress.
    """
    since = time.perf_counter()
    model = pretrained(network).to(device)
    images, labels = fashion_mnist_subset("rank").to(device)
    training, test = fashion_mnist_subset("train"), fashion_mnist_subset("test").to(device)
    found = find_groups(model, images[:1])
    groups = [g for g in found if g.prunable]
    estimates: dict[str, dict[str, Estimate]] = {"permutation": {}, "magnitude": {}, "random": {}}
    for group in groups:
        game = ChannelGame(model, group, (images, labels))
        doing = partial(report, f"ranking {group.name}, {group.size}")
        estimates["permutation"][group.name] = rank(game, tolerance=tolerance, seed=seed, on_progress=doing)
        estimates["magnitude"][group.name] = rank(game, "magnitude")
        estimates["random"][group.name] = rank(game, "random", seed=seed)

    plans = {method: plan_pruning(model, ranked, keep, images) for method, ranked in estimates.items()}
    pruned = {method: prune(model, plan, images[:100]) for method, plan in plans.items()}
    retrained: dict[str, nn.Module] = {}
    for method, network_before in pruned.items():
        retrained[method] = copy.deepcopy(network_before)
        if epochs:
            doing = partial(report, f"retraining after {method_label(method)} pruning")
            train(retrained[method], *training, epochs=epochs, seed=seed, progress=doing)
        save_pruned(retrained[method], plans[method], folder / method)
        for name, estimate in estimates[method].items():
            estimate.save(folder / method / f"values-{name}.json")

    report("measuring latency and accuracy against size", None)
    networks = {"unpruned": model} | pruned
    latencies = measure_latencies(list(networks.values()), test[0][:LATENCY_BATCH])
    n_channels = sum(g.n_players for g in groups)
    rows = [
        ResultRow(
            method=method,
            kept=(sum(len(plans[method].kept(g.name)) for g in groups) if method in plans else n_channels, n_channels),
            parameters=count_parameters(measured),
            macs=count_macs(measured, images[:1]),
            latency_ms=latency,
            accuracy_before=evaluate(measured, *test).accuracy,
            accuracy_after=evaluate(retrained[method], *test).accuracy if epochs and method in retrained else None,
            ranking_seconds=sum(e.seconds for e in estimates[method].values()) if method in estimates else None,
        )
        for (method, measured), latency in zip(networks.items(), latencies, strict=True)
    ]
    curves = [accuracy_curve(model, ranked, test, _CURVE_SHARES) for ranked in estimates.values()]
    for method, row in zip(plans, rows[1:], strict=True):
        accuracies = [rows[0].accuracy_before, row.accuracy_before, row.accuracy_after]
        RunRecord(
            command=tuple(command),
            named={"model": network, "data": "fashion-mnist", "seed": seed},
            stages=_stages(model, pruned[method], images[:1], accuracies),
            latencies=tuple(compare_latencies(model, pruned[method], test[0][:n]) for n in (1, LATENCY_BATCH)),
            n_test=len(test[1]),
            curve=size_curve(model, estimates[method], plans[method], images[:100], test),
            rounds=(),
            n_select=0,
            select_before=None,
            retraining=asdict(find_recipe("brief", epochs=epochs)) if epochs else None,
            refused={group.name: group.reason for group in found if group.reason is not None},
            environment=describe_environment(device),
            finished=current_time(),
            seconds=time.perf_counter() - since,
        ).save(folder / method / "results.json")
    title = f"{network} on Fashion-MNIST, {keep:.0%} of the channels of every layer kept"
    shown = max((g for g in groups if g.n_players <= 128), key=lambda g: g.n_players, default=groups[0]).name
    plot_results(folder / "plot.png", title, rows, curves, estimates["permutation"][shown], plans["permutation"])
    record = {"title": title, "rows": [asdict(r) for r in rows], "curves": [asdict(c) for c in curves]}
    write_whole(folder / "results.json", json.dumps(record, indent=1).encode())
    return DemoResult(rows, folder, plans["permutation"])


def _stages(model: nn.Module, pruned: nn.Module, sample: Tensor, accuracies: list[float | None]) -> tuple[Stage, ...]:
    """The original, the pruned and, where it has an accuracy, the retrained network."""
    costs = [(count_parameters(one), count_macs(one, sample), count_weight_bytes(one)) for one in (model, pruned)]
    stages = zip(("original", "pruned", "retrained"), (costs[0], costs[1], costs[1]), accuracies, strict=True)
    return tuple(Stage(name, *cost, accuracy) for name, cost, accuracy in stages if accuracy is not None)
