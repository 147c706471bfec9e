"""Elements of HTML and SVG as a tree, so that whatever text they are given is escaped when it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

__all__ = ["Content", "Element", "dotted", "element", "to_html"]

Element = ElementTree.Element
Content = Any
"""Text, a number, an element, None for nothing, or an iterable of these."""

# Characters that HTML has no place for: controls, and halves of surrogate pairs, which JSON may hold.
_FOREIGN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *content: Content, **attributes: Any) -> Element:
    """Make an element.

    Args:
        tag: its name.
        *content: what is in it.
        **attributes: None leaves one out. An underscore at the end is dropped (``class_``), others become hyphens.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), _clean(value))
    _append(made, content)
    return made


def dotted(name: str) -> list[Content]:
    """A layer's name, which may be broken behind its dots."""
    first, *others = name.split(".")
    return [first, *((".", element("wbr"), part) for part in others)]


def to_html(root: Element) -> str:
    """Write a page."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def _append(parent: Element, content: Content) -> None:
    if content is None:
        return
    if isinstance(content, Element):
        parent.append(content)
    elif isinstance(content, Iterable) and not isinstance(content, str):
        for part in content:
            _append(parent, part)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + _clean(content)
    else:
        parent.text = (parent.text or "") + _clean(content)


def _clean(value: object) -> str:
    return _FOREIGN.sub("\ufffd", str(value))
