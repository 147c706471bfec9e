"""The study: rankings compared with exact values, with the oracle, and by what pruning by them leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from torch import nn

from ..counting import count_parameters
from ..datasets import SPLITS, Split, fashion_mnist, fashion_mnist_subset
from ..environment import describe_environment
from ..estimate import Estimate
from ..game import ChannelGame
from ..groups import find_groups, pick_group
from ..networks import pretrained
from ..rankers import RankingProgress
from ..training import Progress as TrainingProgress
from ..training import evaluate
from .accuracies import masked_accuracies, retrained_accuracies
from .compare import Report, Run, compare_rankings
from .config import StudyConfig
from .results import StudyResult

__all__ = ["run_study"]


def run_study(
    config: StudyConfig,
    report: Report | None = None,
    *,
    model: nn.Module | None = None,
    splits: Mapping[str, Split] | None = None,
) -> StudyResult:
    """Compare rankings of a network's layers with each other, with exact values and with the oracle.

    Values are estimated on the split "rank", retraining sees "train" and chooses its epoch on "select", accuracies are
    measured on "test". The same configuration gives the same numbers on one machine, but for the times.

    Args:
        config: what to compare.
        report: is told about progress.
        model: a network in evaluation mode, on the device of the configuration; default the shipped one that the
            configuration names. It is not changed.
        splits: by name, all of :data:`~shapley_cuda.datasets.SPLITS`. Default: what ships of Fashion-MNIST, with the
            full test set where that is installed.

    Raises:
        GroupError: a layer does not exist or cannot be pruned.
        ValueError: a split is missing or is another than its name says.

    Source: the comparisons in Adamczewski, Li, Van Gool, "Shapley Pruning for Neural Network Compression", 2024.

    Example:
        >>> result = sc.run_study(sc.StudyConfig(network="lenet5_bn", layers=("conv1",), passes=(2, 8)))
        >>> sc.write_study(result, "runs/study")
    """
    start = time.perf_counter()
    report = _no_report if report is None else report
    model = pretrained(config.network).to(config.device) if model is None else model
    splits = _prepared(_shipped_splits() if splits is None else splits, config)
    found = find_groups(model, splits["rank"].images[:1])
    groups = [pick_group(found, name) for name in config.layers] or [group for group in found if group.prunable]

    compared = [
        compare_rankings(ChannelGame(model, group, splits["rank"], metric=config.metric), config, report)
        for group in groups
    ]
    rankings = _of_every_group([estimates for _, estimates in compared])
    return StudyResult(
        config=config,
        layers=tuple(layer for layer, _ in compared),
        unpruned=evaluate(model, *splits["test"]).accuracy,
        parameters=count_parameters(model),
        n_test=len(splits["test"].labels),
        accuracies=masked_accuracies(model, groups, rankings, config, splits["test"], report),
        retrained=retrained_accuracies(model, rankings, config, splits, report),
        seconds=time.perf_counter() - start,
        environment=describe_environment(config.device),
    )


def _no_report(doing: str, progress: RankingProgress | TrainingProgress | None) -> None:
    del doing, progress


def _shipped_splits() -> dict[str, Split]:
    splits = {name: fashion_mnist_subset(name) for name in SPLITS}
    with suppress(FileNotFoundError):  # what ships will do
        splits["test"] = fashion_mnist("test")
    return splits


def _prepared(splits: Mapping[str, Split], config: StudyConfig) -> dict[str, Split]:
    """The splits on the device, no more of them than is wanted."""
    most = {"rank": config.n_samples, "test": config.n_test}
    prepared = {}
    for name in SPLITS:
        split = splits.get(name)
        if split is None or split.name != name:
            raise ValueError(f"splits must hold one named {name!r} under that name, got {split!r}")
        prepared[name] = split.first(min(len(split.labels), most.get(name, len(split.labels)))).to(config.device)
    return prepared


def _of_every_group(estimates: list[dict[Run, Estimate]]) -> dict[Run, dict[str, Estimate]]:
    """Regroup by method and seed what ranks all of the groups."""
    complete = [run for run in estimates[0] if all(run in of_group for of_group in estimates)]
    return {run: {of_group[run].group: of_group[run] for of_group in estimates} for run in complete}
