"""Brief rankings of a small real network, in about fifteen chunks, to interrupt and to share out."""

from __future__ import annotations

from typing import Any

import torch
from architectures import prepared
from torch import Tensor, nn

import shapley_cuda as sc


def network() -> nn.Sequential:
    return prepared(
        nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    )


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, 1, 8, 8, generator=generator), torch.randint(0, 3, (40,), generator=generator)


def make_game(group: str = "0", visits: int = 10, **options: Any) -> sc.ChannelGame:
    """A game that takes about so many visits in a chunk."""
    game = sc.ChannelGame(network(), group, options.pop("data", data()), **options)
    game.memory_budget = (2 * visits + 2) * game.bytes_per_walk
    return game


def run(game: sc.ChannelGame, **options: Any) -> sc.Estimate:
    settings = {"tolerance": 0, "budget": 1800, "seed": 3}
    return sc.rank(game, **settings | options)


def assert_same_bits(one: sc.Estimate, other: sc.Estimate) -> None:
    assert torch.equal(one.values, other.values)
    assert one.standard_error is not None
    assert other.standard_error is not None
    assert torch.equal(one.standard_error, other.standard_error)
    assert one.population_standard_error is not None
    assert other.population_standard_error is not None
    assert torch.equal(one.population_standard_error, other.population_standard_error)
    assert one.n_evaluations == other.n_evaluations
    assert one.stopped == other.stopped
    assert one.options | {"budget": 0} == other.options | {"budget": 0}
