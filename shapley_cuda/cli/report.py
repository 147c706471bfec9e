"""``shapley-cuda report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..estimate import Estimate
from ..files import read_file, write_whole
from ..html_report import Cut, Run, report_page
from ..plans import PruningPlan
from ..run_record import RunRecord
from .app import app
from .display import wide_console
from .errors import blame
from .options import Debug
from .run_folder import PLAN, REPORT, RESULTS, VALUES, read_plan, round_folder, values_file
from .values import ValuesIndex


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder that prune wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page.", show_default="report.html in that folder")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make one page of a run of prune: what went and why, values with errors, accuracy, size and speed.

    The page is a single file. It needs no network and no script, and what the run lacks is left out and named.
    """
    with blame("RUN_DIR"):
        page = report_page(_read_run(run))
    path = out or run / REPORT
    write_whole(path, page.encode())
    wide_console(100).print(f"report: {path}", soft_wrap=True)


def _read_run(folder: Path) -> Run:
    """Read the parts of a run that its folder has.

    Raises:
        FileNotFoundError: it has no plan.
        ValueError: a file is damaged, or does not fit the plan; the message names it.
    """
    plan = read_plan(folder)
    record = RunRecord.load(folder / RESULTS) if (folder / RESULTS).is_file() else None
    name = folder.resolve().name
    if record is not None and record.rounds:
        folders = [round_folder(folder, number) for number in range(1, len(record.rounds) + 1)]
        rounds = tuple(_read_cut(one) for one in folders if (one / PLAN).is_file())
        return Run(name, Cut(plan, {}), rounds, record)
    values = folder / VALUES
    if not ValuesIndex.is_in(values):
        return Run(name, _read_cut(folder), record=record)
    index = ValuesIndex.read(values)
    estimates = {group: index.load_group(group, values) for group in index.files if group in plan.n_players}
    return Run(name, _make_cut(plan, estimates, values), (), record, index.named, index.left_out, tuple(index.command))


def _read_cut(folder: Path) -> Cut:
    plan = read_plan(folder)
    paths = {group: folder / values_file(group) for group in plan.n_players}
    estimates = {group: read_file(path, Estimate.from_json) for group, path in paths.items() if path.is_file()}
    return _make_cut(plan, estimates, folder)


def _make_cut(plan: PruningPlan, estimates: dict[str, Estimate], folder: Path) -> Cut:
    try:
        return Cut(plan, estimates)
    except ValueError as error:
        raise ValueError(f"{folder} does not fit the {PLAN}: {error}") from error
