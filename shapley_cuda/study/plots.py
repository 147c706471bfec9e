"""A study's figures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..files import write_whole
from .config import METHODS
from .results import StudyResult
from .summary import (
    RetrainedSpread,
    Summary,
    accuracy_spreads,
    error_slope,
    errors_of,
    largest_budgets,
    retrained_spreads,
    spread,
    summarise,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "write_figures"]

# Colours that remain apart for colour-blind readers (Okabe and Ito).
_BLUE, _SKY, _VERMILION, _GREEN, _ORANGE, _PINK, _GREY, _BLACK = (
    "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#7F7F7F", "#000000",
)  # fmt: skip


class _Style(NamedTuple):
    colour: str
    marker: str


# One look for each method in all figures.
_STYLES = {
    "permutation": _Style(_BLUE, "o"),
    "permutation_plain": _Style(_SKY, "o"),
    "permutation_shared": _Style(_VERMILION, "o"),
    "regression": _Style(_GREEN, "s"),
    "regression_shared": _Style(_ORANGE, "s"),
    "least_squares": _Style(_PINK, "s"),
    "removing_1": _Style(_SKY, "<"),
    "removing_2": _Style(_SKY, "v"),
    "adding_1": _Style(_ORANGE, ">"),
    "adding_2": _Style(_ORANGE, "^"),
    "leave_one_out": _Style(_GREEN, "x"),
    "exact": _Style(_BLUE, "*"),
    "oracle": _Style(_BLACK, "*"),
    "taylor": _Style(_PINK, "D"),
    "apoz": _Style(_SKY, "D"),
    "l1": _Style(_ORANGE, "P"),
    "l2": _Style(_VERMILION, "P"),
    "bn_scale": _Style(_BLACK, "P"),
    "random": _Style(_GREY, "X"),
}
_DPI = 100
_COLOURS = 200  # in a picture


def write_figures(result: StudyResult, folder: str | Path) -> list[Path]:
    """Draw a study into PNG files: what agreement costs, how errors fall, what pruning leaves, who agrees with whom.

    Args:
        result: the study.
        folder: where to write; files are called by the study's name.

    Returns:
        The files' paths; a figure that the study has nothing for is not drawn.
    """
    paths = []
    for name, draw in FIGURES.items():
        figure = draw(result)
        if figure is not None:
            paths.append(Path(folder) / f"{result.config.name}-{name}.png")
            write_whole(paths[-1], _png(figure))
    return paths


def _png(figure: Figure) -> bytes:
    """A picture in few colours: a quarter of the bytes, and nobody sees it."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    Image.open(drawn).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def _cost(result: StudyResult) -> Figure:
    """Kendall's tau and oracle agreement against evaluations, a column for each layer."""
    n_layers = len(result.layers)
    figure, axes = _figure(4.2 * n_layers, 8.2, rows=2, columns=n_layers, sharey="row")
    for column, layer in enumerate(result.layers):
        summaries = summarise(layer)
        for row, field in enumerate(("tau", "removed")):
            _draw_costs(axes[row][column], summaries, field)
        axes[0][column].set_title(f"{layer.layer}, {layer.n_players} channels", loc="left")
        axes[1][column].set_xlabel("evaluations (one image, one coalition each)")
    axes[0][0].set(ylabel="Kendall's τ to the reference", ylim=(None, 1.02))
    axes[1][0].set_ylabel("share of the oracle's removals")
    n_columns = min(5, 1 + n_layers)
    figure.legend(*_each_once(axes[0]), loc="outside lower center", ncols=n_columns, frameon=False, fontsize=9)
    return figure


def _draw_costs(axes: Axes, summaries: Sequence[Summary], field: str) -> None:
    costs = [summary.n_evaluations for summary in summaries if summary.n_evaluations]
    least, most = min(costs, default=1), max(costs, default=1)
    nowhere = least / 6  # where methods stand that evaluate nothing
    for method in dict.fromkeys(summary.method for summary in summaries):
        points = [(s.n_evaluations or nowhere, getattr(s, field)) for s in summaries if s.method == method]
        known = [(place, value) for place, value in points if value is not None]
        if known:
            _draw_line(axes, method, *zip(*known, strict=True), linestyle="-" if len(known) > 1 else "")
    powers = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
    axes.set_xscale("log")
    axes.set_xticks([nowhere, *(10**power for power in powers)], ["none", *(f"$10^{power}$" for power in powers)])
    axes.minorticks_off()
    axes.axvline(math.sqrt(nowhere * least), color="0.8", linewidth=1)
    if field == "tau":
        axes.axhline(0, color="0.8", linewidth=1)
    else:
        axes.set_ylim(-0.02, 1.02)


