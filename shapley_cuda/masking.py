"""Coalitions applied where pruning would be felt: at the inputs of the layers that read the channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import ops
from .groups import Group

__all__ = ["PathError", "channel_dim", "mask_inputs", "masked", "masked_outputs", "relative_deviation"]

_PreHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, dict[str, Any]]]


class PathError(RuntimeError):
    """This path cannot run the network. The message says why; another path may."""


def mask_inputs(x: Tensor, masks: Tensor, sample_index: Tensor, player_of_input: Tensor, channel_dim: int) -> Tensor:
    """Gather rows of a consumer's input and take the removed players' channels out.

    Args:
        x: the consumer's input, one entry per sample along dimension 0.
        masks: bool ``[R, C]``.
        sample_index: int64 ``[R]``, the entry of x that each row reads.
        player_of_input: int64 ``[C_in]``, see :class:`~shapley_cuda.groups.Consumer`.
        channel_dim: 1 for convolutions, -1 for linear layers.
    """
    always_kept = masks.new_ones(masks.shape[0], 1)  # index -1 picks this last column
    kept_inputs = torch.cat([masks, always_kept], dim=1)[:, player_of_input]
    if channel_dim % x.dim() == 1:
        return ops.apply_masks(x, kept_inputs, sample_index)
    channels_first = x.movedim(channel_dim, 1).contiguous()
    return ops.apply_masks(channels_first, kept_inputs, sample_index).movedim(1, channel_dim)


def channel_dim(layer: nn.Module) -> int:
    """The dimension of a consumer's input that holds its channels."""
    return -1 if isinstance(layer, nn.Linear) else 1


@contextmanager
def masked(consumers: list[tuple[nn.Module, Tensor]], masks: Tensor) -> Iterator[None]:
    """While this is open, each consumer sees row r of its input under coalition ``masks[r]``."""
    own_row = torch.arange(masks.shape[0], device=masks.device)
    calls = [0] * len(consumers)

    def pre_hook(position: int, player_of_input: Tensor) -> _PreHook:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            calls[position] += 1
            x, *others = args or (kwargs.pop("input"),)
            if x.shape[0] != masks.shape[0]:
                raise PathError(
                    f"a consumer of the group got {x.shape[0]} entries for {masks.shape[0]} rows: the network folds "
                    "another dimension into the batch, so that nothing tells which coalition an entry belongs to"
                )
            return (mask_inputs(x, masks, own_row, player_of_input, channel_dim(layer)), *others), kwargs

        return hook

    handles = [
        layer.register_forward_pre_hook(pre_hook(i, players), with_kwargs=True)
        for i, (layer, players) in enumerate(consumers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not all(calls):
        raise PathError("a consumer of the group was never called as a module, so its input cannot be masked")


@torch.no_grad()
def masked_outputs(model: nn.Module, coalitions: Sequence[tuple[Group, Tensor]], inputs: Tensor) -> Tensor:
    """Outputs of the whole network with a coalition of each of several groups kept.

    Args:
        model: the network, in evaluation mode.
        coalitions: pairs of a group and its mask, bool ``[C]``, True = kept.
        inputs: the batch to run.
    """
    with ExitStack() as stack:
        for group, mask in coalitions:
            consumers = [(model.get_submodule(c.name), c.player_of_input.to(inputs.device)) for c in group.consumers]
            rows = mask.to(inputs.device).expand(inputs.shape[0], -1)
            stack.enter_context(masked(consumers, rows))
        return model(inputs)


def relative_deviation(outputs: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference; infinite if shapes differ or
    either has values that are not finite."""
    if outputs.shape != reference.shape:
        return float("inf")
    outputs, reference = outputs.detach().double(), reference.detach().double()
    difference = (outputs - reference).abs().max()
    scale = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    deviation = float(difference / scale)
    return deviation if deviation == deviation else float("inf")
