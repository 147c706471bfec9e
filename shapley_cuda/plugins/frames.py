"""Estimates as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..estimate import Estimate
from ..optional import needed
from ..plans import PruningPlan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame"]


def frame(estimates: Estimate | Iterable[Estimate], plan: PruningPlan | None = None) -> pd.DataFrame:
    """Tabulate estimates, one row for each player, for ``pandas`` and all that reads its frames.

    Columns are NumPy arrays, copies of the estimates' numbers with all their bits; one column alone is
    ``frame(estimate)["value"].to_numpy()``.

    Args:
        estimates: one estimate, or several, such as ``estimates.values()`` of a dict of groups.
        plan: adds the column ``kept``, for estimates of the plan's groups.

    Returns:
        A ``pandas.DataFrame`` with the columns ``group``, ``method``, ``player``, ``value`` (in units of the payoff),
        whatever else the estimates know of each player, such as ``standard_error`` (missing for methods that have
        none), ``rank`` (0 for the least valuable of the group, the first to go) and, given a plan, ``kept``.

    Raises:
        ImportError: ``pandas`` is not installed; it comes with ``pip install '.[ecosystem]'``.
        ValueError: the plan does not name an estimate's group, or has another number of channels for it.

    Example:
        >>> table = sc.plugins.frame([conv1, conv2], plan)
        >>> table.sort_values("value").groupby("group").head(5)  # the five least valuable channels of each group
    """
    pandas = needed("pandas", "frame")
    several = [estimates] if isinstance(estimates, Estimate) else list(estimates)
    columns = ["group", "method", "player", "value", *_extras(several), "rank", *(["kept"] if plan else [])]
    tables = [pandas.DataFrame(_columns(estimate, plan)) for estimate in several]
    return pandas.concat(tables, ignore_index=True)[columns] if tables else pandas.DataFrame(columns=columns)


def _extras(estimates: Iterable[Estimate]) -> list[str]:
    """Fields, beside the values, that hold a number for each player in at least one of the estimates."""
    found = [f.name for e in estimates for f in fields(e) if f.name != "values" and _per_player(e, f.name)]
    return list(dict.fromkeys(found))


def _per_player(estimate: Estimate, name: str) -> bool:
    numbers = getattr(estimate, name)
    return isinstance(numbers, Tensor) and numbers.shape == estimate.values.shape


def _columns(estimate: Estimate, plan: PruningPlan | None) -> dict[str, Any]:
    n_players = len(estimate.values)
    rank = np.empty(n_players, dtype=np.int64)
    rank[estimate.ranking().numpy()] = np.arange(n_players)
    columns: dict[str, Any] = {
        "group": estimate.group,
        "method": estimate.method,
        "player": np.arange(n_players),
        "value": estimate.values.numpy().copy(),
        "rank": rank,
    }
    columns |= {name: getattr(estimate, name).numpy().copy() for name in _extras([estimate])}
    if plan is not None:
        columns["kept"] = _kept(estimate, plan)
    return columns


def _kept(estimate: Estimate, plan: PruningPlan) -> np.ndarray:
    n_players = len(estimate.values)
    if plan.n_players.get(estimate.group) != n_players:
        raise ValueError(
            f"frame: plan must have the {n_players} channels of group {estimate.group!r}, "
            f"got a plan for {plan.n_players}"
        )
    kept = np.zeros(n_players, dtype=bool)
    kept[plan.kept(estimate.group)] = True
    return kept
