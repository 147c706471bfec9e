"""Tables and pictures of what pruning did."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn

from .estimate import Estimate
from .files import write_whole
from .groups import find_groups, pick_group
from .masking import masked_outputs
from .plans import PruningPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AccuracyCurve", "ResultRow", "accuracy_curve", "plot_results", "results_table"]

# Colours that remain apart for colour-blind readers (Okabe and Ito), one for each method.
_COLOURS = {"permutation": "#0072B2", "magnitude": "#D55E00", "random": "#7F7F7F"}
_LABELS = {"permutation": "Shapley", "magnitude": "magnitude (L1)", "random": "random"}

STOPPED = {
    "tolerance": "error reached",
    "settled": "settled which are kept",
    "budget": "budget spent",
    "time": "time over",
    "complete": "all computed",
}
"""Why estimates stopped, in words."""


@dataclass(frozen=True)
class ResultRow:
    """One line of the comparison.

    Attributes:
        method: what ranked the channels; ``"unpruned"`` for the original network.
        kept: channels kept over channels there were, all groups together.
        parameters: number of parameters.
        macs: multiply-accumulates for one sample.
        latency_ms: time of one batch, the shortest of several, in milliseconds.
        accuracy_before: accuracy before retraining, as a share of 1.
        accuracy_after: accuracy after retraining; None where nothing was retrained.
        ranking_seconds: time that ranking took; None for the original network.
    """

    method: str
    kept: tuple[int, int]
    parameters: int
    macs: int
    latency_ms: float
    accuracy_before: float
    accuracy_after: float | None
    ranking_seconds: float | None


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy against the share of channels removed, before any retraining."""

    method: str
    removed: list[float]
    accuracy: list[float]


def relative_error(estimate: Estimate) -> float | None:
    """Largest standard error over the range of the values; None where there are no standard errors."""
    if estimate.standard_error is None:
        return None
    largest = float(estimate.standard_error.max())
    spread = float(estimate.values.max() - estimate.values.min())
    return largest / spread if spread > 0 else math.inf if largest > 0 else 0.0


def method_label(method: str) -> str:
    """A method's name as tables and pictures show it."""
    return _LABELS.get(method, method)


def results_table(rows: Sequence[ResultRow], batch_size: int, title: str) -> Table:
    """The comparison as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    headings = (
        "method", "channels\nkept", "parameters", "MACs", f"latency\nbatch {batch_size}", "accuracy before\nretraining",
        "accuracy\nafter", "time to\nrank",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in rows:
        kept, there_were = row.kept
        table.add_row(
            method_label(row.method),
            f"{kept}/{there_were}",
            f"{row.parameters:,}",
            f"{row.macs / 1e6:.2f} M",
            f"{row.latency_ms:.2f} ms",
            f"{row.accuracy_before:.1%}",
            "" if row.accuracy_after is None else f"{row.accuracy_after:.1%}",
            "" if row.ranking_seconds is None else f"{row.ranking_seconds:.2f} s",
        )
    return table


@torch.no_grad()
def accuracy_curve(
    model: nn.Module,
    estimates: Mapping[str, Estimate],
    data: tuple[Tensor, Tensor],
    shares: Sequence[float],
) -> AccuracyCurve:
    """Accuracy with the least valuable share of every group masked, which is what pruning it would give.

    Args:
        model: a classifier in evaluation mode.
        estimates: for each group, by name, the values of its channels, all from one method.
        data: ``(images, labels)`` to measure on.
        shares: shares of the channels to remove, each in [0, 1).
    """
    images, labels = data
    found = find_groups(model, images[:1])
    groups = {name: pick_group(found, name) for name in estimates}
    accuracies = []
    for share in shares:
        coalitions = []
        for name, group in groups.items():
            n_removed = min(group.n_players - 1, round(share * group.n_players))
            mask = torch.ones(group.n_players, dtype=torch.bool)
            mask[estimates[name].ranking()[:n_removed]] = False
            coalitions.append((group, mask))
        right = sum(
            int((masked_outputs(model, coalitions, x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
        accuracies.append(right / labels.shape[0])
    method = next(iter(estimates.values())).method
    return AccuracyCurve(method, list(shares), accuracies)


def plot_results(
    path: str | Path,
    title: str,
    rows: Sequence[ResultRow],
    curves: Sequence[AccuracyCurve],
    estimate: Estimate,
    plan: PruningPlan,
) -> None:
    """Draw the comparison into a PNG file: accuracy against size, one group's values, accuracy and retraining.

    Args:
        path: where to write.
        title: a line above the picture.
        rows: the results, the unpruned network first.
        curves: one for each method.
        estimate: Shapley values of one group, for the middle panel.
        plan: what was removed; gives the boundary in the middle panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 1))
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    _draw_curves(left, curves, rows[0].accuracy_before, 1 - rows[1].kept[0] / rows[1].kept[1])
    _draw_values(middle, estimate, plan)
    _draw_accuracies(right, rows)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def _draw_curves(axes: Axes, curves: Sequence[AccuracyCurve], unpruned: float, pruned_share: float) -> None:
    axes.set_title("Accuracy without retraining", loc="left")
    axes.axhline(100 * unpruned, color="0.4", linewidth=1, linestyle="--")
    axes.axvline(100 * pruned_share, color="0.75", linewidth=6, alpha=0.5, zorder=0)
    axes.annotate("pruned\nhere", (100 * pruned_share, 3), ha="center", fontsize=9, color="0.4")
    for curve in curves:
        axes.plot(
            [100 * s for s in curve.removed], [100 * a for a in curve.accuracy],
            color=_COLOURS.get(curve.method), label=method_label(curve.method), linewidth=2.2, marker="o", markersize=4,
        )  # fmt: skip
    axes.set(xlabel="channels removed (%)", ylabel="test accuracy (%)", ylim=(0, 100), xlim=(0, None))
    axes.legend(frameon=False, loc="lower left")