def _error(result: StudyResult) -> Figure | None:
    """Relative error against evaluations, a column for each layer, with the slope that means of draws have."""
    if not any(errors_of(summarise(layer), method) for layer in result.layers for method in result.config.methods):
        return None
    figure, axes = _figure(4.2 * len(result.layers), 5.8, columns=len(result.layers))
    for panel, layer in zip(axes[0], result.layers, strict=True):
        summaries = summarise(layer)
        lines = {method: errors_of(summaries, method) for method in result.config.methods}
        lines = {method: errors for method, errors in lines.items() if errors}
        for method, errors in lines.items():
            slope = error_slope(summaries, method)
            label = METHODS[method].label + ("" if slope is None else f": {slope:.2f}")
            _draw_line(panel, method, list(errors), list(errors.values()), label=label)
        panel.set(xscale="log", yscale="log", xlabel="evaluations (one image, one coalition each)")
        budgets = [passes * layer.n_samples * (layer.n_players + 1) for passes in result.config.passes]
        panel.set_xticks(budgets, [_short(budget) for budget in budgets])
        panel.minorticks_off()
        points = [(place, error.mean) for errors in lines.values() for place, error in errors.items()]
        if points:
            _draw_guide(panel, points)
        if layer.reference.error:
            panel.axhline(layer.reference.error, color="0.5", linewidth=1, linestyle=":", label="the reference's own")
        panel.set_title(f"{layer.layer}, {layer.n_players} channels", loc="left")
        panel.legend(
            frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0, -0.16), title="slope of the fall",
            title_fontsize=9, alignment="left",
        )  # fmt: skip
    axes[0][0].set_ylabel("RMSE / mean |value|")
    return figure


def _short(count: int) -> str:
    """A number of three digits and its magnitude: 51.2k, 1.61M."""
    return f"{count / 1e6:.3g}M" if count >= 999_500 else f"{count / 1e3:.3g}k" if count >= 1000 else str(count)


