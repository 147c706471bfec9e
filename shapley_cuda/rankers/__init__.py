"""Rankers: from a game to the players' values. ``rank`` finds them by name; each module registers its own."""

from . import baselines
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
    "rank",
    "register",
]
