"""The report's figures: a layer's values with their errors and the boundary, and accuracy against size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..estimate import Estimate
from . import words
from .markup import Content, Element, element
from .svg import SIDE, Axis, bars, dots, fitting_axis, line, nice_ticks, outline, plain_labels, plot

__all__ = ["Measured", "SizeCurve", "curve_figure", "kept_bar", "pattern", "values_figure"]

_MOST_SHOWN = 1000  # channels of a layer; of more, every so many
_FEW, _SOME = 64, 160  # channels that large dots, and error bars of their own, have room for
_MOST_ERROR = 1e100  # an infinite one, as of too few draws, has no bar
_HATCH = "hatch"


@dataclass(frozen=True)
class Measured:
    """A network's size and accuracy.

    Attributes:
        label: what it is.
        size: as a share of the original's.
        accuracy: as a share of 1.
    """

    label: str
    size: float
    accuracy: float


@dataclass(frozen=True)
class SizeCurve:
    """Accuracy against size.

    Attributes:
        points: the curve, the smallest network first.
        marked: networks that are marked, each after a class of :file:`style.css`, ``"now"`` or ``"after"``.
        n_samples: that accuracies were measured on.
        line: what the curve is.
        caption: what stands below.
    """

    points: Sequence[Measured]
    marked: Sequence[tuple[str, Measured]]
    n_samples: int
    line: str
    caption: str


def pattern() -> Element:
    """What figures refer to: lines that mark what was removed without a colour. Once in a page."""
    hatch = element(
        "pattern", element("path", d="M-2 2l4-4M0 8l8-8M6 10l4-4"),
        id=_HATCH, width=8, height=8, patternUnits="userSpaceOnUse",
    )  # fmt: skip
    return element("svg", element("defs", hatch), class_="defs", width=0, height=0, aria_hidden="true")


def kept_bar(n_kept: int, n_players: int) -> Element:
    """A bar of what is kept of a layer; the rest is hatched."""
    kept = f"{100 * n_kept / n_players:.2f}%"
    return element(
        "svg",
        element("rect", x=kept, width=f"{100 * (1 - n_kept / n_players):.2f}%", height="100%", class_="removed-area"),
        element("rect", width=kept, height="100%", class_="kept-area"),
        class_="bar", role="img", aria_label=f"{n_kept} of {n_players} kept",
    )  # fmt: skip


def values_figure(key: str, estimate: Estimate, removed: Sequence[int], unit: str) -> Element:
    """A layer's channels, the least valuable on the left, with errors, and the boundary between kept and removed.

    Args:
        key: see :func:`~shapley_cuda.html_report.svg.plot`.
        estimate: of the layer.
        removed: the channels that went.
        unit: what values say.
    """
    order, gone = estimate.ranking().tolist(), set(removed)
    n, step = len(order), math.ceil(len(order) / _MOST_SHOWN)
    values, errors = estimate.values.tolist(), _errors(estimate)
    shown = [(place, channel) for place, channel in enumerate(order) if place % step == 0 or place == n - 1]
    ends = [(values[c] - e, values[c] + e) for _, c in shown for e in [errors[c]]]
    y = fitting_axis(min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends)))
    places = _places(n)
    x = Axis(0, n, [place - 0.5 for place in places], [str(place) for place in places])

    def position(place: int, channel: int) -> tuple[int, int]:
        return x.at(place + 0.5), y.up(values[channel])

    def interval(place: int, channel: int) -> tuple[int, int, int]:
        return x.at(place + 0.5), y.up(values[channel] - errors[channel]), y.up(values[channel] + errors[channel])

    shapes: list[Content] = [element("path", d=f"M0 {y.up(0)}H{SIDE}", class_="zero")]
    size = "few" if n <= _FEW else "some" if n <= _SOME else "many"
    for kind, is_gone in (("removed", True), ("kept", False)):
        part = [at for at in shown if (at[1] in gone) == is_gone]
        if not part:
            continue
        if any(errors[channel] > 0 for _, channel in part):
            spans = [interval(*at) for at in part]
            if n > _SOME and _in_a_row(part, step):
                shapes.append(element("path", d=outline(spans), class_=f"{kind} band"))
            else:
                shapes.append(element("path", d=bars(spans), class_=f"{kind} error {size}"))
        drawn = dots([position(*at) for at in part])
        shapes.append(element("path", d=drawn, class_=f"{kind} dot {size}"))
        if is_gone and n <= _SOME:
            shapes.append(element("path", d=drawn, class_=f"hollow dot {size}"))
    n_gone = len(gone)
    # Where the values are not what the channels went by, there is no boundary to draw.
    is_split = 0 < n_gone < n and set(order[:n_gone]) == gone
    under: Content = None
    over: Content = None
    if is_split:
        at = f"{100 * n_gone / n:.2f}%"
        under = element("rect", width=at, height="100%", class_="removed-side")
        over = element("line", x1=at, x2=at, y1="-0.3em", y2="100%", class_="boundary")
    drawing = plot(
        key, f"Values of {estimate.group}", _values_description(estimate, n_gone, is_split), x, y, shapes, over
    )
    if under is not None:
        drawing.insert(2, under)
    caption = []
    if step > 1:
        caption.append(f"Of {n:,} channels every {_ordinal(step)} is drawn.")
    if n_gone and not is_split:
        caption.append("Channels did not go in the order of these values, so there is no boundary to draw.")
    has_errors = any(error > 0 for error in errors)
    return _figure(
        [("removed", f"{n_gone} removed" if n_gone else None), ("kept", f"{n - n_gone} kept"),
         ("error", f"95{words.SPACE}% error" if has_errors else None), ("boundary", "boundary" if is_split else None)],
        f"Value: {unit}", drawing, "Channels, the least valuable first", " ".join(caption),
    )  # fmt: skip


def curve_figure(key: str, curve: SizeCurve) -> Element:
    """Accuracy against size, with 95 % intervals.

    Args:
        key: see :func:`~shapley_cuda.html_report.svg.plot`.
        curve: what was measured.
    """
    points, marked = curve.points, curve.marked
    x = Axis(0, 1, [i / 5 for i in range(6)], [f"{20 * i}" for i in range(6)])
    everything = [*points, *(measured for _, measured in marked)]
    margins = [words.accuracy_error(one.accuracy, curve.n_samples) for one in everything]
    low = min(one.accuracy - margin for one, margin in zip(everything, margins, strict=True))
    ticks = nice_ticks(max(0.0, 100 * low), 100)
    y = Axis(ticks[0] / 100, 1, [tick / 100 for tick in ticks], plain_labels(1, ticks))
    spans = [
        (x.at(one.size), y.up(max(y.low, one.accuracy - margin)), y.up(min(y.high, one.accuracy + margin)))
        for one, margin in zip(points, margins, strict=False)
    ]
    places = [(x.at(one.size), y.up(one.accuracy)) for one in points]
    shapes = [
        element("path", d=outline(spans), class_="kept band"),
        element("path", d=line(places), class_="kept curve"),
        element("path", d=dots(places), class_="kept dot some"),
    ]
    marks = [(kind, x.share(one.size), 1 - y.share(one.accuracy)) for kind, one in marked]
    over = [_way(first, then) for first, then in pairwise(marks)] + [_mark(*mark) for mark in marks]
    said = [f"{one.label}: {words.accuracy(one.accuracy)} at {words.percent(one.size)}" for _, one in marked]
    description = "; ".join(
        [f"Accuracy at sizes from {words.percent(points[0].size)} to {words.percent(points[-1].size)}", *said]
    )
    legend: list[tuple[str, str | None]] = [("curve", curve.line), ("error", f"95{words.SPACE}% interval")]
    legend += [(kind, f"{one.label}, {words.accuracy(one.accuracy)}") for kind, one in marked]
    drawing = plot(key, "Accuracy against size", description, x, y, shapes, over)
    return _figure(legend, "Accuracy, %", drawing, "Parameters, % of the original network's", curve.caption)


def _way(first: tuple[str, float, float], then: tuple[str, float, float]) -> Element:
    """A line from one mark to the next."""
    ends = {"x1": first[1], "y1": first[2], "x2": then[1], "y2": then[2]}
    return element("line", class_="way", **{name: f"{100 * place:.2f}%" for name, place in ends.items()})


def _mark(kind: str, x: float, y: float) -> Element:
    """A mark of the same shape at any size of the drawing."""
    shape = {"now": "M-6-6H6V6H-6Z", "after": "M0-9L9 0L0 9L-9 0Z"}[kind]
    drawn = element("path", d=shape, class_=f"mark {kind}")
    return element("svg", drawn, x=f"{100 * x:.2f}%", y=f"{100 * y:.2f}%", class_="shapes")


def _figure(
    legend: Sequence[tuple[str, str | None]], above: str, drawing: Element, below: str, caption: str
) -> Element:
    keys = [
        element("li", element("span", class_=f"key {kind}", aria_hidden="true"), text) for kind, text in legend if text
    ]
    return element(
        "figure",
        element("ul", keys, class_="legend"),
        element("p", above, class_="axis"),
        element("div", drawing, class_="frame"),
        element("p", below, class_="axis below"),
        element("figcaption", caption) if caption else None,
    )


def _errors(estimate: Estimate) -> list[float]:
    """Half the width of each value's 95 % interval; 0 where nothing is known."""
    if estimate.standard_error is None:
        return [0.0] * len(estimate.values)
    return [words.Z95 * error if 0 < error < _MOST_ERROR else 0.0 for error in estimate.standard_error.tolist()]


def _places(n: int) -> list[int]:
    """Places in a ranking to be named, from the first to the last."""
    if n <= 6:
        return list(range(1, n + 1))
    ticks = [int(tick) for tick in nice_ticks(0, n, 5) if 1 < tick < n and tick == int(tick)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else n
    return [1, *(tick for tick in ticks if n - tick > step / 2 and tick - 1 > step / 4), n]


def _in_a_row(part: Sequence[tuple[int, int]], step: int) -> bool:
    return all(later[0] - earlier[0] <= step for earlier, later in pairwise(part))


def _values_description(estimate: Estimate, n_gone: int, is_split: bool) -> str:
    values = estimate.values.sort().values
    n = len(values)
    said = f"{n} channels by value, from {float(values[0]):.3g} to {float(values[-1]):.3g}"
    if is_split:
        last, first = float(values[n_gone - 1]), float(values[n_gone])
        return f"{said}. The {n_gone} least valuable are removed, up to {last:.3g}; what is kept begins at {first:.3g}."
    return f"{said}. {n_gone} are removed."


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
