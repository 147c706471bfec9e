"""Rankers: from a game to the players' values. ``rank`` finds them by name; each module registers its own."""

from . import baselines, exact, from_oracle, regression
from .base import RANKERS, NonFinitePayoff, OnProgress, Ranker, RankingProgress, Scores, rank, register
from .permutation import Permutation
from .processes import ProcessError, Processes
from .several import rank_groups
from .state import Checkpoint

__all__ = [
    "RANKERS",
    "Checkpoint",
    "NonFinitePayoff",
    "OnProgress",
    "Permutation",
    "ProcessError",
    "Processes",
    "Ranker",
    "RankingProgress",
    "Scores",
    "baselines",
    "exact",
    "from_oracle",
    "rank",
    "rank_groups",
    "register",
    "regression",
]
