"""Standard errors are what they say: over many seeds, intervals of 1.96 of them cover the truth 95 times in 100."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import prepared
from closed_forms import ClosedFormGame, majority, rank
from torch import Tensor, nn

import shapley_cuda as sc

N_PLAYERS, N_SAMPLES = 8, 60
TRIPLES = torch.tensor([[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 0], [1, 3, 5]])


class Population:
    """Samples that value players differently, some of them in threes, which orders of joining matter for.

    A sample's Shapley values are its weights and a third of each of its triples' worth.
    """

    def __init__(self, n_samples: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        # Skewed, as losses are: a few samples matter much more than others.
        scale = torch.randn(n_samples, 1, generator=generator, dtype=torch.float64).div(2).exp()
        draws = torch.randn(n_samples, N_PLAYERS + len(TRIPLES), generator=generator, dtype=torch.float64)
        self.weights, self.triples = (scale * (1 + draws)).split([N_PLAYERS, len(TRIPLES)], 1)
        self.triples = 2 * self.triples

    def values(self) -> Tensor:
        of_triples = torch.zeros_like(self.weights)
        for triple, worth in zip(TRIPLES, self.triples.T, strict=True):
            of_triples[:, triple] += worth[:, None] / 3
        return (self.weights + of_triples).mean(0)

    def game(self, samples: Tensor) -> ClosedFormGame:
        weights, triples = self.weights[samples], self.triples[samples]

        def payoff(masks: Tensor, index: Tensor) -> Tensor:
            together = masks[:, TRIPLES].all(2).double()
            return (masks * weights[index]).sum(1) + (together * triples[index]).sum(1)

        return ClosedFormGame(payoff, N_PLAYERS, len(samples), chunk_walks=512)


def coverage(truth: Tensor, values: list[Tensor], errors: list[Tensor | None]) -> float:
    inside = [(v - truth).abs() <= 1.96 * e for v, e in zip(values, errors, strict=True) if e is not None]
    assert len(inside) == len(values)
    return torch.stack(inside).double().mean().item()


def budget_of(passes: float, antithetic: bool) -> int:
    return round(passes * N_SAMPLES * (2 if antithetic else 1) * (N_PLAYERS + 1) * 17 / 16)


KINDS = pytest.mark.parametrize(
    "walks", [{"antithetic": True}, {"antithetic": True, "folded": False}, {"antithetic": False}], ids=str
)


@KINDS
@pytest.mark.parametrize("passes", [0.8, 1.5, 2.4, 4, 6, 17.5])
def test_standard_error_for_the_samples_at_hand_covers(passes: float, walks: dict[str, bool]) -> None:
    population = Population(N_SAMPLES, seed=1)
    game = population.game(torch.arange(N_SAMPLES))
    budget = budget_of(passes, walks["antithetic"])
    runs = [rank(game, tolerance=0, budget=budget, seed=seed, **walks) for seed in range(100)]
    covered = coverage(population.values(), [r.values for r in runs], [r.standard_error for r in runs])
    assert 0.90 <= covered <= 0.99


@KINDS
@pytest.mark.parametrize("passes", [0.8, 1.5, 6])
def test_population_standard_error_covers_over_draws_of_the_samples(passes: float, walks: dict[str, bool]) -> None:
    population = Population(4000, seed=2)
    generator = torch.Generator().manual_seed(3)
    runs = []
    for seed in range(100):
        game = population.game(torch.randperm(4000, generator=generator)[:N_SAMPLES])
        runs.append(rank(game, tolerance=0, budget=budget_of(passes, walks["antithetic"]), seed=seed, **walks))
    covered = coverage(population.values(), [r.values for r in runs], [r.population_standard_error for r in runs])
    assert 0.90 <= covered <= 0.99


def test_whole_passes_leave_no_error_to_an_additive_game() -> None:
    population = Population(N_SAMPLES, seed=4)
    population.triples.zero_()
    game = population.game(torch.arange(N_SAMPLES))
    estimate = rank(game, tolerance=0)
    assert estimate.standard_error is not None
    assert estimate.population_standard_error is not None
    torch.testing.assert_close(estimate.values, population.values(), rtol=0, atol=1e-5)
    assert (estimate.standard_error < 1e-5).all()
    of_samples = population.weights.std(0) / math.sqrt(N_SAMPLES)
    torch.testing.assert_close(estimate.population_standard_error, of_samples, rtol=1e-3, atol=0)


def test_first_pass_cut_short_has_the_population_error_of_its_samples() -> None:
    population = Population(N_SAMPLES, seed=5)
    population.triples.zero_()
    estimate = rank(population.game(torch.arange(N_SAMPLES)), tolerance=0, budget=60 * (N_PLAYERS + 1))
    assert estimate.options["n_walks"] == 60
    _, samples = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 30)
    error = population.weights[samples[::2]].std(0) / math.sqrt(15)
    torch.testing.assert_close(estimate.population_standard_error, error, rtol=1e-3, atol=0)
    left_out = math.sqrt(1 - 15 / N_SAMPLES)
    torch.testing.assert_close(estimate.standard_error, left_out * error, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_orders_alone_have_no_population_error(shared: bool) -> None:
    samples = 3 if shared else 1
    game = ClosedFormGame(majority, 5, samples)
    values = []
    for seed in range(100):
        estimate = rank(game, tolerance=0, budget=240 * 6 * samples, seed=seed, shared=shared)
        assert estimate.population_standard_error is None
        values.append((estimate.values, estimate.standard_error))
    covered = coverage(torch.full((5,), 0.2, dtype=torch.float64), [v for v, _ in values], [e for _, e in values])
    assert 0.90 <= covered <= 0.99


def test_folded_passes_have_the_smaller_error_and_say_so() -> None:
    population = Population(240, seed=6)
    game = population.game(torch.arange(240))
    errors, claimed = [], []
    for folded in (True, False):
        budget = round(4 * 240 * 2 * (N_PLAYERS + 1) * 17 / 16)
        runs = [rank(game, tolerance=0, budget=budget, seed=seed, folded=folded) for seed in range(60)]
        off = torch.stack([run.values for run in runs]) - population.values()
        errors.append(off.square().mean().sqrt().item())
        claimed.append(torch.stack([run.standard_error for run in runs]).square().mean().sqrt().item())  # type: ignore[arg-type]
    assert errors[0] < 0.95 * errors[1]
    assert claimed[0] < 0.95 * claimed[1]


@pytest.fixture(scope="module")
def small_network() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 10 hidden players and a population of 3000 samples for it."""
    generator = torch.Generator().manual_seed(0)
    model = prepared(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)))
    inputs = torch.randn(3000, 6, generator=generator)
    targets = torch.randint(0, 4, (3000,), generator=generator)
    return model, inputs, targets


