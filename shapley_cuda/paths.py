"""Three ways to run a network under coalitions. They give the same numbers; they differ in what they can reuse.

A *row* is one sample under one coalition. Every path applies a coalition at the inputs of the group's consumers:

- ``HookPath`` runs the whole network on every row, with forward-pre-hooks on the consumers. It needs no tracing.
- ``SuffixPath`` splits the network with ``torch.fx``. What no mask can reach, the prefix, runs once per sample; rows
  are gathered from its results, and only the suffix runs per row.
- ``WalkPath`` is for one linear consumer: its pre-activation at all steps of a walk comes from one call of a walk
  kernel, adding one channel at a time, and only what follows it runs per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from . import ops
from .groups import Consumer, Group

__all__ = ["HookPath", "PathError", "RowPath", "SuffixPath", "WalkPath", "masked_outputs", "relative_deviation"]


_PreHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, dict[str, Any]]]


class PathError(RuntimeError):
    """This path cannot run the network. The message says why; another path may."""


class RowPath(Protocol):
    """Anything that turns rows into network outputs."""

    name: str

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        """Network outputs ``[R, ...]`` for coalitions ``masks [R, C]``, row r on sample ``sample_index[r]``."""


def mask_inputs(x: Tensor, masks: Tensor, sample_index: Tensor, player_of_input: Tensor, channel_dim: int) -> Tensor:
    """Gather rows of a consumer's input and take the removed players' channels out.

    Args:
        x: the consumer's input, one entry per sample along dimension 0.
        masks: bool ``[R, C]``.
        sample_index: int64 ``[R]``, the entry of x that each row reads.
        player_of_input: int64 ``[C_in]``, see :class:`~shapley_cuda.groups.Consumer`.
        channel_dim: 1 for convolutions, -1 for linear layers.
    """
    always_kept = masks.new_ones(masks.shape[0], 1)  # index -1 picks this last column
    kept_inputs = torch.cat([masks, always_kept], dim=1)[:, player_of_input]
    if channel_dim % x.dim() == 1:
        return ops.apply_masks(x, kept_inputs, sample_index)
    channels_first = x.movedim(channel_dim, 1).contiguous()
    return ops.apply_masks(channels_first, kept_inputs, sample_index).movedim(1, channel_dim)


def _channel_dim(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.Linear) else 1


class HookPath:
    """Run the whole network on every row. Works for any module whose consumers are called as modules."""

    name = "hook"

    def __init__(self, model: nn.Module, group: Group, inputs: Tensor):
        self.model, self.inputs = model, inputs
        self.consumers = [(model.get_submodule(c.name), c.player_of_input.to(inputs.device)) for c in group.consumers]

    def outputs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        with masked(self.consumers, masks):
            return self.model(self.inputs[sample_index])


@contextmanager
def masked(consumers: list[tuple[nn.Module, Tensor]], masks: Tensor) -> Iterator[None]:
    """While this is open, each consumer sees row r of its input under coalition ``masks[r]``."""
    own_row = torch.arange(masks.shape[0], device=masks.device)
    calls = [0] * len(consumers)

    def pre_hook(position: int, player_of_input: Tensor) -> _PreHook:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            calls[position] += 1
            x, *others = args or (kwargs.pop("input"),)
            if x.shape[0] != masks.shape[0]:
                raise PathError(
                    f"a consumer of the group got {x.shape[0]} entries for {masks.shape[0]} rows: the network folds "
                    "another dimension into the batch, so that nothing tells which coalition an entry belongs to"
                )
            return (mask_inputs(x, masks, own_row, player_of_input, _channel_dim(layer)), *others), kwargs

        return hook

    handles = [
        layer.register_forward_pre_hook(pre_hook(i, players), with_kwargs=True)
        for i, (layer, players) in enumerate(consumers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not all(calls):
        raise PathError("a consumer of the group was never called as a module, so its input cannot be masked")


@torch.no_grad()
def masked_outputs(model: nn.Module, coalitions: Sequence[tuple[Group, Tensor]], inputs: Tensor) -> Tensor:
    """Outputs of the whole network with a coalition of each of several groups kept.

    Args:
        model: the network, in evaluation mode.
        coalitions: pairs of a group and its mask, bool ``[C]``, True = kept.
        inputs: the batch to run.
    """
    with ExitStack() as stack:
        for group, mask in coalitions:
            consumers = [(model.get_submodule(c.name), c.player_of_input.to(inputs.device)) for c in group.consumers]
            rows = mask.to(inputs.device).expand(inputs.shape[0], -1)
            stack.enter_context(masked(consumers, rows))
        return model(inputs)


def relative_deviation(outputs: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference; infinite if shapes differ or
    either has values that are not finite."""
    if outputs.shape != reference.shape:
        return float("inf")
    outputs, reference = outputs.detach().double(), reference.detach().double()
    difference = (outputs - reference).abs().max()
    scale = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    deviation = float(difference / scale)
    return deviation if deviation == deviation else float("inf")


