"""Train a network and measure it: the retraining after pruning, and the shipped weights.

Plain SGD with momentum, by a recipe, on tensors held in memory. Same model, data, settings, seed and number of threads:
same bits, on the CPU. The global random state is left as it was.
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .modes import evaluation_mode

__all__ = [
    "RECIPES",
    "SCHEDULES",
    "Evaluation",
    "Progress",
    "Recipe",
    "TrainingHistory",
    "evaluate",
    "find_recipe",
    "train",
]


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
        select_accuracies: accuracy on the selection split after each epoch; empty where there was none.
        best_epoch: the epoch, from 1, whose weights the model ended with: the first of the greatest accuracy on the
            selection split; the last one where there was none.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    learning_rates: tuple[float, ...]
    n_steps: int
    seconds: float
    select_accuracies: tuple[float, ...]
    best_epoch: int


def _cosine(fraction: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


def _step(fraction: float) -> float:
    return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01


def _constant(fraction: float) -> float:
    del fraction
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": _cosine, "step": _step, "constant": _constant}
"""Factor on the learning rate by name, as a function of the share of steps done."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; the defaults suit a brief retraining after pruning.

    Attributes:
        epochs: passes over the data, at least 1.
        batch_size: samples per step, at least 1. Each epoch is cut into ceil(N / batch_size) batches of nearly equal
            size, so no short last batch upsets BatchNorm's statistics.
        lr: greatest learning rate, above 0.
        momentum: of SGD, 0 up to below 1.
        nesterov: Nesterov's form of the momentum, where there is any.
        weight_decay: L2 penalty on every parameter, 0 or more.
        schedule: "cosine" (down to 0), "step" (a tenth at half of the steps, a hundredth at three quarters) or
            "constant". The rate changes from step to step.

    Raises:
        ValueError: when a setting is out of range.
    """

    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"Recipe: {name} must be a positive integer, got {value!r}")
        if not (math.isfinite(self.lr) and self.lr > 0.0):
            raise ValueError(f"Recipe: lr must be finite and above 0, got {self.lr!r}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"Recipe: momentum must be at least 0 and below 1, got {self.momentum!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0.0):
            raise ValueError(f"Recipe: weight_decay must be finite and at least 0, got {self.weight_decay!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Recipe: schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")


RECIPES: dict[str, Recipe] = {
    "brief": Recipe(),
    "finetune": Recipe(epochs=40, batch_size=128, nesterov=False, schedule="step"),
}
"""Recipes by name: "brief" for an epoch or two where time is short, "finetune" to get back all that can be got."""


def find_recipe(recipe: str | Recipe, **changes: Any) -> Recipe:
    """Look up a recipe and change some of its settings.

    Args:
        recipe: a key of `RECIPES`, or a recipe.
        **changes: settings that differ from it.

    Raises:
        ValueError: when no recipe has that name (near names are suggested) or a setting is out of range.
        TypeError: when `recipe` is neither, or a recipe has no such setting.

    Example:
        >>> find_recipe("brief", epochs=3).epochs
        3
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}{_near(recipe, RECIPES)}")
        recipe = RECIPES[recipe]
    elif not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe or one of {', '.join(RECIPES)}, got {type(recipe).__name__}")
    settings = [setting.name for setting in fields(Recipe)]
    for name in changes:
        if name not in settings:
            raise TypeError(f"a recipe has the settings {', '.join(settings)}, got {name!r}{_near(name, settings)}")
    return replace(recipe, **changes)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: str | Recipe = "brief",
    select: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    **changes: Any,
) -> TrainingHistory:
    """Train a classifier in place with SGD on cross-entropy.

    Args:
        model: maps images [B, ...] to logits [B, K]. It is changed in place, and left in eval mode.
        images: floating point [N, ...], on any device: batches are moved as they are needed. Not changed.
        labels: int64 [N], on any device. Not changed.
        recipe: a `Recipe` or the name of one in `RECIPES`.
        select: images and labels, as above, on which accuracy is measured after every epoch; the model ends with the
            weights of the epoch that did best (the earliest of equals), not with the last. A
            :class:`~shapley_cuda.Split` named "test" is refused.
        seed: orders the data and feeds whatever randomness the model has (dropout).
        device: where to train; the model is moved there and stays. None: where the model is.
        progress: called after every step. It makes each step wait for its loss, which costs a little on a GPU.
        **changes: settings of the recipe to change, such as ``epochs=2``; see `Recipe`.

    Returns:
        Losses, accuracies and rates per epoch.

    Raises:
        ValueError: when an argument is out of range or data do not fit together.
        TypeError: when a recipe has no such setting.
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
    settings = find_recipe(recipe, **changes)
    if select is not None:
        if getattr(select, "name", None) == "test":
            raise ValueError('train: select must not be the split "test": its accuracies would be too good')
        _check_data("train: select", *select)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("train: model must have parameters that require grad, got none")
    if device is not None:
        model.to(device)
    # After the move: on some devices moving replaces the parameters.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    where = parameters[0].device
    order_generator = torch.Generator().manual_seed(seed)
    n_batches = math.ceil(labels.shape[0] / settings.batch_size)
    steps = _Steps(model, parameters, settings, settings.epochs * n_batches, progress)
    epochs: list[_Epoch] = []
    select_accuracies: list[float] = []
    best_epoch, best_weights = settings.epochs, dict[str, Tensor]()
    started = time.perf_counter()
    model.train()
    try:
        # Dropout draws from the global generators: give them our seed, and give back their state afterwards.
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            # torch.manual_seed would reseed every GPU, and only this one is forked.
            torch.default_generator.manual_seed(seed)
            if where.type == "cuda":
                torch.cuda.default_generators[where.index].manual_seed(seed)
            for epoch in range(1, settings.epochs + 1):
                order = torch.randperm(labels.shape[0], generator=order_generator).to(images.device)
                epochs.append(steps.run(epoch, images, labels, torch.tensor_split(order, n_batches)))
                if select is not None:
                    select_accuracies.append(evaluate(model, *select).accuracy)
                    if select_accuracies[-1] > max(select_accuracies[:-1], default=-1.0):
                        best_epoch = epoch
                        best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if best_epoch < len(epochs):
            model.load_state_dict(best_weights)
    finally:
        model.eval()
    return TrainingHistory(
        losses=tuple(epoch.loss for epoch in epochs),
        accuracies=tuple(epoch.accuracy for epoch in epochs),
        learning_rates=tuple(epoch.learning_rate for epoch in epochs),
        n_steps=steps.done,
        seconds=time.perf_counter() - started,
        select_accuracies=tuple(select_accuracies),
        best_epoch=best_epoch,
    )


class _Epoch(NamedTuple):
    loss: float
    accuracy: float
    learning_rate: float


class _Steps:
    """The optimiser's steps, epoch after epoch."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        recipe: Recipe,
        n_steps: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.recipe, self.n_steps, self.progress, self.done = model, recipe, n_steps, progress, 0
        self.where = parameters[0].device
        self.optimizer = torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov and recipe.momentum > 0.0,
        )

    def run(self, epoch: int, images: Tensor, labels: Tensor, batches: tuple[Tensor, ...]) -> _Epoch:
        """Take one step for each batch of samples, given by their positions."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.where)
        n_right = torch.zeros((), dtype=torch.int64, device=self.where)
        n_seen, rate = 0, self.recipe.lr
        for chosen in batches:
            rate = self.recipe.lr * SCHEDULES[self.recipe.schedule](self.done / self.n_steps)
            self.optimizer.param_groups[0]["lr"] = rate
            batch, target = images[chosen].to(self.where), labels[chosen.to(labels.device)].to(self.where)
            self.optimizer.zero_grad()
            logits = self.model(batch)
            loss = F.cross_entropy(logits, target)
            loss.backward()
            self.optimizer.step()
            self.done += 1
            n_seen += len(chosen)
            loss_sum += loss.detach() * len(chosen)
            n_right += (logits.detach().argmax(1) == target).sum()
            if self.progress is not None:
                self.progress(Progress(self.done, self.n_steps, epoch, rate, loss_sum.item() / n_seen))
        mean_loss = loss_sum.item() / n_seen
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"train: loss must stay finite, got {mean_loss} in epoch {epoch} of {self.recipe.epochs}; "
                "try a lower lr"
            )
        return _Epoch(mean_loss, n_right.item() / n_seen, rate)


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
    loss_sum = torch.zeros((), dtype=torch.float64, device=where)
    n_right = torch.zeros((), dtype=torch.int64, device=where)
    with evaluation_mode(model), torch.inference_mode():
        for first in range(0, labels.shape[0], batch_size):
            target = labels[first : first + batch_size].to(where)
            logits = model(images[first : first + batch_size].to(where))
            loss_sum += F.cross_entropy(logits, target, reduction="none").sum(dtype=torch.float64)
            n_right += (logits.argmax(1) == target).sum()
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


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
