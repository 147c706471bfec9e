"""Values from linear fits: against closed forms, other solvers of the same problem, and their own standard errors."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from architectures import prepared
from closed_forms import CLOSED_FORMS, ClosedFormGame, by_sample, closed_form, glove, rank
from tolerances import STANDARD_ERRORS
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.rankers import regression
from shapley_cuda.samplers import KernelSampler, UniformSizeSampler

N_PLAYERS = 12  # 4,096 coalitions: more than most budgets below
_GENERATOR = torch.Generator().manual_seed(0)
OWN = torch.randn(N_PLAYERS, generator=_GENERATOR, dtype=torch.float64)
TRIPLES = torch.randn(N_PLAYERS, generator=_GENERATOR, dtype=torch.float64)
TRIPLES[2:5], OWN[2] = 0, 0  # player 2 is worth nothing


def triples(masks: Tensor, samples: Tensor) -> Tensor:
    """Each player's own worth, and that of three in a row in a ring, which they share: no fit is perfect."""
    present = masks.double()
    return present @ OWN + (present * present.roll(1, 1) * present.roll(2, 1)) @ TRIPLES


def triples_by_sample(masks: Tensor, samples: Tensor) -> Tensor:
    """Samples 0, 1 and 2 weigh the same game differently and shift it."""
    return (samples + 1) / 2 * triples(masks, samples) - 3.0 * samples


def game_of_triples(n_samples: int = 1) -> ClosedFormGame:
    return ClosedFormGame(triples if n_samples == 1 else triples_by_sample, N_PLAYERS, n_samples)


TRIPLES_VALUES = OWN + (TRIPLES + TRIPLES.roll(-1) + TRIPLES.roll(-2)) / 3


def errors_in_standard_errors(estimate: sc.Estimate, values: Tensor) -> Tensor:
    assert estimate.standard_error is not None
    return (estimate.values - values) / estimate.standard_error


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("shared", [True, False])
def test_regression_over_all_coalitions_is_exact(name: str, shared: bool) -> None:
    game, values = closed_form(name)
    everything = 2**game.n_players * game.n_samples
    estimate = rank(game, method="regression", budget=everything, shared=shared)
    torch.testing.assert_close(estimate.values, values, rtol=0, atol=1e-10)
    assert estimate.n_evaluations == everything
    assert estimate.stopped == "complete"
    assert estimate.standard_error is None


def test_regression_of_one_player_gives_it_everything() -> None:
    game = ClosedFormGame(lambda masks, samples: 2.0 + 3.0 * masks[:, 0].double(), 1)
    assert rank(game, method="regression", budget=2).values.tolist() == [3.0]


def test_regression_of_more_players_than_can_be_enumerated_samples_at_any_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regression, "_MOST_PLAYERS_OF_ALL", N_PLAYERS - 1)
    estimate = rank(game_of_triples(), method="regression", budget=2**N_PLAYERS)
    assert estimate.stopped == "budget"
    assert (errors_in_standard_errors(estimate, TRIPLES_VALUES).abs() <= STANDARD_ERRORS).all()


@pytest.mark.parametrize("shared", [True, False])
def test_regression_meets_the_closed_form_within_its_standard_errors(shared: bool) -> None:
    estimate = rank(game_of_triples(3), method="regression", budget=12_000, shared=shared, seed=1)
    assert (errors_in_standard_errors(estimate, TRIPLES_VALUES).abs() <= STANDARD_ERRORS).all()  # a null player too
    assert estimate.standard_error is not None
    assert (estimate.standard_error < 0.1 * TRIPLES_VALUES.abs().max()).all()  # else being within them means little
    assert estimate.values.sum().item() == pytest.approx(TRIPLES_VALUES.sum().item(), abs=1e-10 if shared else 1e-5)


