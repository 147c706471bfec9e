"""Three ways to run a network under coalitions. They give the same numbers; they differ in what they can reuse.

A *row* is one sample under one coalition. Every path applies a coalition at the inputs of the group's consumers:

- ``HookPath`` runs the whole network on every row, with forward-pre-hooks on the consumers. It needs no tracing.
- ``SuffixPath`` splits the network with ``torch.fx``. What no mask can reach, the prefix, runs once per sample; rows
  are gathered from its results, and only the suffix runs per row.
- ``WalkPath`` is for one consumer that is a convolution or a linear layer: its output at all steps of a walk comes from
  one call of a walk kernel, adding one channel at a time, and only what follows it runs per row.

Where nothing follows a linear consumer, kernels go from coalitions or walks straight to payoffs on either of the
last two, and no row is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from . import ops
from .epilogue import Epilogue, find_epilogue
from .game_data import GameData
from .groups import Group
from .masking import PathError, input_masks, masked
from .prefix import Prefix, SampleValues, values_of_inputs
from .split import Split
from .tracing import Traced

__all__ = ["Execution", "Head", "HookPath", "Paths", "RowPath", "SuffixPath", "WalkPath", "choose_paths"]


_TRACED = 3  # samples that a network is traced on
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

    def __init__(self, model: nn.Module, group: Group, data: GameData):
        self.model = model
        self._inputs = values_of_inputs(data.inputs, data.device)
        self._consumers = input_masks(model, group, data.device)

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        (inputs,), local, _ = self._inputs.take(sample_index)
        with masked(self.model, self._consumers, masks):
            outputs: Tensor = self.model(inputs[local])
        return outputs


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
    """The part of a network that runs per row, on values of the prefix."""

    def __init__(self, split: Split, execution: Execution):
        self._execution = execution
        self.run: Callable[..., Tensor] = split.suffix
        self._as_it_is = split.suffix
        if execution.compile:
            self.run = torch.compile(split.suffix, mode=None if execution.compile is True else execution.compile)

    def form(self, values: Tensor) -> Tensor:
        """Values of the prefix as the suffix gathers its rows from them."""
        if self._execution.channels_last and values.dim() == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        narrower = self._execution.dtype is not None and values.is_floating_point()
        return values.to(self._execution.dtype) if narrower else values

    def __call__(self, masks: Tensor | None, index: Tensor, *values: Tensor) -> Tensor:
        dtype = self._execution.dtype
        with torch.autocast(index.device.type, dtype, enabled=dtype is not None):
            # What torch.compile first meets while memory is counted, by a dispatch mode, it never compiles.
            run = self._as_it_is if is_in_torch_dispatch_mode() else self.run
            return run(masks, index, *values)


class SuffixPath:
    """Run the prefix once per sample and the suffix once per row. The default wherever the network can be traced."""

    name = "suffix"

    def __init__(self, prefix: Prefix, group: Group, execution: Execution):
        traced = prefix.traced
        roots = traced.calls(c.name for c in group.consumers)
        split = Split(traced, roots, input_masks(traced.module, group, prefix.device))
        self._suffix = _Suffix(split, _settle(execution, split, prefix.device))
        self._values = prefix.values(split.boundary, [self._suffix.form] * len(split.boundary))

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        values, local, _ = self._values.take(sample_index)
        return self._suffix(masks, local, *values)


class WalkPath:
    """Walks through one consumer, by kernels that add one channel at a time.

    Attributes:
        head: the consumer, if it is a linear layer whose output is the network's output; else None.
    """

    name = "walk"

    def __init__(self, prefix: Prefix, group: Group, execution: Execution):
        traced, device = prefix.traced, prefix.device
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
        x = call.all_input_nodes[0]
        epilogue = find_epilogue(traced, call)
        residuals = [] if epilogue.residual is None else [epilogue.residual]
        split = Split(traced, [epilogue.last], known=[x, *residuals])
        execution = _settle(execution, split, device)
        if layer.weight.dtype == torch.float64:
            raise PathError("the network computes in float64, a walk kernel in float32")
        if type(layer) is nn.Conv2d:
            self._kernel: ConvWalk | LinearWalk = ConvWalk(layer, columns, epilogue, execution)
        elif type(layer) is nn.Linear:
            self._kernel = LinearWalk(layer, columns, epilogue, execution)
        else:
            raise PathError(f"consumer {consumer.name} is a {type(layer).__name__}, not an nn.Linear or nn.Conv2d")
        self._suffix = _Suffix(split, execution)
        forms = [self._kernel.form, *[Tensor.float] * len(residuals), *[self._suffix.form] * len(split.boundary)]
        self._values = prefix.values([x, *residuals, *split.boundary], forms)
        self._has_residual = bool(residuals)
        self.head: Head | None = None
        is_last = all(u.op == "output" and u.args[0] is call for u in call.users)
        if isinstance(self._kernel, LinearWalk) and is_last and len(traced.shapes[call]) == 2:
            self.head = Head(self._values, self._kernel.weight, self._kernel.bias)

    def outputs(self, permutations: Tensor, sample_index: Tensor, chosen: Tensor | slice) -> Tensor:
        """Network outputs ``[rows, ...]`` at the chosen ones of the R * (C + 1) steps of R walks, walk after walk."""
        (x, *others), local, _ = self._values.take(sample_index)
        residual = others.pop(0) if self._has_residual else None
        rows = self._kernel.rows(x, residual, permutations, local)[chosen]
        return self._suffix(None, local.repeat_interleave(permutations.shape[1] + 1)[chosen], *others, rows)


class LinearWalk:
    """A linear consumer with its input columns in the players' order and its epilogue fused.

    A layer that acts on tokens has an input ``[N, ..., C * S]``: to the kernel each token is a sample of its own, and
    those of one sample take the same walk.

    Attributes:
        weight: ``[K, C * S]``.
        bias: ``[K]`` or None.
    """

    def __init__(self, layer: nn.Linear, columns: Tensor, epilogue: Epilogue, execution: Execution):
        self.weight = layer.weight.detach()[:, columns.flatten()].contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self._columns, self._epilogue = columns, epilogue
        self._dtype = execution.dtype or layer.weight.dtype

    def form(self, x: Tensor) -> Tensor:
        """Features ``[N, C, S]`` from the layer's input, of tokens ``[N, ..., C, S]``."""
        features: Tensor = _in_order(x, self._columns.flatten(), -1).unflatten(-1, self._columns.shape)
        return features

    def rows(self, features: Tensor, residual: Tensor | None, permutations: Tensor, index: Tensor) -> Tensor:
        """What the suffix reads at every step, ``[R * (C + 1), K]``, of tokens ``[R * (C + 1), ..., K]``."""
        tokens = features.shape[1:-2]
        if tokens:
            features, residual = features.flatten(0, -3), None if residual is None else residual.flatten(0, -2)
            own = torch.arange(tokens.numel(), device=index.device)
            index = (index[:, None] * len(own) + own).flatten()
            permutations = permutations.repeat_interleave(len(own), 0)
        steps = ops.permutation_linear(
            features, permutations, self.weight, self.bias, index, residual=residual,
            activation=self._epilogue.activation, negative_slope=self._epilogue.negative_slope,
        )  # fmt: skip
        if tokens:
            steps = steps.unflatten(0, (-1, *tokens)).movedim(-2, 1)
        return steps.flatten(0, 1).to(self._dtype)


