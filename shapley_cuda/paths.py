"""Three ways to run a network under coalitions. They give the same numbers; they differ in what they can reuse.

A *row* is one sample under one coalition. Every path applies a coalition at the inputs of the group's consumers:

- ``HookPath`` runs the whole network on every row, with forward-pre-hooks on the consumers. It needs no tracing.
- ``SuffixPath`` splits the network with ``torch.fx``. What no mask can reach, the prefix, runs once per sample; rows
  are gathered from its results, and only the suffix runs per row.
- ``WalkPath`` is for one consumer that is a convolution or a linear layer: its output at all steps of a walk comes from
  one call of a walk kernel, adding one channel at a time, and only what follows it runs per row.

Where nothing follows a linear consumer, ``WalkPath.head``, kernels go from coalitions or walks straight to payoffs on
either of the last two, and no row is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from . import ops
from .epilogue import Epilogue, find_epilogue
from .groups import Group
from .masking import PathError, input_masks, masked
from .split import Prefix, Split

__all__ = ["Execution", "HookPath", "RowPath", "SuffixPath", "WalkPath"]


_IMAGE_LAYERS = (nn.Conv2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)


@dataclass(frozen=True)
class Execution:
    """How the suffix of a network runs. The defaults compute as the network itself does.

    Attributes:
        channels_last: keep images with their channels last in memory. None: on the CPU where the suffix convolves or
            pools, which is faster there, and does not view its images as rows, which needs them contiguous.
        dtype: ``torch.bfloat16`` or ``torch.float16`` runs the suffix under autocast, on rows of that type; payoffs
            stay float32. TF32 follows torch's own settings.
        compile: True, or a mode of ``torch.compile`` (``"reduce-overhead"`` records CUDA graphs), compiles the suffix.
    """

    channels_last: bool | None = None
    dtype: torch.dtype | None = None
    compile: bool | str = False


class RowPath(Protocol):
    """Anything that turns rows into network outputs."""

    name: str

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        """Network outputs ``[R, ...]`` for coalitions ``masks [R, C]``, row r on sample ``sample_index[r]``."""


class HookPath:
    """Run the whole network on every row. Works for any module whose consumers are called as modules."""

    name = "hook"

    def __init__(self, model: nn.Module, group: Group, inputs: Tensor):
        self.model, self.inputs = model, inputs
        self._consumers = input_masks(model, group, inputs.device)

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        with masked(self.model, self._consumers, masks):
            return self.model(self.inputs[sample_index])


def _settle(execution: Execution, split: Split, device: torch.device) -> Execution:
    """Decide about channels_last where it is left open."""
    if execution.channels_last is not None:
        return execution
    nodes = split.suffix.graph.nodes
    likes = any(
        n.op == "call_module" and isinstance(split.suffix.get_submodule(n.target), _IMAGE_LAYERS) for n in nodes
    )
    views = any(n.op == "call_method" and n.target == "view" for n in nodes)
    return replace(execution, channels_last=device.type == "cpu" and likes and not views)


class _Suffix:
    """The part of a network that runs per row, with what its rows are gathered from."""

    def __init__(self, split: Split, prefix: Prefix, execution: Execution):
        self.dtype = execution.dtype
        self.boundary = [_prepare(values, execution) for values in prefix.values(split.boundary)]
        self.run: Callable[..., Tensor] = split.suffix
        self._as_it_is = split.suffix
        if execution.compile:
            self.run = torch.compile(split.suffix, mode=None if execution.compile is True else execution.compile)

    def __call__(self, masks: Tensor | None, sample_index: Tensor, *rows: Tensor) -> Tensor:
        with torch.autocast(sample_index.device.type, self.dtype, enabled=self.dtype is not None):
            # What torch.compile first meets while memory is counted, by a dispatch mode, it never compiles.
            run = self._as_it_is if is_in_torch_dispatch_mode() else self.run
            return run(masks, sample_index, *self.boundary, *rows)


def _prepare(values: Tensor, execution: Execution) -> Tensor:
    if execution.channels_last and values.dim() == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    narrower = execution.dtype is not None and values.is_floating_point()
    return values.to(execution.dtype) if narrower else values


class SuffixPath:
    """Run the prefix once per sample and the suffix once per row. The default wherever the network can be traced."""

    name = "suffix"

    def __init__(self, prefix: Prefix, group: Group, execution: Execution):
        traced, device = prefix.traced, prefix.inputs.device
        roots = traced.calls(c.name for c in group.consumers)
        split = Split(traced, roots, input_masks(traced.module, group, device))
        self._suffix = _Suffix(split, prefix, _settle(execution, split, device))

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        return self._suffix(masks, sample_index)


class WalkPath:
    """Walks through one consumer, by kernels that add one channel at a time.

    Attributes:
        head: the consumer, if it is a linear layer whose output is the network's output, so that a fused kernel can
            give the metric itself; else None.
    """

    name = "walk"

    def __init__(self, prefix: Prefix, group: Group, execution: Execution):
        traced, device = prefix.traced, prefix.inputs.device
        if len(group.consumers) != 1:
            raise PathError(f"{len(group.consumers)} layers read the channels; a walk kernel serves one")
        consumer = group.consumers[0]
        calls = traced.calls([consumer.name])
        if len(calls) != 1:
            raise PathError(f"consumer {consumer.name} is called {len(calls)} times in one forward pass")
        layer = traced.module.get_submodule(consumer.name)
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise PathError(f"consumer {consumer.name} has hooks of its own, which a walk kernel would not run")
        columns = _columns_by_player(consumer.player_of_input, group.n_players).to(device)
        call = calls[0]
        epilogue = find_epilogue(traced, call)
        residuals = [] if epilogue.residual is None else [epilogue.residual]
        known = [call.all_input_nodes[0], *residuals]
        split = Split(traced, [epilogue.last], known=known)
        execution = _settle(execution, split, device)
        x, *residual = prefix.values([*known, *split.boundary])[: len(known)]
        if x.dtype == torch.float64:
            raise PathError("the network computes in float64, a walk kernel in float32")
        if type(layer) is nn.Linear and x.dim() != 2:
            raise PathError(f"the input of {consumer.name} has {x.dim()} dimensions, a walk kernel needs 2")
        self._suffix = _Suffix(split, prefix, execution)
        self.head: LinearWalk | None = None
        if type(layer) is nn.Conv2d:
            self._kernel: ConvWalk | LinearWalk = ConvWalk(layer, x, columns, epilogue, residual, execution)
        elif type(layer) is nn.Linear:
            self._kernel = LinearWalk(layer, x, columns, epilogue, residual, execution)
            if all(user.op == "output" and user.args[0] is call for user in call.users):
                self.head = self._kernel
        else:
            raise PathError(f"consumer {consumer.name} is a {type(layer).__name__}, not an nn.Linear or nn.Conv2d")

    def outputs(self, permutations: Tensor, sample_index: Tensor, chosen: Tensor | slice) -> Tensor:
        """Network outputs ``[rows, ...]`` at the chosen ones of the R * (C + 1) steps of R walks, walk after walk."""
        steps = permutations.shape[1] + 1
        rows = self._kernel.rows(permutations, sample_index)
        return self._suffix(None, sample_index.repeat_interleave(steps)[chosen], rows[chosen])


class LinearWalk:
    """A linear consumer with its input columns in the players' order and its epilogue fused.

    Attributes:
        features: float ``[N, C, S]``.
        weight: ``[K, C * S]``.
        bias: ``[K]`` or None.
    """

    def __init__(
        self,
        layer: nn.Linear,
        x: Tensor,
        columns: Tensor,
        epilogue: Epilogue,
        residual: Sequence[Tensor],
        execution: Execution,
    ):
        self.features = x[:, columns.flatten()].view(x.shape[0], *columns.shape).contiguous()
        self.weight = layer.weight.detach()[:, columns.flatten()].contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self._epilogue, self._residual = epilogue, residual[0].float() if residual else None
        self._dtype = execution.dtype or layer.weight.dtype

    def rows(self, permutations: Tensor, sample_index: Tensor) -> Tensor:
        """What the suffix reads at every step, ``[R * (C + 1), K]``."""
        steps = ops.permutation_linear(
            self.features, permutations, self.weight, self.bias, sample_index, residual=self._residual,
            activation=self._epilogue.activation, negative_slope=self._epilogue.negative_slope,
        )  # fmt: skip
        return steps.flatten(0, 1).to(self._dtype)


class ConvWalk:
    """A convolution that is the consumer, with its input channels in the players' order and its epilogue fused."""

    def __init__(
        self,
        layer: nn.Conv2d,
        x: Tensor,
        columns: Tensor,
        epilogue: Epilogue,
        residual: Sequence[Tensor],
        execution: Execution,
    ):
        if columns.shape[1] != 1 or layer.groups != 1:
            raise PathError("several input channels of the consumer belong to one player")
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise PathError(f"padding {layer.padding!r}, mode {layer.padding_mode!r} is not known to the walk kernel")
        order = columns[:, 0]
        self.x, self.weight = x[:, order].contiguous(), layer.weight.detach()[:, order].contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self._window = (list(layer.stride), list(layer.padding), list(layer.dilation))
        self._epilogue, self._residual = epilogue, residual[0].float() if residual else None
        self._channels_last, self._dtype = bool(execution.channels_last), execution.dtype or layer.weight.dtype

    def rows(self, permutations: Tensor, sample_index: Tensor) -> Tensor:
        """What the suffix reads at every step, ``[R * (C + 1), K, H', W']``."""
        steps = ops.permutation_conv2d(
            self.x, self.weight, self.bias, permutations, sample_index, *self._window,
            residual=self._residual, activation=self._epilogue.activation,
            negative_slope=self._epilogue.negative_slope, pool=self._epilogue.pool, channels_last=self._channels_last,
        )  # fmt: skip
        return steps.flatten(0, 1).to(self._dtype)


def _columns_by_player(player_of_input: Tensor, n_players: int) -> Tensor:
    """The consumer's input columns of each player, ``[C, S]``; every player must own the same number of them."""
    counts = torch.bincount(player_of_input[player_of_input >= 0], minlength=n_players)
    if bool((player_of_input < 0).any()) or counts.min() != counts.max():
        raise PathError("the consumer also reads channels of another group")
    return torch.argsort(player_of_input, stable=True).view(n_players, -1)
