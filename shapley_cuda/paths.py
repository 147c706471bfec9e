"""Three ways to run a network under coalitions. They give the same numbers; they differ in what they can reuse.

A *row* is one sample under one coalition. Every path applies a coalition at the inputs of the group's consumers:

- ``HookPath`` runs the whole network on every row, with forward-pre-hooks on the consumers. It needs no tracing.
- ``SuffixPath`` splits the network with ``torch.fx``. What no mask can reach, the prefix, runs once per sample; rows
  are gathered from its results, and only the suffix runs per row.
- ``WalkPath`` is for one linear consumer: its pre-activation at all steps of a walk comes from one call of a walk
  kernel, adding one channel at a time, and only what follows it runs per row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from . import ops
from .groups import Consumer, Group
from .masking import PathError, masked
from .split import Split

__all__ = ["HookPath", "RowPath", "SuffixPath", "WalkPath"]


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
        self.consumers = [(model.get_submodule(c.name), c.player_of_input.to(inputs.device)) for c in group.consumers]

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        with masked(self.consumers, masks):
            return self.model(self.inputs[sample_index])


class SuffixPath:
    """Run the prefix once per sample and the suffix once per row. The default wherever the network can be traced."""

    name = "suffix"

    def __init__(self, model: nn.Module, group: Group, inputs: Tensor):
        consumers = {c.name: Consumer(c.name, c.player_of_input.to(inputs.device)) for c in group.consumers}
        split = Split(model, inputs, consumers, replace_roots=False)
        self.suffix = split.suffix
        self.boundary = split.run_prefix(inputs)

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        return self.suffix(masks, sample_index, *self.boundary)


class WalkPath:
    """Walks through one linear consumer, by kernels that add one channel at a time.

    Attributes:
        is_head: the consumer's output is the network's output, so that a fused kernel can give the metric itself.
        features: float ``[N, C, S]``, the consumer's input, its columns put in the players' order.
        weight: ``[K, C * S]`` in the same order; bias ``[K]`` or None.
    """

    name = "walk"

    def __init__(self, model: nn.Module, group: Group, inputs: Tensor):
        if len(group.consumers) != 1:
            raise PathError(f"{len(group.consumers)} layers read the channels; a walk kernel serves one")
        consumer = group.consumers[0]
        layer = model.get_submodule(consumer.name)
        if type(layer) is not nn.Linear:
            raise PathError(f"consumer {consumer.name} is a {type(layer).__name__}, not an nn.Linear")
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise PathError(f"consumer {consumer.name} has hooks of its own, which a walk kernel would not run")
        columns = _columns_by_player(consumer.player_of_input, group.n_players)
        split = Split(model, inputs, {consumer.name: consumer}, replace_roots=True)
        if len(split.roots) != 1:
            raise PathError(f"consumer {consumer.name} is called {len(split.roots)} times in one forward pass")
        root = split.roots[0]
        *boundary, x = split.run_prefix(inputs)
        if x.dtype == torch.float64:
            raise PathError("the network computes in float64, a walk kernel in float32")
        if x.dim() != 2:
            raise PathError(f"the input of {consumer.name} has {x.dim()} dimensions, a walk kernel needs 2")
        columns = columns.to(x.device)
        self.features = x[:, columns.flatten()].view(x.shape[0], *columns.shape).contiguous()
        self.weight = layer.weight.detach()[:, columns.flatten()].contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.is_head = all(user.op == "output" and user.args[0] is root for user in root.users)
        self._suffix, self._boundary = split.suffix, boundary

    def outputs(self, permutations: Tensor, sample_index: Tensor) -> Tensor:
        """Network outputs ``[R * (C + 1), ...]`` at every step of R walks, walk after walk."""
        steps = permutations.shape[1] + 1
        x = ops.permutation_linear(self.features, permutations, self.weight, self.bias, sample_index)
        rows = x.flatten(0, 1).to(self.weight.dtype)
        return self._suffix(None, sample_index.repeat_interleave(steps), *self._boundary, rows)


def _columns_by_player(player_of_input: Tensor, n_players: int) -> Tensor:
    """The consumer's input columns of each player, ``[C, S]``; every player must own the same number of them."""
    counts = torch.bincount(player_of_input[player_of_input >= 0], minlength=n_players)
    if bool((player_of_input < 0).any()) or counts.min() != counts.max():
        raise PathError("the consumer also reads channels of another group")
    return torch.argsort(player_of_input, stable=True).view(n_players, -1)
