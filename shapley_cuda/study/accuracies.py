"""What is left of a network that was pruned by a ranking, before and after retraining."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..counting import count_parameters
from ..datasets import Split
from ..estimate import Estimate
from ..groups import Group
from ..masking import masked_outputs
from ..planning import plan_pruning
from ..recalibration import recalibrate_batchnorm
from ..surgery import prune
from ..training import evaluate, train
from .compare import Report, Run
from .config import METHODS, StudyConfig
from .results import MaskedAccuracy, Retrained

__all__ = ["Rankings", "masked_accuracies", "retrained_accuracies"]

_BATCH = 500

Rankings = Mapping[Run, Mapping[str, Estimate]]
"""By method and seed, then by group: those that rank every group under study."""


def masked_accuracies(
    model: nn.Module, groups: list[Group], rankings: Rankings, config: StudyConfig, test: Split, report: Report
) -> tuple[MaskedAccuracy, ...]:
    """Accuracy with the least valuable share of every group masked, which is what pruning it would give."""
    known: dict[bytes, float] = {}
    points = []
    for (method, seed), estimates in _pruned_by(rankings, config):
        report(f"accuracy, pruned by {METHODS[method].label}", None)
        for share in config.shares:
            coalitions = [(group, _kept_mask(estimates[group.name], share)) for group in groups]
            key = torch.cat([mask for _, mask in coalitions]).numpy().tobytes()
            if key not in known:  # rankings often agree
                known[key] = _masked_accuracy(model, coalitions, test)
            points.append(MaskedAccuracy(method, seed, share, known[key]))
    return tuple(points)


def retrained_accuracies(
    model: nn.Module, rankings: Rankings, config: StudyConfig, splits: Mapping[str, Split], report: Report
) -> tuple[Retrained, ...]:
    """Prune, measure, retrain, measure. Methods without a seed are retrained with every seed as well."""
    if not config.epochs:
        return ()
    points = []
    for (method, own_seed), estimates in _pruned_by(rankings, config):
        for share in config.retrained_shares:
            keep = {name: int(_kept_mask(estimate, share).sum()) for name, estimate in estimates.items()}
            pruned = prune(
                model, plan_pruning(model, estimates, keep, splits["rank"].images), splits["rank"].images[:100]
            )
            before = evaluate(pruned, *splits["test"]).accuracy
            recalibrated = _recalibrated_accuracy(pruned, splits)
            doing = f"retraining, {share:.0%} removed by {METHODS[method].label}"
            for seed in config.seeds[: config.pruning_seeds] if own_seed is None else (own_seed,):
                retrained = copy.deepcopy(pruned)
                train(
                    retrained, *splits["train"], epochs=config.epochs, select=splits["select"], seed=seed,
                    progress=partial(report, doing),
                )  # fmt: skip
                after = evaluate(retrained, *splits["test"]).accuracy
                points.append(Retrained(method, seed, share, count_parameters(pruned), before, recalibrated, after))
    return tuple(points)


def _pruned_by(rankings: Rankings, config: StudyConfig) -> Iterator[tuple[Run, Mapping[str, Estimate]]]:
    seeds = (None, *config.seeds[: config.pruning_seeds])
    return ((run, estimates) for run, estimates in rankings.items() if run[0] in config.pruned_by and run[1] in seeds)


def _kept_mask(estimate: Estimate, share: float) -> Tensor:
    n_players = len(estimate.values)
    mask = torch.ones(n_players, dtype=torch.bool)
    mask[estimate.ranking()[: min(n_players - 1, round(share * n_players))]] = False
    return mask


def _masked_accuracy(model: nn.Module, coalitions: list[tuple[Group, Tensor]], test: Split) -> float:
    right = sum(
        int((masked_outputs(model, coalitions, images).argmax(1) == labels).sum())
        for images, labels in zip(test.images.split(_BATCH), test.labels.split(_BATCH), strict=True)
    )
    return right / len(test.labels)


def _recalibrated_accuracy(pruned: nn.Module, splits: Mapping[str, Split]) -> float | None:
    recalibrated = copy.deepcopy(pruned)
    n_layers = recalibrate_batchnorm(recalibrated, splits["train"].images)
    return evaluate(recalibrated, *splits["test"]).accuracy if n_layers else None
