"""Whether standard errors are what they say: how often intervals of 1.96 of them hold the truth, over many seeds.

    python -m benchmarks.coverage           # a table, in a minute or two

The truth is exact, from all coalitions: for the samples at hand, and for the population of 1,000 images that each run's
samples are drawn from. 95 % is right; the binomial error of a line is about 1 %.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

import shapley_cuda as sc

from .report import print_table, progress

NETWORK, LAYER = "lenet5_bn", "conv1"  # 10 channels: 1,024 coalitions
WALKS = {"folded pairs": {}, "pairs": {"folded": False}, "independent": {"antithetic": False}}


@dataclass(frozen=True)
class Line:
    """What came out for one kind of walks at one cost.

    Attributes:
        walks, passes: which; a pass is one walk for every sample.
        at_hand, population: shares of intervals that hold the truth, of all seeds and channels.
        error: root mean square error for the samples at hand.
        claimed: root mean square of its standard error.
    """

    walks: str
    passes: float
    at_hand: float
    population: float
    error: float
    claimed: float


def games(n_samples: int, seeds: int) -> tuple[list[tuple[sc.ChannelGame, Tensor]], Tensor]:
    """A game for each seed, on samples of its own, with its exact values; and those of the population."""
    images, labels = sc.fashion_mnist_subset("rank")
    model = sc.pretrained(NETWORK)
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(seeds):
        chosen = torch.randperm(len(labels), generator=generator)[:n_samples]
        game = sc.ChannelGame(model, LAYER, (images[chosen], labels[chosen]))
        made.append((game, sc.rank(game, "exact").values))
    return made, sc.rank(sc.ChannelGame(model, LAYER, (images, labels)), "exact").values


def measure(walks: str, passes: float, made: list[tuple[sc.ChannelGame, Tensor]], truth: Tensor) -> Line:
    """Rank every game with a seed of its own."""
    inside, inside_population, off, claimed = (list[Tensor]() for _ in range(4))
    for seed, (game, values) in enumerate(made):
        budget = round(passes * game.n_samples * (game.n_players + 1) * 17 / 16)
        found = sc.rank(game, tolerance=0, budget=budget, seed=seed, **WALKS[walks])
        assert found.standard_error is not None
        assert found.population_standard_error is not None
        inside.append((found.values - values).abs() <= 1.96 * found.standard_error)
        inside_population.append((found.values - truth).abs() <= 1.96 * found.population_standard_error)
        off.append((found.values - values).square())
        claimed.append(found.standard_error.square())
    shares = [float(torch.stack(held).double().mean()) for held in (inside, inside_population)]
    return Line(walks, passes, *shares, *(float(torch.stack(s).mean().sqrt()) for s in (off, claimed)))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100, help="images for each estimate (default 100)")
    parser.add_argument("--seeds", type=int, default=40, help="estimates for each line (default 40)")
    parser.add_argument("--passes", type=float, nargs="+", default=[1.0, 3.0, 4.0, 12.0], help="costs to try")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    progress("exact values")
    made, truth = games(options.samples, options.seeds)
    cells = []
    for walks in WALKS:
        for passes in options.passes:
            progress(f"{walks}, {passes:g} passes")
            line = measure(walks, passes, made, truth)
            cells.append(
                [
                    line.walks,
                    f"{line.passes:g}",
                    f"{line.at_hand:.1%}",
                    f"{line.population:.1%}",
                    f"{line.error:.2e}",
                    f"{line.claimed:.2e}",
                ]
            )
    title = f"{NETWORK}.{LAYER}, {options.samples} samples, {options.seeds} seeds: intervals that hold the truth"
    print_table(title, ["walks", "passes", "at hand", "population", "error", "standard error"], cells)


if __name__ == "__main__":
    main()
