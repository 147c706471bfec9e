"""Attention heads: channels that are kept or removed together, several to a player.

Attention takes the channels of its queries, keys and values apart into heads, which know nothing of each other until a
layer reads them side by side. A whole head can be cut exactly; one of its channels cannot, since all of them decide
together what the head looks at. Layers do not tell where one head ends, but the module that holds them does: by its
attribute ``num_heads``, as attention modules commonly have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import nn

__all__ = ["UNKNOWN_HEADS", "WITHIN_ATTENTION", "HeadCount", "Heads", "find_heads", "is_attention"]

WITHIN_ATTENTION = {tp.ops.OPTYPE.UNBIND, tp.ops.OPTYPE.EXPAND}
"""Operations that keep heads apart, though not single channels: a split into three, a product of matrices."""

UNKNOWN_HEADS = (
    "attention takes its channels by heads, and the module that holds its layers for queries, keys and values (or one "
    "for all three), all as wide as what the layer behind them reads, does not say by num_heads how many there are"
)

_WEIGHTED = {tp.ops.OPTYPE.CONV, tp.ops.OPTYPE.LINEAR}


@dataclass(frozen=True)
class Heads:
    """The heads of one attention module.

    Attributes:
        module: its qualified name.
        count: number of heads.
        width: channels of all heads together.
    """

    module: str
    count: int
    width: int

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.width // self.count

    def by_head(self, graph: tp.DependencyGraph, item: Any) -> Any:
        """An item of the group with all channels of its layer, and for each the head that it belongs to. The channels
        are those of all heads in turn, once, or three times: of queries, keys and values."""
        n_channels = graph.get_out_channels(item.dep.target.module)
        if graph.is_in_channel_pruning_fn(item.dep.handler):
            n_channels = graph.get_in_channels(item.dep.target.module)
        if n_channels not in (self.width, 3 * self.width):
            return item
        whole = type(item)(dep=item.dep, idxs=list(range(n_channels)))
        whole.root_idxs = [channel % self.width // self.head_dim for channel in whole.idxs]
        return whole


@dataclass(frozen=True)
class HeadCount:
    """What a module keeps of the number of its heads: ``num_heads``, and timm's the width of all, ``attn_dim``. What
    follows from the layers' widths instead needs no cut."""

    module: str
    head_dim: int

    def apply(self, model: nn.Module, removed: list[int]) -> None:
        """Take the removed heads off."""
        kept = vars(model.get_submodule(self.module))
        for name, size in (("num_heads", 1), ("attn_dim", self.head_dim)):
            if name in kept:
                kept[name] -= size * len(removed)


def find_heads(graph: tp.DependencyGraph, items: Iterable[Any]) -> Heads | None:
    """Tell whether the channels of a group of ``torch_pruning`` are those of attention heads whose number is known.

    They are where one layer reads them, three layers of the same width or one three times as wide produce them, and the
    innermost module around all of these that has an attribute ``num_heads`` has one that divides the width.
    """
    readers, producers = list[nn.Module](), list[nn.Module]()
    for item in items:
        if item.dep.target.type in _WEIGHTED:
            reads = graph.is_in_channel_pruning_fn(item.dep.handler)
            (readers if reads else producers).append(item.dep.target.module)
    if len(readers) != 1:
        return None
    width = graph.get_in_channels(readers[0])
    if [graph.get_out_channels(layer) for layer in producers] not in ([width] * 3, [3 * width]):
        return None
    around = [
        (name, module)
        for name, module in graph.model.named_modules()
        if isinstance(getattr(module, "num_heads", None), int) and {*readers, *producers} <= set(module.modules())
    ]
    if not around:
        return None
    name, module = around[-1]  # the innermost comes last
    count = int(module.num_heads)
    return Heads(name, count, width) if count > 0 and width % count == 0 else None


def is_attention(node: Any) -> bool:
    """Whether a node of the traced graph is torch's attention in one operation."""
    return node.type == tp.ops.OPTYPE.ELEMENTWISE and "ScaledDotProduct" in str(node.module)
