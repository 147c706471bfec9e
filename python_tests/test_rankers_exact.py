"""Exact values, their terms of low order, leaving one out, and the oracle's ranking."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from architectures import prepared
from closed_forms import CLOSED_FORMS, ClosedFormGame, additive, closed_form, glove, pairwise, rank, unanimity
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.rankers import RANKERS
from shapley_cuda.rankers.exact import shapley_values

CLOSE = {"rtol": 0, "atol": 1e-10}


def by_definition(payoff: dict[frozenset[int], float], n_players: int, terms: range) -> Tensor:
    """Sum over coalitions S without the player whose size is among the terms, weight by weight."""
    values = torch.zeros(n_players, dtype=torch.float64)
    for player in range(n_players):
        others = [p for p in range(n_players) if p != player]
        for size in terms:
            weight = math.factorial(size) * math.factorial(n_players - size - 1) / math.factorial(n_players)
            for members in map(frozenset, itertools.combinations(others, size)):
                values[player] += weight * (payoff[members | {player}] - payoff[members])
    return values


def payoffs_of(game: Any) -> dict[frozenset[int], float]:
    """Payoffs of all coalitions, asked for by their masks."""
    players = range(game.n_players)
    coalitions = [set(s) for size in range(game.n_players + 1) for s in itertools.combinations(players, size)]
    payoffs = game(torch.tensor([[player in coalition for player in players] for coalition in coalitions]))
    return dict(zip(map(frozenset, coalitions), payoffs.tolist(), strict=True))


@pytest.fixture(scope="module")
def small_network_game() -> sc.ChannelGame:
    """The first convolution of a small network, of 10 channels."""
    model = prepared(
        nn.Sequential(
            nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(24, 4),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(20, 1, 8, 8, generator=generator), torch.randint(0, 4, (20,), generator=generator)
    return sc.ChannelGame(model, "0", (inputs, targets))


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("way", ["exact", "removing", "adding"])
def test_exact_and_partial_of_all_orders_meet_closed_forms(name: str, way: str) -> None:
    game, values = closed_form(name)
    options = {} if way == "exact" else {"order": game.n_players, "direction": way}
    estimate = rank(game, method="partial" if options else "exact", **options)
    torch.testing.assert_close(estimate.values, values, **CLOSE)
    assert estimate.n_evaluations == game.n_evaluations == 2**game.n_players * game.n_samples
    assert estimate.stopped == "complete"
    assert estimate.standard_error is None
    assert estimate.seed is None


def test_exact_null_and_symmetric_players_are_worth_exactly_nothing_and_the_same() -> None:
    assert (rank(closed_form("unanimity")[0], method="exact").values[[0, 3, 5]] == 0).all()
    values = rank(closed_form("glove")[0], method="exact").values
    assert values[0] == values[1]


def test_exact_is_linear_and_relabelled_with_the_players() -> None:
    def combined(masks: Tensor, samples: Tensor) -> Tensor:
        return 2.0 * pairwise(masks, samples) - 3.0 * unanimity(masks, samples)

    order = torch.tensor([3, 0, 5, 1, 4, 2])
    first, second, both, moved = (
        rank(ClosedFormGame(payoff, 6), method="exact").values
        for payoff in (pairwise, unanimity, combined, lambda masks, samples: pairwise(masks[:, order], samples))
    )
    torch.testing.assert_close(both, 2.0 * first - 3.0 * second, **CLOSE)
    torch.testing.assert_close(moved[order], first, **CLOSE)


def test_exact_small_network_meets_the_definition(small_network_game: sc.ChannelGame) -> None:
    game = small_network_game
    payoffs = payoffs_of(game)
    estimate = sc.rank(game, "exact")
    # Payoffs are float32 from batches of other sizes: rounded to 1e-7 of their size, which is about 1.
    torch.testing.assert_close(estimate.values, by_definition(payoffs, 10, range(10)), rtol=0, atol=2e-6)
    everyone, no_one = payoffs[frozenset(range(10))], payoffs[frozenset()]
    assert estimate.values.sum().item() == pytest.approx(everyone - no_one, abs=2e-6)
    assert estimate.n_evaluations == 1024 * 20
    torch.testing.assert_close(sc.rank(game, "partial", order=10).values, estimate.values, rtol=0, atol=2e-6)


@pytest.mark.parametrize("direction", ["removing", "adding"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_partial_is_the_exact_sum_over_its_terms(order: int, direction: str) -> None:
    game, _ = closed_form("pairwise")
    terms = range(6 - order, 6) if direction == "removing" else range(order)
    expected = by_definition(payoffs_of(game), 6, terms)
    estimate = rank(game, method="partial", order=order, direction=direction)
    torch.testing.assert_close(estimate.values, expected, **CLOSE)
    assert estimate.n_evaluations == sum(math.comb(6, size) for size in range(order + 1))


def test_partial_in_many_chunks_of_coalitions_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    game, values = closed_form("by_sample")
    monkeypatch.setattr("shapley_cuda.rankers.exact._MASK_BYTES_AT_ONCE", 30)
    told: list[sc.RankingProgress] = []
    estimate = rank(game, method="partial", order=6, on_progress=told.append)
    torch.testing.assert_close(estimate.values, values, **CLOSE)
    assert [p.n_evaluations for p in told] == [*range(20, 256, 20), 256]  # 5 coalitions of 4 samples at a time
    assert all(p.budget == 256 for p in told)


def test_partial_many_players_are_streamed_by_size() -> None:
    # 1 where at least all but one of 300 players are there: only the last two steps of a walk count.
    game = ClosedFormGame(lambda masks, samples: (masks.sum(1) >= 299).double(), 300)
    estimate = rank(game, method="partial", order=2)
    torch.testing.assert_close(estimate.values, torch.full((300,), 1 / 300, dtype=torch.float64), **CLOSE)
    assert estimate.n_evaluations == 1 + 300 + 300 * 299 // 2


def test_leave_one_out_is_what_each_player_is_missed_by(small_network_game: sc.ChannelGame) -> None:
    game = small_network_game
    payoffs, everyone = payoffs_of(game), frozenset(range(10))
    expected = torch.tensor([payoffs[everyone] - payoffs[everyone - {player}] for player in range(10)]).double()
    estimate = sc.rank(game, "leave_one_out")
    torch.testing.assert_close(estimate.values, expected, rtol=0, atol=1e-6)
    assert estimate.n_evaluations == 11 * 20


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_partial_of_order_1_removing_orders_as_leave_one_out(name: str) -> None:
    game, _ = closed_form(name)
    partial, one_out = rank(game, method="partial", order=1), rank(game, method="leave_one_out")
    torch.testing.assert_close(partial.values * game.n_players, one_out.values, **CLOSE)


def test_shapley_values_of_one_player_and_of_many() -> None:
    assert shapley_values(torch.tensor([0.25, 1.0], dtype=torch.float64)).tolist() == [0.75]
    sizes = torch.tensor([code.bit_count() for code in range(1 << 16)], dtype=torch.float64)
    values = shapley_values(sizes.square())  # every player the same
    torch.testing.assert_close(values, torch.full((16,), 16.0, dtype=torch.float64), rtol=0, atol=1e-10)


def test_oracle_counts_the_best_sets_to_keep_that_a_player_is_in() -> None:
    # Best to keep of the additive game: players 5, 3, 0, 4, 2, 1 join in this order.
    estimate = rank(ClosedFormGame(additive, 6), method="oracle")
    assert estimate.values.tolist() == [4, 1, 2, 5, 3, 6]
    assert estimate.ranking().tolist() == [1, 2, 4, 0, 3, 5]
    assert estimate.options == {"max_size": None, "search": "exhaustive", "budget": None}
    assert estimate.n_evaluations == 64
    greedy = rank(ClosedFormGame(additive, 6), method="oracle", search="greedy", max_size=6)
    assert greedy.options["search"] == "greedy"
    assert greedy.ranking().tolist() == [1, 2, 4, 0, 3, 5]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "exact", "budget": 31}, "budget must be at least 32 rows (2^3 coalitions of 4 samples), got 31"),
        ({"method": "partial", "budget": 27}, "budget must be at least 28 rows (7 coalitions of 4 samples), got 27"),
        ({"method": "partial", "order": 4}, "order must be in [1, 3], got 4"),
        ({"method": "partial", "order": 0}, "order must be in [1, 3], got 0"),
        ({"method": "partial", "direction": "up"}, "direction must be 'removing' or 'adding', got 'up'"),
        ({"method": "leave_one_out", "budget": 15}, "budget must be at least 16 rows (4 coalitions of 4 samples), got"),
        ({"method": "oracle", "search": "all"}, "search must be 'auto', 'exhaustive' or 'greedy', got 'all'"),
        ({"method": "oracle", "budget": 1}, "budget must be at least"),
        ({"method": "exat"}, f"method must be one of {', '.join(RANKERS)}, got 'exat'; did you mean 'exact'?"),
        ({"method": "leave_one"}, f"method must be one of {', '.join(RANKERS)}, got 'leave_one'; did you mean 'leave_"),
    ],
)
def test_bad_option_is_refused_before_anything_is_evaluated(options: dict[str, Any], text: str) -> None:
    game = ClosedFormGame(glove, 3, n_samples=4)
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        rank(game, **options)
    assert game.n_evaluations == 0


def test_budget_that_just_pays_is_enough() -> None:
    for method, least in (("exact", 32), ("partial", 28), ("leave_one_out", 16)):
        game = ClosedFormGame(glove, 3, n_samples=4)
        assert rank(game, method=method, budget=least).n_evaluations == least


def test_exact_of_too_many_players_names_the_cost_and_what_to_take_instead() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 25), nn.ReLU(), nn.Linear(25, 3)))
    game = sc.ChannelGame(model, "0", (torch.ones(2, 4), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"at most 24 players, got 25: .*2\^25 coalitions of 2 samples.*permutation"):
        sc.rank(game, "exact")
    assert game.n_evaluations == 0


@pytest.mark.parametrize("method", RANKERS)
def test_every_ranking_on_any_device_is_that_of_the_cpu(method: str, device: str) -> None:
    layers = nn.Conv2d(1, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 5, 3), nn.Flatten(), nn.Linear(20, 4)
    model = prepared(nn.Sequential(*layers))
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(9, 1, 6, 6, generator=generator), torch.randint(0, 4, (9,), generator=generator)
    estimates = []
    for place in ("cpu", device):
        game = sc.ChannelGame(model.to(place), "0", (data[0].to(place), data[1].to(place)))
        estimates.append(sc.rank(game, method))
        assert estimates[-1].n_evaluations == game.n_evaluations
    assert estimates[0].values.shape == (7,)
    assert estimates[0].values.unique().numel() > 1
    torch.testing.assert_close(estimates[1].values, estimates[0].values, rtol=1e-4, atol=1e-6)
    if device == "cpu":
        assert torch.equal(estimates[1].values, estimates[0].values)
