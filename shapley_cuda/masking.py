"""Coalitions applied where pruning would be felt: at the inputs of the layers that read the channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import ops
from .groups import Group

__all__ = ["InputMask", "PathError", "input_masks", "masked", "masked_outputs", "relative_deviation"]

_PreHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, dict[str, Any]]]


class PathError(RuntimeError):
    """This path cannot run the network. The message says why; another path may."""


class InputMask(nn.Module):
    """How coalitions reach one consumer's input: gathers rows of it without the removed players' channels.

    A module, so that a graph of ``torch.fx`` can call it. What the layer's input looks like is settled here, once.

    Args:
        layer: the consumer. Linear layers have their channels along the last dimension, others along dimension 1.
        player_of_input: int64 ``[C_in]``, see :class:`~shapley_cuda.groups.Consumer`.
        n_players: C.
    """

    def __init__(self, layer: nn.Module, player_of_input: Tensor, n_players: int):
        super().__init__()
        self._last = isinstance(layer, nn.Linear)
        width = player_of_input.numel() // n_players
        in_order = torch.arange(n_players, device=player_of_input.device).repeat_interleave(width)
        # How many inputs in a row belong to each player, the players in their order; 0 for any other arrangement.
        self._width = width if torch.equal(player_of_input, in_order) else 0
        self.register_buffer("_player_of_input", player_of_input, persistent=False)
        self._player_of_input: Tensor

    def forward(self, x: Tensor, masks: Tensor, sample_index: Tensor) -> Tensor:
        """Input rows ``[R, ...]`` from x ``[N, ...]``: row r is ``x[sample_index[r]]`` under coalition ``masks[r]``.

        Args:
            x: the consumer's input, one entry per sample along dimension 0.
            masks: bool ``[R, C]``.
            sample_index: int64 ``[R]``.
        """
        if self._width > 1 and x.dim() == 2:  # a flattened head: masked as it was before it was flattened
            return ops.apply_masks(x.unflatten(1, (-1, self._width)), masks, sample_index).flatten(1)
        if self._width != 1:
            # Index -1, an input that is nobody's, picks the last column, which is always kept.
            masks = F.pad(masks, (0, 1), value=True)[:, self._player_of_input]
        if not self._last or x.dim() == 2:
            return ops.apply_masks(x, masks, sample_index)
        # Entries along the dimensions between are positions of an image with its channels last.
        image = x.flatten(1, -2).movedim(-1, 1).unsqueeze(2)
        rows = ops.apply_masks(image, masks, sample_index)
        return rows.squeeze(2).movedim(1, -1).reshape(-1, *x.shape[1:])


def input_masks(model: nn.Module, group: Group, device: torch.device) -> dict[str, InputMask]:
    """One for each consumer of a group, by the consumer's name."""
    return {
        c.name: InputMask(model.get_submodule(c.name), c.player_of_input, group.n_players).to(device)
        for c in group.consumers
    }


@contextmanager
def masked(model: nn.Module, consumers: Mapping[str, InputMask], masks: Tensor) -> Iterator[None]:
    """While this is open, each named consumer sees row r of its input under coalition ``masks[r]``."""
    own_row = torch.arange(masks.shape[0], device=masks.device)
    called = set[str]()

    def pre_hook(name: str, input_mask: InputMask) -> _PreHook:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            called.add(name)
            x, *others = args or (kwargs.pop("input"),)
            if x.shape[0] != masks.shape[0]:
                raise PathError(
                    f"a consumer of the group got {x.shape[0]} entries for {masks.shape[0]} rows: the network folds "
                    "another dimension into the batch, so that nothing tells which coalition an entry belongs to"
                )
            return (input_mask(x, masks, own_row), *others), kwargs

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(pre_hook(name, input_mask), with_kwargs=True)
        for name, input_mask in consumers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if called != set(consumers):
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
            rows = mask.to(inputs.device).expand(inputs.shape[0], -1)
            stack.enter_context(masked(model, input_masks(model, group, inputs.device), rows))
        outputs: Tensor = model(inputs)
    return outputs


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
