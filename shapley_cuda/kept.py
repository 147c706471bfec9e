"""How many channels of a group are kept, said as a share or as a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["ROUNDING", "as_recorded", "default_least", "kept_channels", "least_kept"]

ROUNDING = 1 + 1e-9
"""A share times a size, in floating point, may be so much more than it should."""


def as_recorded(kept: Any) -> Any:
    """What was said of how many are kept, as records hold it."""
    return dict(kept) if isinstance(kept, Mapping) else kept


def default_least(across: str) -> float | None:
    """What every group keeps where nothing is said: a tenth where channels of all groups compete."""
    return 0.1 if across == "global" else None


def kept_channels(name: str, n_players: int, keep: Any, *, is_number_allowed: bool) -> int:
    """How many channels of a group a share or, where it may be, a number of channels keeps.

    Raises:
        ValueError: it is neither, or out of range.
    """
    if isinstance(keep, float) and 0 < keep <= 1:
        return max(1, round(keep * n_players))
    if is_number_allowed and type(keep) is int and 1 <= keep <= n_players:
        return keep
    raise ValueError(
        f"keep of {name!r} must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
        f"as an int from 1 to {n_players}, got {keep!r}"
    )


def least_kept(
    groups: Mapping[str, tuple[str, int]], keep_at_least: float | Mapping[str, int | float] | None
) -> dict[str, int]:
    """How many channels of each group stay whatever happens.

    Args:
        groups: name and number of channels of each group, by the name that ``keep_at_least`` knows it by.
        keep_at_least: see :func:`plan_pruning`.

    Raises:
        ValueError: it is no share or number of channels, or names another group.
    """
    shares = keep_at_least if isinstance(keep_at_least, Mapping) else dict.fromkeys(groups, keep_at_least)
    if not set(shares) <= set(groups):
        raise ValueError(f"keep_at_least must name groups that are ranked, {sorted(groups)}, got {sorted(shares)}")
    floors = {}
    for alias, (name, n_players) in groups.items():
        least = shares.get(alias)
        if isinstance(least, float) and 0 <= least <= 1:
            floors[name] = max(1, math.ceil(least * n_players / ROUNDING))
        elif least is None or (isinstance(keep_at_least, Mapping) and type(least) is int and 1 <= least <= n_players):
            floors[name] = least or 1
        else:
            raise ValueError(
                f"keep_at_least of {alias!r} must be a share, as a float in [0, 1], or in a mapping of groups a number "
                f"of channels, as an int from 1 to {n_players}, got {least!r}"
            )
    return floors
