"""A whole network pruned: ranked, planned, cut, recalibrated and retrained, at once or in rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .estimate import Estimate
from .exactness import check_exact
from .groups import Group, GroupError, find_groups
from .kept import as_recorded, default_least, kept_channels, least_kept
from .planning import measured_latency, plan_of_removed, plan_pruning
from .plans import PruningPlan
from .recalibration import recalibrate_batchnorm
from .surgery import prunable_groups, prune
from .training import Progress, Recipe, TrainingHistory, evaluate, find_recipe, train

__all__ = ["PrunedNetwork", "PruningRound", "RankGroup", "prune_network"]

Data = tuple[Tensor, Tensor]
RankGroup = Callable[[nn.Module, Group, Data], Estimate | Tensor]
"""Values the channels of one group of a network, in evaluation mode, on the data to rank on."""

# What a split may not be used for: a choice made on it would make its accuracies too good.
_REFUSED = {"rank_on": ("select", "test"), "select_on": ("test",), "train_on": ("select", "test")}
_EXAMPLES = 64


@dataclass(frozen=True)
class PruningRound:
    """What one round did. Accuracies are those on the selection split.

    Attributes:
        values: for each group, by name, what its ranking gave; groups of a single channel are not ranked.
        plan: what was removed, in the numbering of the network that the round began with.
        accuracy_pruned: right after the cut.
        accuracy_recalibrated: after BatchNorm's statistics were taken anew; None where they were not.
        accuracy_retrained: after retraining; None where there was none.
        training: what retraining did.
    """

    values: dict[str, Estimate | Tensor]
    plan: PruningPlan
    accuracy_pruned: float
    accuracy_recalibrated: float | None
    accuracy_retrained: float | None
    training: TrainingHistory | None


@dataclass(frozen=True)
class PrunedNetwork:
    """What :func:`prune_network` made.

    Attributes:
        model: the pruned network, in evaluation mode.
        plan: what was removed in all rounds together, in the numbering of the original network.
        accuracy_before: of the original, on the selection split.
        rounds: what each round did.
    """

    model: nn.Module
    plan: PruningPlan
    accuracy_before: float
    rounds: tuple[PruningRound, ...]


def prune_network(
    model: nn.Module,
    rank_group: RankGroup,
    groups: Iterable[str] | None = None,
    *,
    rank_on: Data,
    select_on: Data,
    train_on: Data | None = None,
    keep: float | Mapping[str, int | float] | None = None,
    macs: float | None = None,
    parameters: float | None = None,
    latency: float | None = None,
    across: str = "uniform",
    normalise: str = "none",
    multiple_of: int = 1,
    keep_at_least: float | Mapping[str, int | float] | None = None,
    example_input: Tensor | None = None,
    rounds: int = 1,
    recalibrate: bool = False,
    retrain: str | Recipe | None = None,
    seed: int = 0,
    report: Callable[[str, Progress | None], None] | None = None,
) -> PrunedNetwork:
    """Rank all groups of a network, prune them together and retrain, at once or in rounds.

    Each round ranks every group on the network as it is then, cuts the least valuable channels of all of them, and
    recalibrates and retrains if that is wanted. Over the rounds what is left shrinks geometrically to the target: with
    a target share t, round r of R leaves t^(r/R).

    Args:
        model: the network; unchanged.
        rank_group: called with the network, a :class:`~shapley_cuda.Group` and ``rank_on``, for each group in turn;
            gives its estimate, or values ``[C]``.
        groups: names of the groups to prune. Default: those that ``keep`` names, else all that can be pruned
            exactly.
        rank_on: images and labels that rankings see, and nothing else does.
        select_on: images and labels that accuracies are measured on, and the best epoch of retraining is chosen by.
        train_on: images and labels to retrain on; recalibration takes the images.
        keep: see :func:`plan_pruning`, as for the next seven; exactly one of ``keep``, ``macs``, ``parameters`` and
            ``latency``.
        macs: a budget, as a share of the original.
        parameters: the same.
        latency: the same.
        across: ``"uniform"`` or ``"global"``.
        normalise: ``"none"`` or ``"mean"``.
        multiple_of: what kept numbers are rounded up to.
        keep_at_least: what a group keeps of its original channels, after all rounds together; the default as there.
        example_input: the batch whose latency counts, and on which each cut is verified. Default: the first 64 images
            of ``rank_on``.
        rounds: in how many rounds to prune, at least 1.
        recalibrate: take BatchNorm's statistics anew after each cut, see :func:`recalibrate_batchnorm`.
        retrain: how to train after each cut: a :class:`Recipe` or the name of one. None: not at all.
        seed: of retraining.
        report: called with what is being done, and while training with how far it is.

    Returns:
        The pruned network, the plan from the original to it (``prune(model, plan, ...)`` has the same shape, and
        :func:`save_pruned` takes both), and what each round did.

    Raises:
        ValueError: an argument is out of range, a budget is out of reach (told before anything is ranked), or a split
            is used for what it may not be: "test" for anything here, "select" for ranking or training.
        GroupError: a group does not exist or cannot be pruned.
        TypeError: an argument is of another type.

    Example:
        >>> def rank_group(network, group, data):
        ...     return sc.rank(sc.ChannelGame(network, group, data), tolerance=0.05)
        >>> splits = {f"{use}_on": sc.fashion_mnist_subset(use) for use in ("rank", "select", "train")}
        >>> result = sc.prune_network(model, rank_group, **splits, macs=0.3, rounds=3, retrain="brief")
        >>> print(result.plan, [r.accuracy_retrained for r in result.rounds])
    """
    _check_splits(rank_on=rank_on, select_on=select_on, train_on=train_on)
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"prune_network: rounds must be a positive integer, got {rounds!r}")
    recipe = None if retrain is None else find_recipe(retrain)
    if train_on is None and (recalibrate or recipe is not None):
        raise ValueError("prune_network: train_on must be given to recalibrate or retrain, got None")
    report = report or (lambda doing, progress: None)
    batch = rank_on[0][:_EXAMPLES] if example_input is None else example_input
    original = copy.deepcopy(model).eval()
    named = _groups_to_prune(original, keep if groups is None and isinstance(keep, Mapping) else groups, batch)
    how: dict[str, Any] = {"across": across, "normalise": normalise, "multiple_of": multiple_of}
    goals: dict[str, Any] = {"keep": keep, "macs": macs, "parameters": parameters, "latency": latency}
    # Before the long work: is this a plan at all, and within reach?
    nothing_known = {name: torch.zeros(group.n_players) for name, group in named.items()}
    plan_pruning(original, nothing_known, example_input=batch, keep_at_least=keep_at_least, **goals, **how)
    goal, target = next((name, value) for name, value in goals.items() if value is not None)
    schedule = _Schedule(goal, target, named, across, rounds)
    keep_at_least = default_least(across) if keep_at_least is None else keep_at_least
    floors = least_kept({name: (group.name, group.n_players) for name, group in named.items()}, keep_at_least)

    network, done = original, list[PruningRound]()
    alive = {group.name: list(range(group.n_players)) for group in named.values()}
    for number in range(1, rounds + 1):
        values: dict[str, Estimate | Tensor] = {}
        for group in prunable_groups(network, alive, batch[:1]):
            if group.n_players > 1:
                report(f"round {number} of {rounds}: ranking {group.name}, {group.size}", None)
                values[group.name] = rank_group(network, group, rank_on)
        single = {name: torch.zeros(1) for name, channels in alive.items() if len(channels) == 1}
        step_goal = schedule.next_goal(number, alive)
        rankings = {name: (values | single)[name] for name in alive}
        least = None if keep_at_least is None else {name: floors[name] for name in alive}
        step = plan_pruning(network, rankings, example_input=batch, keep_at_least=least, **step_goal, **how)
        schedule.spend(step)
        alive = {name: [channels[c] for c in step.kept(name)] for name, channels in alive.items()}
        network = prune(network, step, batch)
        pruned = evaluate(network, *select_on).accuracy
        recalibrated = retrained = history = None
        if recalibrate and train_on is not None:
            recalibrate_batchnorm(network, train_on[0])
            recalibrated = evaluate(network, *select_on).accuracy
        if recipe is not None and train_on is not None:
            doing = partial(report, f"round {number} of {rounds}: retraining")
            history = train(network, *train_on, recipe=recipe, select=select_on, seed=seed, progress=doing)
            retrained = max(history.select_accuracies)
        done.append(PruningRound(values, step, pruned, recalibrated, retrained, history))

    removed = {group.name: sorted(set(range(group.n_players)) - set(alive[group.name])) for group in named.values()}
    whole = plan_of_removed(
        original,
        network,
        removed,
        {group.name: group.n_players for group in named.values()},
        batch[:1],
        measured_latency(original, network, batch) if goal == "latency" else None,
        {goal: as_recorded(target), **how, "keep_at_least": as_recorded(keep_at_least), "rounds": rounds},
    )
    return PrunedNetwork(network, whole, evaluate(original, *select_on).accuracy, tuple(done))


def _groups_to_prune(network: nn.Module, names: Iterable[str] | None, batch: Tensor) -> dict[str, Group]:
    """The groups that were named, by those names; else all that can be pruned exactly, which is tried on the batch."""
    if names is not None:
        names = list(names)
        named = dict(zip(names, prunable_groups(network, names, batch[:1]), strict=True))
        for group in named.values():
            check_exact(network, group, batch)
        return named
    named = {}
    for group in find_groups(network, batch[:1]):
        if group.prunable:
            with suppress(GroupError):
                check_exact(network, group, batch)
                named[group.name] = group
    return named


class _Schedule:
    """What each round is to leave: shares on a geometric line from the whole network to the target."""

    def __init__(self, goal: str, target: Any, named: Mapping[str, Group], across: str, rounds: int):
        self._goal, self._target, self._rounds = goal, target, rounds
        self._left = 1.0
        self._kept: dict[str, tuple[int, int]] | None = None
        if goal == "keep" and across == "uniform":
            self._kept = {}
            for name, group in named.items():
                share = target[name] if isinstance(target, Mapping) else target
                kept = kept_channels(name, group.n_players, share, is_number_allowed=isinstance(target, Mapping))
                self._kept[group.name] = (group.n_players, kept)

    def next_goal(self, number: int, alive: Mapping[str, list[int]]) -> dict[str, Any]:
        """What to ask of the plan of a round, whose network may be smaller than it had to be."""
        progress = number / self._rounds
        if self._kept is None:
            return {self._goal: min(1.0, self._target**progress / self._left)}
        shrunk = {name: max(kept, round(n * (kept / n) ** progress)) for name, (n, kept) in self._kept.items()}
        return {"keep": {name: min(kept, len(alive[name])) for name, kept in shrunk.items()}}

    def spend(self, plan: PruningPlan) -> None:
        """Note what a round left."""
        if self._goal == "latency":
            assert plan.latency is not None
            self._left *= plan.latency.after_ms / plan.latency.before_ms
        elif self._goal == "keep":
            self._left *= sum(len(plan.kept(name)) for name in plan.n_players) / sum(plan.n_players.values())
        else:
            before, after = plan.macs if self._goal == "macs" else plan.parameters
            self._left *= after / before


def _check_splits(**uses: Data | None) -> None:
    for use, data in uses.items():
        name = getattr(data, "name", None)
        if name in _REFUSED[use]:
            raise ValueError(
                f"prune_network: {use} must not be the split {name!r}: what is chosen on it would make its accuracies "
                "too good"
            )