def _draw_values(axes: Axes, estimate: Estimate, plan: PruningPlan) -> None:
    order = estimate.ranking()
    values = estimate.values[order]
    removed = set(plan.removed[estimate.group])
    colours = ["#BBBBBB" if int(c) in removed else _COLOURS["permutation"] for c in order]
    places = range(len(values))
    axes.set_title(f"Shapley values of {estimate.group}, least to most valuable", loc="left")
    axes.bar(places, values.tolist(), color=colours, width=0.85)
    if estimate.standard_error is not None:
        spread = (2 * estimate.standard_error[order]).tolist()
        axes.errorbar(places, values.tolist(), yerr=spread, fmt="none", ecolor="0.2", elinewidth=0.8)
    axes.axvline(len(removed) - 0.5, color="0.3", linewidth=1, linestyle=":")
    axes.annotate("removed ", (len(removed) - 0.5, float(values.max())), ha="right", va="top", color="0.45")
    axes.annotate(
        " kept", (len(removed) - 0.5, float(values.max())), ha="left", va="top", color=_COLOURS["permutation"]
    )
    axes.set(xlabel="rank of the channel", ylabel="loss it saves (nats), ± 2 standard errors")


def _draw_accuracies(axes: Axes, rows: Sequence[ResultRow]) -> None:
    axes.set_title("Before (light) and after retraining", loc="left")
    unpruned, pruned = 100 * rows[0].accuracy_before, rows[1:]
    axes.axhline(unpruned, color="0.4", linewidth=1, linestyle="--")
    above_line: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "ha": "right",
        "va": "bottom",
        "fontsize": 9,
        "color": "0.4",
    }
    axes.annotate(f"unpruned {unpruned:.1f} ", (1, unpruned), **above_line)
    for place, row in enumerate(pruned):
        colour = _COLOURS.get(row.method, "0.5")
        after = row.accuracy_before if row.accuracy_after is None else row.accuracy_after
        for offset, accuracy, alpha in ((-0.2, row.accuracy_before, 0.5), (0.2, after, 1.0)):
            axes.bar(place + offset, 100 * accuracy, width=0.36, color=colour, alpha=alpha)
            axes.annotate(
                f"{100 * accuracy:.1f}", (place + offset, 100 * accuracy), ha="center", va="bottom", fontsize=9
            )
    axes.set_xticks(range(len(pruned)), [method_label(row.method) for row in pruned])
    axes.set(ylabel="test accuracy (%)", ylim=(0, 105))
