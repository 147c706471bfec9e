"""A traced network cut in two: the prefix runs once per sample, the suffix once per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from .masking import InputMask, PathError
from .tracing import Traced

__all__ = ["Split"]


class Split:
    """A network cut where its rows begin to differ from their samples.

    Args:
        traced: the network.
        roots: the calls where a row first differs from its sample.
        consumers: the roots' layers by name, if the roots are consumers that run in the suffix, on masked inputs;
            without, the roots' results are given to the suffix from outside.
        known: further values that must not depend on the roots.

    Attributes:
        boundary: values of the prefix that the suffix gathers its rows from.
        suffix: a module that takes ``(masks [R, C] or None, sample_index [R], *boundary values, *the roots' results)``.
    """

    def __init__(
        self,
        traced: Traced,
        roots: Sequence[fx.Node],
        consumers: Mapping[str, InputMask] | None = None,
        known: Sequence[fx.Node] = (),
    ):
        self.traced, self.roots = traced, roots
        self.per_row = _descendants(traced.graph, roots)
        if any(n in self.per_row for n in known):
            raise PathError("the consumer is called again on its own result")
        # Replaced roots come from outside and are left out.
        self.inner = self.per_row if consumers is not None else self.per_row - set(roots)
        self.boundary = self._find_boundary()
        self.suffix = self._build_suffix(consumers)

    def _inner(self) -> list[fx.Node]:
        return [n for n in self.traced.graph.nodes if n in self.inner]

    def _find_boundary(self) -> list[fx.Node]:
        """Values that the suffix reads from the prefix. Each must have one entry per sample to be gathered; sizes,
        parameters and the like are computed again inside the suffix instead, from what it gathers."""
        while True:
            needed = [a for n in self._inner() for a in n.all_input_nodes if a not in self.per_row]
            recompute = [n for n in needed if n not in self.traced.per_sample]
            if not recompute:
                return list(dict.fromkeys(needed))
            if any(n.op == "placeholder" for n in recompute):
                raise PathError("an input of the network has no sample dimension")
            self.per_row |= set(recompute)
            self.inner |= set(recompute)

    def _build_suffix(self, consumers: Mapping[str, InputMask] | None) -> fx.GraphModule:
        module, graph, copies = self.traced.module, fx.Graph(), dict[fx.Node, fx.Node]()
        masks, sample_index = graph.placeholder("masks"), graph.placeholder("sample_index")
        given = {n: graph.placeholder(f"sample_{n.name}") for n in self.boundary}
        if consumers is None:
            copies.update({n: graph.placeholder(f"row_{n.name}") for n in self.roots})
        rows: dict[fx.Node, fx.Node] = {}

        def row_of(node: fx.Node) -> fx.Node:
            if node in copies:
                return copies[node]
            if node not in rows:
                rows[node] = graph.call_function(torch.index_select, (given[node], 0, sample_index))
            return rows[node]

        for node in self._inner():
            if consumers is None or node not in self.roots:
                copies[node] = graph.node_copy(node, row_of)
                continue
            kwargs = dict(node.kwargs)
            source, *others = node.args or (kwargs.pop("input"),)
            assert isinstance(source, fx.Node)
            if source in copies:  # already one entry per row
                x, index = copies[source], graph.call_function(_own_rows, (masks,))
            else:
                x, index = given[source], sample_index
            mask_of_input = f"mask_of_{node.name}"
            module.add_module(mask_of_input, consumers[str(node.target)])
            masked_input = graph.call_module(mask_of_input, (x, masks, index))
            # Further arguments, such as the output_size of a ConvTranspose.
            rest = tuple(fx.map_arg(other, row_of) for other in others)
            named = {key: fx.map_arg(value, row_of) for key, value in kwargs.items()}
            copies[node] = graph.call_module(str(node.target), (masked_input, *rest), named)
        return fx.GraphModule(module, graph)


def _descendants(graph: fx.Graph, roots: Sequence[fx.Node]) -> set[fx.Node]:
    found = set(roots)
    for node in graph.nodes:  # in topological order
        if any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _own_rows(masks: Tensor) -> Tensor:
    return torch.arange(masks.shape[0], device=masks.device)
