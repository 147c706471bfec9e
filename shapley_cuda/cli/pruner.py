"""What ``shapley-cuda prune`` does with values: the plan, the cut, what follows it, and the measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from torch import Tensor, nn

from ..counting import count_macs, count_parameters
from ..environment import current_time, describe_environment
from ..estimate import Estimate
from ..files import write_whole
from ..game import ChannelGame
from ..groups import Group, find_groups
from ..latency import LatencyComparison, compare_latencies
from ..planning import plan_pruning
from ..plans import PruningPlan
from ..pruning import PruningRound, prune_network
from ..rankers import Ranker, RankingProgress
from ..recalibration import recalibrate_batchnorm
from ..run_record import RoundAccuracies, RunRecord, SizePoint, Stage
from ..size_curve import size_curve
from ..storage import count_weight_bytes, save_pruned
from ..surgery import prune
from ..training import Progress as TrainingProgress
from ..training import Recipe, evaluate, train
from .errors import blame
from .goals import Goal
from .run_folder import PLAN, REPORT, RESULTS, round_folder, values_file
from .subject import Subject

__all__ = ["Pruned", "Pruner"]

_VERIFIED = 64  # samples that the cut is verified on

Show = Callable[[str, RankingProgress | TrainingProgress | None], None]


@dataclass(frozen=True)
class Pruned:
    """A pruned network and how it came about.

    Attributes:
        model: the network.
        plan: what was removed.
        record: the run and its measurements.
        rounds: what each round did; empty where the network was pruned at once.
    """

    model: nn.Module
    plan: PruningPlan
    record: RunRecord
    rounds: tuple[PruningRound, ...] = ()

    def save(self, folder: Path) -> None:
        """Write the plan, the weights and the record; of each round its plan and its values."""
        (folder / REPORT).unlink(missing_ok=True)  # of what the folder held before
        save_pruned(self.model, self.plan, folder)
        for number, done in enumerate(self.rounds, start=1):
            write_whole(round_folder(folder, number) / PLAN, done.plan.to_json().encode())
            for name, values in done.values.items():
                if isinstance(values, Estimate):
                    values.save(round_folder(folder, number) / values_file(name))
        self.record.save(folder / RESULTS)

    def speed(self) -> str:
        """What became of the latencies, in words: MACs alone do not tell."""
        latencies = self.record.latencies
        lines = [f"{text[0].upper()}{text[1:]}." for text in map(str, latencies)]
        if all(latency.verdict == "faster" for latency in latencies):
            return "\n".join(lines)
        if any(len(self.plan.kept(group)) % 8 for group, removed in self.plan.removed.items() if removed):
            lines.append(
                "Layers whose width is no multiple of 8 often run no faster for being cut: try --multiple-of 8."
            )
        return "\n".join(lines)

    def table(self) -> Table:
        """The measurements."""
        record, table = self.record, Table()
        table.add_column("network", no_wrap=True)
        headings = ["parameters", "MACs", *(f"latency, batch {latency.batch_size}" for latency in record.latencies)]
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        if record.n_test:
            table.add_column(f"accuracy on {record.n_test:,} test samples", justify="right")
        whole = record.stages[0]
        for stage in record.stages:
            cells = [
                f"{stage.parameters:,}{_share(stage.parameters, whole.parameters)}",
                f"{_count(stage.macs)}{_share(stage.macs, whole.macs)}",
                *(_latency(latency, is_original=stage is whole) for latency in record.latencies),
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
        curve: measure accuracy at other sizes, too.
        command: the words of the command, for the record.
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
        curve: bool,
        command: Sequence[str],
        show: Show,
        batch: int,
    ):
        self._since = time.perf_counter()
        self._subject, self._goal, self._how = subject, goal, how
        self._recalibrate, self._retraining, self._seed, self._show = recalibrate, retraining, seed, show
        self._curve, self._command = curve, tuple(command)
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
        curve: tuple[SizePoint, ...] = ()
        if self._curve and self._test is not None:
            curve = size_curve(model, estimates, plan, self._batch, self._test, self._show)
        return Pruned(pruned, plan, self._record(pruned, accuracies, curve=curve))

    def in_rounds(self, ranker: Ranker, groups: Sequence[Group], rounds: int) -> Pruned:
        """Rank and prune in rounds; each may be followed by recalibration and retraining."""
        subject, model = self._subject, self._subject.model
        select = self._select or subject.classes
        if select is None:
            raise typer.BadParameter("the data have no classes to measure accuracy by", param_hint="--rounds")
        train_on = self._train or (subject.classes if self._recalibrate else None)

        def rank_group(network: nn.Module, group: Group, data: tuple[Tensor, Tensor]) -> Estimate:
            game = ChannelGame(network, group, data, **subject.game_options)
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
        done = tuple(
            RoundAccuracies(one.accuracy_pruned, one.accuracy_recalibrated, one.accuracy_retrained)
            for one in result.rounds
        )
        before, n_select = result.accuracy_before, len(select[1])
        record = self._record(result.model, accuracies, rounds=done, n_select=n_select, select_before=before)
        return Pruned(result.model, result.plan, record, result.rounds)

    def _accuracy(self, model: nn.Module) -> float | None:
        return None if self._test is None else evaluate(model, *self._test).accuracy

    def _record(
        self,
        pruned: nn.Module,
        accuracies: list[tuple[str, float | None]],
        *,
        curve: tuple[SizePoint, ...] = (),
        rounds: tuple[RoundAccuracies, ...] = (),
        n_select: int = 0,
        select_before: float | None = None,
    ) -> RunRecord:
        self._show("measuring latency", None)
        original = self._subject.model
        sizes = sorted({1, len(self._batch)})
        latencies = [compare_latencies(original, pruned, self._batch[:size]) for size in sizes]
        costs = [
            (count_parameters(network), count_macs(network, self._batch[:1]), count_weight_bytes(network))
            for network in (original, pruned)
        ]
        found = find_groups(original, self._batch[:1])
        return RunRecord(
            command=self._command,
            named=asdict(self._subject.named),
            stages=tuple(
                Stage(name, *costs[min(place, 1)], accuracy) for place, (name, accuracy) in enumerate(accuracies)
            ),
            latencies=tuple(latencies),
            n_test=0 if self._test is None else len(self._test[1]),
            curve=curve,
            rounds=rounds,
            n_select=n_select,
            select_before=select_before,
            retraining=None if self._retraining is None else asdict(self._retraining),
            refused={group.name: group.reason for group in found if group.reason is not None},
            environment=describe_environment(str(self._batch.device)),
            finished=current_time(),
            seconds=time.perf_counter() - self._since,
        )


def _count(number: int) -> str:
    return f"{number:,}" if number < 1e6 else f"{number / 1e6:,.2f} M"


def _latency(latency: LatencyComparison, *, is_original: bool) -> str:
    return str(latency.before) if is_original else f"{latency.after} ({latency.speed_up:.2f}x)"


def _share(part: float, whole: float) -> str:
    return "" if part == whole else f" ({part / whole:.0%})"
