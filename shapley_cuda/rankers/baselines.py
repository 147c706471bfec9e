"""Rankings that cost little: what a Shapley ranking has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .. import ops
from ..game import ChannelGame
from .base import OnProgress, Ranker, Scores, check_seed, register

__all__ = ["Magnitude", "Random"]


@register("magnitude")
@dataclass(frozen=True, kw_only=True)
class Magnitude(Ranker):
    """Each channel by the p-norm of the weights that produce it, in the group's first layer ("Pruning Filters for
    Efficient ConvNets", Li et al., 2017, uses p = 1). Costs no evaluation."""

    p: float = 1

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        layer = game.model.get_submodule(game.group.name)
        assert isinstance(layer.weight, Tensor)
        channel_dim = 1 if getattr(layer, "transposed", False) else 0
        return Scores(layer.weight.detach().double().movedim(channel_dim, 0).flatten(1).norm(self.p, dim=1))


@register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Ranker):
    """Players in random order: the baseline that any ranking has to beat. Costs nothing."""

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        return Scores(ops.sample_permutations(self.seed, 0, 1, game.n_players)[0])