class ConvWalk:
    """A convolution that is the consumer, with its input channels in the players' order and its epilogue fused."""

    def __init__(self, layer: nn.Conv2d, columns: Tensor, epilogue: Epilogue, execution: Execution):
        if columns.shape[1] != 1 or layer.groups != 1:
            raise PathError("several input channels of the consumer belong to one player")
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise PathError(f"padding {layer.padding!r}, mode {layer.padding_mode!r} is not known to the walk kernel")
        self._order = columns[:, 0]
        self._weight = layer.weight.detach()[:, self._order].contiguous()
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._window = (list(layer.stride), list(layer.padding), list(layer.dilation))
        self._epilogue, self._channels_last = epilogue, bool(execution.channels_last)
        self._dtype = execution.dtype or layer.weight.dtype

    def form(self, x: Tensor) -> Tensor:
        """The layer's input ``[N, C, H, W]``, the players in their order."""
        return _in_order(x, self._order, 1)

    def rows(self, x: Tensor, residual: Tensor | None, permutations: Tensor, index: Tensor) -> Tensor:
        """What the suffix reads at every step, ``[R * (C + 1), K, H', W']``."""
        steps = ops.permutation_conv2d(
            x, self._weight, self._bias, permutations, index, *self._window,
            residual=residual, activation=self._epilogue.activation,
            negative_slope=self._epilogue.negative_slope, pool=self._epilogue.pool, channels_last=self._channels_last,
        )  # fmt: skip
        return steps.flatten(0, 1).to(self._dtype)


