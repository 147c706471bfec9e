"""Pruned networks on disk."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from .counting import count_parameters
from .files import read_file, write_whole
from .plans import PruningPlan
from .surgery import prune

__all__ = ["count_weight_bytes", "load_pruned", "save_pruned"]

_MOST_INPUTS = 1 << 27  # numbers in a sample: more is damage, not data


def count_weight_bytes(model: nn.Module) -> int:
    """Bytes that a network's tensors take in a file; the names beside them are left out."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def save_pruned(pruned: nn.Module, plan: PruningPlan, folder: str | Path) -> None:
    """Write ``plan.json`` and ``model.safetensors``. Nothing is pickled; each file appears whole or not at all.

    Raises:
        ValueError: the network has not as many parameters as the plan leaves; nothing is written.
    """
    if count_parameters(pruned) != plan.parameters[1]:
        raise ValueError(
            f"pruned must be the network that the plan leaves, of {plan.parameters[1]:,} parameters, "
            f"got one of {count_parameters(pruned):,}"
        )
    folder = Path(folder)
    # Copies: safetensors refuses tensors that share memory, as tied parameters do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in pruned.state_dict().items()}
    write_whole(folder / "model.safetensors", save_tensors(tensors))
    write_whole(folder / "plan.json", plan.to_json().encode())


def load_pruned(model: nn.Module, folder: str | Path) -> nn.Module:
    """Rebuild a network that :func:`save_pruned` wrote.

    Args:
        model: a freshly built original; unchanged, its weights do not matter.
        folder: where plan.json and model.safetensors are.

    Returns:
        The pruned network with the saved weights, in evaluation mode, on the model's device.

    Raises:
        ValueError: the files are not such a plan, or the weights do not fit the network; names what differs.
    """
    folder = Path(folder)
    plan = read_file(folder / "plan.json", PruningPlan.from_json)
    if math.prod(plan.input_shape) > _MOST_INPUTS:
        raise ValueError(f"{folder / 'plan.json'} must be for one sample, got input_shape {plan.input_shape}")
    parameter = next(model.parameters())
    sample = torch.zeros(plan.input_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        pruned = prune(model, plan, sample, verify=False)
    except (IndexError, RuntimeError, TypeError) as error:  # the network cannot even take the plan's input
        raise ValueError(f"{folder / 'plan.json'} does not fit the network: {error}") from error
    try:
        pruned.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder / 'model.safetensors'} does not fit the network: {error}") from error
    return pruned
