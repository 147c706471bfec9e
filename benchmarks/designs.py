"""Which walks to take on a sample: designs of several orders, and a control variate, compared at equal cost.

    python -m benchmarks.designs            # a table for each layer, in some minutes
    python -m benchmarks.designs --save     # also benchmarks/results/designs.json, for tools/designs_page.py

Each design estimates the Shapley values of single samples without bias. Whole passes over the data leave out no sample,
so that the error of an estimate comes from the spread of these estimates over repetitions alone: that is what is
measured, as the root of the mean variance over samples and players, times the root of the rows, relative to antithetic
pairs. Below 1 is better than pairs at equal cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda.rankers.guide import Guide
from shapley_cuda.samplers import fold_halves
from shapley_cuda.walks import by_player

from .layers import stages
from .machine import describe
from .report import RESULTS, print_table, progress

FORMAT = "shapley_cuda.designs/1"
PAIRS = "an order and its reverse"
FOLDED = "and with either half reversed (the default)"
_GRADIENT_ROWS = 3  # that a row with the gradient of its payoff costs: forward, and backward about twice
_GUIDE_WALKS = 128  # on other samples, of all classes, that tell what channels do to the logits of each class
_PARTS = 4
# Each of four parts in each place once, and behind each other part once (Williams, 1949).
_LATIN = ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))

# Samples and repetitions for each layer: what some tens of seconds allow.
LAYERS = {
    "lenet5.conv1": (32, 24),
    "lenet5.conv2": (64, 24),
    "lenet5.fc1": (32, 24),
    "vgg_bn.conv1": (8, 12),
    "vgg_bn.conv3": (8, 12),
    "vgg_bn.conv5": (32, 24),
    "vgg_bn.conv6": (64, 24),
}


def _parts(orders: Tensor, places: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    parts = orders.tensor_split(_PARTS, 1)
    return [torch.cat([parts[i] for i in row], 1) for row in places]


def _drawn_anew(orders: Tensor, generator: torch.Generator) -> Tensor:
    """The same parts in the same places, the players within each in an order of their own."""
    keys = (torch.rand(part.shape, generator=generator) for part in orders.tensor_split(_PARTS, 1))
    shuffled = zip(orders.tensor_split(_PARTS, 1), keys, strict=True)
    return torch.cat([part.gather(1, key.argsort(1)) for part, key in shuffled], 1)


def _fold(orders: Tensor) -> Tensor:
    return fold_halves(orders, torch.zeros(len(orders), dtype=torch.bool))


def _halves_swapped(orders: Tensor) -> Tensor:
    return torch.roll(orders, -(orders.shape[1] // 2), 1)


def _rotations(orders: Tensor, count: int) -> list[Tensor]:
    return [torch.roll(orders, i * orders.shape[1] // count, 1) for i in range(count)]


# What follows from random orders [N, C] of the samples; where nothing else is said each order comes with its reverse.
DESIGNS: dict[str, Callable[[Tensor, torch.Generator], list[Tensor]]] = {
    PAIRS: lambda p, g: [p],
    FOLDED: lambda p, g: [p, _fold(p)],
    "and with its halves swapped": lambda p, g: [p, _halves_swapped(p)],
    "rotated by quarters": lambda p, g: _rotations(p, 4),
    "rotated by eighths": lambda p, g: _rotations(p, 8),
    "quarters in a Latin square": lambda p, g: _parts(p, _LATIN),
    "the same, orders within quarters drawn anew": lambda p, g: [_drawn_anew(o, g) for o in _parts(p, _LATIN)],
}


@dataclass(frozen=True)
class Spread:
    """How far a design's estimates of single samples are spread.

    Attributes:
        layer, design: which.
        players: C.
        samples, repetitions: what it was measured on.
        rows: that one estimate of one sample takes.
        ratio: root of the variance times the rows, relative to antithetic pairs.
    """

    layer: str
    design: str
    players: int
    samples: int
    repetitions: int
    rows: int
    ratio: float


class Layer:
    """One layer's game, and its payoffs with their gradients."""

    def __init__(self, name: str, n_samples: int):
        network, layer = name.split(".")
        model = sc.pretrained(network)
        data = sc.fashion_mnist_subset("rank").first(n_samples)
        self.game = sc.ChannelGame(model, layer, data)
        images, labels = sc.fashion_mnist_subset("rank")
        others = slice(n_samples, n_samples + _GUIDE_WALKS)
        more = sc.ChannelGame(model, layer, (images[others], labels[others]))
        self._guide = replace(Guide.measured(more, seed=2, n_walks=_GUIDE_WALKS), kinds=data.labels)
        parts = list(stages(model).items())
        after = [key for key, _ in parts].index(layer) + 1
        with torch.no_grad():
            self._features = torch.nn.Sequential(*[part for _, part in parts[:after]])(data.images)
        self._suffix = torch.nn.Sequential(*[part for _, part in parts[after:]])
        self._labels = data.labels

    def marginals(self, orders: Tensor, guided: bool = False) -> Tensor:
        """What each player adds along one walk on each sample, ``[N, C]``."""
        samples = torch.arange(len(orders))
        if guided:
            payoffs = self._guide.payoffs(self.game, orders.int(), samples)
        else:
            payoffs = self.game.walk_values(orders.int(), samples).double()
        return by_player(payoffs.diff(dim=1), orders)

    def with_gradients(self, orders: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and two control variates of mean zero, ``[2, N, C]``, from the payoff's gradient at every row.

        The gradient by how much of player c is kept approximates what c would add. Given the players before a step, who
        joins is uniform among the others; so the gradient for the one who joined, less its mean over those who could
        have, is zero on average. The second control is the same with the gradients after the step, and who joined last.
        Both are weighted so that all rows count alike in the means.
        """
        n_samples, n_players = orders.shape
        steps = torch.arange(n_players + 1)
        places = orders.argsort(1)
        inside = places[:, None, :] < steps[None, :, None]  # [N, C + 1, C]
        payoffs, gradients = [], []
        for sample in range(n_samples):  # one sample's walk at a time
            masks = inside[sample].float().requires_grad_(True)
            x = self._features[sample] * masks.view(*masks.shape, *[1] * (self._features.dim() - 2))
            wanted = self._labels[sample].expand(n_players + 1)
            values = -F.cross_entropy(self._suffix(x), wanted, reduction="none")
            gradients.append(torch.autograd.grad(values.sum(), masks)[0])
            payoffs.append(values.detach())
        gradient, values = torch.stack(gradients).double(), torch.stack(payoffs).double()
        marginals = by_player(values.diff(dim=1), orders)
        before, after = gradient[:, :-1], gradient[:, 1:]
        joined = places[:, None, :]
        of_joined = before.gather(1, joined)[:, 0] * (n_players - places) / n_players
        of_last = after.gather(1, joined)[:, 0] * (places + 1) / n_players
        mean_before = (before * ~inside[:, :-1]).sum(1) / n_players
        mean_after = (after * inside[:, 1:]).sum(1) / n_players
        return marginals, torch.stack([of_joined - mean_before, of_last - mean_after])


def spread_of(estimates: Tensor) -> float:
    """Variance of estimates ``[repetitions, N, C]`` of single samples, mean over samples and players."""
    return float(estimates.var(0).mean())


def compare(name: str, n_samples: int, repetitions: int) -> list[Spread]:
    """Measure all designs on a layer."""
    layer, generator = Layer(name, n_samples), torch.Generator().manual_seed(1)
    n_players = layer.game.n_players

    def orders() -> Tensor:
        return torch.rand(n_samples, n_players, generator=generator).argsort(1)

    def score_of(make: Callable[[Tensor, torch.Generator], list[Tensor]], guided: bool = False) -> tuple[int, float]:
        draws, count = [], 0
        for _ in range(repetitions):
            walks = [walk for order in make(orders(), generator) for walk in (order, order.flip(1))]
            draws.append(torch.stack([layer.marginals(walk, guided) for walk in walks]).mean(0))
            count = len(walks)
        return count, spread_of(torch.stack(draws))

    scores: dict[str, tuple[int, float]] = {}  # rows, variance
    progress(f"{name}: independent orders")
    alone = torch.stack([layer.marginals(orders()) for _ in range(2 * repetitions)])
    scores["independent orders"] = (1, spread_of(alone))
    for design, make in DESIGNS.items():
        progress(f"{name}: {design}")
        scores[design] = score_of(make)
    progress(f"{name}: guided")
    scores["the default, guided by class means"] = score_of(DESIGNS[FOLDED], guided=True)
    progress(f"{name}: gradients")
    pairs = [
        [layer.with_gradients(walk) for walk in (order, order.flip(1))]
        for order in (orders() for _ in range(repetitions))
    ]
    plain = torch.stack([(a + b) / 2 for (a, _), (b, _) in pairs])
    controls = torch.stack([(a + b) / 2 for (_, a), (_, b) in pairs], 1)  # [2, repetitions, N, C]
    scores["pairs, a control variate from gradients"] = (2, spread_of(controlled(plain, controls)))
    scores["the same, with what gradients cost"] = (
        2 * _GRADIENT_ROWS,
        scores["pairs, a control variate from gradients"][1],
    )
    of_pairs = scores[PAIRS][0] * scores[PAIRS][1]
    return [
        Spread(name, design, n_players, n_samples, repetitions, rows * (n_players + 1), (rows * v / of_pairs) ** 0.5)
        for design, (rows, v) in scores.items()
    ]


def controlled(estimates: Tensor, controls: Tensor) -> Tensor:
    """Estimates ``[R, N, C]`` less controls ``[2, R, N, C]``, by coefficients for each player that suit them best."""
    centred, varied = estimates - estimates.mean(0), controls - controls.mean(1, keepdim=True)
    products = torch.einsum("irnc,jrnc->cij", varied, varied)
    ridge = 1e-9 * products.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)[:, None, None] * torch.eye(len(controls))
    coefficients = torch.linalg.solve(products + ridge, torch.einsum("irnc,rnc->ci", varied, centred))
    return estimates - torch.einsum("ci,irnc->rnc", coefficients, controls)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; write where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.designs", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="LAYER", help="some layers")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--quick", action="store_true", help="few samples and repetitions, to see that it runs")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/designs.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = [spread for name in options.only for spread in compare(name, *((2, 2) if options.quick else LAYERS[name]))]
    print_spreads(found)
    if options.save:
        record: dict[str, Any] = {"format": FORMAT, "header": describe(torch.device("cpu"))}
        path = Path(RESULTS) / "designs.json"
        path.write_text(json.dumps(record | {"spreads": [asdict(s) for s in found]}, indent=1) + "\n")


def table_of(spreads: list[Spread]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: a line for each design, a column for each layer, and the median."""
    layers = list(dict.fromkeys(s.layer for s in spreads))
    lines = []
    for design in dict.fromkeys(s.design for s in spreads):
        ratios = {s.layer: s.ratio for s in spreads if s.design == design}
        median = float(torch.tensor(list(ratios.values()), dtype=torch.float64).quantile(0.5))
        lines.append([design, *(f"{ratios[layer]:.2f}" for layer in layers), f"{median:.2f}"])
    return ["design", *layers, "median"], lines


def print_spreads(spreads: list[Spread]) -> None:
    """Print the comparison."""
    print_table("error at equal cost, relative to antithetic pairs", *table_of(spreads))


if __name__ == "__main__":
    main()