class Head:
    """Kernels from coalitions or walks straight to payoffs, of a metric that has a name and a linear layer's output.

    Args:
        values: the layer's input, float ``[N, C, S]``.
        weight: ``[K, C * S]``.
        bias: ``[K]`` or None.
    """

    def __init__(self, values: SampleValues, weight: Tensor, bias: Tensor | None):
        self._values, self._weight, self._bias = values, weight, bias

    def of_walks(self, permutations: Tensor, sample_index: Tensor, data: GameData) -> Tensor:
        """Payoffs ``[R, C + 1]`` at every step of R walks."""
        (features, *_), local, samples = self._values.take(sample_index)
        return data.sign * ops.permutation_eval(
            features, permutations, self._weight, self._bias, data.targets[samples], local, metric=str(data.metric)
        )

    def of_rows(self, masks: Tensor, sample_index: Tensor, data: GameData) -> Tensor:
        """Payoffs ``[R]`` of coalition ``masks[r]`` on sample ``sample_index[r]``."""
        (features, *_), local, samples = self._values.take(sample_index)
        return data.sign * ops.masked_eval(
            features, masks, self._weight, self._bias, data.targets[samples], sample_index=local,
            metric=str(data.metric),
        )  # fmt: skip

    def means(self, masks: Tensor, first: int, last: int, data: GameData) -> Tensor:
        """Mean payoffs ``[M]`` of coalitions over samples first .. last - 1."""
        (features, *_), _, samples = self._values.span(first, last)
        return data.sign * ops.masked_eval(
            features, masks, self._weight, self._bias, data.targets[samples], metric=str(data.metric)
        )

    def means_of_all(self, first: int, last: int, data: GameData) -> Tensor:
        """The same of all coalitions, ``[2^C]``, by their codes."""
        (features, *_), _, samples = self._values.span(first, last)
        return data.sign * ops.exhaustive_eval(
            features, self._weight, self._bias, data.targets[samples], metric=str(data.metric)
        )


@dataclass
class Paths:
    """The ways that a game runs its network.

    Attributes:
        rows: for rows.
        walk: for walks, if they have one of their own.
        head: for both, where the metric is a kernel's.
        why_not: reasons against other paths, by their names.
    """

    rows: RowPath
    walk: WalkPath | None = None
    head: Head | None = None
    why_not: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def choose_paths(
    model: nn.Module,
    group: Group,
    data: GameData,
    path: str,
    execution: Execution,
    kept: str,
    budget: int | float | None,
) -> Paths:
    """Find the fastest ways to run a network, or the one that ``path`` insists on.

    Raises:
        PathError: that one cannot run it.
    """
    if path == "hook":
        return Paths(HookPath(model, group, data))
    try:
        prefix = Prefix(Traced(model, data.first(_TRACED)), data.inputs, data.device, kept, budget)
    except PathError as error:
        if path != "auto":
            raise
        return Paths(HookPath(model, group, data), why_not={"walk": str(error), "suffix": str(error)})
    walk: WalkPath | None = None
    why_not = dict[str, str]()
    try:
        walk = WalkPath(prefix, group, execution)
    except PathError as error:
        if path == "walk":
            raise
        why_not["walk"] = str(error)
    head = None if walk is None else walk.head
    if path == "suffix":  # row by row as asked, but through the head's kernel where there is one
        walk, why_not = None, {}
    try:
        return Paths(SuffixPath(prefix, group, execution), walk, head, why_not)
    except PathError as error:
        if path == "suffix":
            raise
        return Paths(HookPath(model, group, data), walk, head, why_not | {"suffix": str(error)})


def _in_order(x: Tensor, order: Tensor, dim: int) -> Tensor:
    """Entries along a dimension in another order, contiguous, without a copy where they are so already."""
    in_order = torch.equal(order, torch.arange(x.shape[dim], device=order.device))
    return (x if in_order else x.index_select(dim, order)).contiguous()


def _columns_by_player(player_of_input: Tensor, n_players: int) -> Tensor:
    """The consumer's input columns of each player, ``[C, S]``; every player must own the same number of them."""
    counts = torch.bincount(player_of_input[player_of_input >= 0], minlength=n_players)
    if bool((player_of_input < 0).any()) or counts.min() != counts.max():
        raise PathError("the consumer also reads channels of another group")
    return torch.argsort(player_of_input, stable=True).view(n_players, -1)
