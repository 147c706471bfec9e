"""What tables and figures show of a study: means and spreads over seeds, and how fast errors fall."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .config import METHODS
from .results import LayerResult, Measurement, StudyResult

__all__ = [
    "RetrainedSpread",
    "Spread",
    "Summary",
    "accuracy_spreads",
    "error_slope",
    "errors_of",
    "largest_budgets",
    "retrained_spreads",
    "spread",
    "summarise",
]

_ROUNDING = 1e-6


class Spread(NamedTuple):
    """A mean over seeds, and the standard deviation between them, None of a single one."""

    mean: float
    deviation: float | None

    def text(self, scale: float = 1, digits: int = 2) -> str:
        """The mean, and after a sign ± the deviation if there is any."""
        shown = f"{scale * self.mean:.{digits}f}"
        return shown if not self.deviation else f"{shown} ± {scale * self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Summary:
    """A method with one budget on one layer, over all seeds; fields as in :class:`Measurement`."""

    method: str
    passes: int | None
    n_evaluations: float
    seconds: float
    tau: Spread | None
    error: Spread | None
    removed: Spread
    kept: Spread


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation of one or more values."""
    known = list(values)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def summarise(layer: LayerResult) -> list[Summary]:
    """A summary of each method and budget, in the order of the measurements."""
    by_run: dict[tuple[str, int | None], list[Measurement]] = {}
    for measurement in layer.measurements:
        by_run.setdefault((measurement.method, measurement.passes), []).append(measurement)
    return [
        Summary(
            method=method,
            passes=passes,
            n_evaluations=statistics.fmean(m.n_evaluations for m in of_run),
            seconds=statistics.fmean(m.seconds for m in of_run),
            tau=_spread_of_known([m.tau for m in of_run]),
            error=_spread_of_known([m.error for m in of_run]),
            removed=spread(m.removed for m in of_run),
            kept=spread(m.kept for m in of_run),
        )
        for (method, passes), of_run in by_run.items()
    ]


def largest_budgets(summaries: Sequence[Summary]) -> dict[str, Summary]:
    """Of each method the summary with the largest budget."""
    return {summary.method: summary for summary in summaries}


def errors_of(summaries: Sequence[Summary], method: str) -> dict[float, Spread]:
    """A method's errors by its evaluations, without those that are mere rounding."""
    of_method = [(s.n_evaluations, s.error) for s in summaries if s.method == method]
    return {place: error for place, error in of_method if error is not None and error.mean > _ROUNDING}


def error_slope(summaries: Sequence[Summary], method: str) -> float | None:
    """Slope of the logarithm of a method's error over that of its evaluations; None with fewer than two budgets.

    A mean of independent draws has -1/2.
    """
    errors = errors_of(summaries, method)
    if len(errors) < 2:
        return None
    places, heights = map(math.log, errors), (math.log(error.mean) for error in errors.values())
    return statistics.linear_regression(list(places), list(heights)).slope


def accuracy_spreads(result: StudyResult) -> dict[str, dict[float, Spread]]:
    """Accuracy before retraining, by method and share removed."""
    found: dict[str, dict[float, list[float]]] = {}
    for point in result.accuracies:
        found.setdefault(point.method, {}).setdefault(point.share, []).append(point.accuracy)
    return {method: {share: spread(values) for share, values in by.items()} for method, by in found.items()}


class RetrainedSpread(NamedTuple):
    """Accuracies of pruned networks, over seeds; None where there is no BatchNorm."""

    before: Spread
    recalibrated: Spread | None
    after: Spread


def retrained_spreads(result: StudyResult) -> dict[float, dict[str, RetrainedSpread]]:
    """Accuracies before and after retraining, by share removed and method."""
    found: dict[float, dict[str, RetrainedSpread]] = {}
    for share in result.config.retrained_shares:
        for method in METHODS:
            points = [p for p in result.retrained if (p.share, p.method) == (share, method)]
            if points:
                found.setdefault(share, {})[method] = RetrainedSpread(
                    spread(p.before for p in points),
                    _spread_of_known([p.recalibrated for p in points]),
                    spread(p.after for p in points),
                )
    return found


def _spread_of_known(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if len(known) == len(values) else None
