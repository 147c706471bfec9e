"""Whether pruning a group is what masking it computes: tried on the spot, by pruning a copy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from . import ops
from .groups import Group, GroupError, cut_channels
from .masking import masked_outputs, relative_deviation

__all__ = ["check_exact"]

_CANDIDATES, _EXAMPLES = 64, 4  # a group is tried on the first samples whose outputs are finite


@torch.no_grad()
def check_exact(model: nn.Module, group: Group, inputs: Tensor, device: torch.device | None = None) -> None:
    """Prune half of the channels of a copy and compare with the mask: what cannot be pruned exactly is refused.

    Args:
        model: the network, in evaluation mode.
        group: what would be pruned.
        inputs: samples, of which the first are tried.
        device: where the network runs; default where the inputs are.
    """
    example = _finite_example(model, inputs[:_CANDIDATES], device or inputs.device)
    if group.n_players == 1:
        return
    # No regular pattern: every other channel looks the same after a flip or in two halves. This draw has none.
    kept = ops.sample_permutations(0, 1, 1, group.n_players)[0] % 2 == 0
    try:  # in float64, rounding cannot be mistaken for channels that mix a little
        deviation, tolerance = _trial_cut(copy.deepcopy(model).double(), group, example.double(), kept), 1e-9
    except (RuntimeError, TypeError, ValueError):  # a network that insists on its own type
        deviation, tolerance = _trial_cut(model, group, example, kept), 1e-4
    if not deviation <= tolerance:
        raise GroupError(
            f"group {group.name!r} cannot be pruned exactly: outputs of the pruned and of the masked network "
            f"differ by {deviation:.1e} of their largest value (at most {tolerance:.0e} is rounding); some "
            "operation between its layers and their consumers mixes channels"
        )


def _finite_example(model: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    """The first samples whose outputs are finite, on the device."""
    found: list[Tensor] = []
    for batch in inputs.split(_EXAMPLES):
        candidates: Tensor = batch.to(device)
        outputs = masked_outputs(model, [], candidates)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"model must return one tensor, got {type(outputs).__name__}")
        finite = outputs.flatten(1).isfinite().all(1) if outputs.dim() > 1 else outputs.isfinite()
        if len(finite) != len(candidates):  # outputs that are not one per sample
            return candidates
        found.append(candidates[finite])
        if sum(map(len, found)) >= _EXAMPLES:
            break
    if not any(map(len, found)):
        raise ValueError(f"model must give finite outputs, got none for the first {len(inputs)} samples")
    return torch.cat(found)[:_EXAMPLES]


def _trial_cut(model: nn.Module, group: Group, example: Tensor, kept: Tensor) -> float:
    name, removed = group.name, (~kept).nonzero().flatten().tolist()
    try:
        pruned = cut_channels(model, {name: removed}, example)(example)
    except GroupError:
        raise
    except Exception as error:  # whatever a layer that does not fit any more raises
        hint = "; the forward pass must take how many heads there are from num_heads"
        raise GroupError(
            f"group {name!r} cannot be pruned: cutting it gave {type(error).__name__}: {error}"
            f"{hint if group.channels_per_player > 1 else ''}"
        ) from error
    return relative_deviation(pruned, masked_outputs(model, [(group, kept)], example))
