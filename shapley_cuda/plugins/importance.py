"""Shapley values as an importance criterion of ``torch_pruning``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ..estimate import Estimate
from ..game import ChannelGame
from ..groups import Group, GroupError, find_groups
from ..rankers import rank

__all__ = ["ShapleyImportance"]

_PRODUCING = (tp.prune_conv_out_channels, tp.prune_linear_out_channels)
_READING = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


class ShapleyImportance(tp.importance.Importance):  # type: ignore[misc]  # which has no hints
    """Score the channels of ``torch_pruning``'s groups by their Shapley values.

    Give it to any of its pruners as ``importance``: local, global, isomorphic and iterative pruning, ``round_to``,
    ``pruning_ratio_dict`` and interactive steps work as with its own criteria. Values are those of the network as it is
    when a pruner asks: after each step, or some training in between, they are estimated anew; as long as no parameter
    or buffer changes, a group is ranked once. They are in units of the payoff, so that layers compare in global pruning
    without normalisation; some may be negative.

    ``GroupNormPruner`` and ``GrowingRegPruner`` also take their importance for squared norms when they regularise,
    which these values are not: prune with ``BasePruner``. Where a pruner is told of channel groups
    (``out_channel_groups``), it averages the values over them. Every channel of an attention head has the value of its
    head: prune heads with ``num_heads``, ``prune_num_heads=True`` and ``prune_head_dims=False``.

    Args:
        model: the network that the pruner prunes, the same object. A copy in evaluation mode is ranked, and
            kept until the network changes; the network's own mode, gradients and parameters are left as they are.
        data: ``(inputs [N, ...], targets)`` to rank on, on the model's device, see :class:`~shapley_cuda.ChannelGame`.
        method: name of a ranker, see :func:`~shapley_cuda.rank`.
        metric: what the payoff is, see :class:`~shapley_cuda.ChannelGame`.
        game_options: further arguments of :class:`~shapley_cuda.ChannelGame`, such as ``memory_budget``.
        fallback: scores the groups that cannot be pruned exactly, in place of an error: any importance of
            ``torch_pruning``, or a callable that returns None to leave them unpruned. Its scores have other units; do
            not mix them with Shapley values in one global ranking.
        options: the ranker's own, such as ``tolerance``, ``budget`` and ``seed``.

    Attributes:
        estimates: what was estimated of the network as it last was, by the name of our group.

    Raises:
        GroupError: when called: the group cannot be pruned exactly (grouped convolutions, LayerNorm, outputs of the
            network, ...) and there is no fallback. The message names the layer and the reason. A classifier
            belongs into the pruner's ``ignored_layers``.
        ValueError: when called: the group is of another network.

    Example:
        >>> importance = sc.ShapleyImportance(model, (images, labels), tolerance=0.05)
        >>> pruner = tp.pruner.BasePruner(model, images[:1], importance=importance, ignored_layers=[model.fc2])
        >>> pruner.step()
    """

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        *,
        method: str = "permutation",
        metric: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        game_options: Mapping[str, Any] | None = None,
        fallback: Callable[[tp.Group], Tensor | None] | None = None,
        **options: Any,
    ):
        self.model, self.data, self.fallback = model, data, fallback
        self.method, self.options = method, options
        self.game_options: dict[str, Any] = {"metric": metric, **(game_options or {})}
        self.estimates: dict[str, Estimate] = {}
        self._seen: nn.Module | None = None
        self._groups: list[Group] = []

    def __call__(self, group: tp.Group) -> Tensor | None:
        """Score a group's channels.

        Args:
            group: a group of ``torch_pruning``, of all channels or some; its root decides their order.

        Returns:
            float64, one value for each of ``group[0].idxs``, in that order, on the device of the data. What the
            fallback returned, where it was asked.
        """
        self._follow_the_model()
        try:
            found, players = self._find(group)
            values = self._values(found)
        except GroupError:
            if self.fallback is None:
                raise
            return self.fallback(group)
        return values[players].to(self.data[0].device)

    def _follow_the_model(self) -> None:
        """Forget what is known of the network if it is not as it was."""
        if self._seen is not None and _same_tensors(self.model, self._seen):
            return
        with torch.inference_mode(False):
            self._seen = copy.deepcopy(self.model).eval()
        self._groups = find_groups(self._seen, self.data[0][:1])
        self.estimates = {}

    def _find(self, group: tp.Group) -> tuple[Group, list[int]]:
        """Our group, and its player for each index of the root."""
        names = {module: name for name, module in self.model.named_modules()}
        root = group[0].dep.target
        if root.module not in names:
            raise ValueError(f"group of {root.name} must be one of the model that ShapleyImportance was made for")
        for ours in self._groups:
            for item in group:
                players = _players_of(ours, names.get(item.dep.target.module), item)
                player_of_root = dict(zip(item.root_idxs, players, strict=False))
                if len(player_of_root) == len(item.idxs) and set(group[0].idxs) <= set(player_of_root):
                    return ours, [player_of_root[index] for index in group[0].idxs]
        raise GroupError(
            f"group of {names[root.module]!r} ({type(root.module).__name__}) must have its channels one by one in one "
            "of the groups that find_groups lists, got one that has not; attention heads, recurrent layers and sums "
            "with concatenated channels are such"
        )

    def _values(self, group: Group) -> Tensor:
        if group.name not in self.estimates:
            assert self._seen is not None
            game = ChannelGame(self._seen, group, self.data, **self.game_options)
            self.estimates[group.name] = rank(game, self.method, **self.options)
        return self.estimates[group.name].values


def _players_of(ours: Group, layer: str | None, item: Any) -> list[int]:
    """The players that an item of a group of ``torch_pruning`` is cut at, if it is the one to tell them by: the layer
    that our group is named for, or of heads the one that reads them, since one layer may produce each three times."""
    if ours.channels_per_player == 1:
        return list(item.idxs) if layer == ours.name and item.dep.handler in _PRODUCING else []
    reader = ours.consumers[0]
    reads = layer == reader.name and item.dep.handler in _READING and max(item.idxs) < len(reader.player_of_input)
    return reader.player_of_input[list(item.idxs)].tolist() if reads else []


def _same_tensors(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = _tensors(model), _tensors(other)
    return ours.keys() == theirs.keys() and all(
        (tensor.device, tensor.dtype) == (theirs[name].device, theirs[name].dtype) and torch.equal(tensor, theirs[name])
        for name, tensor in ours.items()
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())
