"""``shapley-cuda prune``."""

from __future__ import annotations

import os
import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..estimate import Estimate
from ..training import RECIPES, Recipe, find_recipe
from .app import app
from .display import ProgressDisplay, print_table, wide_console
from .errors import blame, typed_command
from .goals import read_goal
from .options import (
    Budget,
    Checkpoint,
    Data,
    Debug,
    Device,
    Groups,
    ImageSize,
    MaxSeconds,
    Method,
    MetricOption,
    RankedModel,
    RankerOption,
    Samples,
    Seed,
    Settle,
    Tolerance,
)  # fmt: skip
from .pruner import Pruner
from .rank import Run, new_index
from .ranker_options import make_ranker
from .run_folder import VALUES
from .subject import Named, Subject, load_subject
from .values import ValuesIndex


class Across(str, Enum):
    """How channels of different groups compete."""

    uniform = "uniform"
    everywhere = "global"


class Normalise(str, Enum):
    """What makes values of different groups comparable."""

    none = "none"
    mean = "mean"


_PLAN, _AFTER = "What is left", "Afterwards"


def _budget(what: str) -> Any:
    return typer.Option(metavar="SHARE", help=f"Leave at most this share of the {what}.", rich_help_panel=_PLAN)


@app.command()
def prune(
    ctx: typer.Context,
    values: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Values that rank wrote. Without, rank first.")
    ] = None,
    model: RankedModel = None,
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    data: Data = None,
    samples: Samples = None,
    image_size: ImageSize = None,
    metric: MetricOption = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARE|LAYER=N",
            help="Share of the channels to keep; or LAYER=SHARE or LAYER=CHANNELS, repeated. Other layers stay whole.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keep what the Shapley pruning paper keeps of this network.", rich_help_panel=_PLAN
        ),
    ] = None,
    macs: Annotated[float | None, _budget("multiply-accumulates")] = None,
    parameters: Annotated[float | None, _budget("parameters")] = None,
    latency: Annotated[float | None, _budget("time that a batch takes, measured")] = None,
    latency_batch: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Size of the large batch whose time is measured; batch 1 is, too.",
            rich_help_panel=_PLAN,
        ),
    ] = 64,
    across: Annotated[
        Across,
        typer.Option(
            help="uniform: each group loses the same share; global: all channels compete, by value over cost.",
            rich_help_panel=_PLAN,
        ),
    ] = Across.uniform,
    normalise: Annotated[
        Normalise,
        typer.Option(
            help="mean: divide by the mean of the group, for --across global by scores such as norms, whose size says "
            "nothing across groups.",
            rich_help_panel=_PLAN,
        ),
    ] = Normalise.none,
    multiple_of: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Round kept numbers up to a multiple of this.", rich_help_panel=_PLAN),
    ] = 1,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Rank, cut and retrain so many times, little by little.", rich_help_panel=_PLAN
        ),
    ] = 1,
    recalibrate: Annotated[
        bool,
        typer.Option("--recalibrate", help="Take BatchNorm's statistics anew after the cut.", rich_help_panel=_AFTER),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Retrain on the split train: {', '.join(RECIPES)}.",
            rich_help_panel=_AFTER,
            show_default="brief, if --epochs is given",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Retrain for so many epochs.", rich_help_panel=_AFTER),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option(
            help="Measure the accuracy at other sizes, too: at most nine more passes over the split test.",
            rich_help_panel=_AFTER,
        ),
    ] = True,
    group: Groups = None,
    method: Method = "permutation",
    tolerance: Tolerance = None,
    settle: Settle = None,
    budget: Budget = None,
    max_seconds: MaxSeconds = None,
    seed: Seed = None,
    option: RankerOption = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the plan and the weights.")] = Path(
        "runs/pruned"
    ),
    debug: Debug = False,
) -> None:
    """Cut the least valuable channels out of a network, and see what is left of its accuracy.

    Writes plan.json and model.safetensors, for sc.load_pruned, and what report makes a page of.

    Accuracies are those on the split test, which is used for nothing else.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("takes one process: run rank under torchrun, then prune --values", param_hint="prune")
    goal = read_goal(keep, preset, macs=macs, parameters=parameters, latency=latency)
    usual = {"tolerance": tolerance, "settle": settle, "budget": budget, "max_seconds": max_seconds, "seed": seed or 0}
    ranker = make_ranker(method, option or [], **usual)
    retraining = _recipe(recipe, epochs)
    recorded = _read_index(values, rounds)
    named = Named.given(
        model=model, checkpoint=checkpoint, data=data, samples=samples, image_size=image_size, metric=metric, seed=seed
    ).completed(recorded.named if recorded else {})  # fmt: skip
    subject = load_subject(named, device)
    with ProgressDisplay() as display:
        pruner = Pruner(
            subject, goal, {"across": across.value, "normalise": normalise.value, "multiple_of": multiple_of},
            recalibrate=recalibrate, retraining=retraining, seed=seed or 0, curve=curve, command=typed_command(ctx),
            show=display.show, batch=latency_batch,
        )  # fmt: skip
        wanted = (group, "--group") if group else (goal.groups, goal.option)
        if rounds > 1:
            pruned = pruner.in_rounds(ranker, subject.groups(*wanted), rounds)
        elif values is not None and recorded is not None:
            estimates = _recorded_estimates(subject, recorded, values, *wanted)
            pruned = pruner.at_once(estimates)
            if (out / VALUES).resolve() != values.resolve():
                recorded.write_copy(estimates, out / VALUES)
        else:
            groups = subject.groups(*wanted)
            pruner.plan({found.name: torch.zeros(found.n_players) for found in groups})  # before the long work
            index = new_index(subject, ranker, groups, typed_command(ctx))
            index.write(out / VALUES)
            Run(subject, ranker, out / VALUES, display=display).rank_missing(index)
            pruned = pruner.at_once(index.load(out / VALUES))
    pruned.save(out)
    console = wide_console(120)
    print_table(console, f"{named.model} pruned", pruned.table())
    console.print(pruned.speed(), soft_wrap=True)
    console.print(str(pruned.plan), soft_wrap=True)
    console.print(f"plan and weights: {out}/; in Python: sc.load_pruned(model, {str(out)!r})", soft_wrap=True)
    console.print(f"next: shapley-cuda report {shlex.quote(str(out))}", soft_wrap=True)


def _recipe(name: str | None, epochs: int | None) -> Recipe | None:
    """How to retrain; None for not at all."""
    if epochs == 0 or (name is None and epochs is None):
        return None
    with blame("--recipe"):
        return find_recipe(name or "brief", **({} if epochs is None else {"epochs": epochs}))


def _read_index(values: Path | None, rounds: int) -> ValuesIndex | None:
    if values is None:
        return None
    if rounds > 1:
        raise typer.BadParameter("each round ranks anew: leave --values out", param_hint="--rounds")
    with blame("--values"):
        return ValuesIndex.read(values)


def _recorded_estimates(
    subject: Subject, index: ValuesIndex, folder: Path, names: list[str] | None, option: str
) -> dict[str, Estimate]:
    with blame("--values"):
        index.of_network(subject.weights, folder)
        if names is None:
            return index.load(folder)
    groups = subject.groups(names, option)
    with blame("--values"):
        return {group.name: index.load_group(group.name, folder) for group in groups}