class _Split:
    """A traced network cut in two: the prefix runs once per sample, the suffix once per row.

    ``roots`` are the calls where a row first differs from its sample. With ``replace_roots`` their results are given
    to the suffix from outside; else they are the consumers, part of the suffix, and get masked inputs.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, consumers: dict[str, Consumer], replace_roots: bool):
        self.traced = _trace(model)
        graph = self.traced.graph
        self.roots = [n for n in graph.nodes if n.op == "call_module" and n.target in consumers]
        missing = set(consumers) - {str(n.target) for n in self.roots}
        if missing:
            raise PathError(f"consumers {sorted(missing)} do not appear as module calls in the traced network")
        self.replace_roots = replace_roots
        self.per_row = _descendants(graph, self.roots)
        if replace_roots and any(argument in self.per_row for root in self.roots for argument in root.all_input_nodes):
            raise PathError("the consumer is called again on its own result")
        self.boundary = self._find_boundary(inputs)
        self.prefix = self._build_prefix()
        self.suffix = self._build_suffix(consumers)

    def _inner(self) -> list[fx.Node]:
        """The nodes that run per row, in order; replaced roots come from outside and are left out."""
        skip = set(self.roots) if self.replace_roots else set()
        return [n for n in self.traced.graph.nodes if n in self.per_row and n not in skip]

    def _find_boundary(self, inputs: Tensor) -> list[fx.Node]:
        """Values that the suffix reads from the prefix. Each must have one entry per sample to be gathered; sizes,
        parameters and the like are computed again inside the suffix instead, from what it gathers."""
        by_sample = _values_with_sample_dimension(self.traced, inputs)
        while True:
            needed = [a for n in self._inner() for a in n.all_input_nodes if a not in self.per_row]
            recompute = [n for n in needed if n not in by_sample]
            if not recompute:
                return list(dict.fromkeys(needed))
            if any(n.op == "placeholder" for n in recompute):
                raise PathError("an input of the network has no sample dimension")
            self.per_row |= set(recompute)

    def _build_prefix(self) -> fx.GraphModule:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        wanted = list(self.boundary)
        if self.replace_roots:
            wanted += [root.all_input_nodes[0] for root in self.roots]
        for node in _ancestors_or_self(self.traced.graph, wanted):
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(tuple(copies[n] for n in wanted))
        return fx.GraphModule(self.traced, graph)

    def _build_suffix(self, consumers: dict[str, Consumer]) -> fx.GraphModule:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        masks, sample_index = graph.placeholder("masks"), graph.placeholder("sample_index")
        given = {n: graph.placeholder(f"sample_{n.name}") for n in self.boundary}
        if self.replace_roots:
            copies.update({n: graph.placeholder(f"row_{n.name}") for n in self.roots})
        rows: dict[fx.Node, fx.Node] = {}

        def row_of(node: fx.Node) -> fx.Node:
            if node in copies:
                return copies[node]
            if node not in rows:
                rows[node] = graph.call_function(torch.index_select, (given[node], 0, sample_index))
            return rows[node]

        for node in self._inner():
            if node not in self.roots:
                copies[node] = graph.node_copy(node, row_of)
                continue
            layer = self.traced.get_submodule(str(node.target))
            kwargs = dict(node.kwargs)
            source, *others = node.args or (kwargs.pop("input"),)
            assert isinstance(source, fx.Node)
            if source in copies:  # already one entry per row
                x, index = copies[source], graph.call_function(_own_rows, (masks,))
            else:
                x, index = given[source], sample_index
            players = f"players_of_{node.name}"
            self.traced.register_buffer(players, consumers[str(node.target)].player_of_input, persistent=False)
            arguments = (x, masks, index, graph.get_attr(players), _channel_dim(layer))
            masked_input = graph.call_function(mask_inputs, arguments)
            # Further arguments, such as the output_size of a ConvTranspose.
            rest = tuple(fx.map_arg(other, row_of) for other in others)
            named = {key: fx.map_arg(value, row_of) for key, value in kwargs.items()}
            copies[node] = graph.call_module(str(node.target), (masked_input, *rest), named)
        return fx.GraphModule(self.traced, graph)


class SuffixPath:
    """Run the prefix once per sample and the suffix once per row. The default wherever the network can be traced."""

    name = "suffix"

    def __init__(self, model: nn.Module, group: Group, inputs: Tensor, batch_size: int = 256):
        consumers = {c.name: Consumer(c.name, c.player_of_input.to(inputs.device)) for c in group.consumers}
        split = _Split(model, inputs, consumers, replace_roots=False)
        self.suffix = split.suffix
        self.boundary = _run_prefix(split.prefix, inputs, batch_size)

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

    def __init__(self, model: nn.Module, group: Group, inputs: Tensor, batch_size: int = 256):
        if len(group.consumers) != 1:
            raise PathError(f"{len(group.consumers)} layers read the channels; a walk kernel serves one")
        consumer = group.consumers[0]
        layer = model.get_submodule(consumer.name)
        if type(layer) is not nn.Linear:
            raise PathError(f"consumer {consumer.name} is a {type(layer).__name__}, not an nn.Linear")
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise PathError(f"consumer {consumer.name} has hooks of its own, which a walk kernel would not run")
        columns = _columns_by_player(consumer.player_of_input, group.n_players)
        split = _Split(model, inputs, {consumer.name: consumer}, replace_roots=True)
        if len(split.roots) != 1:
            raise PathError(f"consumer {consumer.name} is called {len(split.roots)} times in one forward pass")
        root = split.roots[0]
        *boundary, x = _run_prefix(split.prefix, inputs, batch_size)
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


class _Tracer(fx.Tracer):
    """Keeps convolutions and linear layers whole, subclasses of them included: a consumer has to appear as a call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        readers = (nn.Linear, nn.modules.conv._ConvNd)
        return isinstance(m, readers) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.GraphModule:
    if model._forward_hooks or model._forward_pre_hooks:
        raise PathError("the network has hooks of its own, which torch.fx would not see")
    try:
        tracer = _Tracer()
        traced = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # whatever the model's Python does under tracing
        raise PathError(f"torch.fx cannot trace the network: {type(error).__name__}: {error}") from error
    placeholders = [n for n in traced.graph.nodes if n.op == "placeholder"]
    if not placeholders or any(not n.args for n in placeholders[1:]):
        raise PathError(f"the network takes {len(placeholders)} inputs; rows of one tensor are supported")
    return traced


