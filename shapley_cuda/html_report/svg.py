"""A small module for drawing in SVG: a plot whose shapes stretch with the page while its words keep their size.

Shapes lie in a drawing of 1000 by 1000 units that is stretched to whatever place there is. Lines are as wide as they
say, however it is stretched, and so are dots, which are lines of no length with round ends. Words stand beside it,
at places that are given as percentages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Content, Element, element

__all__ = ["SIDE", "Axis", "bars", "dots", "fitting_axis", "line", "nice_ticks", "outline", "plot"]

SIDE = 1000
_LEAST = 1e-100  # extent of an axis: less is nothing


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        low: value at its beginning.
        high: value at its end, more than low.
        ticks: values with a mark.
        labels: what stands at the marks.
    """

    low: float
    high: float
    ticks: Sequence[float]
    labels: Sequence[str]

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> int:
        """Where a value lies along the drawing."""
        return round(SIDE * self.share(value))

    def up(self, value: float) -> int:
        """Where a value lies from the top of the drawing."""
        return SIDE - self.at(value)


def fitting_axis(low: float, high: float, most: int = 5) -> Axis:
    """An axis that is a little longer than from one value to another, with round numbers as ticks.

    Args:
        low: a finite number.
        high: one that is not less.
        most: about how many steps.
    """
    ticks = nice_ticks(low, high, most)
    margin = 0.04 * (high - low) or (ticks[-1] - ticks[0]) / 2
    inside = [tick for tick in ticks if low - margin <= tick <= high + margin]
    return Axis(low - margin, high + margin, inside, plain_labels(ticks[1] - ticks[0], inside))


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from below one value to above another: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: a finite number.
        high: one that is not less.
        most: about how many steps.
    """
    extent, largest = high - low, max(abs(low), abs(high))
    if not extent > max(1e-12 * largest, _LEAST):
        extent = largest if largest > _LEAST else 1.0
        low, high = low - extent / 2, high + extent / 2
    power = 10.0 ** math.floor(math.log10(extent / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * most >= extent * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def plain_labels(step: float, ticks: Sequence[float]) -> list[str]:
    """Ticks that lie so far apart, in as few digits as tell them apart."""
    largest = max(map(abs, ticks), default=0)
    if largest >= 1e5 or step < 1e-4:
        return [f"{tick:.2g}".replace("e-0", "e-").replace("e+0", "e") if tick else "0" for tick in ticks]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick:.{digits}f}".replace("-", "\u2212") for tick in ticks]


def line(points: Sequence[tuple[int, int]]) -> str:
    """Path data of a line through points."""
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def bars(spans: Sequence[tuple[int, int, int]]) -> str:
    """Path data of upright lines, each given as x and both ends."""
    return "".join(f"M{x} {low}V{high}" for x, low, high in spans)


def outline(spans: Sequence[tuple[int, int, int]]) -> str:
    """Path data of the area between the ends of upright lines."""
    there = [f"{x} {low}" for x, low, _ in spans]
    back = [f"{x} {high}" for x, _, high in reversed(spans)]
    return "M" + "L".join(there + back) + "Z"


def dots(points: Sequence[tuple[int, int]]) -> str:
    """Path data of dots, as large as the width of the line."""
    return "".join(f"M{x} {y}h.01" for x, y in points)


def plot(key: str, title: str, description: str, x: Axis, y: Axis, shapes: Content, over: Content = None) -> Element:
    """A drawing with its axes.

    Args:
        key: begins the ids of its parts; no other plot of the page has the same.
        title: what it shows.
        description: what is to be seen, for those who cannot see it.
        x: axis to the right.
        y: axis upwards.
        shapes: what is drawn, in units of the drawing.
        over: what is laid over it, at percentages.
    """
    grid = "".join(f"M0 {y.up(tick)}H{SIDE}" for tick in y.ticks)
    drawing = element(
        "svg", element("path", d=grid, class_="grid"), shapes,
        width="100%", height="100%", viewBox=f"0 0 {SIDE} {SIDE}", preserveAspectRatio="none", class_="shapes",
    )  # fmt: skip
    words = [
        element("text", label, x="-0.5em", y=f"{100 * (1 - y.share(tick)):.2f}%", dy="0.32em", class_="tick left")
        for tick, label in zip(y.ticks, y.labels, strict=True)
    ]
    words += [
        element("text", label, x=f"{100 * x.share(tick):.2f}%", y="100%", dy="1.5em", class_="tick below")
        for tick, label in zip(x.ticks, x.labels, strict=True)
    ]
    return element(
        "svg", element("title", title, id=f"{key}-title"), element("desc", description, id=f"{key}-desc"),
        drawing, words, over,
        class_="plot", role="img", aria_labelledby=f"{key}-title {key}-desc",
    )  # fmt: skip
