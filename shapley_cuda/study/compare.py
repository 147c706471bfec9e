"""The comparison of rankings of one layer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations

from torch import Tensor

from ..comparison import kendall_tau, relative_rmse
from ..estimate import Estimate
from ..game import ChannelGame
from ..oracle import OracleSets, oracle_agreement, oracle_rank, oracle_sets
from ..rankers import NonFinitePayoff, OnProgress, RankingProgress, rank
from ..training import Progress as TrainingProgress
from .config import METHODS, StudyConfig
from .results import LayerResult, Measurement, Oracle, Reference

__all__ = ["Report", "Run", "compare_rankings"]

Report = Callable[[str, RankingProgress | TrainingProgress | None], None]
"""Called with what is being done now and, where it takes time, how far it is."""

Run = tuple[str, int | None]
"""A method, and the seed that it was run with; None where nothing is random."""


def compare_rankings(game: ChannelGame, config: StudyConfig, report: Report) -> tuple[LayerResult, dict[Run, Estimate]]:
    """Rank a layer by all methods, with all budgets and seeds, and compare each with the reference and the oracle.

    Returns:
        The comparison, and of every method and seed the ranking with the largest budget.
    """
    layer = game.group.name
    reference, exact, values = _reference(game, config, partial(report, f"{layer}: reference"))
    report(f"{layer}: oracle sets", None)
    sets = oracle_sets(game, max_size=None if exact else min(game.n_players, config.oracle_size))
    at_hand = {"oracle": _estimate_of_oracle(sets)} | ({"exact": exact} if exact else {})
    measurements: list[Measurement] = []
    skipped: dict[str, str] = {}
    estimates: dict[Run, Estimate] = {}
    for method, passes, seed in _runs(config):
        label = METHODS[method].label
        reason = None if method in at_hand else _too_dear(game, method)
        if reason is not None:
            skipped[label] = reason
            continue
        named = label if passes is None else f"{label}, {passes} passes"
        doing = partial(report, f"{layer}: {named}")
        try:
            estimate = at_hand.get(method) or _rank(game, method, passes, seed, config, doing)
        except NonFinitePayoff:
            raise
        except ValueError as refusal:  # the budget is too small for it, or the group is none that it can rank
            skipped[named] = str(refusal)
            continue
        measurements.append(_measure(estimate, method, passes, seed, values, sets))
        estimates[method, seed] = estimate
    result = LayerResult(
        layer=layer,
        n_players=game.n_players,
        n_samples=game.n_samples,
        reference=reference,
        oracle=Oracle(sets.method, sets.max_size, sets.n_evaluations, sets.seconds),
        measurements=tuple(measurements),
        skipped=skipped,
        taus=_taus(estimates),
    )
    return result, estimates


def _runs(config: StudyConfig) -> Iterator[tuple[str, int | None, int | None]]:
    """Method, passes and seed of every ranking, larger budgets later."""
    for method in config.methods:
        budgets = config.passes if METHODS[method].cost == "budget" else (None,)
        for passes in budgets:
            for seed in config.seeds if METHODS[method].seeded else (None,):
                yield method, passes, seed


def _too_dear(game: ChannelGame, method: str) -> str | None:
    """Why a method cannot rank so many players, if it cannot."""
    most = METHODS[method].most_players
    if METHODS[method].ranker is None:
        return f"it takes 2^{game.n_players} coalitions"
    if most is not None and game.n_players > most:
        return f"it takes C^2 operations a row, too many with more than {most} channels"
    return None


def _rank(
    game: ChannelGame, method: str, passes: int | None, seed: int | None, config: StudyConfig, on_progress: OnProgress
) -> Estimate:
    how = METHODS[method]
    assert how.ranker is not None
    options = dict(how.options)
    if how.cost != "fixed":
        options["budget"] = (passes or config.passes[-1]) * game.n_samples * (game.n_players + 1)
    if seed is not None:
        options["seed"] = seed
    return rank(game, how.ranker, on_progress=on_progress, **options)


def _reference(
    game: ChannelGame, config: StudyConfig, on_progress: OnProgress
) -> tuple[Reference, Estimate | None, Tensor]:
    """What values are compared with, its exact estimate if it has one, and the values."""
    if game.n_players <= config.exact_players:
        exact = rank(game, "exact", on_progress=on_progress)
        return Reference("exact", exact.n_evaluations, exact.seconds, error=0.0, tau_of_halves=1.0), exact, exact.values
    start, already = time.perf_counter(), game.n_evaluations
    budget = config.reference_passes // 2 * game.n_samples * (game.n_players + 1)
    seeds = (max(config.seeds) + 1, max(config.seeds) + 2)  # walks that no ranking under comparison takes
    first, second = (rank(game, tolerance=0.0, budget=budget, seed=s, on_progress=on_progress).values for s in seeds)
    reference = Reference(
        method="permutation",
        n_evaluations=game.n_evaluations - already,
        seconds=time.perf_counter() - start,
        error=relative_rmse(first, second) / 2,
        tau_of_halves=kendall_tau(first, second),
    )
    return reference, None, (first + second) / 2


def _estimate_of_oracle(sets: OracleSets) -> Estimate:
    return Estimate(
        group=sets.group,
        method="oracle",
        values=oracle_rank(sets).double(),
        standard_error=None,
        n_evaluations=sets.n_evaluations,
        seconds=sets.seconds,
        seed=None,
        stopped="complete",
    )


def _measure(
    estimate: Estimate, method: str, passes: int | None, seed: int | None, reference: Tensor, sets: OracleSets
) -> Measurement:
    agreement = oracle_agreement(estimate.ranking(), sets)
    return Measurement(
        method=method,
        passes=passes,
        seed=seed,
        n_evaluations=estimate.n_evaluations,
        seconds=estimate.seconds,
        tau=_tau(estimate.values, reference),
        error=relative_rmse(estimate.values, reference) if METHODS[method].shapley else None,
        removed=agreement.removed_pooled,
        kept=agreement.kept_pooled,
    )


def _tau(a: Tensor, b: Tensor) -> float | None:
    tau = kendall_tau(a, b)
    return None if math.isnan(tau) else tau


def _taus(estimates: dict[Run, Estimate]) -> dict[str, float | None]:
    """Between the first seeds of each two methods."""
    firsts: dict[str, Estimate] = {}
    for (method, _), estimate in estimates.items():
        firsts.setdefault(method, estimate)
    return {
        "/".join(sorted(pair)): _tau(firsts[pair[0]].values, firsts[pair[1]].values) for pair in combinations(firsts, 2)
    }
