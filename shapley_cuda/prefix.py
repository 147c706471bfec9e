"""What no mask reaches of a network, for the samples that a chunk of rows asks for.

It is computed once for every sample and kept, in memory or in a file, or for every chunk again. The prefix itself runs
on batches of samples that fit the memory budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, fx

from .mapped import TensorFile
from .memory import PeakMemory, Portions, resolve_budget
from .tracing import Traced

__all__ = ["KEPT", "Prefix", "SampleValues", "values_of_inputs"]

KEPT = ("memory", "bfloat16", "disk", "recompute")
"""Where the prefix's results are kept: on the device, there at half the size, in a temporary file, or nowhere."""

_MOST_SAMPLES = 256
_TRIAL = 2  # samples from which the memory that one takes is told

Form: TypeAlias = Callable[[Tensor], Tensor]
"""Brings values ``[n, ...]`` into the form in which a path reads them, any number of samples alike."""


class Taken(NamedTuple):
    """Values of some samples.

    Attributes:
        values: ``[n, ...]`` each.
        local: int64 ``[R]``, which of the n each row reads.
        samples: which samples the n are, to index anything else that has one entry per sample.
    """

    values: Sequence[Tensor]
    local: Tensor
    samples: Tensor | slice


class SampleValues(Protocol):
    """Values that have one entry for each of N samples, wherever they are kept."""

    def take(self, sample_index: Tensor) -> Taken:
        """Values for rows, row r on sample ``sample_index[r]``."""

    def span(self, first: int, last: int) -> Taken:
        """Values of samples first .. last - 1, in their order."""


class _Whole:
    """Values of all samples on the device: rows read them where they are."""

    def __init__(self, values: Sequence[Tensor]):
        self._values = values

    def take(self, sample_index: Tensor) -> Taken:
        return Taken(self._values, sample_index, slice(None))

    def span(self, first: int, last: int) -> Taken:
        part = slice(first, last)
        local = torch.arange(last - first, device=self._values[0].device)
        return Taken([values[part] for values in self._values], local, part)


class _Fetched:
    """Values that are brought to the device, and into their form, for the samples that a chunk asks for."""

    def __init__(self, fetch: Callable[[Tensor], Sequence[Tensor]], forms: Sequence[Form], device: torch.device):
        self._fetch, self._forms, self._device = fetch, forms, device
        self._samples: Tensor | None = None
        self._values: list[Tensor] = []

    def take(self, sample_index: Tensor) -> Taken:
        samples, local = sample_index.unique(return_inverse=True)
        # Chunks of further coalitions ask for the same samples again.
        if self._samples is None or not torch.equal(samples, self._samples):
            self._samples, self._values = None, []  # before the next ones take their memory
            self._values = [form(value) for form, value in zip(self._forms, self._fetch(samples), strict=True)]
            self._samples = samples
        return Taken(self._values, local, samples)

    def span(self, first: int, last: int) -> Taken:
        return self.take(torch.arange(first, last, device=self._device))


def values_of_inputs(inputs: Tensor, device: torch.device) -> SampleValues:
    """The samples themselves, brought to the device chunk by chunk where they are not there."""
    if inputs.device == device:
        return _Whole([inputs])
    return _Fetched(lambda samples: [_rows(inputs, samples, device)], [_as_it_is], device)


