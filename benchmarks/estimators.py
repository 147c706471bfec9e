"""How much error a pass buys: one order for the data set, an order for each sample, pairs, folded, guided."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import shapley_cuda as sc
from shapley_cuda.comparison import kendall_tau, relative_rmse
from shapley_cuda.rankers.guide import GuidePlan
from shapley_cuda.rankers.visits import Visits

from .cases import Setting
from .report import print_table, progress

PAIRS = "own order, antithetic"
_SCHEMES: dict[str, dict[str, bool]] = {
    "shared order": {"shared": True, "antithetic": False},
    "own order": {"antithetic": False},
    PAIRS: {"folded": False},
    "own order, antithetic, folded": {},
    "own order, antithetic, folded, guided": {"guided": True},
}
_MOST_GUIDED = 256  # players; with more, a layer that the classifier reads takes minutes


@dataclass(frozen=True)
class _Plan:
    """Sizes of the comparison. A pass is one walk for every sample."""

    network: str
    layer: str
    samples: int = 1000
    passes: tuple[int, ...] = (2, 16)
    seeds: int = 5
    reference_passes: int = 128  # for each of two halves

    @property
    def name(self) -> str:
        return f"{self.network}.{self.layer}"


_PLANS = (
    _Plan("lenet5", "conv1", samples=250, passes=(4, 16), reference_passes=64),
    _Plan("lenet5", "conv2"),
    _Plan("lenet5", "fc1"),
    # What follows these layers is deep, and a row costs a hundred times as much.
    _Plan("vgg_bn", "conv1", samples=64, passes=(4,), reference_passes=32),
    _Plan("vgg_bn", "conv3", samples=64, passes=(4,), reference_passes=32),
    _Plan("vgg_bn", "conv5", samples=250, passes=(4, 16), reference_passes=64),
    _Plan("vgg_bn", "conv6", passes=(4, 16)),
)
LAYERS = {f"error.{plan.name}": plan for plan in _PLANS}


def compare(setting: Setting, name: str) -> list[dict[str, Any]]:
    """Errors of each scheme at each cost, means over seeds, against a long run with other seeds.

    The reference is the mean of two runs; half the difference between them says how far off it may be itself.
    """
    plan = LAYERS[name]
    if setting.quick:
        plan = replace(plan, samples=33, passes=(2,), seeds=1, reference_passes=4)
    data = sc.fashion_mnist_subset("rank").first(plan.samples).to(setting.device)
    game = sc.ChannelGame(sc.pretrained(plan.network).to(setting.device), plan.layer, data)
    halves = [_rank(game, plan.reference_passes, seed=1000 + i) for i in (0, 1)]
    reference = (halves[0].values + halves[1].values) / 2
    reference_error = relative_rmse(halves[0].values, reference)
    results = []
    schemes = {s: o for s, o in _SCHEMES.items() if not (o.get("guided") and game.n_players > _MOST_GUIDED)}
    for passes in plan.passes:
        for scheme, options in schemes.items():
            progress(f"{name}: {passes} passes, {scheme}")
            estimates = [_rank(game, passes, seed=seed, **options) for seed in range(plan.seeds)]
            errors = [relative_rmse(e.values, reference) for e in estimates]
            results.append(
                {
                    "layer": plan.name,
                    "players": game.n_players,
                    "samples": game.n_samples,
                    "scheme": scheme,
                    "passes": passes,
                    "rows": estimates[0].n_evaluations,
                    "seconds": statistics.median(e.seconds for e in estimates),
                    "relative_rmse": statistics.mean(errors),
                    "relative_rmse_range": [min(errors), max(errors)],
                    "kendall_tau": statistics.mean(kendall_tau(e.values, reference) for e in estimates),
                    "seeds": plan.seeds,
                    "reference_passes": 2 * plan.reference_passes,
                    "reference_relative_error": reference_error,
                }
            )
    for result in results:
        pairs = next(r for r in results if r["passes"] == result["passes"] and r["scheme"] == PAIRS)
        ours, theirs = (r["relative_rmse"] * r["rows"] ** 0.5 for r in (result, pairs))
        result["at_equal_rows"] = ours / theirs
    return results


def print_errors(results: list[dict[str, Any]]) -> None:
    """Print the comparison. Errors are relative to the mean absolute value of the players, and once more to those of
    antithetic pairs, at equal rows: times the root of the rows."""
    columns = [
        "layer", "passes", "rows", "scheme", "rel. RMSE", "range", "to pairs", "Kendall tau", "seconds",
        "reference error",
    ]  # fmt: skip
    cells = [
        [
            f"{r['layer']} C={r['players']} N={r['samples']}",
            str(r["passes"]),
            str(r["rows"]),
            r["scheme"],
            f"{r['relative_rmse']:.3f}",
            "{:.3f} to {:.3f}".format(*r["relative_rmse_range"]),
            f"{r['at_equal_rows']:.2f}",
            f"{r['kendall_tau']:.3f}",
            f"{r['seconds']:.2f}",
            f"{r['reference_relative_error']:.3f}",
        ]
        for r in results
    ]
    print_table("estimators", columns, cells)


def _rank(game: sc.ChannelGame, passes: int, seed: int, **options: bool) -> sc.Estimate:
    """Whole passes, and the walks that tell errors or make the guide: those are rows, too, and differ."""
    n_rows = passes * game.n_samples * (game.n_players + 1)
    if not options.get("shared"):
        visits = Visits(game, seed, options.get("antithetic", True), options.get("folded", True), False, True, None)
        n_rows = visits.n_rows(passes * game.n_samples // (2 if options.get("antithetic", True) else 1))
    of_guide = 0
    for _ in range(20 if options.get("guided") else 0):  # a guide takes a share of all rows, itself among them
        guide = GuidePlan.within(n_rows + of_guide, game, antithetic=True, folded=True)
        of_guide = 0 if guide is None else guide.n_walks * (game.n_players + 1)
    n_rows += of_guide
    return sc.rank(game, "permutation", tolerance=0, budget=n_rows, seed=seed, **options)
