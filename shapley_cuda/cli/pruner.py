"""What ``shapley-cuda prune`` does with values: the plan, the cut, what follows it, and the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from torch import Tensor, nn

from ..counting import count_macs, count_parameters
from ..estimate import Estimate
from ..files import write_whole
from ..game import ChannelGame
from ..groups import Group, find_groups
from ..latency import LatencyComparison, compare_latencies
from ..planning import plan_pruning
from ..plans import PruningPlan
from ..pruning import prune_network
from ..rankers import Ranker, RankingProgress
from ..recalibration import recalibrate_batchnorm
from ..storage import save_pruned
from ..surgery import prune
from ..training import Progress as TrainingProgress
from ..training import Recipe, evaluate, train
from .errors import blame
from .goals import Goal
from .subject import Named, Subject

__all__ = ["Pruned", "Pruner", "Stage"]

_VERIFIED = 64  # samples that the cut is verified on

Show = Callable[[str, RankingProgress | TrainingProgress | None], None]


@dataclass(frozen=True)
class Stage:
    """The network at some stage.

    Attributes:
        name: of the stage.
        parameters: number of parameters.
        macs: multiply-accumulates for one sample.
        accuracy: on the split test, as a share of 1; None where there is none.
    """

    name: str
    parameters: int
    macs: int
    accuracy: float | None


@dataclass(frozen=True)
class Pruned:
    """A pruned network and how it came about.

    Attributes:
        model: the network.
        plan: what was removed.
        stages: measurements, the original first.
        latencies: of the original and of the pruned network, for a batch of one sample and a large one.
        n_test: samples of the split test; 0 where there is none.
        named: the original network and the data.
    """

    model: nn.Module
    plan: PruningPlan
    stages: list[Stage]
    latencies: list[LatencyComparison]
    n_test: int
    named: Named

    def save(self, folder: Path) -> None:
        """Write the plan, the weights and the measurements."""
        save_pruned(self.model, self.plan, folder)
        record = {
            "named": asdict(self.named),
            "stages": [asdict(stage) for stage in self.stages],
            "latencies": [asdict(latency) for latency in self.latencies],
            "n_test": self.n_test,
        }
        write_whole(folder / "results.json", json.dumps(record, indent=1).encode())

    def speed(self) -> str:
        """What became of the latencies, in words: MACs alone do not tell."""
        lines = [f"{text[0].upper()}{text[1:]}." for text in map(str, self.latencies)]
        if all(latency.verdict == "faster" for latency in self.latencies):
            return "\n".join(lines)
        if any(len(self.plan.kept(group)) % 8 for group, removed in self.plan.removed.items() if removed):
            lines.append(
                "Layers whose width is no multiple of 8 often run no faster for being cut: try --multiple-of 8."
            )
        return "\n".join(lines)

    def table(self) -> Table:
        """The measurements."""
        table = Table()
        table.add_column("network", no_wrap=True)
        headings = ["parameters", "MACs", *(f"latency, batch {latency.batch_size}" for latency in self.latencies)]
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        if self.n_test:
            table.add_column(f"accuracy on {self.n_test:,} test samples", justify="right")
        whole = self.stages[0]
        for stage in self.stages:
            cells = [
                f"{stage.parameters:,}{_share(stage.parameters, whole.parameters)}",
                f"{_count(stage.macs)}{_share(stage.macs, whole.macs)}",
                *(_latency(latency, is_original=stage is whole) for latency in self.latencies),
            ]
            table.add_row(stage.name, *cells, *([] if stage.accuracy is None else [f"{stage.accuracy:.1%}"]))
        return table


class Pruner:
    """Prunes a network by values.

    Args:
        subject: the network and the data.
        goal: how much of it is to be left.
        how: the other options of :func:`~shapley_cuda.plan_pruning`.
        recalibrate: take BatchNorm's statistics anew after the cut.
        retraining: how to retrain; None for not at all.
        seed: of the retraining.
        show: is told about progress.
        batch: samples in the large batch that latency is measured on.
    """

    def __init__(
        self,
        subject: Subject,
        goal: Goal,
        how: Mapping[str, Any],
        *,
        recalibrate: bool,
        retraining: Recipe | None,
        seed: int,
        show: Show,
        batch: int,
    ):
        self._subject, self._goal, self._how = subject, goal, how
        self._recalibrate, self._retraining, self._seed, self._show = recalibrate, retraining, seed, show
        self._batch = subject.inputs[:batch]
        self._train = subject.labelled("train") if retraining is not None else None
        if retraining is not None and self._train is None:
            raise typer.BadParameter("the data have no split train with classes to retrain on", param_hint="--epochs")
        self._select = subject.labelled("select") if retraining is not None else None
        self._test = subject.labelled("test")

    def plan(self, values: Mapping[str, Estimate | Tensor]) -> PruningPlan:
        """Decide which channels go. With values that are all the same it tells whether the goal is within reach."""
        self._show("planning", None)
        model = self._subject.model
        goal = self._goal.for_groups(find_groups(model, self._batch[:1]))
        with blame(self._goal.option):
            return plan_pruning(model, values, example_input=self._batch, **goal, **self._how)

    def at_once(self, estimates: Mapping[str, Estimate]) -> Pruned:
        """Prune by these values."""
        model, plan = self._subject.model, self.plan(estimates)
        pruned = prune(model, plan, self._subject.inputs[:_VERIFIED])
        accuracies = [("original", self._accuracy(model)), ("pruned", self._accuracy(pruned))]
        if self._recalibrate:
            self._show("recalibrating", None)
            with blame("--recalibrate"):
                recalibrate_batchnorm(pruned, self._train[0] if self._train is not None else self._subject.inputs)
            accuracies.append(("recalibrated", self._accuracy(pruned)))
        if self._retraining is not None and self._train is not None:
            show = partial(self._show, "retraining")
            train(pruned, *self._train, recipe=self._retraining, select=self._select, seed=self._seed, progress=show)
            accuracies.append(("retrained", self._accuracy(pruned)))
        return self._measured(pruned, plan, accuracies)

    def in_rounds(self, ranker: Ranker, groups: Sequence[Group], rounds: int) -> Pruned:
        """Rank and prune in rounds; each may be followed by recalibration and retraining."""
        subject, model = self._subject, self._subject.model
        select = self._select or subject.classes
        if select is None:
            raise typer.BadParameter("the data have no classes to measure accuracy by", param_hint="--rounds")
        train_on = self._train or (subject.classes if self._recalibrate else None)

        def rank_group(network: nn.Module, group: Group, data: tuple[Tensor, Tensor]) -> Estimate:
            game = ChannelGame(network, group, data, metric=subject.metric)
            return ranker.rank(game, partial(self._show, f"ranking {group.name}, {group.size}"))

        goal = self._goal.for_groups(find_groups(model, self._batch[:1]))
        with blame(self._goal.option):
            result = prune_network(
                model, rank_group, [group.name for group in groups], rank_on=subject.data, select_on=select,
                train_on=train_on, **goal, **self._how, example_input=self._batch, rounds=rounds,
                recalibrate=self._recalibrate, retrain=self._retraining, seed=self._seed, report=self._show,
            )  # fmt: skip
        after = f"after {rounds} rounds"
        accuracies = [("original", self._accuracy(model)), (after, self._accuracy(result.model))]
        return self._measured(result.model, result.plan, accuracies)

    def _accuracy(self, model: nn.Module) -> float | None:
        return None if self._test is None else evaluate(model, *self._test).accuracy

    def _measured(self, pruned: nn.Module, plan: PruningPlan, accuracies: list[tuple[str, float | None]]) -> Pruned:
        self._show("measuring latency", None)
        original = self._subject.model
        sizes = sorted({1, len(self._batch)})
        latencies = [compare_latencies(original, pruned, self._batch[:size]) for size in sizes]
        costs = [(count_parameters(network), count_macs(network, self._batch[:1])) for network in (original, pruned)]
        stages = [Stage(name, *costs[min(place, 1)], accuracy) for place, (name, accuracy) in enumerate(accuracies)]
        n_test = 0 if self._test is None else len(self._test[1])
        return Pruned(pruned, plan, stages, latencies, n_test, self._subject.named)


def _count(number: int) -> str:
    return f"{number:,}" if number < 1e6 else f"{number / 1e6:,.2f} M"


def _latency(latency: LatencyComparison, *, is_original: bool) -> str:
    return str(latency.before) if is_original else f"{latency.after} ({latency.speed_up:.2f}x)"


def _share(part: float, whole: float) -> str:
    return "" if part == whole else f" ({part / whole:.0%})"
