"""What a game is given: samples, targets, the metric that compares outputs with them, and the tensors of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from . import ops
from .batch_reader import is_pair
from .mapped import stream_data

__all__ = ["METRICS", "GameData", "Loss", "check_data", "described", "is_tensor"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""A user's loss: (outputs ``[R, ...]``, targets of those rows) -> ``[R]``, lower is better."""

METRICS = ("cross_entropy", "accuracy", "squared_error")


@dataclass(frozen=True)
class GameData:
    """Checked data, and how outputs do on them.

    Attributes:
        inputs: ``[N, ...]``, on the device or on the CPU, there in memory or in a memory-mapped file.
        targets: one per input, on the device.
        metric: one of :data:`METRICS`, or the user's loss.
        device: where the network runs.
    """

    inputs: Tensor
    targets: Tensor
    metric: str | Loss
    device: torch.device

    @property
    def sign(self) -> float:
        """That turns the metric into a payoff, of which more is better."""
        return 1.0 if self.metric == "accuracy" else -1.0

    def first(self, count: int) -> Tensor:
        """The first inputs, on the device."""
        return self.inputs[:count].to(self.device)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of all samples, on the device."""
        for first in range(0, self.inputs.shape[0], size):
            part = slice(first, first + size)
            yield self.inputs[part].to(self.device), self.targets[part]

    def payoffs(self, outputs: Tensor, sample_index: Tensor) -> Tensor:
        """Payoffs ``[R]`` of the network's outputs ``[R, ...]`` for samples."""
        if not isinstance(self.metric, str):
            loss = self.metric(outputs, self.targets[sample_index])
            if loss.shape != (outputs.shape[0],):
                raise ValueError(f"metric must return one loss per row, [{outputs.shape[0]}], got {list(loss.shape)}")
            return self.sign * loss.float()
        if outputs.dim() != 2:
            raise ValueError(
                f"metric {self.metric!r} needs network outputs [rows, K], got {list(outputs.shape)}; "
                "give a callable for other outputs"
            )
        if outputs.dtype == torch.float64:
            outputs = outputs.float()  # payoffs are float32; the ops leave it to their callers to give bits away
        return self.sign * ops.loss_difference(outputs, self.targets, sample_index=sample_index, metric=self.metric)


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
    if isinstance(data, (DataLoader, Dataset)):
        data = stream_data(data)
    if not is_pair(data):
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
    devices = {p.device for p in model.parameters()} or {inputs.device}
    # The CPU's memory may hold samples for a network that runs elsewhere.
    devices |= {t.device for t in (inputs, targets)} - {torch.device("cpu")}
    if len(devices) > 1:
        raise ValueError(
            f"model and data must be on one device, but for data on the CPU, got {', '.join(sorted(map(str, devices)))}"
        )
    (device,) = devices
    return GameData(inputs.detach(), targets.to(device), metric, device)


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
