"""``shapley-cuda study``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..datasets import SPLITS, Split
from ..study import METHODS, STUDIES, run_study, study_tables, write_study
from .app import app
from .display import ProgressDisplay, wide_console
from .errors import blame
from .options import Checkpoint, Data, Debug, Device, ImageSize, MemoryBudget, OwnModel, PrefixOption, check_device
from .subject import Named, Subject, load_subject

_WIDTH = 132


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(metavar="[STUDY]", help=f"One of {', '.join(STUDIES)}; other options change it.")
    ] = "lenet5-small",
    model: OwnModel = None,
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    data: Data = None,
    image_size: ImageSize = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--group", "-g", metavar="LAYER", help="A layer to study; repeat.", show_default="the study's"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Compare only these; repeat: {', '.join(METHODS)}.", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Samples that values are estimated on.", show_default="the study's"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Epochs of retraining.", show_default="the study's")
    ] = None,
    prefix: PrefixOption = None,
    memory_budget: MemoryBudget = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small version, to see that it works.")] = False,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for results, tables and figures.")] = Path(
        "runs/study"
    ),
    debug: Debug = False,
) -> None:
    """Compare rankings with exact Shapley values, with the oracle's sets, and by the accuracy that they leave.

    The comparison of the Shapley pruning paper, on a network that ships or on one of your own.
    """
    if name not in STUDIES:
        raise typer.BadParameter(f"must be one of {', '.join(STUDIES)}, got {name!r}", param_hint="STUDY")
    check_device(device)
    config = replace(STUDIES[name], device=device)
    if method:
        with blame("--method"):
            kept = tuple(known for known in config.pruned_by if known in method)
            config = replace(config, methods=tuple(method), pruned_by=kept)
    if layer:
        config = replace(config, layers=tuple(layer))
    if samples is not None:
        config = replace(config, n_samples=samples)
    if epochs is not None:
        config = replace(config, epochs=epochs)
    named = Named.given(
        model=model, checkpoint=checkpoint, data=data, image_size=image_size, prefix=prefix, memory_budget=memory_budget
    )
    memory: dict[str, Any] = {"prefix": named.prefix or "memory", "memory_budget": named.memory_budget}
    subject = None
    if model is not None:
        subject = load_subject(named, device)
        config = replace(config, name="study", network=model, layers=tuple(layer or ()))
    if quick:
        config = config.quick()
    with ProgressDisplay() as display:
        if subject is None:
            result = run_study(config, display.show, **memory)
        else:
            result = run_study(config, display.show, model=subject.model, splits=_splits_of(subject), **memory)
        display.show("drawing figures", None)
        files = write_study(result, out)
    console = wide_console(_WIDTH)
    for table in study_tables(result):
        console.print(table.for_terminal())
    console.print("files: " + ", ".join(str(file) for file in files), soft_wrap=True)


def _splits_of(subject: Subject) -> dict[str, Split]:
    splits = {}
    for name in SPLITS:
        read = subject.labelled(name)
        if read is None:
            raise typer.BadParameter(f"must have the splits {', '.join(SPLITS)}, got no {name}", param_hint="--data")
        splits[name] = Split(*read, name)
    return splits
