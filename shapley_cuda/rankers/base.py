"""What every ranker is: a few options, and a way to turn a game into the players' scores.

A ranker is a frozen dataclass whose fields are its options. Adding one is a short class and a line of registration:

>>> @register("my_ranker")
... @dataclass(frozen=True, kw_only=True)
... class MyRanker(Ranker):
...     exponent: float = 2.0
...
...     def score(self, game, on_progress):
...         return Scores(values=...)
"""

from __future__ import annotations

import difflib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ..estimate import Estimate
from ..game import ChannelGame

__all__ = [
    "RANKERS",
    "NonFinitePayoff",
    "OnProgress",
    "Ranker",
    "RankingProgress",
    "Scores",
    "check_seed",
    "rank",
    "register",
]


class NonFinitePayoff(ValueError):
    """Some payoffs were NaN or infinite, which would poison every value of the ranking."""


@dataclass(frozen=True)
class RankingProgress:
    """Where a running estimate stands.

    Attributes:
        n_evaluations: rows evaluated so far.
        budget: rows it may take.
        error: largest standard error over the range of the values; infinite while there is too little to tell.
        tolerance: the error at which it stops.
        seconds: time since it began.
    """

    n_evaluations: int
    budget: int
    error: float
    tolerance: float
    seconds: float

    @property
    def seconds_left(self) -> float:
        """Expected time to the end: the error falls with the root of the rows, the budget caps them."""
        if self.n_evaluations == 0:
            return math.inf
        more = self.budget / self.n_evaluations
        if math.isfinite(self.error) and self.tolerance > 0:
            more = min(more, (self.error / self.tolerance) ** 2)
        return max(0.0, self.seconds * (more - 1))


OnProgress = Callable[[RankingProgress], None]


@dataclass(frozen=True)
class Scores:
    """What a ranker found.

    Attributes:
        values: ``[C]``, higher is more valuable.
        standard_error: ``[C]``, or None where the method has none to give.
        stopped: why it ended.
        options: what else, beside the ranker's own fields, the numbers depend on.
    """

    values: Tensor
    standard_error: Tensor | None = None
    stopped: str = "complete"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ranker(ABC):
    """A way to value the players of a game. Its fields are its options; bad ones are refused when it is made.

    Attributes:
        name: what :func:`rank` and the results call it; given by :func:`register`.
    """

    name: ClassVar[str]

    @abstractmethod
    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        """Value the players; called by :meth:`rank`, which does the book-keeping."""

    def rank(self, game: ChannelGame, on_progress: OnProgress | None = None) -> Estimate:
        """Value the players of a game, and record what it took.

        Raises:
            NonFinitePayoff: a value came out NaN or infinite.
        """
        start, already = time.perf_counter(), game.n_evaluations
        scores = self.score(game, on_progress)
        values = scores.values.detach().double().cpu()
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            raise NonFinitePayoff(
                f"{self.name} ranking gave {bad} of {len(values)} players of {game.group.name} a value that is NaN or "
                "infinite; look for non-finite inputs, weights or outputs of the network"
            )
        error = None if scores.standard_error is None else scores.standard_error.detach().double().cpu()
        own = {option.name: getattr(self, option.name) for option in fields(self)}
        return Estimate(
            group=game.group.name,
            method=self.name,
            values=values,
            standard_error=error,
            n_evaluations=game.n_evaluations - already,
            seconds=time.perf_counter() - start,
            seed=own.pop("seed", None),
            stopped=scores.stopped,
            options=own | scores.options,
        )


RANKERS: dict[str, type[Ranker]] = {}
"""Every ranker by the name that ``rank(game, method=...)`` takes."""

_R = TypeVar("_R", bound=type[Ranker])


def register(name: str) -> Callable[[_R], _R]:
    """Make a ranker known to :func:`rank` by a name. Decorates the class, outside of ``@dataclass``."""

    def decorate(ranker: _R) -> _R:
        if name in RANKERS:
            raise ValueError(f"ranker must have a name of its own, {name!r} is {RANKERS[name].__name__}")
        ranker.name = name
        RANKERS[name] = ranker
        return ranker

    return decorate


def rank(
    game: ChannelGame, method: str = "permutation", *, on_progress: OnProgress | None = None, **options: Any
) -> Estimate:
    """Value the players of a game.

    Args:
        game: the game.
        method: name of a ranker, one of :data:`RANKERS`; ``"permutation"`` (default) estimates Shapley values.
        on_progress: called now and then with a :class:`RankingProgress` by the rankers that take long.
        options: the ranker's own, see its class, e.g. :class:`~shapley_cuda.rankers.permutation.Permutation`.

    Raises:
        ValueError: no such method, or an option is out of range.
        TypeError: the method takes no such option.

    Example:
        >>> estimate = sc.rank(game, tolerance=0.05, seed=0)
        >>> estimate.ranking()[:5]  # the five channels to remove first
    """
    if method not in RANKERS:
        raise ValueError(f"method must be one of {', '.join(RANKERS)}, got {method!r}{_near(method, RANKERS)}")
    ranker = RANKERS[method]
    known = [option.name for option in fields(ranker)]
    for name in options:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise TypeError(f"{method} ranking takes the options {takes}, got {name!r}{_near(name, known)}")
    return ranker(**options).rank(game, on_progress)


def check_seed(seed: Any) -> None:
    """Refuse what is no integer: a float would be cut, a tensor would not be recorded."""
    if type(seed) is not int:
        raise TypeError(f"seed must be an int, got {seed!r}")


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
