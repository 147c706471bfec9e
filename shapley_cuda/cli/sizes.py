"""Amounts of memory, as options say them."""

from __future__ import annotations

import re

from ..memory import check_budget

__all__ = ["read_memory_budget"]

_UNITS = {"b": 1}
_UNITS |= {f"{prefix}ib": 1 << power for prefix, power in zip("kmgt", (10, 20, 30, 40), strict=True)}
_UNITS |= {f"{prefix}b": 10**power for prefix, power in zip("kmgt", (3, 6, 9, 12), strict=True)}


def read_memory_budget(text: str) -> int | float:
    """Read a memory budget: bytes, with a unit or without, or with a decimal point and no unit a share.

    Raises:
        ValueError: it is neither, or out of range.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)?", text.strip().lower())
    if found is None or (found[2] and found[2] not in _UNITS):
        raise ValueError(
            f"must be an amount of memory, such as 64MiB, or a share of what is free, such as 0.25, got {text!r}"
        )
    number, unit = found[1], found[2]
    budget = float(number) if not unit and "." in number else int(float(number) * _UNITS[unit or "b"])
    check_budget(budget)
    return budget
