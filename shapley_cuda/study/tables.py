"""A study's tables, for the terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from .config import METHODS
from .results import LayerResult, StudyResult
from .summary import (
    Spread,
    Summary,
    accuracy_spreads,
    error_slope,
    largest_budgets,
    retrained_spreads,
    summarise,
)

__all__ = ["StudyTable", "markdown", "study_tables"]


@dataclass(frozen=True)
class StudyTable:
    """A table of text.

    Attributes:
        title: what it shows.
        headings: of its columns, the first one's cells are names.
        rows: cells.
        note: what does not fit in.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def for_terminal(self) -> Table:
        """The table for rich to print."""
        table = Table(title=self.title, title_justify="left", caption=self.note, caption_justify="left")
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def for_page(self) -> str:
        """The table as markdown."""
        rule = ("---", *["---:"] * (len(self.headings) - 1))
        lines = [f"| {' | '.join(cells)} |" for cells in (self.headings, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *([f"\n{self.note}"] if self.note else [])])


def study_tables(result: StudyResult) -> list[StudyTable]:
    """Everything that a study found, in tables."""
    tables = [_references(result)]
    for layer in result.layers:
        summaries = summarise(layer)
        tables.append(_methods(layer, summaries))
        if any(summary.error is not None and summary.passes is not None for summary in summaries):
            tables.append(_errors(layer, summaries, result.config.passes))
    if result.accuracies:
        tables.append(_accuracies(result))
    if result.retrained:
        tables.append(_retrained(result))
    return tables


def markdown(result: StudyResult) -> str:
    """All tables for a page."""
    return "\n\n".join(table.for_page() for table in study_tables(result)) + "\n"


def _references(result: StudyResult) -> StudyTable:
    return StudyTable(
        "What rankings are compared with",
        ("layer", "channels", "images", "reference", "its error", "its evaluations", "oracle", "largest set"),
        tuple(
            (
                layer.layer,
                str(layer.n_players),
                f"{layer.n_samples:,}",
                "exact" if layer.reference.method == "exact" else f"{result.config.reference_passes} passes",
                f"{layer.reference.error:.4f}" if layer.reference.error else "none",
                f"{layer.reference.n_evaluations:,}",
                layer.oracle.method,
                str(layer.oracle.max_size),
            )
            for layer in result.layers
        ),
    )


def _methods(layer: LayerResult, summaries: Sequence[Summary]) -> StudyTable:
    rows = tuple(
        (
            METHODS[method].label,
            f"{summary.n_evaluations:,.0f}",
            f"{summary.seconds:.2f}",
            _text(summary.tau),
            _text(summary.error, 3),
            _text(summary.removed),
            _text(summary.kept),
        )
        for method, summary in largest_budgets(summaries).items()
    )
    return StudyTable(
        f"{layer.layer}, {layer.n_players} channels: each method with its largest budget",
        ("method", "evaluations", "seconds", "Kendall's τ", "relative error", "oracle: removed", "oracle: kept"),
        rows,
        "Left out: " + "; ".join(f"{name} ({why})" for name, why in layer.skipped.items()) if layer.skipped else "",
    )


def _errors(layer: LayerResult, summaries: Sequence[Summary], passes: Sequence[int]) -> StudyTable:
    errors = {(s.method, s.passes): s.error for s in summaries if s.error is not None and s.passes is not None}
    rows = []
    for method in dict.fromkeys(method for method, _ in errors):
        slope = error_slope(summaries, method)
        cells = (_text(errors.get((method, budget)), 3) for budget in passes)
        rows.append((METHODS[method].label, *cells, "" if slope is None else f"{slope:.2f}"))
    return StudyTable(
        f"{layer.layer}: relative error by passes, and the slope of its fall",
        ("method", *map(str, passes), "slope"),
        tuple(rows),
    )


def _accuracies(result: StudyResult) -> StudyTable:
    shares = result.config.shares
    return StudyTable(
        f"Accuracy (%) on {result.n_test:,} test images by share removed of {_layers(result)}; unpruned "
        f"{100 * result.unpruned:.1f}",
        ("ranking", *(f"{share:.0%}" for share in shares)),
        tuple(
            (METHODS[method].label, *(_text(spreads[share], 1, scale=100) for share in shares))
            for method, spreads in accuracy_spreads(result).items()
        ),
    )


def _retrained(result: StudyResult) -> StudyTable:
    spreads = retrained_spreads(result)
    recalibrated = any(each.recalibrated for by_method in spreads.values() for each in by_method.values())
    rows = [
        (
            METHODS[method].label,
            f"{share:.0%}",
            _text(each.before, 1, scale=100),
            *([_text(each.recalibrated, 1, scale=100)] if recalibrated else []),
            _text(each.after, 1, scale=100),
        )
        for share, by_method in spreads.items()
        for method, each in by_method.items()
    ]
    epochs = result.config.epochs
    return StudyTable(
        f"Accuracy (%) before and after {epochs} epoch{'' if epochs == 1 else 's'} of retraining",
        ("ranking", "removed", "before", *(["BatchNorm recalibrated"] if recalibrated else []), "retrained"),
        tuple(rows),
    )


def _layers(result: StudyResult) -> str:
    names = [layer.layer for layer in result.layers]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _text(spread: Spread | None, digits: int = 2, *, scale: float = 1) -> str:
    return "" if spread is None else spread.text(scale, digits)
