"""Rankings that cost little: what a Shapley ranking has to beat.

Those by weights go through the importances of ``torch_pruning``, over the whole group: in a residual stream all layers
that produce its channels count, summed. What is counted is what the criteria's papers count, the weights that
*produce* a channel; with ``whole_group=True`` also all else that ``torch_pruning`` counts by default. Depthwise
convolutions count in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..game import ChannelGame
from ..groups import coupled_items
from .base import OnProgress, Ranker, Scores, check_seed, register

__all__ = ["L1", "L2", "Apoz", "BatchNormScale", "Magnitude", "Random", "Taylor"]

_BATCH = 128
_PRODUCING = (tp.prune_conv_out_channels, tp.prune_linear_out_channels)


@dataclass(frozen=True, kw_only=True)
class _WeightNorm(Ranker):
    """Each channel by the norm of all of its weights in the group."""

    whole_group: bool = False

    _exponent: ClassVar[int]

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        _, items = _coupled_items(game, self.whole_group)
        importance = tp.importance.GroupMagnitudeImportance(self._exponent, group_reduction="sum", normalizer=None)
        return Scores(importance(items)[: game.n_players].double() ** (1 / self._exponent))


@register("l1")
@dataclass(frozen=True, kw_only=True)
class L1(_WeightNorm):
    """Each channel by the sum of the absolute weights that produce it. Costs no evaluation.

    Source: "Pruning Filters for Efficient ConvNets", Li et al., 2017.

    Attributes:
        whole_group: count the consumers' weights and the BatchNorms' scales too, as ``torch_pruning`` does by default.
    """

    _exponent: ClassVar[int] = 1


@register("l2")
@dataclass(frozen=True, kw_only=True)
class L2(_WeightNorm):
    """Each channel by the Euclidean norm of the weights that produce it. Costs no evaluation.

    Source: "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", He et al., 2018.

    Attributes:
        whole_group: count the consumers' weights and the BatchNorms' scales too, as ``torch_pruning`` does by default.
    """

    _exponent: ClassVar[int] = 2


@register("magnitude")
@dataclass(frozen=True, kw_only=True)
class Magnitude(L1):
    """:class:`L1` by its usual name."""


@register("bn_scale")
@dataclass(frozen=True, kw_only=True)
class BatchNormScale(Ranker):
    """Each channel by the absolute scale that BatchNorm gives it, the mean over the group's BatchNorms.

    Costs no evaluation. Meant for networks trained with a penalty on the scales. Source: "Learning Efficient
    Convolutional Networks through Network Slimming", Liu et al., 2017.

    Raises:
        ValueError: the group has no BatchNorm with scales.
    """

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        _, items = _coupled_items(game, whole_group=True)
        scales = tp.importance.BNScaleImportance(group_reduction="mean", normalizer=None)(items)
        if scales is None:
            raise ValueError(
                f"bn_scale ranking needs a BatchNorm with scales among the layers of group {game.group.name!r}, "
                f"got {', '.join(game.group.layers)}"
            )
        return Scores(scales[: game.n_players])


@register("taylor")
@dataclass(frozen=True, kw_only=True)
class Taylor(Ranker):
    """Each channel by its weights times their gradients: how the loss would change without it, to first order.

    The loss is the game's metric and the gradient that of its mean over the game's data, taken in a copy of the
    network. Costs one evaluation (and its backward pass) of every sample. Source: "Importance Estimation for Neural
    Network Pruning", Molchanov et al., 2019.

    Attributes:
        multivariable: the absolute value of the products' sum, as in the paper; default, as in ``torch_pruning``, is
            the sum of their absolute values, which no cancelling can make small.
        whole_group: count the consumers' weights too, as ``torch_pruning`` does by default.

    Raises:
        ValueError: the metric has no gradient, as the accuracy has none.
    """

    multivariable: bool = False
    whole_group: bool = False

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        if game.metric == "accuracy":
            raise ValueError("taylor ranking needs a metric with a gradient, got 'accuracy'; take 'cross_entropy'")
        twin, items = _coupled_items(game, self.whole_group)
        _accumulate_gradients(game, twin)
        importance = tp.importance.GroupTaylorImportance("sum", normalizer=None, multivariable=self.multivariable)
        return Scores(importance(items)[: game.n_players])


@register("apoz")
@dataclass(frozen=True, kw_only=True)
class Apoz(Ranker):
    """Each channel by how often it is not zero where it is read: one minus its average percentage of zeros (APoZ).

    Over all samples and positions, all consumers together. Costs one evaluation of every sample. Says something only
    behind activations that give zeros, as ReLU does. Source: "Network Trimming", Hu et al., 2016.
    """

    @torch.no_grad()
    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        active, seen = torch.zeros(2, game.n_players, dtype=torch.int64, device=game.device)
        handles = []
        try:
            for consumer in game.group.consumers:
                players = consumer.player_of_input.to(game.device)
                hook = partial(_count_active, players=players, active=active, seen=seen)
                layer = game.model.get_submodule(consumer.name)
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            for inputs, _ in game.data.batches(_BATCH):
                game.model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        game.n_evaluations += game.n_samples
        return Scores(active.double() / seen)


@register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Ranker):
    """Players in random order: the baseline that any ranking has to beat. Costs nothing."""

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        return Scores(ops.sample_permutations(self.seed, 0, 1, game.n_players)[0])


def _count_active(layer: nn.Module, args: Any, kwargs: Any, *, players: Tensor, active: Tensor, seen: Tensor) -> None:
    """Add up, for each player, the entries of a consumer's input that are not zero, and all of them."""
    x = args[0] if args else kwargs["input"]
    by_channel = x.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
    in_group = players >= 0
    active.index_add_(0, players[in_group], (by_channel != 0).sum(1)[in_group])
    seen.index_add_(0, players[in_group], torch.full_like(players[in_group], by_channel.shape[1]))


def _coupled_items(game: ChannelGame, whole_group: bool) -> tuple[nn.Module, list[Any]]:
    """A copy of the network, and the items of the game's group in it that an importance is to count."""
    twin, items = coupled_items(game.model, game.group.name, game.data.first(1))
    return twin, [item for item in items if whole_group or item.dep.pruning_fn in _PRODUCING]


def _accumulate_gradients(game: ChannelGame, twin: nn.Module) -> None:
    """Leave the gradient of the mean loss over the game's data in a network's parameters."""
    with torch.inference_mode(False), torch.enable_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        for inputs, targets in game.data.batches(_BATCH):
            # Copies: what was made under inference_mode could not be kept for the backward pass.
            losses = _row_losses(game, twin(inputs.clone()), targets.clone())
            if not losses.requires_grad:
                raise ValueError("taylor ranking needs a metric with a gradient, got losses that have none")
            (losses.sum() / game.n_samples).backward()
    game.n_evaluations += game.n_samples


def _row_losses(game: ChannelGame, outputs: Tensor, targets: Tensor) -> Tensor:
    if game.metric == "cross_entropy":
        return F.cross_entropy(outputs, targets, reduction="none")
    if game.metric == "squared_error":
        return (outputs - targets).square().mean(1)
    assert not isinstance(game.metric, str)
    return game.metric(outputs, targets)
