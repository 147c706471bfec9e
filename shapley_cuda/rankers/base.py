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
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ..estimate import Estimate
from ..game import ChannelGame
from .processes import Processes
from .state import Checkpoint

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
        max_seconds: the time that it may take; infinite where there is no limit.
        n_settled: players whose side of the keep/remove boundary is settled; None where none was asked for.
        n_players: all players, C.
        rows_to_settle: rows at which all of them are expected to be settled.
    """

    n_evaluations: int
    budget: int
    error: float
    tolerance: float
    seconds: float
    max_seconds: float = math.inf
    n_settled: int | None = None
    n_players: int = 0
    rows_to_settle: float = math.inf

    @property
    def seconds_left(self) -> float:
        """Expected time to the end. Errors fall with the root of the rows; budget and time limit cap them."""
        if self.n_evaluations == 0:
            return self.max_seconds
        rows = min(float(self.budget), self.rows_to_settle)
        if math.isfinite(self.error) and self.tolerance > 0:
            rows = min(rows, self.n_evaluations * (self.error / self.tolerance) ** 2)
        left = self.seconds * (rows / self.n_evaluations - 1)
        return max(0.0, min(left, self.max_seconds - self.seconds))


OnProgress = Callable[[RankingProgress], None]


@dataclass(frozen=True)
class Scores:
    """What a ranker found.

    Attributes:
        values: ``[C]``, higher is more valuable.
        standard_error: ``[C]``, or None where the method has none to give.
        stopped: why it ended.
        options: what else, beside the ranker's own fields, the numbers depend on.
        population_standard_error: ``[C]``, with the choice of the samples; None where the method has none to give.
        n_evaluations: rows they took, where those are not what the game counted meanwhile.
        seconds: time they took, where it is not the time since the call.
    """

    values: Tensor
    standard_error: Tensor | None = None
    stopped: str = "complete"
    options: dict[str, Any] = field(default_factory=dict)
    population_standard_error: Tensor | None = None
    n_evaluations: int | None = None
    seconds: float | None = None


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

    def score_in_chunks(
        self, game: ChannelGame, on_progress: OnProgress | None, checkpoint: Checkpoint | None, processes: Processes
    ) -> Scores:
        """As :meth:`score`, for rankers whose work is cut in chunks that can be saved and dealt out.

        Raises:
            TypeError: the ranker is none of those.
        """
        raise TypeError(f"{self.name} ranking is done in one piece: it takes neither checkpoint nor processes")

    def rank(
        self,
        game: ChannelGame,
        on_progress: OnProgress | None = None,
        checkpoint: Checkpoint | None = None,
        processes: Processes | None = None,
    ) -> Estimate:
        """Value the players of a game, and record what it took.

        Raises:
            NonFinitePayoff: a value came out NaN or infinite.
        """
        start, already = time.perf_counter(), game.n_evaluations
        if checkpoint is None and processes is None:
            scores = self.score(game, on_progress)
        else:
            scores = self.score_in_chunks(game, on_progress, checkpoint, processes or Processes())
        values = scores.values.detach().double().cpu()
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            raise NonFinitePayoff(
                f"{self.name} ranking gave {bad} of {len(values)} players of {game.group.name} a value that is NaN or "
                "infinite; look for non-finite inputs, weights or outputs of the network"
            )
        own = {option.name: getattr(self, option.name) for option in fields(self)}
        return Estimate(
            group=game.group.name,
            method=self.name,
            values=values,
            standard_error=_float64(scores.standard_error),
            n_evaluations=game.n_evaluations - already if scores.n_evaluations is None else scores.n_evaluations,
            seconds=time.perf_counter() - start if scores.seconds is None else scores.seconds,
            seed=own.pop("seed", None),
            stopped=scores.stopped,
            options=own | scores.options,
            population_standard_error=_float64(scores.population_standard_error),
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
    game: ChannelGame,
    method: str = "permutation",
    *,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    processes: Processes | None = None,
    **options: Any,
) -> Estimate:
    """Value the players of a game.

    Args:
        game: the game.
        method: name of a ranker, one of :data:`RANKERS`; ``"permutation"`` (default) estimates Shapley values.
        on_progress: called now and then with a :class:`RankingProgress` by the rankers that take long.
        checkpoint: where to save the state of a long run now and then, to go on from when the same call is made
            again; a path, or a :class:`~shapley_cuda.Checkpoint` for more.
        processes: the :class:`~shapley_cuda.Processes` that share the work. Each makes the same call, and gets the same
            estimate.
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
    if isinstance(checkpoint, (str, Path)):
        checkpoint = Checkpoint(checkpoint)
    return ranker(**options).rank(game, on_progress, checkpoint, processes)


def check_seed(seed: Any) -> None:
    """Refuse what is no integer: a float would be cut, a tensor would not be recorded."""
    if type(seed) is not int:
        raise TypeError(f"seed must be an int, got {seed!r}")


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _float64(numbers: Tensor | None) -> Tensor | None:
    return None if numbers is None else numbers.detach().double().cpu()
