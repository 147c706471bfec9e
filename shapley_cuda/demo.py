"""The demo: a real network ranked, pruned, evaluated and briefly retrained, beside two other rankings."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from .datasets import fashion_mnist_subset
from .estimate import Estimate
from .files import write_whole
from .game import ChannelGame
from .groups import find_groups
from .networks import pretrained
from .rankers import RankingProgress, rank
from .report import ResultRow, accuracy_curve, measure_latency, plot_results
from .surgery import PruningPlan, count_macs, count_parameters, plan_pruning, prune, save_pruned
from .training import Progress as TrainingProgress
from .training import evaluate, train

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
    network: str, keep: float, folder: Path, *, tolerance: float, epochs: int, seed: int, device: str, report: Report
) -> DemoResult:
    """Rank every prunable group of a shipped network by three methods, prune each to the same size, and compare.

    Values are estimated on the split "rank", retraining sees "train", accuracies are measured on "test".

    Args:
        network: name of a shipped network.
        keep: share of the channels to keep in every group.
        folder: where results go: results.json, plot.png, and for each method its plan and weights.
        tolerance: error at which the Shapley estimates stop, see :func:`~shapley_cuda.rankers.rank_permutation`.
        epochs: of retraining.
        seed: decides sampling and retraining.
        device: where to run.
        report: is told about progress.
    """
    model = pretrained(network).to(device)
    images, labels = (t.to(device) for t in fashion_mnist_subset("rank"))
    test_images, test_labels = fashion_mnist_subset("test")
    test = (test_images.to(device), test_labels.to(device))
    groups = [g for g in find_groups(model, images[:1]) if g.prunable]
    estimates: dict[str, dict[str, Estimate]] = {"permutation": {}, "magnitude": {}, "random": {}}
    for group in groups:
        game = ChannelGame(model, group, (images, labels))
        doing = f"ranking {group.name}, {group.n_players} channels"
        estimates["permutation"][group.name] = rank(
            game, tolerance=tolerance, seed=seed, on_progress=partial(report, doing)
        )
        estimates["magnitude"][group.name] = rank(game, "magnitude")
        estimates["random"][group.name] = rank(game, "random", seed=seed)
    n_channels = sum(g.n_players for g in groups)
    rows = [_row("unpruned", model, None, (n_channels, n_channels), test, None)]
    plans: dict[str, PruningPlan] = {}
    for method, by_group in estimates.items():
        doing = f"pruning and retraining after the {method} ranking"
        plans[method] = plan_pruning(model, by_group, keep, images)
        pruned = prune(model, plans[method], images[:100])
        retrained = copy.deepcopy(pruned)
        if epochs:
            train(
                retrained, *fashion_mnist_subset("train"), epochs=epochs, seed=seed,
                progress=partial(report, doing),
            )  # fmt: skip
        seconds = sum(e.seconds for e in by_group.values())
        kept = sum(len(plans[method].kept(g.name)) for g in groups)
        rows.append(_row(method, pruned, retrained if epochs else None, (kept, n_channels), test, seconds))
        save_pruned(retrained, plans[method], folder / method)
        for name, estimate in by_group.items():
            estimate.save(folder / method / f"values-{name}.json")
    report("measuring accuracy against size", None)
    curves = [accuracy_curve(model, by_group, test, _CURVE_SHARES) for by_group in estimates.values()]
    title = f"{network} on Fashion-MNIST, {keep:.0%} of the channels kept"
    largest = max((g for g in groups if g.n_players <= 128), key=lambda g: g.n_players, default=groups[0])
    plot_results(folder / "plot.png", title, rows, curves, estimates["permutation"][largest.name], plans["permutation"])
    record = {"title": title, "rows": [asdict(r) for r in rows], "curves": [asdict(c) for c in curves]}
    write_whole(folder / "results.json", json.dumps(record, indent=1).encode())
    return DemoResult(rows, folder, plans["permutation"])


def _row(
    method: str,
    model: nn.Module,
    retrained: nn.Module | None,
    kept: tuple[int, int],
    test: tuple[Tensor, Tensor],
    ranking_seconds: float | None,
) -> ResultRow:
    images = test[0]
    return ResultRow(
        method=method,
        kept=kept,
        parameters=count_parameters(model),
        macs=count_macs(model, images[:1]),
        latency_ms=measure_latency(model, images[:LATENCY_BATCH]),
        accuracy_before=evaluate(model, *test).accuracy,
        accuracy_after=None if retrained is None else evaluate(retrained, *test).accuracy,
        ranking_seconds=ranking_seconds,
    )
