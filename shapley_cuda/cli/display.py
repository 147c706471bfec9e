"""What the commands show: one line of progress, and tables."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ..estimate import Estimate
from ..rankers import RankingProgress
from ..report import STOPPED, relative_error
from ..training import Progress as TrainingProgress

__all__ = ["ProgressDisplay", "print_table", "values_table", "wide_console"]


def wide_console(width: int) -> Console:
    """A console at least so wide: a narrow terminal wraps its lines itself."""
    console = Console(highlight=False)
    console.width = max(console.width, width)
    return console


def print_table(console: Console, title: str, table: Table) -> None:
    """Print a table under a title, which may be wider."""
    console.print(title, style="italic", soft_wrap=True)
    console.print(table)


def values_table(estimates: Sequence[Estimate]) -> Table:
    """What ranking took, group by group."""
    table = Table()
    table.add_column("group", no_wrap=True)
    for heading in ("channels", "error", "evaluations", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stopped because", no_wrap=True)
    for estimate in estimates:
        error = relative_error(estimate)
        table.add_row(
            estimate.group,
            str(len(estimate.values)),
            "" if error is None else f"{error:.4f}",
            f"{estimate.n_evaluations:,}",
            f"{estimate.seconds:.2f} s",
            STOPPED.get(estimate.stopped, estimate.stopped),
        )
    return table


class ProgressDisplay:
    """One line in the terminal: what is being done, how far it is, how long it will take.

    Args:
        hidden: show nothing, in all processes but one.
    """

    def __init__(self, *, hidden: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"))
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal)
        self._task = self._bar.add_task("loading", total=1.0, state="")
        self._doing, self._since = "", 0.0

    def __enter__(self) -> ProgressDisplay:
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
            state = _state_of_ranking(progress, left)
        elif progress is not None:
            share = progress.step / progress.n_steps
            left = (time.perf_counter() - self._since) * (1 / share - 1)
            state = f"epoch {progress.epoch}, loss {progress.loss:.3f}{_time_left(left)}"
        self._bar.update(self._task, description=doing, completed=share, state=state)


def _state_of_ranking(progress: RankingProgress, left: float) -> str:
    state = f"{progress.n_evaluations:,} evaluations"
    if math.isfinite(progress.error):
        state = f"error {progress.error:.3f}"
        if progress.tolerance > 0:
            state += f", to reach {progress.tolerance:.3g}"
    if progress.n_settled is not None:
        state += f", {progress.n_settled} of {progress.n_players} settled"
    return state + _time_left(left)


def _time_left(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    if seconds < 100:
        return f", {seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f", {minutes} min left" if minutes < 100 else f", {minutes // 60} h {minutes % 60} min left"
