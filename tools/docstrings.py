"""What the site needs to read the package's docstrings: they name things as Sphinx does, and the site is Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`(~?)([\w.]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_TABLE = re.compile(r"^=+(?: =+)+$.*^=+(?: =+)+$", re.MULTILINE | re.DOTALL)


def as_markdown(docstring: str) -> str:
    """Turn roles into links (to what the site shows, else into code), examples into a section, tables into code."""
    text = _ROLE.sub(_link, docstring)
    text = _TABLE.sub(lambda table: f"```text\n{table[0]}\n```", text)
    return _EXAMPLE.sub(r"\1Examples:", text)


def _link(role: re.Match[str]) -> str:
    is_short, name = role.groups()
    shown = name.rpartition(".")[2] if is_short else name
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'


class Docstrings(griffe.Extension):
    """Rewrite every docstring before it is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
