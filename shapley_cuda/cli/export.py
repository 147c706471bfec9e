"""``shapley-cuda export``."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from ..export import export_onnx, export_program
from ..files import is_of_kind, read_file
from ..storage import load_pruned
from .app import app
from .display import ProgressDisplay, wide_console
from .errors import blame
from .options import Debug
from .run_folder import RESULTS, read_plan
from .subject import Named, load_named_model

_SAMPLES = 8  # that a file is checked on, where it takes batches of any size


class Format(str, Enum):
    """What to write."""

    onnx = "onnx"
    torch_export = "torch_export"


_FILES = {Format.onnx: "model.onnx", Format.torch_export: "model.pt2"}


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What prune wrote.", show_default=False)],
    file_format: Annotated[
        Format,
        typer.Option("--format", "-f", help="onnx for other runtimes, torch_export for torch.export.load."),
    ] = Format.onnx,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write.", show_default="model.onnx or model.pt2 in FOLDER"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The network before it was pruned: package.module:factory, or lenet5, vgg16, ..., torchvision:NAME.",
            show_default="the one that prune was given",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Take batches of this size alone.", show_default="any size"),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of ONNX's operators.", show_default="torch's choice")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(help="How far outputs may be from PyTorch's; where they exceed 1, as a share of the largest."),
    ] = 1e-4,
    debug: Debug = False,
) -> None:
    """Write a pruned network for other runtimes, and run it there: nothing is written if its outputs differ."""
    if opset is not None and file_format is not Format.onnx:
        raise typer.BadParameter("is of ONNX alone", param_hint="--opset")
    path = out or folder / _FILES[file_format]
    with ProgressDisplay() as display:
        pruned, sample_shape = _load(folder, model)
        inputs = _drawn_like(next(pruned.parameters()), (batch or _SAMPLES, *sample_shape))
        display.show(f"writing {path.name}, and running it", None)
        how: dict[str, Any] = {"dynamic_batch": batch is None, "tolerance": tolerance}
        if file_format is Format.onnx:
            written = export_onnx(pruned, inputs, path, opset=opset, **how)
        else:
            written = export_program(pruned, inputs, path, **how)
    wide_console(100).print(str(written), soft_wrap=True)


def _load(folder: Path, name: str | None) -> tuple[nn.Module, tuple[int, ...]]:
    """The pruned network and the shape of a sample."""
    with blame("FOLDER"):
        plan = read_plan(folder)
    named = Named(model=name) if name is not None else _recorded(folder)
    # Weights come from the folder; only another folder tells of channels that were gone before.
    earlier = named.checkpoint if named.checkpoint and Path(named.checkpoint).is_dir() else None
    original = load_named_model(named.model, earlier, trained=False)
    with blame("FOLDER"):
        return load_pruned(original, folder), plan.input_shape[1:]


def _recorded(folder: Path) -> Named:
    """The original network as prune was given it."""
    path = folder / RESULTS
    if not path.is_file():
        raise typer.BadParameter(f"must be given where the folder has no {path.name} of prune", param_hint="--model")
    with blame("FOLDER"):
        return read_file(path, _named)


def _named(text: str) -> Named:
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"results of a run must be JSON, got: {error}") from error
    named = record.get("named") if isinstance(record, dict) else None
    if not isinstance(named, dict) or not is_of_kind(named, Named) or named["model"] is None:
        raise ValueError("it must tell under named which network was pruned, got another; give --model")
    return Named(**named)


def _drawn_like(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(parameter.dtype)
