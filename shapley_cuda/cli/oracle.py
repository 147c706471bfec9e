"""``shapley-cuda oracle``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from torch import Tensor

from ..estimate import Estimate
from ..files import write_whole
from ..oracle import OracleAgreement, OracleSets, oracle_agreement, oracle_sets
from .app import app
from .display import ProgressDisplay, print_table, wide_console
from .errors import blame
from .options import (
    Checkpoint,
    Data,
    Debug,
    Device,
    ImageSize,
    MemoryBudget,
    MetricOption,
    PrefixOption,
    RankedModel,
    Samples,
    Seed,
)  # fmt: skip
from .subject import Named, load_subject
from .values import ValuesIndex

_DEFAULT_SIZE = 10


class Search(str, Enum):
    """How sets are searched."""

    auto = "auto"
    exhaustive = "exhaustive"
    greedy = "greedy"


@app.command()
def oracle(
    group: Annotated[
        str, typer.Option("--group", "-g", metavar="LAYER", help="A layer whose channels to choose among.")
    ],
    model: RankedModel = None,
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    data: Data = None,
    samples: Samples = None,
    image_size: ImageSize = None,
    metric: MetricOption = None,
    seed: Seed = None,
    max_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Size of the largest sets.", show_default="10, or all channels if fewer"),
    ] = None,
    search: Annotated[
        Search,
        typer.Option(
            help="exhaustive compares all sets, greedy goes from each size to the next; auto is exhaustive up to "
            "65,536 sets, or as far as the budget goes.",
        ),
    ] = Search.auto,
    budget: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Evaluations of one sample that may be made.", show_default=False),
    ] = None,
    values: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Say how far a ranking that rank wrote agrees with the sets; repeat for several.",
            show_default=False,
        ),
    ] = None,
    prefix: PrefixOption = None,
    memory_budget: MemoryBudget = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the sets.")] = Path("runs/oracle"),
    debug: Debug = False,
) -> None:
    """Find the best sets of channels to remove, and to keep, of each size; rankings are judged by them."""
    with blame("--values"):
        indices = {folder: ValuesIndex.read(folder) for folder in values or []}
    given = Named.given(
        model=model, checkpoint=checkpoint, data=data, samples=samples, image_size=image_size, metric=metric, seed=seed,
        prefix=prefix, memory_budget=memory_budget,
    )  # fmt: skip
    subject = load_subject(given.completed(next(iter(indices.values())).named if indices else {}), device)
    chosen = subject.groups([group])[0]
    with blame("--values"):
        rankings = {
            folder: index.of_network(subject.weights, folder).load_group(chosen.name, folder)
            for folder, index in indices.items()
        }
    with ProgressDisplay() as display:
        display.show(f"searching sets of {chosen.name}, {chosen.size}", None)
        size = min(chosen.n_players, _DEFAULT_SIZE if max_size is None else max_size)
        sets = oracle_sets(subject.game(chosen), size, search.value, budget)
    agreements = {folder: oracle_agreement(estimate.ranking(), sets) for folder, estimate in rankings.items()}
    name = f"{quote(chosen.name, safe='')}.json"
    sets.save(out / f"oracle-{name}")
    console = wide_console(100)
    how = "the best of all sets" if sets.exhaustive else "by a greedy search, which may miss better ones"
    title = f"oracle sets of {sets.group}, {how}: {sets.n_evaluations:,} evaluations, {sets.seconds:.1f} s"
    print_table(console, title, _sets_table(sets))
    if agreements:
        record = {str(folder): asdict(agreement) for folder, agreement in agreements.items()}
        write_whole(out / f"agreement-{name}", json.dumps(record, indent=1).encode())
        title = "share of each ranking's picks that are the oracle's, all sizes together"
        print_table(console, title, _agreement_table(rankings, agreements))
    console.print(f"sets: {out / f'oracle-{name}'}", soft_wrap=True)


def _sets_table(sets: OracleSets) -> Table:
    table = Table()
    table.add_column("size", justify="right", no_wrap=True)
    for what in ("remove", "keep"):
        table.add_column(what, max_width=45)
        table.add_column("payoff", justify="right", no_wrap=True)
    for size in range(1, sets.max_size + 1):
        removed, kept = (f"{payoffs[size]:.4f}" for payoffs in (sets.removed_payoffs, sets.kept_payoffs))
        table.add_row(str(size), _channels(sets.removed[size]), removed, _channels(sets.kept[size]), kept)
    return table


def _agreement_table(rankings: Mapping[Path, Estimate], agreements: Mapping[Path, OracleAgreement]) -> Table:
    table = Table()
    for heading in ("values", "method"):
        table.add_column(heading)
    for heading in ("to remove", "to keep"):
        table.add_column(heading, justify="right", no_wrap=True)
    for folder, agreement in agreements.items():
        shares = (f"{agreement.removed_pooled:.1%}", f"{agreement.kept_pooled:.1%}")
        table.add_row(str(folder), rankings[folder].method, *shares)
    return table


def _channels(mask: Tensor) -> str:
    return " ".join(str(channel) for channel in mask.nonzero().flatten().tolist())