def _draw_guide(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """A line of slope -1/2, above all errors."""
    first, last = min(place for place, _ in points), max(place for place, _ in points)
    height = 1.6 * max(error * (place / first) ** 0.5 for place, error in points)
    axes.plot([first, last], [height, height * (first / last) ** 0.5], color="0.6", linestyle="--", linewidth=1.2)
    axes.annotate("slope -1/2", (last, height * (first / last) ** 0.5), xytext=(0, 16), textcoords="offset points",
                  ha="right", fontsize=8.5, color="0.4")  # fmt: skip


def _accuracy(result: StudyResult) -> Figure | None:
    """Accuracy against the share removed, and before and after retraining for each share that was retrained."""
    if not result.accuracies:
        return None
    retrained = retrained_spreads(result)
    figure, axes = _figure(6.6 + 3.4 * len(retrained), 5.6, columns=1 + len(retrained))
    left = axes[0][0]
    for method, by_share in accuracy_spreads(result).items():
        shares = [100 * share for share in (0.0, *by_share)]
        _draw_line(left, method, shares, [spread([result.unpruned]), *by_share.values()], scale=100)
    left.set(xlabel="channels removed of every layer studied (%)", ylabel="test accuracy (%)", ylim=(0, 100))
    left.set_title("Without retraining", loc="left")
    left.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    for panel, (share, by_method) in zip(axes[0][1:], retrained.items(), strict=True):
        panel.set_title(f"{share:.0%} removed", loc="left")
        for place, (method, accuracies) in enumerate(by_method.items()):
            _draw_retrained(panel, place, method, accuracies)
        panel.axvline(100 * result.unpruned, color="0.4", linewidth=1, linestyle="--", label="unpruned")
        is_first = panel is axes[0][1]
        panel.set_yticks(range(len(by_method)), [METHODS[m].label if is_first else "" for m in by_method])
        panel.set(xlabel="test accuracy (%)", ylim=(len(by_method) - 0.5, -0.5), xlim=(0, 100))
    for panel in axes[0][1:2]:
        panel.legend(*_each_once([panel]), frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def _draw_retrained(axes: Axes, place: int, method: str, accuracies: RetrainedSpread) -> None:
    colour = _STYLES[method].colour
    before, after = 100 * accuracies.before.mean, 100 * accuracies.after.mean
    axes.plot([before, after], [place, place], color=colour, linewidth=1.5, alpha=0.5)
    axes.plot(before, place, "o", markerfacecolor="white", markeredgecolor=colour, markersize=8, label="as it was cut")
    if accuracies.recalibrated is not None:
        between = 100 * accuracies.recalibrated.mean
        axes.plot(between, place, "|", color=colour, markersize=12, markeredgewidth=2, label="BatchNorm recalibrated")
    axes.plot(after, place, "o", color=colour, markersize=8, label="retrained")


def _agreement(result: StudyResult) -> Figure:
    """Who finds the oracle's sets in which layer, and which methods rank alike."""
    of_layers = [largest_budgets(summarise(layer)) for layer in result.layers]
    methods = [method for method in METHODS if any(method in of_layer for of_layer in of_layers)]
    labels = [METHODS[method].label for method in methods]
    height = 1.9 + 0.33 * len(methods)
    figure, axes = _figure(
        4.2 + 1.1 * len(result.layers) + 0.42 * len(methods),
        height,
        columns=2,
        width_ratios=(2 * len(result.layers), len(methods)),
    )
    left, right = axes[0]
    shares = [
        [
            getattr(of_layer[method], field).mean if method in of_layer else None
            for of_layer in of_layers
            for field in ("removed", "kept")
        ]
        for method in methods
    ]
    columns = [f"{layer.layer}\n{field}" for layer in result.layers for field in ("removed", "kept")]
    _draw_heat(left, shares, labels, columns, cmap="cividis", vmin=0, vmax=1)
    left.set_title("Share of the oracle's sets", loc="left")
    taus = [[_mean_tau(result, row, column) for column in methods] for row in methods]
    _draw_heat(right, taus, [], labels, cmap="PuOr", vmin=-1, vmax=1)
    right.set_title("Kendall's τ between rankings" + (", mean of the layers" if len(of_layers) > 1 else ""), loc="left")
    right.tick_params(axis="x", labelrotation=90)
    return figure


def _mean_tau(result: StudyResult, a: str, b: str) -> float | None:
    if a == b:
        return 1.0
    taus = [layer.taus.get("/".join(sorted((a, b)))) for layer in result.layers]
    known = [tau for tau in taus if tau is not None]
    return sum(known) / len(known) if known else None


def _draw_heat(
    axes: Axes, cells: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], **look: Any
) -> None:
    shades = np.array([[math.nan if cell is None else cell for cell in row] for row in cells])
    image = axes.imshow(shades, aspect="auto", **look)
    brightness = image.to_rgba(shades)[..., :3] @ (0.3, 0.59, 0.11)
    for y, x in zip(*np.nonzero(np.isfinite(shades)), strict=True):
        axes.text(x, y, f"{shades[y, x]:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7.5,
                  color="white" if brightness[y, x] < 0.5 else "black")  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(False)


def _draw_line(
    axes: Axes,
    method: str,
    places: Sequence[float],
    values: Sequence[Any],
    *,
    scale: float = 1,
    label: str | None = None,
    **look: Any,
) -> None:
    """Means over seeds, and a band of a standard deviation to both sides."""
    style = _STYLES[method]
    means = [scale * value.mean for value in values]
    label = METHODS[method].label if label is None else label
    axes.plot(places, means, color=style.colour, marker=style.marker, markersize=5, linewidth=1.6, label=label, **look)
    if any(value.deviation for value in values):
        low, high = ([scale * (v.mean + side * (v.deviation or 0)) for v in values] for side in (-1, 1))
        axes.fill_between(places, low, high, color=style.colour, alpha=0.18, linewidth=0)


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
    return figure, axes


def _each_once(panels: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """What a legend of several panels shows, handles and labels, each label once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        entries |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    return list(entries.values()), list(entries)


FIGURES: dict[str, Callable[[StudyResult], Figure | None]] = {
    "cost": _cost,
    "error": _error,
    "accuracy": _accuracy,
    "agreement": _agreement,
}
"""A study's figures by the names of their files."""
