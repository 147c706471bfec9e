"""Shapley values from random orders of joining: the default."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from ..game import ChannelGame
from .base import OnProgress, Ranker, RankingProgress, Scores, check_seed, register
from .chunks import Outcome, batched_as, run_chunks, starting_state
from .guide import Guide, GuidePlan
from .processes import Processes
from .state import Checkpoint, State, fingerprint
from .stopping import Boundary, StoppingRules
from .visits import Visits

__all__ = ["Permutation"]


@register("permutation")
@dataclass(frozen=True, kw_only=True)
class Permutation(Ranker):
    """Estimate Shapley values from random orders of joining.

    A player's Shapley value is its mean marginal contribution over all orders in which the players can join. Every
    walk takes one order on one sample, so orders and samples are averaged over together (Covert et al., "Understanding
    Global Feature Contributions With Additive Importance Measures", 2020). With ``shared=True`` one order serves the
    whole data set, as in "Shapley Pruning for Neural Network Compression" (Adamczewski et al., 2024): at equal cost
    its error is several times larger, since the orders' variance is not divided by the number of samples.

    Unbiased for the game on the data it was given. The values sum to v(all) - v(none) over the walks taken. Two
    standard errors are given, see :mod:`~shapley_cuda.rankers.visits`: for the data at hand, which rules stop on, and
    for the population that the samples were drawn from, which shared orders and a single sample cannot tell. Same
    seed, device, number of threads and chunk size (recorded in the estimate's options): same bits, for any number of
    processes and interruptions; but for a time limit, which stops wherever the machine has come.

    Attributes:
        tolerance: stop when the largest standard error is below this share of the range of the values.
            0 goes on to the budget.
        budget: rows to evaluate at most; default 64 walks for every sample, and repeats. A walk costs C + 1 rows
            (shared: times N).
        seed: decides all sampling; the same seed gives the same walks on every device.
        antithetic: walks come in pairs, each the reverse of the other.
        folded: passes over the samples come in twos, and a sample's walks in the second are those of the first with
            either half reversed, see :class:`~shapley_cuda.WalkSampler`. Only antithetic pairs gain from it: without
            them, without repeats, with one order for all samples or with fewer than 32 samples it is not done.
        shared: one order for all samples.
        repeats: some visits of samples, the first 16 among them, take further walks, which tell how much of the error
            more walks would take away. Where a budget is for some tens of walks that is half of it: False spends all of
            it on other samples instead. ``standard_error`` then holds all that visits differ by, the choice of samples
            included, and there is no error for the population by itself.
        guided: take a control variate off every marginal, made of the class probabilities along the walk and of what
            each channel does to the logits of a class on average: see :mod:`~shapley_cuda.rankers.guide`. A few walks
            tell that first, and how much to take off: up to 256, an eighth of the budget at most, whatever the
            tolerance is; a budget below 1,024 walks is not guided. So it pays where some thousands of walks are
            taken. Every session and every process makes the guide anew. Needs ``metric="cross_entropy"``, an order
            for each sample and no racing. Where the consumer is the classifier it takes several times as long.
        settle: stop when it is settled which players are kept, if this many are (int), or this share of them (float in
            (0, 1], rounded). See :class:`~shapley_cuda.rankers.stopping.Boundary`.
        confidence: with which it is settled.
        racing: players whose side is settled are not evaluated any more, and stay settled: their values keep the
            errors they have, and the tolerance concerns the others. Steps of a walk between two such players are left
            out, which saves rows where more than a kernel has to run for each: not where the consumer is the
            classifier. What it saved is among the estimate's options. Values then do not add up.
        max_seconds: stop after this time, of all sessions together.

    Raises:
        ValueError: an option is out of range, or the budget is too small for two visits of samples.
        NonFinitePayoff: a payoff was NaN or infinite.
    """

    tolerance: float = 0.025
    budget: int | None = None
    seed: int = 0
    antithetic: bool = True
    folded: bool = True
    shared: bool = False
    repeats: bool = True
    guided: bool = False
    settle: float | int | None = None
    confidence: float = 0.95
    racing: bool = False
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.budget is not None and self.budget != int(self.budget):
            raise ValueError(f"budget must be a whole number of rows, got {self.budget!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {self.tolerance}")
        if not (self.settle is None or _is_share(self.settle) or (type(self.settle) is int and self.settle >= 1)):
            raise ValueError(
                f"settle must be a share of the players to keep, as a float in (0, 1], or a number of them, as an int "
                f"of at least 1, got {self.settle!r}"
            )
        if self.racing and self.settle is None:
            raise ValueError("racing must come with settle: the players to keep are what is raced for")
        if self.guided and (self.shared or self.racing):
            raise ValueError(f"guided must not come with {'shared' if self.shared else 'racing'}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, got {self.max_seconds}")

    def score(self, game: ChannelGame, on_progress: OnProgress | None) -> Scores:
        return self.score_in_chunks(game, on_progress, None, Processes())

    def score_in_chunks(
        self, game: ChannelGame, on_progress: OnProgress | None, checkpoint: Checkpoint | None, processes: Processes
    ) -> Scores:
        boundary = self._boundary(game.n_players)
        race = boundary if self.racing else None
        visits = Visits(game, self.seed, self.antithetic, self.folded, self.shared, self.repeats, race)
        budget = visits.n_rows(visits.n_units) if self.budget is None else int(self.budget)
        plan = self._guide_plan(game, budget, visits.folded)
        n_guiding = 0 if plan is None else plan.n_walks
        visits.rows_before = n_guiding * (game.n_players + 1)
        visits.n_units = visits.n_within(budget)
        if visits.n_units < 2:
            raise ValueError(f"budget must be at least {visits.n_rows(2)} rows (two visits of samples), got {budget}")
        rules = StoppingRules(self.tolerance, boundary, self.max_seconds or math.inf)

        def tell(outcome: Outcome) -> None:
            if on_progress is not None:
                on_progress(self._progress(outcome, rules, visits))

        with_others = checkpoint is not None or processes.size > 1
        about = {
            "ranker": self.name,
            "seed": self.seed,
            "antithetic": self.antithetic,
            "folded": self.folded,
            "shared": self.shared,
            "repeats": self.repeats,
        }
        if n_guiding:
            about["guide_walks"] = n_guiding
        if self.racing:
            about |= {"settle": self.settle, "confidence": self.confidence}
        state = State(
            about=about | (fingerprint(game) if with_others else {}),
            made_by={"torch": torch.__version__, "device": game.device.type},
            chunk=visits.chunk_units,
            memory_budget=game.memory_budget,
            sums=visits.nothing(),
        )
        state = starting_state(state, repr(self), checkpoint, processes)
        with batched_as(game, state):
            if plan is not None:
                start = time.perf_counter()
                guide = Guide.made(game, self.seed, plan)
                visits.guide = guide if guide.strength > 0 else None
                state = replace(state, seconds=state.seconds + time.perf_counter() - start)
            end = run_chunks(visits, rules, state, checkpoint, processes, tell)
        n_rows = visits.rows_before + int(end.sums["rows"])
        taken: dict[str, int | float] = {
            "budget": budget,
            "n_samples": game.n_samples,
            "n_walks": visits.n_walks(end.n_units),
            "chunk_visits": state.chunk,
            "memory_budget": state.memory_budget,
        }
        if self.guided:
            taken |= {"guide_walks": n_guiding, "guide_strength": visits.guide.strength if visits.guide else 0.0}
        if self.racing:
            taken["rows_saved"] = visits.n_rows(end.n_units) - n_rows
        return Scores(
            end.found.values,
            end.found.standard_error,
            str(end.stopped),
            taken,
            population_standard_error=end.found.population_standard_error,
            n_evaluations=n_rows,
            seconds=end.seconds,
        )

    def _boundary(self, n_players: int) -> Boundary | None:
        if self.settle is None:
            return None
        if isinstance(self.settle, float):
            return Boundary(max(1, round(self.settle * n_players)), self.confidence)
        if self.settle > n_players:
            raise ValueError(f"settle must be at most the {n_players} players of the game, got {self.settle}")
        return Boundary(self.settle, self.confidence)

    def _guide_plan(self, game: ChannelGame, budget: int, folded: bool) -> GuidePlan | None:
        """What a guide is made from, if there is one.

        Raises:
            ValueError: there can be no guide.
        """
        if not self.guided:
            return None
        if game.metric != "cross_entropy":
            raise ValueError(f"guided must come with a game of metric 'cross_entropy', got {game.metric!r}")
        return GuidePlan.within(budget, game, self.antithetic, folded)

    def _progress(self, outcome: Outcome, rules: StoppingRules, visits: Visits) -> RankingProgress:
        rows = visits.rows_before + int(outcome.sums["rows"])
        progress = RankingProgress(
            n_evaluations=rows,
            budget=visits.n_rows(visits.n_units),
            error=outcome.found.relative_error(),
            tolerance=self.tolerance,
            seconds=outcome.seconds,
            max_seconds=rules.max_seconds,
        )
        if rules.boundary is None:
            return progress
        effort = rules.boundary.effort(outcome.found)
        settled = {"n_settled": int((effort <= 1).sum()), "n_players": len(effort)}
        return replace(progress, **settled, rows_to_settle=rows * max(1.0, float(effort.max())))


def _is_share(settle: float | int) -> bool:
    return type(settle) is float and 0 < settle <= 1
