"""What a game is given: samples, targets, the metric that compares outputs with them, and the tensors of its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["METRICS", "GameData", "Loss", "check_data", "described", "is_tensor"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""A user's loss: (outputs ``[R, ...]``, targets of those rows) -> ``[R]``, lower is better."""

METRICS = ("cross_entropy", "accuracy", "squared_error")


@dataclass(frozen=True)
class GameData:
    """Checked data: inputs ``[N, ...]`` and targets, one per input."""

    inputs: Tensor
    targets: Tensor


def check_data(model: nn.Module, data: Any, metric: str | Loss) -> GameData:
    """Give a game its data, or say what about them, the model's mode or the metric is wrong."""
    if not callable(metric) and metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)} or a callable, got {metric!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(
            f"model must be in evaluation mode (model.eval()), got {training[0]} in training mode: dropout and batch "
            "statistics would make payoffs random"
        )
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(d, Tensor) for d in data)):
        got = [type(d).__name__ for d in data] if isinstance(data, (tuple, list)) else type(data).__name__
        raise TypeError(f"data must be a pair of tensors (inputs, targets), got {got}")
    split = getattr(data, "name", None)
    if split in ("test", "select"):
        use = "its accuracies" if split == "test" else "choices made on it look"
        raise ValueError(f'data must not be the split "{split}": values estimated on it would make {use} too good')
    inputs, targets = data
    if 0 in (inputs.dim(), targets.dim()):
        raise ValueError(
            f"data must have samples along dimension 0, got {list(inputs.shape)} and {list(targets.shape)}"
        )
    if inputs.shape[0] == 0:
        raise ValueError("data must hold at least one sample, got none")
    if targets.shape[0] != inputs.shape[0]:
        raise ValueError(
            f"data must have one target per input, got {inputs.shape[0]} inputs, {targets.shape[0]} targets"
        )
    if metric in ("cross_entropy", "accuracy") and (targets.dtype != torch.int64 or targets.dim() != 1):
        raise ValueError(
            f"targets must be class indices, int64 [N], for {metric}, got {targets.dtype} {list(targets.shape)}"
        )
    if metric == "squared_error" and (not targets.is_floating_point() or targets.dim() != 2):
        raise ValueError(
            f"targets must be floating point [N, K] for {metric}, got {targets.dtype} {list(targets.shape)}"
        )
    devices = {p.device for p in model.parameters()} | {inputs.device, targets.device}
    if len(devices) > 1:
        raise ValueError(f"model and data must be on one device, got {', '.join(sorted(map(str, devices)))}")
    return GameData(inputs.detach(), targets)


def is_tensor(value: object, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Tell whether it is a tensor with numbers in it, of this dtype and shape, in which -1 is any size."""
    if not isinstance(value, Tensor) or value.is_meta or value.dtype != dtype or value.dim() != len(shape):
        return False
    return all(wanted in (-1, size) for wanted, size in zip(shape, value.shape, strict=True))


def described(value: object) -> str:
    """Say what came instead of the tensor that was expected."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {list(value.shape)}" + (" on the meta device" if value.is_meta else "")
