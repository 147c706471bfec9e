"""Tables that can be scrolled sideways where a screen is too narrow for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Content, Element, element

__all__ = ["Cell", "table"]


@dataclass(frozen=True)
class Cell:
    """What a cell holds, and its class in style.css."""

    content: Content
    class_: str | None = None


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Element:
    """A table; the first cell of each row is its heading. Columns that are empty in every row are left out."""
    filled = [place for place in range(len(headings)) if any(row[place].content != "" for row in rows)]
    headings, rows = [headings[place] for place in filled], [[row[place] for place in filled] for row in rows]
    classes = [cell.class_ for cell in rows[0]] if rows else [None] * len(headings)
    head = element(
        "tr",
        (element("th", heading, scope="col", class_=class_) for heading, class_ in zip(headings, classes, strict=True)),
    )
    body = (
        element("tr", element("th", first.content, scope="row", class_=first.class_),
                (element("td", cell.content, class_=cell.class_) for cell in rest))
        for first, *rest in rows
    )  # fmt: skip
    made = element("table", element("caption", caption), element("thead", head), element("tbody", body))
    return element("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)