def _descendants(graph: fx.Graph, roots: list[fx.Node]) -> set[fx.Node]:
    found = set(roots)
    for node in graph.nodes:  # in topological order
        if any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _ancestors_or_self(graph: fx.Graph, wanted: list[fx.Node]) -> list[fx.Node]:
    found = set(wanted)
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.all_input_nodes)
    return [n for n in graph.nodes if n in found or n.op == "placeholder"]


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps, for every node, its shape if it is a tensor."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def _values_with_sample_dimension(traced: fx.GraphModule, inputs: Tensor) -> set[fx.Node]:
    """Nodes whose value is a tensor with one entry per sample along dimension 0: its size follows the batch's."""
    found: set[fx.Node] | None = None
    for size in (2, 3):
        recorder = _Recorder(traced)
        recorder.run(inputs[torch.arange(size, device=inputs.device) % inputs.shape[0]])
        matching = {n for n, shape in recorder.shapes.items() if len(shape) > 0 and shape[0] == size}
        found = matching if found is None else found & matching
    assert found is not None
    return found


def _run_prefix(prefix: fx.GraphModule, inputs: Tensor, batch_size: int) -> list[Tensor]:
    batches = [prefix(batch) for batch in inputs.split(batch_size)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _columns_by_player(player_of_input: Tensor, n_players: int) -> Tensor:
    """The consumer's input columns of each player, ``[C, S]``; every player must own the same number of them."""
    counts = torch.bincount(player_of_input[player_of_input >= 0], minlength=n_players)
    if bool((player_of_input < 0).any()) or counts.min() != counts.max():
        raise PathError("the consumer also reads channels of another group")
    return torch.argsort(player_of_input, stable=True).view(n_players, -1)


def _own_rows(masks: Tensor) -> Tensor:
    return torch.arange(masks.shape[0], device=masks.device)