class Prefix:
    """Values of a network that no mask reaches, one entry per sample. What was asked for once is not computed again.

    Args:
        traced: the network.
        inputs: all samples, on the device, in the CPU's memory or in a memory-mapped file.
        device: where the network runs; default where the inputs are.
        keep: one of :data:`KEPT`.
        budget: bytes that a batch of samples may take, see :func:`~shapley_cuda.memory.resolve_budget`.
    """

    def __init__(
        self,
        traced: Traced,
        inputs: Tensor,
        device: torch.device | None = None,
        keep: str = "memory",
        budget: int | float | None = None,
    ):
        self.traced, self.device = traced, device or inputs.device
        self._inputs, self._keep, self._budget = inputs, keep, resolve_budget(budget, self.device)
        self._known: dict[fx.Node, Tensor] = {}
        self._types: dict[fx.Node, torch.dtype] = {}

    def values(self, nodes: Sequence[fx.Node], forms: Sequence[Form]) -> SampleValues:
        """The values of some nodes, each in a form."""
        if self._keep == "recompute":
            network, inputs, device = self._network(nodes), self._inputs, self.device
            return _Fetched(lambda samples: network(_rows(inputs, samples, device)), forms, device)
        self._compute([n for n in dict.fromkeys(nodes) if n not in self._known])
        kept, types, device = [self._known[n] for n in nodes], [self._types[n] for n in nodes], self.device
        if self._keep == "memory":
            return _Whole([form(values) for form, values in zip(forms, kept, strict=True)])

        def fetch(samples: Tensor) -> Sequence[Tensor]:
            return [_rows(values, samples, device).to(dtype) for values, dtype in zip(kept, types, strict=True)]

        return _Fetched(fetch, forms, device)

    def _compute(self, nodes: Sequence[fx.Node]) -> None:
        """Run the prefix on all samples, in batches that fit the budget, and keep what it gives."""
        if not nodes:
            return
        network, count = self._network(nodes), self._inputs.shape[0]
        portions = Portions("sample of the prefix", lambda: f"memory_budget is {self._budget} bytes")

        def run(first: int, last: int) -> Sequence[Tensor]:
            values: Sequence[Tensor] = network(self._inputs[first:last].to(self.device))
            return values

        few = min(_TRIAL, count)
        with PeakMemory() as memory:
            firsts = list(portions.run(few, few, run))
        fitting = max(1, min(_MOST_SAMPLES, few * self._budget // max(1, memory.peak)))
        fitting = 1 << fitting.bit_length() - 1  # the same for budgets that are nearly the same
        self._types.update((n, value.dtype) for n, value in zip(nodes, firsts[0], strict=True))
        stores = [self._store(value, count) for value in firsts[0]]
        others = portions.run(count - few, fitting, lambda first, last: run(few + first, few + last))
        for batch in chain(firsts, others):
            for store, values in zip(stores, batch, strict=True):
                store.append(values)
        self._known.update((n, store.tensor()) for n, store in zip(nodes, stores, strict=True))

    def _store(self, example: Tensor, count: int) -> TensorFile | _InMemory:
        if self._keep == "disk":
            return TensorFile()
        narrower = self._keep == "bfloat16" and example.is_floating_point()
        return _InMemory(example.to(torch.bfloat16) if narrower else example, count)

    def _network(self, wanted: Sequence[fx.Node]) -> fx.GraphModule:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in _ancestors_or_self(self.traced.graph, wanted):
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(tuple(copies[n] for n in wanted))
        return fx.GraphModule(self.traced.module, graph)


class _InMemory:
    """A tensor of ``count`` entries like those of an example, filled batch by batch."""

    def __init__(self, example: Tensor, count: int):
        last = example.dim() == 4 and not example.is_contiguous()
        order = torch.channels_last if last else torch.contiguous_format
        size = (count, *example.shape[1:])
        self._all = torch.empty(size, dtype=example.dtype, device=example.device, memory_format=order)
        self._filled = 0

    def append(self, batch: Tensor) -> None:
        self._all[self._filled : self._filled + batch.shape[0]] = batch
        self._filled += batch.shape[0]

    def tensor(self) -> Tensor:
        return self._all


def _ancestors_or_self(graph: fx.Graph, wanted: Sequence[fx.Node]) -> list[fx.Node]:
    found = set(wanted)
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.all_input_nodes)
    return [n for n in graph.nodes if n in found or n.op == "placeholder"]


def _rows(values: Tensor, samples: Tensor, device: torch.device) -> Tensor:
    return values[samples.to(values.device)].to(device)


def _as_it_is(values: Tensor) -> Tensor:
    return values
