"""``shapley-cuda groups``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor, nn

from ..groups import Group, find_groups
from ..networks import SHIPPED
from .app import app
from .display import print_table, wide_console
from .errors import blame
from .options import Checkpoint, Data, Debug, ImageSize, Model
from .subject import Named, load_named_model, load_subject

_SHOWN = 2  # names in a cell of the table


@app.command()
def groups(
    model: Model,
    checkpoint: Checkpoint = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", help="Shape of one sample, such as 3x224x224; or give --data.", show_default=False),
    ] = None,
    data: Data = None,
    image_size: ImageSize = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all names.")] = False,
    debug: Debug = False,
) -> None:
    """List the groups of channels of a network, and why some cannot be pruned.

    A group is what must lose the same channels together; name it by any of its layers.
    """
    named = Named.given(model=model, checkpoint=checkpoint, data=data, image_size=image_size)
    if input_shape is None and (data is not None or model in SHIPPED):
        subject = load_subject(named, "cpu", trained=False)
        network, sample = subject.model, subject.inputs[:1]
    else:
        sample = _zeros(input_shape)
        network = load_named_model(model, named.checkpoint, trained=False)
        with blame("--input"):
            _check_sample(network, sample)
    found = find_groups(network, sample)
    if as_json:
        typer.echo(json.dumps([_record(group) for group in found], indent=1))
        return
    n_prunable = sum(group.prunable for group in found)
    print_table(wide_console(100), f"{model}: {n_prunable} of {len(found)} groups can be pruned", _table(found))


def _zeros(shape: str | None) -> Tensor:
    if shape is None:
        raise typer.BadParameter("must be given for a network of your own, or --data", param_hint="--input")
    sizes = shape.lower().replace(",", "x").split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise typer.BadParameter(f"must be sizes joined by x, such as 3x224x224, got {shape!r}", param_hint="--input")
    return torch.zeros(1, *map(int, sizes))


@torch.no_grad()
def _check_sample(network: nn.Module, sample: Tensor) -> None:
    try:
        network(sample)
    except Exception as error:  # whatever the network's layers raise
        raise ValueError(f"the network cannot take a batch {list(sample.shape)}: {error}") from error


def _record(group: Group) -> dict[str, object]:
    return asdict(group) | {"consumers": [consumer.name for consumer in group.consumers]}


def _table(found: Sequence[Group]) -> Table:
    table = Table()
    table.add_column("group", no_wrap=True)
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("layers cut along", overflow="fold")
    table.add_column("read by", overflow="fold")
    table.add_column("prunable", max_width=50)
    for group in found:
        others = [layer for layer in group.layers if layer != group.name]
        readers = [consumer.name for consumer in group.consumers]
        state = "yes" if group.prunable else f"no: {group.reason}"
        size = str(group.n_players) if group.channels_per_player == 1 else f"{group.n_players} heads"
        table.add_row(group.name, size, _few(others), _few(readers), state)
    return table


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return "\n".join([*names[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])
