"""What the commands show: one line of progress, and tables."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..rankers import RankingProgress
from ..training import Progress as TrainingProgress

__all__ = ["ProgressDisplay", "wide_console"]


def wide_console(width: int) -> Console:
    """A console at least so wide: a narrow terminal wraps its lines itself."""
    console = Console(highlight=False)
    console.width = max(console.width, width)
    return console


class ProgressDisplay:
    """One line in the terminal: what is being done, how far it is, how long it will take."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
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
            settled = "" if progress.n_settled is None else f", {progress.n_settled}/{progress.n_players} settled"
            state = f"error {progress.error:.3f} of {progress.tolerance:.3f} to reach{settled}, {left:.0f} s left"
        elif progress is not None:
            share = progress.step / progress.n_steps
            left = (time.perf_counter() - self._since) * (1 / share - 1)
            state = f"epoch {progress.epoch}, loss {progress.loss:.3f}, {left:.0f} s left"
        self._bar.update(self._task, description=doing, completed=share, state=state)
