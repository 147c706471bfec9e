"""Groups of coupled layers: who the players are, and which layers read them.

Pruning an output channel of one layer forces others to lose it too: the BatchNorm behind it, the other end of a
residual connection, the matching input channels of whoever reads it. ``torch_pruning.DependencyGraph`` finds these
couplings. This module turns each of its groups into the two facts that a game needs: how many players there are, and
at the input of which *consumers*, on which channels, a coalition has to be applied.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from .heads import UNKNOWN_HEADS, WITHIN_ATTENTION, HeadCount, Heads, find_heads, is_attention

__all__ = [
    "ChannelCutter",
    "Consumer",
    "Group",
    "GroupError",
    "coupled_items",
    "cut_channels",
    "find_group",
    "find_groups",
    "pick_group",
]

_DEPTHWISE = tp.ops.OPTYPE.DEPTHWISE_CONV
# Layers that work on each channel by itself: whatever a removed channel gives there is masked at the next consumer.
_CHANNELWISE = {
    tp.ops.OPTYPE.BN,
    tp.ops.OPTYPE.IN,
    tp.ops.OPTYPE.PRELU,
    _DEPTHWISE,
    tp.ops.OPTYPE.CONCAT,
    tp.ops.OPTYPE.SPLIT,
    tp.ops.OPTYPE.SLICE,
    tp.ops.OPTYPE.ELEMENTWISE,
    tp.ops.OPTYPE.RESHAPE,
    tp.ops.OPTYPE.PARAMETER,
}
_READERS = {tp.ops.OPTYPE.CONV, tp.ops.OPTYPE.LINEAR}
_REFUSED = {
    tp.ops.OPTYPE.LN: "a LayerNorm normalises over the channels, so removing some changes what the others become",
    tp.ops.OPTYPE.GN: "a GroupNorm normalises over several channels, so removing some changes what the others become",
    tp.ops.OPTYPE.MHA: "nn.MultiheadAttention cuts its channels into heads, and holds the layers of all in one",
    tp.ops.OPTYPE.LSTM: "an LSTM mixes its channels over time",
    tp.ops.OPTYPE.EMBED: "an embedding's columns are not produced by a convolution or a linear layer",
} | dict.fromkeys(
    WITHIN_ATTENTION,
    "copies or parts of a tensor, which are followed through attention alone, where its module has num_heads",
)


class GroupError(ValueError):
    """A group does not exist, or cannot be pruned exactly. The message says which and why."""


@dataclass(frozen=True)
class Consumer:
    """A conv or linear layer that reads a group's channels.

    Attributes:
        name: qualified name of the layer in the model.
        player_of_input: int64 ``[C_in]``; the player that input channel (linear: input feature) i belongs to, or -1
            for channels that come from elsewhere (a concatenation) and are always kept.
    """

    name: str
    player_of_input: Tensor


@dataclass(frozen=True)
class Group:
    """Layers that lose the same channels together. One player is one output channel of the layer it is named for, or
    one attention head: its channels in the layers of queries, keys and values together.

    Attributes:
        name: qualified name of the first layer, in the model's order, that produces the channels.
        n_players: number of channels, or of heads.
        layers: names of all layers that are cut along with it, consumers left out.
        consumers: who reads the channels.
        reason: why the group cannot be pruned exactly; None where it can.
        channels_per_player: 1, or what an attention head has.
    """

    name: str
    n_players: int
    layers: tuple[str, ...]
    consumers: tuple[Consumer, ...] = field(repr=False)
    reason: str | None = None
    channels_per_player: int = 1

    @property
    def size(self) -> str:
        """How many players there are, in words."""
        if self.channels_per_player == 1:
            return f"{self.n_players} channels"
        return f"{self.n_players} heads of {self.channels_per_player} channels"

    @property
    def prunable(self) -> bool:
        """Whether removing players is exactly what masking them computes, as far as the layers tell. A game also tries
        it, since operations between layers may mix channels."""
        return self.reason is None

    def __str__(self) -> str:
        consumers = ", ".join(c.name for c in self.consumers) or "nobody"
        state = "" if self.prunable else f" -- not prunable: {self.reason}"
        return f"{self.name}: {self.size}, read by {consumers}{state}"


def find_groups(model: nn.Module, example_input: Tensor) -> list[Group]:
    """List the groups of coupled layers of a model, in the order of its layers.

    Attention takes its channels by heads, whose number its module says by an attribute ``num_heads``. A cut lowers it,
    unless it is a property.

    Args:
        model: any module that ``torch_pruning`` can trace; it is neither changed nor switched to another mode.
        example_input: a batch that the model accepts, on the model's device.

    Returns:
        Every group, those that cannot be pruned included, with ``reason`` saying why.

    Example:
        >>> import torch, shapley_cuda as sc
        >>> for group in sc.find_groups(sc.lenet5().eval(), torch.zeros(1, 1, 28, 28)):
        ...     print(group)
        conv1: 20 channels, read by conv2
        conv2: 50 channels, read by fc1
        fc1: 500 channels, read by fc2
        fc2: 10 channels, read by nobody -- not prunable: its channels are outputs of the network
    """
    graph = _trace(model, example_input)
    groups: list[Group] = []
    covered: set[tuple[str, int]] = set()
    for name, layer in graph.model.named_modules():
        if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) or layer not in graph.module2node:
            continue
        n_channels = graph.get_out_channels(layer)
        if all((name, channel) in covered for channel in range(n_channels)):
            continue
        group, produced = _describe(graph, name, layer, n_channels)
        covered |= produced
        groups.append(group)
    return groups


def find_group(model: nn.Module, name: str, example_input: Tensor) -> Group:
    """Find the group that a layer's output channels belong to.

    Args:
        model: the network.
        name: qualified name of any layer that produces the group's channels (``"conv2"``, ``"layer1.0.conv2"``).
        example_input: a batch that the model accepts.

    Returns:
        The group; it carries the name of its first layer, which need not be the one that was asked for.

    Raises:
        GroupError: no layer of that name produces channels. The message suggests near names.
    """
    return pick_group(find_groups(model, example_input), name)


def pick_group(groups: Sequence[Group], name: str) -> Group:
    """Find the group that a layer's output channels belong to among those that :func:`find_groups` listed.

    Raises:
        GroupError: no layer of that name produces channels. The message suggests near names.
    """
    if not isinstance(name, str):
        raise TypeError(f"group must be the name of a layer or a Group, got {type(name).__name__}")
    for group in groups:
        if group.name == name:
            return group
    for group in groups:
        if name in group.layers:
            return group
    known = [g.name for g in groups] + [layer for g in groups for layer in g.layers]
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"groups: {', '.join(g.name for g in groups)}"
    raise GroupError(f"group must name a layer that produces channels, got {name!r}; {hint}")


def cut_channels(model: nn.Module, removed: Mapping[str, Sequence[int]], example_input: Tensor) -> nn.Module:
    """Remove output channels and all that depends on them, in a copy.

    This is the bare cut; :func:`~shapley_cuda.prune` also checks the result against the masked network. To cut the same
    groups time and again, make a :class:`ChannelCutter`.

    Args:
        model: the network; unchanged.
        removed: for each group, by its name, the channels (or heads) to remove, in the numbering of ``model``.
        example_input: a batch that the model accepts.

    Returns:
        The smaller network, in evaluation mode, its parameters requiring gradients as the original's do.

    Raises:
        GroupError: ``torch_pruning`` cannot cut these layers.
    """
    return ChannelCutter(model, removed, example_input).cut(removed)


class ChannelCutter:
    """Cuts groups out of copies of a network that it has traced once.

    Args:
        model: the network; unchanged, and not to be changed while this is used.
        groups: names of the groups that will be cut.
        example_input: a batch that the model accepts.
    """

    def __init__(self, model: nn.Module, groups: Iterable[str], example_input: Tensor):
        self._model = model
        graph = _trace(model, example_input)
        self._cuts = {name: _cuts_of_group(graph, name) for name in groups}

    def cut(self, removed: Mapping[str, Sequence[int]]) -> nn.Module:
        """Remove channels in a copy, see :func:`cut_channels`."""
        gone: dict[_Cut | HeadCount, set[int]] = {}
        cause: dict[_Cut | HeadCount, str] = {}
        for name, players in removed.items():
            for cut, places in self._cuts[name]:
                channels = {channel for player in players for channel in places.get(player, ())}
                if channels:
                    gone[cut] = gone.get(cut, set()) | channels
                    cause.setdefault(cut, name)
        with torch.inference_mode(False):
            pruned = copy.deepcopy(self._model).eval()
            for cut, channels in gone.items():
                try:
                    cut.apply(pruned, sorted(channels))
                except Exception as error:  # whatever torch_pruning meets in layers it was not made for
                    raise GroupError(
                        f"group {cause[cut]!r} cannot be pruned: cutting it gave {type(error).__name__}: {error}"
                    ) from error
        # Tied parameters have two names here and may have come apart in the copy.
        wants_grad = {name: p.requires_grad for name, p in self._model.named_parameters(remove_duplicate=False)}
        for name, parameter in pruned.named_parameters():
            parameter.requires_grad_(wants_grad[name])
        return pruned


def coupled_items(model: nn.Module, name: str, example_input: Tensor) -> tuple[nn.Module, list[Any]]:
    """List what ``torch_pruning`` cuts along with a group, as its importances take it.

    Args:
        model: the network; unchanged.
        name: name of the group.
        example_input: a batch that the model accepts.

    Returns:
        A copy of the model, its floating-point parameters wanting gradients, and the items of the group in it: each a
        dependency with ``idxs``, the places it is cut at, and ``root_idxs``, the players these belong to.
    """
    graph = _trace(model, example_input)
    return graph.model, _items_of_group(graph, name)[0]


@dataclass(frozen=True)
class _Cut:
    """One dimension of one layer, or of a parameter that belongs to no known layer, and how to cut it."""

    name: str
    is_parameter: bool
    prune: Callable[[Any, list[int]], Any]
    dim: int

    def apply(self, model: nn.Module, channels: list[int]) -> None:
        self.prune.__self__.pruning_dim = self.dim  # type: ignore[attr-defined]
        if self.is_parameter:
            parent, _, attribute = self.name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, self.prune(model.get_parameter(self.name), channels))
        else:
            self.prune(model.get_submodule(self.name), channels)


def _cuts_of_group(graph: tp.DependencyGraph, name: str) -> list[tuple[_Cut | HeadCount, dict[int, list[int]]]]:
    """What is cut along with a group, and at which places for each of its players.

    Places are those of the whole network, so that several groups can be cut at once.
    """
    modules = {module: module_name for module_name, module in graph.model.named_modules()}
    parameters = {id(parameter): parameter_name for parameter_name, parameter in graph.model.named_parameters()}
    cuts: list[tuple[_Cut | HeadCount, dict[int, list[int]]]] = []
    items, heads = _items_of_group(graph, name)
    for item in items:
        target = item.dep.target
        is_parameter = target.type == tp.ops.OPTYPE.PARAMETER
        target_name = parameters.get(id(target.module)) if is_parameter else modules.get(target.module)
        if target_name is None:  # an operation between layers: it has no weights
            continue
        places: dict[int, list[int]] = {}
        for player, place in zip(item.root_idxs, item.idxs, strict=True):
            places.setdefault(int(player), []).append(int(place))
        cuts.append((_Cut(target_name, is_parameter, item.dep.handler, target.pruning_dim), places))
    if heads is not None:
        cuts.append((HeadCount(heads.module, heads.head_dim), {head: [head] for head in range(heads.count)}))
    return cuts


def _items_of_group(graph: tp.DependencyGraph, name: str) -> tuple[list[Any], Heads | None]:
    """What is cut along with a layer's output channels, at which places and whose these are; and the heads, if any."""
    layer = graph.model.get_submodule(name)
    cut = graph.get_pruner_of_module(layer).prune_out_channels
    items = list(graph.get_pruning_group(layer, cut, list(range(graph.get_out_channels(layer)))))
    heads = find_heads(graph, items)
    return (items if heads is None else [heads.by_head(graph, item) for item in items]), heads


