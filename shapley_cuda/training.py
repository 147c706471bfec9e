"""Train a network and measure it: the brief retraining after pruning, and the shipped weights.

Plain SGD with momentum on tensors held in memory. Same model, data, settings, seed and number of threads: same bits,
on the CPU. The global random state is left as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SCHEDULES", "Evaluation", "Progress", "TrainingHistory", "evaluate", "train"]


class Evaluation(NamedTuple):
    """What `evaluate` measures.

    Attributes:
        accuracy: share of samples whose greatest logit is the label's, 0 to 1.
        loss: mean cross-entropy in nats.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Progress:
    """Where a training is, as handed to the callback after every step.

    Attributes:
        step: steps done so far, 1 to `n_steps`.
        n_steps: steps in all epochs together.
        epoch: the current epoch, from 1.
        learning_rate: the rate of this step.
        loss: mean training loss so far in this epoch, in nats.
    """

    step: int
    n_steps: int
    epoch: int
    learning_rate: float
    loss: float


@dataclass(frozen=True)
class TrainingHistory:
    """What a training did, one entry per epoch.

    Attributes:
        losses: mean training loss in nats, measured on the way (so an epoch's figure lags behind its final weights).
        accuracies: share of training samples classified rightly, measured on the way.
        learning_rates: the rate of the epoch's last step.
        n_steps: optimiser steps in all.
        seconds: wall-clock time in all.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    learning_rates: tuple[float, ...]
    n_steps: int
    seconds: float


def _cosine(fraction: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


def _step(fraction: float) -> float:
    return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01


def _constant(fraction: float) -> float:
    del fraction
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": _cosine, "step": _step, "constant": _constant}
"""Factor on the learning rate by name, as a function of the share of steps done."""


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "cosine",
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainingHistory:
    """Train a classifier in place with SGD on cross-entropy; the defaults suit a brief retraining after pruning.

    Args:
        model: maps images [B, ...] to logits [B, K]. It is changed in place, and left in eval mode.
        images: floating point [N, ...], on any device: batches are moved as they are needed. Not changed.
        labels: int64 [N], on any device. Not changed.
        epochs: passes over the data, at least 1.
        batch_size: samples per step, at least 1. Each epoch is cut into ceil(N / batch_size) batches of nearly equal
            size, so no short last batch upsets BatchNorm's statistics.
        lr: greatest learning rate, above 0.
        momentum: of SGD, 0 up to below 1; Nesterov's form where it is above 0.
        weight_decay: L2 penalty on every parameter, 0 or more.
        schedule: "cosine" (down to 0), "step" (a tenth at half of the steps, a hundredth at three quarters) or
            "constant". The rate changes from step to step.
        seed: orders the data and feeds whatever randomness the model has (dropout).
        device: where to train; the model is moved there and stays. None: where the model is.
        progress: called after every step. It makes each step wait for its loss, which costs a little on a GPU.

    Returns:
        Losses, accuracies and rates per epoch.

    Raises:
        ValueError: when an argument is out of range or data do not fit together.
        FloatingPointError: when an epoch's loss is not finite; the model is then of no use.

    The same inputs, seed and number of threads give the same bits on the CPU. Global random state is restored.

    Example:
        >>> from shapley_cuda.datasets import fashion_mnist_subset
        >>> from shapley_cuda.networks import lenet5
        >>> history = train(lenet5(), *fashion_mnist_subset("train"), epochs=2)
        >>> history.losses[1] < history.losses[0]
        True
    """
    _check_data("train", images, labels)
    _check_settings(epochs, batch_size, lr, momentum, weight_decay, schedule)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("train: model must have parameters that require grad, got none")
    if device is not None:
        model.to(device)
    # After the move: on some devices moving replaces the parameters.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    where = parameters[0].device
    optimizer = torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0.0
    )
    order_generator = torch.Generator().manual_seed(seed)
    n_samples = labels.shape[0]
    n_batches = math.ceil(n_samples / batch_size)
    n_steps = epochs * n_batches
    losses: list[float] = []
    accuracies: list[float] = []
    rates: list[float] = []
    step = 0
    started = time.perf_counter()
    model.train()
    try:
        # Dropout draws from the global generators: give them our seed, and give back their state afterwards.
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            # torch.manual_seed would reseed every GPU, and only this one is forked.
            torch.default_generator.manual_seed(seed)
            if where.type == "cuda":
                torch.cuda.default_generators[where.index].manual_seed(seed)
            for epoch in range(1, epochs + 1):
                order = torch.randperm(n_samples, generator=order_generator).to(images.device)
                loss_sum = torch.zeros((), dtype=torch.float64, device=where)
                n_right = torch.zeros((), dtype=torch.int64, device=where)
                n_seen = 0
                rate = lr
                for chosen in torch.tensor_split(order, n_batches):
                    rate = lr * SCHEDULES[schedule](step / n_steps)
                    optimizer.param_groups[0]["lr"] = rate
                    batch, target = images[chosen].to(where), labels[chosen.to(labels.device)].to(where)
                    optimizer.zero_grad()
                    logits = model(batch)
                    loss = F.cross_entropy(logits, target)
                    loss.backward()
                    optimizer.step()
                    step += 1
                    n_seen += len(chosen)
                    loss_sum += loss.detach() * len(chosen)
                    n_right += (logits.detach().argmax(1) == target).sum()
                    if progress is not None:
                        progress(Progress(step, n_steps, epoch, rate, loss_sum.item() / n_seen))
                losses.append(loss_sum.item() / n_samples)
                accuracies.append(n_right.item() / n_samples)
                rates.append(rate)
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(
                        f"train: loss must stay finite, got {losses[-1]} in epoch {epoch} of {epochs}; try a lower lr"
                    )
    finally:
        model.eval()
    return TrainingHistory(tuple(losses), tuple(accuracies), tuple(rates), step, time.perf_counter() - started)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> Evaluation:
    """Measure a classifier's accuracy and mean cross-entropy.

    Args:
        model: maps images [B, ...] to logits [B, K]. Evaluated in eval mode; the mode of each of its modules is put
            back afterwards.
        images: floating point [N, ...], on any device: batches are moved to the model. Not changed.
        labels: int64 [N], on any device. Not changed.
        batch_size: samples per pass, at least 1: memory against speed, no influence on the result but rounding.

    Returns:
        Accuracy (share of 1) and loss (nats), as Python floats.

    Raises:
        ValueError: when data do not fit together.

    Example:
        >>> from shapley_cuda.datasets import fashion_mnist_subset
        >>> from shapley_cuda.networks import pretrained
        >>> evaluate(pretrained("lenet5"), *fashion_mnist_subset("test")).accuracy > 0.85
        True
    """
    _check_data("evaluate", images, labels)
    if not (isinstance(batch_size, int) and batch_size >= 1):
        raise ValueError(f"evaluate: batch_size must be a positive integer, got {batch_size!r}")
    parameter = next(model.parameters(), None)
    where = images.device if parameter is None else parameter.device
    modes = [(module, module.training) for module in model.modules()]
    loss_sum = torch.zeros((), dtype=torch.float64, device=where)
    n_right = torch.zeros((), dtype=torch.int64, device=where)
    model.eval()
    try:
        with torch.inference_mode():
            for first in range(0, labels.shape[0], batch_size):
                target = labels[first : first + batch_size].to(where)
                logits = model(images[first : first + batch_size].to(where))
                loss_sum += F.cross_entropy(logits, target, reduction="none").sum(dtype=torch.float64)
                n_right += (logits.argmax(1) == target).sum()
    finally:
        # module.train() would reach into children; the saved flags are per module.
        for module, mode in modes:
            module.training = mode
    return Evaluation(n_right.item() / labels.shape[0], loss_sum.item() / labels.shape[0])


def _check_data(caller: str, images: Tensor, labels: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"{caller}: images must be floating point, got {images.dtype}")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"{caller}: labels must be int64 [N], got {labels.dtype} {list(labels.shape)}")
    if images.ndim < 2 or images.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{caller}: images must be [N, ...] with N = {labels.shape[0]} as labels, got {list(images.shape)}"
        )
    if labels.shape[0] == 0:
        raise ValueError(f"{caller}: images must hold at least one sample, got none")


def _check_settings(
    epochs: int, batch_size: int, lr: float, momentum: float, weight_decay: float, schedule: str
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"train: {name} must be a positive integer, got {value!r}")
    if not (math.isfinite(lr) and lr > 0.0):
        raise ValueError(f"train: lr must be finite and above 0, got {lr!r}")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"train: momentum must be at least 0 and below 1, got {momentum!r}")
    if not (math.isfinite(weight_decay) and weight_decay >= 0.0):
        raise ValueError(f"train: weight_decay must be finite and at least 0, got {weight_decay!r}")
    if schedule not in SCHEDULES:
        raise ValueError(f"train: schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
