"""``shapley-cuda rank``."""

from __future__ import annotations

import os
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from ..groups import Group, GroupError
from ..rankers import Checkpoint as SavedState
from ..rankers import Processes, Ranker
from .app import app
from .display import ProgressDisplay, print_table, values_table, wide_console
from .errors import typed_command
from .options import (
    Budget,
    Checkpoint,
    Data,
    Debug,
    Device,
    Groups,
    ImageSize,
    MaxSeconds,
    MemoryBudget,
    Method,
    MetricOption,
    Model,
    PrefixOption,
    RankerOption,
    Samples,
    Seed,
    Settle,
    Tolerance,
)  # fmt: skip
from .ranker_options import is_done_in_chunks, make_ranker
from .subject import Named, Subject, load_subject
from .values import ValuesIndex


@app.command()
def rank(
    ctx: typer.Context,
    model: Model,
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    data: Data = None,
    samples: Samples = None,
    image_size: ImageSize = None,
    metric: MetricOption = None,
    group: Groups = None,
    method: Method = "permutation",
    tolerance: Tolerance = None,
    settle: Settle = None,
    budget: Budget = None,
    max_seconds: MaxSeconds = None,
    seed: Seed = None,
    option: RankerOption = None,
    prefix: PrefixOption = None,
    memory_budget: MemoryBudget = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the values.")] = Path("runs/values"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with what the folder holds: where it was interrupted, with further groups, or to a smaller "
            "error. Without, start anew: values that the folder holds are dropped.",
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Estimate what each channel is worth: Shapley values, or another method's.

    Writes values-GROUP.json for every group, for prune, oracle and sc.Estimate.load.

    All processes share the work under torchrun -m shapley_cuda.cli rank.
    """
    usual = {"tolerance": tolerance, "settle": settle, "budget": budget, "max_seconds": max_seconds, "seed": seed or 0}
    ranker = make_ranker(method, option or [], **usual)
    with _join_processes(ranker) as processes:
        named = Named.given(
            model=model, checkpoint=checkpoint, data=data, samples=samples, image_size=image_size, metric=metric,
            seed=seed or 0, prefix=prefix, memory_budget=memory_budget,
        )  # fmt: skip
        subject = load_subject(named, device)
        groups = subject.groups(group)
        if not resume and processes.rank == 0 and ValuesIndex.is_in(out):
            typer.echo(
                f"{out} holds values of an earlier ranking, which are dropped; --resume goes on with them", err=True
            )
        asked = new_index(subject, ranker, groups, typed_command(ctx))
        text = processes.from_first(lambda: _begin(asked, out, resume).to_json().encode()).decode()
        index = ValuesIndex.from_json(text, str(out))
        subject.named = subject.named.with_memory_of(index.named)
        try:
            with ProgressDisplay(hidden=processes.rank > 0) as display:
                run = Run(subject, ranker, out, resume=resume, processes=processes, display=display)
                run.rank_missing(index)
        except KeyboardInterrupt:
            if processes.rank == 0:
                typer.echo(f"interrupted; the same command with --resume goes on with {out}", err=True)
            raise
    if processes.rank > 0:
        return
    console = wide_console(100)
    print_table(console, f"{method} ranking of {model}", values_table(list(index.load(out).values())))
    for name, reason in index.left_out.items():
        console.print(f"left out: {name}: {reason}", soft_wrap=True)
    console.print(f"values: {out}/; next: shapley-cuda prune --values {out} --keep 0.5", soft_wrap=True)


def new_index(subject: Subject, ranker: Ranker, groups: list[Group], command: list[str]) -> ValuesIndex:
    """The index of a ranking that has not begun."""
    options = {option.name: getattr(ranker, option.name) for option in fields(ranker)}
    names = [group.name for group in groups]
    return ValuesIndex(asdict(subject.named), subject.weights, ranker.name, options, names, command=command)


class Run:
    """Ranks groups into a folder of values.

    Args:
        subject: the network and the data.
        ranker: the method.
        folder: of the values.
        resume: go on from states that the folder holds.
        processes: who takes part; process 0 writes.
        display: shows how far it is.
    """

    def __init__(
        self,
        subject: Subject,
        ranker: Ranker,
        folder: Path,
        *,
        resume: bool = False,
        processes: Processes | None = None,
        display: ProgressDisplay,
    ):
        self._subject, self._ranker, self._folder, self._resume = subject, ranker, folder, resume
        self._processes, self._display = processes or Processes(), display

    def rank_missing(self, index: ValuesIndex) -> None:
        """Rank the groups that an index has no values of.

        Raises:
            GroupError: none of its groups can be pruned after all.
        """
        missing = index.missing
        is_writer = self._processes.rank == 0
        for place, group in enumerate(self._subject.groups(missing) if missing else [], start=1):
            doing = f"{group.name}, {group.size} ({place} of {len(missing)})"
            self._display.show(doing, None)
            try:
                game = self._subject.game(group)
            except GroupError as error:  # what its layers did not tell
                index.left_out[group.name] = str(error)
            else:
                on_progress = partial(self._display.show, doing)
                state = SavedState(self._folder / f"{quote(group.name, safe='')}.state", resume=self._resume)
                chunks = is_done_in_chunks(self._ranker)
                estimate = self._ranker.rank(game, on_progress, *((state, self._processes) if chunks else ()))
                index.add(estimate, self._folder if is_writer else None)
            if is_writer:
                index.write(self._folder)
        if not index.files:
            raise GroupError("no group can be pruned: " + "; ".join(index.left_out.values()))


def _begin(asked: ValuesIndex, folder: Path, resume: bool) -> ValuesIndex:
    """Write the index of the ranking that was asked for; with what the folder holds of it, if that is wanted."""
    index = asked
    if resume and ValuesIndex.is_in(folder):
        try:
            found = ValuesIndex.read(folder)
            named = Named(**asked.named).with_memory_of(found.named)
            index = found.extended(replace(asked, named=asdict(named)))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--resume") from error
    index.write(folder)
    return index


def _join_processes(ranker: Ranker) -> Processes:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    if not is_done_in_chunks(ranker):
        raise typer.BadParameter(
            f"{ranker.name} ranking is done in one piece: run it without torchrun", param_hint="--method"
        )
    return Processes.join()