def _trace(model: nn.Module, example_input: Tensor) -> tp.DependencyGraph:
    """Trace a copy of the model with ``torch_pruning``. ``graph.model`` is the copy, with gradients enabled."""
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        twin = copy.deepcopy(model).eval()
        for parameter in twin.parameters():  # the tracer follows autograd: frozen layers would be invisible to it
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        warnings.simplefilter("ignore")  # unwrapped parameters are judged below, not announced
        # A copy of the example: one made under inference_mode could not be traced.
        example = example_input.detach().clone()
        # Left to itself, it would unpack the batch, and a model that takes a lone sample would be traced on that.
        return tp.DependencyGraph().build_dependency(
            twin, example_inputs=example, forward_fn=lambda network, batch: network(batch), verbose=False
        )


def _describe(
    graph: tp.DependencyGraph, name: str, layer: nn.Module, n_channels: int
) -> tuple[Group, set[tuple[str, int]]]:
    names = {module: module_name for module_name, module in graph.model.named_modules()}
    items, heads = _items_of_group(graph, name)
    n_players = n_channels if heads is None else heads.count
    keeping_apart = _CHANNELWISE if heads is None else _CHANNELWISE | WITHIN_ATTENTION
    layers: list[str] = []
    consumers: list[Consumer] = []
    produced: set[tuple[str, int]] = set()
    reasons: list[str] = []
    mixing: dict[str, list[str]] = {}
    for item in items:
        node, handler, indices = item.dep.target, item.dep.handler, item.idxs
        kind, module = node.type, node.module
        member = names.get(module, "")
        is_reader = kind in _READERS and graph.is_in_channel_pruning_fn(handler)
        if is_reader:
            n_inputs = graph.get_in_channels(module)
            if getattr(module, "groups", 1) > 1:
                reasons.append(f"grouped convolution {member} ({module.groups} groups) reads it")
            player_of_input = torch.full((n_inputs,), -1, dtype=torch.int64)
            if len(set(indices)) < len(indices) or max(indices) >= n_inputs:
                reasons.append(f"its channels do not reach {member} one by one")
            else:
                player_of_input[torch.as_tensor(list(indices))] = torch.as_tensor(list(item.root_idxs))
            consumers.append(Consumer(member, player_of_input))
        elif kind in _READERS:
            if getattr(module, "groups", 1) > 1:
                reasons.append(f"grouped convolution {member} ({module.groups} groups) produces it")
            layers.append(member)
            produced |= {(member, index) for index in indices}
        elif kind == tp.ops.OPTYPE.OUTPUT:
            reasons.append("its channels are outputs of the network")
        elif kind in keeping_apart:
            if heads is None and is_attention(node):
                reasons.append(UNKNOWN_HEADS)
            if member:
                layers.append(member)
            if kind == _DEPTHWISE:
                produced |= {(member, index) for index in indices}
                if module is layer:  # else the group would have begun at the layer in front of it
                    reasons.append(f"depthwise convolution {member} takes its channels from where none can be cut")
        else:
            why = _REFUSED.get(kind, "a layer that is not known to keep channels apart")
            mixing.setdefault(why, []).append(member or node.name)
    for why, members in mixing.items():
        others = f" and {len(members) - 1} more" if len(members) > 1 else ""
        reasons.append(f"{members[0]}{others}: {why}")
    if not consumers and not reasons:
        reasons.append("its channels are outputs of the network")
    read = {player for consumer in consumers for player in consumer.player_of_input.tolist()}
    if not reasons and len(read - {-1}) < n_players:
        reasons.append("some of its channels reach a layer only together with others, or none at all")
    reason = "; ".join(_unique(reasons)) or None
    per_player = 1 if heads is None else heads.head_dim
    return Group(name, n_players, tuple(_unique(layers)), tuple(consumers), reason, per_player), produced


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
