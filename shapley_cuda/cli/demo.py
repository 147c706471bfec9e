"""``shapley-cuda demo``."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from ..demo import LATENCY_BATCH, run_demo
from ..networks import SHIPPED, pretrained_meta
from ..report import results_table
from .app import app
from .display import ProgressDisplay, wide_console
from .errors import blame, typed_command
from .options import Debug, Device, check_device


@app.command()
def demo(
    ctx: typer.Context,
    network: Annotated[
        str, typer.Option(help=f"A network that ships with the package: {', '.join(SHIPPED)}.")
    ] = "lenet5",
    keep: Annotated[float, typer.Option(help="Share of the channels to keep in every layer.", min=0.01, max=1)] = 0.3,
    out: Annotated[Path, typer.Option(help="Folder for the plot, the plans and the weights.")] = Path("runs/demo"),
    tolerance: Annotated[float, typer.Option(help="Stop ranking at this relative error.", min=0)] = 0.025,
    epochs: Annotated[int, typer.Option(help="Epochs of retraining after pruning.", min=0)] = 2,
    seed: Annotated[int, typer.Option(help="Decides all sampling and shuffling.")] = 0,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Rank a trained network by Shapley value, prune it, retrain it; compare with magnitude and random pruning."""
    start = time.perf_counter()
    with blame("--network"):
        pretrained_meta(network)
    check_device(device)
    with ProgressDisplay() as display:
        result = run_demo(
            network, keep, out, tolerance=tolerance, epochs=epochs, seed=seed, device=device,
            command=typed_command(ctx), report=display.show,
        )  # fmt: skip
    console = wide_console(110)
    retraining = f"{epochs} epoch{'' if epochs == 1 else 's'} of retraining on 4,000" if epochs else "no retraining"
    title = f"{network} on Fashion-MNIST: 1,000 test images, {retraining}"
    console.print(results_table(result.rows, LATENCY_BATCH, title))
    console.print(f"pruned by Shapley value: {result.plan}", soft_wrap=True)
    console.print(f"plot: {out / 'plot.png'}; plan and weights: {out / 'permutation'}/", soft_wrap=True)
    console.print(f"next: shapley-cuda report {shlex.quote(str(out / 'permutation'))}", soft_wrap=True)
    console.print(f"took {time.perf_counter() - start:.0f} s")
