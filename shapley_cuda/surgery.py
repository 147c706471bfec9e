"""Surgery: from a plan to a smaller network, which computes what the masked one does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .groups import Group, GroupError, cut_channels, find_groups, pick_group
from .masking import masked_outputs, relative_deviation
from .modes import evaluation_mode
from .plans import PruningPlan

__all__ = ["PruningError", "prunable_groups", "prune"]

_EXACT_TOLERANCE = 1e-4  # float32 rounding through a deep network, reduced-precision convolutions included


class PruningError(RuntimeError):
    """The pruned network is not what the plan promises. The original has not been changed."""


def prune(model: nn.Module, plan: PruningPlan, example_input: Tensor, *, verify: bool = True) -> nn.Module:
    """Build the smaller network.

    Args:
        model: the network that the plan was made for; unchanged.
        plan: what to remove.
        example_input: a batch that the model accepts.
        verify: compare outputs on ``example_input`` with those of the original under the plan's masks.

    Returns:
        A new network in evaluation mode, on the model's device.

    Raises:
        GroupError: the plan's groups do not fit this network.
        PruningError: the pruned and the masked network differ by more than rounding.
    """
    found = prunable_groups(model, plan.removed, example_input[:1])
    groups = dict(zip(plan.removed, found, strict=True))
    for name, group in groups.items():
        if group.n_players != plan.n_players[name]:
            raise GroupError(f"group {name!r} has {group.size}, the plan is for {plan.n_players[name]}")
    pruned = cut_channels(model, plan.removed, example_input[:1])
    if verify:
        deviation = _deviation_from_mask(model, pruned, plan, groups, example_input)
        if not deviation <= _EXACT_TOLERANCE:
            raise PruningError(
                f"pruned and masked network differ by {deviation:.1e} of the largest output "
                f"(at most {_EXACT_TOLERANCE:.0e} is rounding); groups {', '.join(groups)} cannot be pruned exactly"
            )
    return pruned


def prunable_groups(model: nn.Module, names: Iterable[str], sample: Tensor) -> list[Group]:
    """Find groups by the names of their layers.

    Raises:
        GroupError: one does not exist or cannot be pruned, as far as its layers tell.
    """
    found = find_groups(model, sample)
    groups = [pick_group(found, name) for name in names]
    for group in groups:
        if not group.prunable:
            raise GroupError(f"group {group.name!r} cannot be pruned exactly: {group.reason}")
    return groups


@torch.no_grad()
def _deviation_from_mask(
    model: nn.Module, pruned: nn.Module, plan: PruningPlan, groups: Mapping[str, Group], inputs: Tensor
) -> float:
    coalitions = []
    for name, group in groups.items():
        mask = torch.zeros(group.n_players, dtype=torch.bool)
        mask[plan.kept(name)] = True
        coalitions.append((group, mask))
    with evaluation_mode(model):
        reference = masked_outputs(model, coalitions, inputs)
    return relative_deviation(pruned(inputs), reference)
