"""BatchNorm's running statistics estimated anew, which a pruned network needs and no labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .modes import evaluation_mode

__all__ = ["recalibrate_batchnorm"]


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, inputs: Tensor, batch_size: int = 500) -> int:
    """Estimate BatchNorm's running statistics anew, in place.

    Where channels were removed, the layers behind them see other inputs than those that their means and variances were
    taken of. This takes them again: one pass over the data in which each BatchNorm normalises with its batch's own
    statistics, as in training, and the means and variances of all its inputs are put together. This is the "precise"
    estimate of Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), not an average that forgets, so nothing of the
    old statistics stays. Of the network's first BatchNorm it is the data's mean and (unbiased) variance whatever the
    batch size; for deeper ones larger batches are more precise.

    Args:
        model: any network. Only running means, variances and counts of batches change; dropout and all other modules
            are in evaluation mode meanwhile, and the mode of each is put back.
        inputs: [N, ...], at least two samples, on any device: batches are moved to the model. Not changed.
        batch_size: samples per pass at least, 2 or more; the data are cut into N // batch_size batches of nearly equal
            size.

    Returns:
        How many layers were recalibrated; those that the network did not call, or that keep no running statistics, are
        left out.

    Raises:
        ValueError: an argument is out of range, or a layer's statistics come out NaN or infinite. Whatever is raised,
            the statistics are then as before.

    The result is deterministic, and the global random state is not used.

    Example:
        >>> pruned = sc.prune(model, plan, images[:100])
        >>> recalibrate_batchnorm(pruned, images)
        6
    """
    if type(batch_size) is not int or batch_size < 2:
        raise ValueError(f"recalibrate_batchnorm: batch_size must be an integer of at least 2, got {batch_size!r}")
    if inputs.dim() < 1 or inputs.shape[0] < 2:
        raise ValueError(f"recalibrate_batchnorm: inputs must hold at least two samples, got {list(inputs.shape)}")
    parameter = next(model.parameters(), None)
    where = inputs.device if parameter is None else parameter.device
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }
    moments = {name: _Moments() for name in layers}
    with evaluation_mode(model), _restored_on_error(layers), ExitStack() as hooks:
        for name, layer in layers.items():
            layer.training = True
            hooks.callback(layer.register_forward_pre_hook(moments[name].hook, with_kwargs=True).remove)
        for batch in inputs.tensor_split(max(1, inputs.shape[0] // batch_size)):
            model(batch.to(where))
        for name, layer in layers.items():
            if moments[name].n_batches:
                moments[name].write(name, layer)
    return sum(found.n_batches > 0 for found in moments.values())


class _Moments:
    """Mean and variance of a layer's inputs, put together from batch to batch in float64 (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.n_batches, self.count = 0, 0
        self.mean, self.squares = torch.zeros(()), torch.zeros(())

    def hook(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        variance, mean = torch.var_mean(x.float(), dim=[d for d in range(x.dim()) if d != 1], correction=0)
        count = x.numel() // x.shape[1]
        difference, total = mean.double() - self.mean.to(mean.device), self.count + count
        self.mean = self.mean.to(mean.device) + difference * (count / total)
        squares = variance.double() * count + difference**2 * (self.count * count / total)
        self.squares = self.squares.to(mean.device) + squares
        self.n_batches, self.count = self.n_batches + 1, total

    def write(self, name: str, layer: _BatchNorm) -> None:
        variance = self.squares / (self.count - 1)
        if not bool((self.mean.isfinite() & variance.isfinite()).all()):
            raise ValueError(f"recalibrate_batchnorm: inputs of {name} must be finite, got NaN or infinite values")
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(variance)
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(self.n_batches)


@contextmanager
def _restored_on_error(layers: dict[str, _BatchNorm]) -> Iterator[None]:
    """Training mode and the end of the pass write into the statistics: put them back if it fails."""
    before = [(buffer, buffer.clone()) for layer in layers.values() for buffer in layer.buffers()]
    try:
        yield
    except BaseException:
        for buffer, old in before:
            buffer.copy_(old)
        raise
