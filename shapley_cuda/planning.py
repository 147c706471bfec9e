"""Planning: from rankings to the channels that go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .counting import count_macs, count_parameters
from .estimate import Estimate
from .groups import Group, cut_channels
from .plans import PruningPlan
from .surgery import prunable_groups

__all__ = ["plan_pruning"]


def plan_pruning(
    model: nn.Module,
    rankings: Mapping[str, Estimate | Tensor],
    keep: float | Mapping[str, int | float],
    example_input: Tensor,
) -> PruningPlan:
    """Decide which channels go: in each group, those of the least value.

    Args:
        model: the network that was ranked; unchanged.
        rankings: for each group, by name, an estimate or a tensor of values ``[C]``, higher is more valuable.
        keep: the share of channels to keep in every group, a float in (0, 1]; or for each group, by the name that it
            has in ``rankings``, a share (float) or a number of channels (int). At least one channel of each group
            stays.
        example_input: a batch that the model accepts; its first sample is what MACs are counted on.

    Returns:
        A :class:`PruningPlan`. Channels of equal value go in the order of their numbers.

    Raises:
        GroupError: a group does not exist or cannot be pruned, as far as its layers tell; :func:`prune` also compares
            outputs.
        ValueError: ``keep`` is out of range or names a group that is not ranked, a ranking is another group's or has
            not one value per channel, or two rankings name the same group by different layers.

    Example:
        >>> plan = sc.plan_pruning(model, {"conv2": estimate}, keep=0.5, example_input=images)
        >>> print(plan)
    """
    if not isinstance(rankings, Mapping):
        raise TypeError(f"rankings must map groups to estimates, got {type(rankings).__name__}")
    if isinstance(keep, Mapping) and set(keep) != set(rankings):
        raise ValueError(f"keep must name the groups that are ranked, {sorted(rankings)}, got {sorted(keep)}")
    sample = example_input[:1]
    removed: dict[str, list[int]] = {}
    n_players: dict[str, int] = {}
    for (name, ranking), group in zip(rankings.items(), prunable_groups(model, rankings, sample), strict=True):
        if group.name in removed:
            raise ValueError(f"rankings must name each group once, got {name!r} and another layer of {group.name!r}")
        if isinstance(ranking, Estimate) and ranking.group != group.name:
            raise ValueError(f"ranking of {name!r} must be of group {group.name!r}, got one of {ranking.group!r}")
        values = ranking.values if isinstance(ranking, Estimate) else torch.as_tensor(ranking)
        if values.shape != (group.n_players,):
            raise ValueError(f"ranking of {name!r} must have {group.n_players} values, got shape {list(values.shape)}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"ranking of {name!r} must be finite, got NaN or infinite values")
        n_kept = _number_kept(group, name, keep)
        order = torch.argsort(values, stable=True)
        removed[group.name] = sorted(order[: group.n_players - n_kept].tolist())
        n_players[group.name] = group.n_players
    pruned = cut_channels(model, removed, sample)
    return PruningPlan(
        removed=removed,
        n_players=n_players,
        parameters=(count_parameters(model), count_parameters(pruned)),
        macs=(count_macs(model, sample), count_macs(pruned, sample)),
        input_shape=tuple(sample.shape),
    )


def _number_kept(group: Group, name: str, keep: float | Mapping[str, int | float]) -> int:
    wanted = keep[name] if isinstance(keep, Mapping) else keep
    if isinstance(wanted, float) and 0 < wanted <= 1:
        return max(1, round(wanted * group.n_players))
    if isinstance(keep, Mapping) and type(wanted) is int and 1 <= wanted <= group.n_players:
        return wanted
    raise ValueError(
        f"keep of {name!r} must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
        f"as an int from 1 to {group.n_players}, got {wanted!r}"
    )