@pytest.mark.parametrize("n_pairs", [24, 60])
def test_regression_and_its_errors_are_those_of_a_textbook_fit(n_pairs: int) -> None:
    estimate = rank(game_of_triples(), method="regression", budget=2 + 2 * n_pairs, shared=True, seed=3)
    assert estimate.n_evaluations == 2 + 2 * n_pairs
    masks = KernelSampler(N_PLAYERS, seed=3).masks(0, 2 * n_pairs)
    worth = TRIPLES_VALUES.sum()
    # The textbook's way: the last player gets what the others leave, no one gets nothing, v(none) is 0.
    present = masks.double()
    design = present[:, :-1] - present[:, -1:]
    response = triples(masks, torch.zeros(len(masks))) - present[:, -1] * worth

    def fit(kept: list[int]) -> Tensor:
        others = torch.linalg.lstsq(design[kept], response[kept, None]).solution[:, 0]
        return torch.cat([others, (worth - others.sum())[None]])

    values = fit(list(range(2 * n_pairs)))
    torch.testing.assert_close(estimate.values, values, rtol=0, atol=1e-8)
    left_out = [fit([i for i in range(2 * n_pairs) if i // 2 != pair]) for pair in range(n_pairs)]
    jackknife = (torch.stack(left_out) - values).square().sum(0)
    difference = design[::2] - design[1::2]  # of each pair
    residual = response[::2] - response[1::2] - difference @ values[:-1]
    inverse = torch.linalg.inv(difference.T @ difference)
    last = inverse.sum()  # the variance of the sum of the others
    alike = residual.square().sum() / (n_pairs - 12) * torch.cat([inverse.diagonal(), last[None]])
    errors = torch.maximum(jackknife, alike).sqrt()
    torch.testing.assert_close(estimate.standard_error, errors, rtol=1e-6, atol=1e-9)
    assert (jackknife > alike).any()
    assert (jackknife < alike).any()


@pytest.mark.parametrize("budget", [82, 1002])
def test_regression_standard_errors_are_honest_over_many_seeds(budget: int) -> None:
    scores = [
        errors_in_standard_errors(rank(game_of_triples(), method="regression", budget=budget, seed=s), TRIPLES_VALUES)
        for s in range(60)
    ]
    assert 0.6 < torch.stack(scores).square().mean().item() < 1.3


def test_regression_standard_errors_cover_the_choice_of_samples() -> None:
    scores = [
        errors_in_standard_errors(rank(game_of_triples(3), method="regression", budget=1006, seed=seed), TRIPLES_VALUES)
        for seed in range(40)
    ]
    assert 0.4 < torch.stack(scores).square().mean().item() < 1.3


def test_regression_standard_errors_from_some_of_the_pairs_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    of_all = rank(game_of_triples(), method="regression", budget=4000)
    monkeypatch.setattr(regression, "_COALITIONS_AT_ONCE", 64)
    monkeypatch.setattr(regression, "_OBSERVATIONS_FOR_ERRORS", 0)  # 32 * 12 of 1999 remain
    of_some = rank(game_of_triples(), method="regression", budget=4000)
    torch.testing.assert_close(of_some.values, of_all.values, rtol=1e-9, atol=1e-12)
    assert of_some.standard_error is not None
    assert not torch.equal(of_some.standard_error, of_all.standard_error)
    torch.testing.assert_close(of_some.standard_error, of_all.standard_error, rtol=0.25, atol=0)


@pytest.mark.parametrize(("method", "shared"), [("regression", True), ("regression", False)])
def test_regression_error_falls_with_the_root_of_the_budget(method: str, shared: bool) -> None:
    n_samples, errors = 2, {}
    for budget in (300, 16 * 300):
        estimates = [
            rank(game_of_triples(n_samples), method=method, budget=budget, shared=shared, seed=seed).values
            for seed in range(20)
        ]
        errors[budget] = (torch.stack(estimates) - 0.75 * TRIPLES_VALUES).square().mean().sqrt().item()
    assert 2.7 < errors[300] / errors[16 * 300] < 6.5


def test_regression_rows_of_their_own_are_closer_than_shared_coalitions_at_equal_cost() -> None:
    errors = []
    for shared in (True, False):
        games = [ClosedFormGame(lambda m, s: triples(m, s) + 0.2 * (s % 5), N_PLAYERS, 20) for _ in range(5)]
        estimates = [
            rank(game, method="regression", budget=4000, shared=shared, seed=seed).values
            for seed, game in enumerate(games)
        ]
        errors.append((torch.stack(estimates) - TRIPLES_VALUES).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("shared", [True, False])
def test_regression_of_an_additive_game_is_exact_from_few_coalitions(shared: bool) -> None:
    game = ClosedFormGame(lambda masks, samples: masks.double() @ OWN, N_PLAYERS)
    estimate = rank(game, method="regression", budget=2 + 2 * 40, shared=shared)
    torch.testing.assert_close(estimate.values, OWN, rtol=0, atol=1e-12 if shared else 1e-5)


class WatchedGame(ClosedFormGame):
    """Keeps the rows that it was asked for."""

    def row_values(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        self.rows = [*getattr(self, "rows", []), (masks, sample_index)]
        return super().row_values(masks, sample_index)


def test_regression_a_pair_stays_together_on_one_sample_and_samples_take_turns() -> None:
    game = WatchedGame(by_sample, 6, n_samples=5)
    rank(game, method="regression", budget=10 + 2 * 20, seed=2)
    *worths, (masks, samples) = game.rows
    assert [(bool(m.all()), bool(m.any()), s.tolist()) for m, s in worths] == [
        (True, True, [0, 1, 2, 3, 4]), (False, False, [0, 1, 2, 3, 4]),
    ]  # fmt: skip
    assert torch.equal(masks[::2], ~masks[1::2])
    assert torch.equal(samples[::2], samples[1::2])
    for turn in samples[::2].split(5):
        assert sorted(turn.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "n_evaluations"),
    [
        ({"method": "regression", "budget": 1000}, 1000),
        ({"method": "regression", "budget": 1001}, 1000),
        ({"method": "regression", "budget": 1000, "shared": True}, 996),  # 2 and 2 * 165 coalitions of 3 samples
        ({"method": "least_squares", "budget": 1000}, 999),
        ({"method": "least_squares", "budget": 1001, "shared": False}, 1001),
        ({"method": "regression"}, 64 * 3 * 13),
        ({"method": "least_squares"}, 64 * 3 * 13),
    ],
)
def test_fits_keep_the_budget_as_the_game_counts_it(options: dict[str, Any], n_evaluations: int) -> None:
    game = game_of_triples(3)
    game.n_evaluations = 777
    told: list[sc.RankingProgress] = []
    estimate = rank(game, on_progress=told.append, **options)
    assert estimate.n_evaluations == game.n_evaluations - 777 == n_evaluations
    assert estimate.stopped == "budget"
    assert told[-1].n_evaluations == n_evaluations
    assert all(p.budget == estimate.options["budget"] for p in told)


@pytest.mark.parametrize("method", ["regression", "least_squares"])
@pytest.mark.parametrize("shared", [True, False])
def test_fits_in_chunks_of_any_size_are_the_same(method: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"method": method, "shared": shared, "budget": 900, "seed": 5}
    whole = rank(game_of_triples(3), **options)
    for name in ("_COALITIONS_AT_ONCE", "_SHARED_AT_ONCE"):
        monkeypatch.setattr(regression, name, 14)
    parts = rank(game_of_triples(3), **options)
    torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-10)
    torch.testing.assert_close(parts.standard_error, whole.standard_error, rtol=1e-8, atol=0)


@pytest.mark.parametrize("method", ["regression", "least_squares"])
def test_fits_same_seed_same_bits_and_no_generator_touched(method: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (rank(game_of_triples(), method=method, budget=500, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize("shared", [True, False])
def test_least_squares_is_the_plain_fit_with_an_intercept(shared: bool) -> None:
    game = game_of_triples()
    estimate = rank(game, method="least_squares", budget=200, seed=4, shared=shared)
    masks = UniformSizeSampler(N_PLAYERS, seed=4).masks(0, 200)
    design = torch.cat([masks.double(), torch.ones(200, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(design, triples(masks, masks)[:, None]).solution[:-1, 0]
    torch.testing.assert_close(estimate.values, solution, rtol=0, atol=1e-8 if shared else 1e-5)


def test_least_squares_is_biased_and_its_errors_are_honest_about_the_rest() -> None:
    game, values = closed_form("glove")
    # Sizes are equally frequent, and subsets of a size: the limit is the fit to these coalitions with these weights.
    masks = torch.tensor(list(itertools.product([False, True], repeat=3)))
    size = masks.sum(1)
    weights = 1 / torch.tensor([1.0, 3.0, 3.0, 1.0]).double()[size].sqrt()[:, None]
    design = torch.cat([masks.double(), torch.ones(8, 1, dtype=torch.float64)], 1) * weights
    limit = torch.linalg.lstsq(design, glove(masks, size)[:, None] * weights).solution[:-1, 0]
    estimates = [rank(game, method="least_squares", budget=400, seed=seed) for seed in range(60)]
    assert 0.7 < torch.stack([errors_in_standard_errors(e, limit) for e in estimates]).square().mean().item() < 1.4
    long = rank(game, method="least_squares", budget=100_000)
    assert (errors_in_standard_errors(long, limit).abs() <= STANDARD_ERRORS).all()
    assert (errors_in_standard_errors(long, values).abs() > STANDARD_ERRORS).all()
    assert long.ranking().tolist()[-1] == 2


@pytest.mark.parametrize("shared", [True, False])
def test_regression_small_network_meets_the_exact_values(shared: bool) -> None:
    model = prepared(
        nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    )
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(12, 1, 8, 8, generator=generator), torch.randint(0, 4, (12,), generator=generator)
    game = sc.ChannelGame(model, "0", (inputs, targets))
    exact = sc.rank(game, "exact").values
    everything = sc.rank(game, "regression", budget=1024 * 12, shared=shared)
    torch.testing.assert_close(everything.values, exact, rtol=0, atol=1e-10)
    sampled = sc.rank(game, "regression", budget=6000, shared=shared)
    assert (errors_in_standard_errors(sampled, exact).abs() <= STANDARD_ERRORS).all()
    assert sampled.standard_error is not None
    assert (sampled.standard_error < 0.2 * (exact.max() - exact.min())).all()
    assert sampled.values.sum().item() == pytest.approx(exact.sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"budget": 53}, "budget must be at least 54 rows (v(all), v(none) and 24 pairs of coalitions), got 53"),
        ({"budget": 149, "shared": True}, "budget must be at least 150 rows (v(all), v(none) and 24 pairs"),
        ({"method": "least_squares", "budget": 77}, "budget must be at least 78 rows (26 coalitions), got 77"),
        ({"method": "least_squares", "budget": 25, "shared": False}, "budget must be at least 26 rows (26 coalit"),
        ({"budget": 1000.5}, "budget must be a whole number of rows, got 1000.5"),
    ],
)
def test_fits_bad_budget_is_refused_with_the_least_one(options: dict[str, Any], text: str) -> None:
    game = game_of_triples(3)
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        rank(game, **{"method": "regression"} | options)
    assert game.n_evaluations == 0


def test_regression_of_two_players_asks_for_all_coalitions_where_those_are_fewer() -> None:
    game = ClosedFormGame(lambda masks, samples: masks.sum(1).double(), 2, n_samples=5)
    with pytest.raises(ValueError, match=r"^budget must be at least 18 rows \(v"):
        rank(game, method="regression", budget=17)
    with pytest.raises(ValueError, match=r"^budget must be at least 20 rows \(all 2\^2 coalitions\), got 17"):
        rank(game, method="regression", budget=17, shared=True)


def test_fits_seed_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^seed must be an int, got 1\.5"):
        rank(game_of_triples(), method="regression", seed=1.5)


def test_regression_coalitions_that_tell_nothing_apart_are_refused() -> None:
    seed = 641  # draws the same of the three pairs of three players six times
    masks = KernelSampler(3, seed).masks(0, 12)
    assert ((masks == masks[0]).all(1) | (masks == ~masks[0]).all(1)).all()
    with pytest.raises(ValueError, match=r"^budget must be larger: the coalitions drawn cannot tell some players"):
        rank(ClosedFormGame(glove, 3, n_samples=100), method="regression", budget=212, seed=seed)


def test_fits_payoff_that_is_not_finite_is_refused() -> None:
    game = ClosedFormGame(lambda masks, samples: torch.where(masks.sum(1) == 5, torch.nan, 1.0).double(), N_PLAYERS)
    for method in ("regression", "least_squares"):
        with pytest.raises(sc.NonFinitePayoff, match=f"^{method} ranking gave 12 of 12 players of closed form a value"):
            rank(game, method=method, budget=500)
