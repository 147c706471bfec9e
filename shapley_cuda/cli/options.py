"""Options that several commands have."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..build import build_info
from ..rankers import RANKERS
from .errors import set_debug

__all__ = [
    "Budget", "Checkpoint", "Data", "Debug", "Device", "Groups", "ImageSize", "MaxSeconds", "MemoryBudget", "Method",
    "Metric", "MetricOption", "Model", "OwnModel", "Prefix", "PrefixOption", "RankedModel", "RankerOption", "Samples",
    "Seed", "Settle", "Tolerance", "check_device",
]  # fmt: skip


class Metric(str, Enum):
    """What payoffs are."""

    cross_entropy = "cross_entropy"
    accuracy = "accuracy"
    squared_error = "squared_error"
    kl = "kl"
    cosine = "cosine"


class Prefix(str, Enum):
    """Where results for each sample of what no mask reaches are kept."""

    memory = "memory"
    bfloat16 = "bfloat16"
    disk = "disk"
    recompute = "recompute"


_MODEL, _DATA, _RANKING, _MEMORY = "The network", "The data", "The ranking", "Memory"

_NAMED = "package.module:factory, called without arguments; or lenet5, vgg16, ..., torchvision:NAME."

Model = Annotated[str, typer.Option(metavar="NAME", help=_NAMED, rich_help_panel=_MODEL, show_default=False)]
RankedModel = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help=_NAMED, rich_help_panel=_MODEL, show_default="that of --values"),
]
OwnModel = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help=_NAMED, rich_help_panel=_MODEL, show_default="the study's"),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Its weights: a .safetensors file, a state_dict in a .pt or .pth file, or a folder that prune wrote.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...", rich_help_panel=_MODEL)]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="fashion-mnist, cifar10:FOLDER, cifar100:FOLDER, idx:FOLDER, images:FOLDER, or package.module:function "
        "that gives (inputs, targets) or a dict of such by split: rank, and train, select, test.",
        rich_help_panel=_DATA,
        show_default="fashion-mnist for a network that ships with the package",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Draw so many of the split rank, as many of each class.",
        rich_help_panel=_DATA,
        show_default="1000, or all if there are fewer",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Height and width of images from a folder.", rich_help_panel=_DATA, show_default="224"
    ),
]
MetricOption = Annotated[
    Metric | None,
    typer.Option(
        metavar="NAME",
        help="What a channel counts for: being right (cross_entropy, accuracy, squared_error), or without labels "
        "agreement with the whole network (kl, cosine).",
        rich_help_panel=_DATA,
        show_default="cross_entropy",
    ),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        "-g",
        metavar="LAYER",
        help="A layer whose channels to rank; repeat for several.",
        rich_help_panel=_RANKING,
        show_default="all prunable ones",
    ),
]
Method = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(RANKERS)}.", rich_help_panel=_RANKING)]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Stop at this error: the largest standard error over the range of the values.",
        rich_help_panel=_RANKING,
        show_default="0.025",
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Stop after so many evaluations of one sample, in each group.",
        rich_help_panel=_RANKING,
        show_default="64 walks for each sample",
    ),
]
Settle = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|N",
        help="Stop when it is settled, at 95 % confidence, which channels are kept: this share or number of them.",
        rich_help_panel=_RANKING,
        show_default=False,
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        metavar="S",
        help="Stop after this time, in each group.",
        rich_help_panel=_RANKING,
        show_default=False,
    ),
]
RankerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="Another option of the method; repeat for several.",
        rich_help_panel=_RANKING,
        show_default=False,
    ),
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Decides all sampling.", rich_help_panel=_RANKING, show_default="0")
]
PrefixOption = Annotated[
    Prefix | None,
    typer.Option(
        "--prefix",
        metavar="NAME",
        help="Where the results for each sample of what no mask reaches are kept: memory; bfloat16, there at half the "
        "size; disk, a temporary file; or recompute, nowhere.",
        rich_help_panel=_MEMORY,
        show_default="memory",
    ),
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE|SHARE",
        help="Memory that the rows evaluated at once may take, such as 64MiB; or a share of what is free, such as "
        "0.25.",
        rich_help_panel=_MEMORY,
        show_default="32MiB, on a GPU 0.25",
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=set_debug, is_eager=True)
]


def check_device(device: str) -> None:
    """Refuse a device that the ops do not run on here."""
    usable = [name.split()[0] for name in build_info().devices]
    if device not in usable and not (device == "cuda" and "cuda:0" in usable):
        raise typer.BadParameter(f"must be one of {', '.join(usable)}, got {device!r}", param_hint="--device")