def exact_values(game: sc.ChannelGame) -> Tensor:
    """Shapley values from all coalitions: each by its weight, added where the player is in it, else taken off."""
    n_players, payoffs = game.n_players, game.all_payoffs().cpu()
    inside = (torch.arange(2**n_players)[:, None] >> torch.arange(n_players)) % 2 == 1
    size = inside.sum(1)
    weights = torch.tensor([1 / (n_players * math.comb(n_players - 1, s)) for s in range(n_players)] + [0.0])
    weights = weights.double()
    signed = torch.where(inside, weights[(size - 1).clamp(min=0)][:, None], -weights[size][:, None])
    return (signed * payoffs[:, None]).sum(0)


@pytest.mark.parametrize("passes", [0.6, 1, 2.3, 4])
def test_small_network_errors_cover_both_truths(passes: float, small_network: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, inputs, targets = small_network
    truth = exact_values(sc.ChannelGame(model, "0", (inputs, targets)))
    generator = torch.Generator().manual_seed(1)
    of_samples, of_population = [], []
    for seed in range(40):
        chosen = torch.randperm(len(inputs), generator=generator)[:150]
        game = sc.ChannelGame(model, "0", (inputs[chosen], targets[chosen]))
        estimate = sc.rank(game, tolerance=0, budget=round(passes * 150 * 2 * 17 / 16 * 11), seed=seed)
        assert estimate.standard_error is not None
        assert estimate.population_standard_error is not None
        of_samples.append((estimate.values - exact_values(game)).abs() <= 1.96 * estimate.standard_error)
        of_population.append((estimate.values - truth).abs() <= 1.96 * estimate.population_standard_error)
    for inside in (of_samples, of_population):
        assert 0.90 <= torch.stack(inside).double().mean().item() <= 0.99
