"""How much error a pass buys: one order of joining shared by the data set, against an order for each sample."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import shapley_cuda as sc
from shapley_cuda.comparison import kendall_tau, relative_rmse

from .cases import Setting
from .report import print_table, progress

LAYERS = {"error.lenet5.conv2": "conv2", "error.lenet5.fc1": "fc1"}

_SCHEMES: dict[str, dict[str, bool]] = {
    "shared order": {"shared": True, "antithetic": False},
    "own order": {"shared": False, "antithetic": False},
    "own order, antithetic": {"shared": False, "antithetic": True},
}


@dataclass(frozen=True)
class _Plan:
    """Sizes of the comparison. A pass is one walk for every sample."""

    samples: int = 1000
    passes: tuple[int, ...] = (2, 16)
    seeds: int = 5
    reference_passes: int = 128  # for each of two halves


_QUICK = _Plan(samples=20, passes=(2,), seeds=1, reference_passes=4)


def compare(setting: Setting, name: str) -> list[dict[str, Any]]:
    """Errors of each scheme at each cost, means over seeds, against a long run with other seeds.

    The reference is the mean of two runs; half the difference between them says how far off it may be itself.
    """
    plan, layer = _QUICK if setting.quick else _Plan(), LAYERS[name]
    images, labels = sc.fashion_mnist_subset("rank").first(plan.samples).to(setting.device)
    game = sc.ChannelGame(sc.pretrained("lenet5").to(setting.device), layer, (images, labels))
    halves = [_rank(game, plan.reference_passes, seed=1000 + i, **_SCHEMES["own order, antithetic"]) for i in (0, 1)]
    reference = (halves[0].values + halves[1].values) / 2
    reference_error = relative_rmse(halves[0].values, reference)
    results = []
    for passes in plan.passes:
        for scheme, options in _SCHEMES.items():
            progress(f"{name}: {passes} passes, {scheme}")
            estimates = [_rank(game, passes, seed=seed, **options) for seed in range(plan.seeds)]
            errors = [relative_rmse(e.values, reference) for e in estimates]
            results.append(
                {
                    "layer": f"lenet5.{layer}",
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
    return results


def print_errors(results: list[dict[str, Any]]) -> None:
    """Print the comparison. Errors are relative to the mean absolute value of the players."""
    columns = ["layer", "passes", "rows", "scheme", "rel. RMSE", "range", "Kendall tau", "seconds", "reference error"]
    cells = [
        [
            f"{r['layer']} C={r['players']} N={r['samples']}",
            str(r["passes"]),
            str(r["rows"]),
            r["scheme"],
            f"{r['relative_rmse']:.3f}",
            "{:.3f} to {:.3f}".format(*r["relative_rmse_range"]),
            f"{r['kendall_tau']:.3f}",
            f"{r['seconds']:.2f}",
            f"{r['reference_relative_error']:.3f}",
        ]
        for r in results
    ]
    print_table("estimators", columns, cells)


def _rank(game: sc.ChannelGame, passes: int, seed: int, **options: bool) -> sc.Estimate:
    budget = passes * game.n_samples * (game.n_players + 1)
    return sc.rank(game, "permutation", tolerance=0, budget=budget, seed=seed, **options)
