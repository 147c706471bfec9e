"""A network cut in two with ``torch.fx``: what no mask can reach, and the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from .groups import Consumer
from .masking import PathError, channel_dim, mask_inputs

__all__ = ["Split"]

_PREFIX_BATCH = 256


class Split:
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

    def run_prefix(self, inputs: Tensor) -> list[Tensor]:
        """What the suffix gathers its rows from, and, with ``replace_roots``, the inputs of the roots behind it."""
        batches = [self.prefix(batch) for batch in inputs.split(_PREFIX_BATCH)]
        return [torch.cat(parts) for parts in zip(*batches, strict=True)]

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
            arguments = (x, masks, index, graph.get_attr(players), channel_dim(layer))
            masked_input = graph.call_function(mask_inputs, arguments)
            # Further arguments, such as the output_size of a ConvTranspose.
            rest = tuple(fx.map_arg(other, row_of) for other in others)
            named = {key: fx.map_arg(value, row_of) for key, value in kwargs.items()}
            copies[node] = graph.call_module(str(node.target), (masked_input, *rest), named)
        return fx.GraphModule(self.traced, graph)


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


def _own_rows(masks: Tensor) -> Tensor:
    return torch.arange(masks.shape[0], device=masks.device)
