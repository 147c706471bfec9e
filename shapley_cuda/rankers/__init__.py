"""Rankers: from a game to the players' values. ``rank`` finds them by name; each module registers its own."""

from . import baselines, exact, from_oracle, regression
from .base import RANKERS, NonFinitePayoff, OnProgress, Ranker, RankingProgress, Scores, rank, register
from .permutation import Permutation

__all__ = [
    "RANKERS",
    "NonFinitePayoff",
    "OnProgress",
    "Permutation",
    "Ranker",
    "RankingProgress",
    "Scores",
    "baselines",
    "exact",
    "from_oracle",
    "rank",
    "register",
    "regression",
]
