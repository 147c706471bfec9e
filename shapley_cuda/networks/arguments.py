"""Checks of what the builders of networks are given, and of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def is_count(value: object) -> bool:
    """Tell whether a value is a positive integer, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_counts(caller: str, **counts: object) -> None:
    """Refuse any argument that is not a positive integer."""
    for name, value in counts.items():
        if not is_count(value):
            raise ValueError(f"{caller}: {name} must be a positive integer, got {value!r}")


def known_name(name: str, caller: str, names: Iterable[str]) -> str:
    """Return a name that is known; refuse another, suggesting a near one."""
    known = sorted(names)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{caller}: name must be one of {', '.join(known)}, got {name!r}{hint}")
