"""The command line: ``shapley-cuda``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .build import build_info
from .demo import LATENCY_BATCH, run_demo
from .networks import pretrained_meta
from .rankers import RankingProgress
from .report import results_table
from .training import Progress as TrainingProgress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Rank the channels of a network by their Shapley value, and prune the least valuable.",
)


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell how this package was built and which devices it can use."""
    record = asdict(build_info())
    if as_json:
        typer.echo(json.dumps(record, indent=1))
        return
    for name, value in record.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value
        typer.echo(f"{name.replace('_', ' '):<22} {shown}")


@app.command()
def demo(
    network: Annotated[str, typer.Option(help="A network that ships with the package: lenet5 or vgg_bn.")] = "lenet5",
    keep: Annotated[float, typer.Option(help="Share of the channels to keep in every layer.", min=0.01, max=1)] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder for the plot, the plans and the weights.")] = Path("runs/demo"),
    tolerance: Annotated[float, typer.Option(help="Stop ranking at this relative error.", min=0)] = 0.025,
    epochs: Annotated[int, typer.Option(help="Epochs of retraining after pruning.", min=0)] = 2,
    seed: Annotated[int, typer.Option(help="Decides all sampling and shuffling.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Rank a trained network by Shapley value, prune it, retrain it; compare with magnitude and random pruning."""
    start = time.perf_counter()
    _check_network(network)
    _check_device(device)
    with _ProgressDisplay() as display:
        result = run_demo(
            network, keep, out, tolerance=tolerance, epochs=epochs, seed=seed, device=device, report=display.show
        )
    console = Console()
    console.width = max(console.width, 110)  # wide enough for the table; a narrow terminal wraps its lines itself
    retraining = f"{epochs} epoch{'' if epochs == 1 else 's'} of retraining on 4,000" if epochs else "no retraining"
    title = f"{network} on Fashion-MNIST: 1,000 test images, {retraining}"
    console.print(results_table(result.rows, LATENCY_BATCH, title))
    console.print(f"pruned by Shapley value: {result.plan}", highlight=False, soft_wrap=True)
    console.print(
        f"plot: {out / 'plot.png'}; plan and weights: {out / 'permutation'}/", highlight=False, soft_wrap=True
    )
    console.print(f"took {time.perf_counter() - start:.0f} s", highlight=False)


def _check_network(name: str) -> None:
    try:
        pretrained_meta(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--network") from None


def _check_device(device: str) -> None:
    usable = [name.split()[0] for name in build_info().devices]
    if device not in usable and not (device == "cuda" and "cuda:0" in usable):
        raise typer.BadParameter(f"must be one of {', '.join(usable)}, got {device!r}", param_hint="--device")


class _ProgressDisplay:
    """One line in the terminal: what is being done, how far it is, how long it will take."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("loading", total=1.0, state="")
        self._doing, self._since = "", 0.0

    def __enter__(self) -> _ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, doing: str, progress: RankingProgress | TrainingProgress | None) -> None:
        """Show what is being done and how far it is."""
        if doing != self._doing:
            self._doing, self._since = doing, time.perf_counter()
        share, state = 0.0, ""
        if isinstance(progress, RankingProgress):
            left = progress.seconds_left
            share = progress.seconds / (progress.seconds + left) if left + progress.seconds > 0 else 1.0
            state = f"error {progress.error:.3f} of {progress.tolerance:.3f} to reach, {left:.0f} s left"
        elif progress is not None:
            share = progress.step / progress.n_steps
            left = (time.perf_counter() - self._since) * (1 / share - 1)
            state = f"epoch {progress.epoch}, loss {progress.loss:.3f}, {left:.0f} s left"
        self._bar.update(self._task, description=doing, completed=share, state=state)
