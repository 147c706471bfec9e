"""A ranking made of the oracle's sets."""

from __future__ import annotations

from dataclasses import dataclass

from ..game import ChannelGame
from ..oracle import oracle_rank, oracle_sets
from .base import OnProgress, Ranker, Scores, register

__all__ = ["Oracle"]


@register("oracle")
@dataclass(frozen=True, kw_only=True)
class Oracle(Ranker):
    """Each player by how many of the best sets to keep, one of each size, it is in.

    The sets need not be nested, and values often tie. See :func:`~shapley_cuda.oracle_sets` for the search and its
    cost. Source: "oracle rank" in "Shapley Pruning for Neural Network Compression", Adamczewski et al., 2024.

    Attributes:
        max_size: size of the largest sets searched, to remove and to keep; default C, all sizes.
        search: ``"exhaustive"``, ``"greedy"``, or ``"auto"``, which takes the exhaustive search where it is affordable.
            The estimate's options record which it was.
        budget: rows that may be evaluated.

    Raises:
        ValueError: an option is out of range, or the search takes more than the budget.
    """

    max_size: int | None = None
    search: str = "auto"
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.search not in ("auto", "exhaustive", "greedy"):
            raise ValueError(f"search must be 'auto', 'exhaustive' or 'greedy', got {self.search!r}")

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        sets = oracle_sets(game, self.max_size, self.search, self.budget)
        return Scores(oracle_rank(sets), options={"search": sets.method})
