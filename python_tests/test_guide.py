"""The control variate of guided walks: nothing on average over orders, and less spread."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from small_runs import assert_same_bits, data, make_game, network, run
from torch import Tensor
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda.rankers.guide import Guide, GuidePlan

N_PLAYERS, N_CLASSES = 5, 3
BUDGET = 4000  # of which 40 walks make the guide


def orders(n_players: int = N_PLAYERS) -> Tensor:
    """All orders of joining, ``[C!, C]``."""
    return torch.tensor(list(itertools.permutations(range(n_players))), dtype=torch.int32)


def any_guide(n_samples: int, scale: float) -> Guide:
    generator = torch.Generator().manual_seed(5)
    return Guide(scale * torch.randn(2, N_PLAYERS, N_CLASSES, generator=generator), torch.arange(n_samples) % 2)


def marginals(payoffs: Tensor, walks: Tensor) -> Tensor:
    """What each player adds along each walk, ``[R, C]``."""
    return torch.zeros(walks.shape, dtype=torch.float64).scatter_(1, walks.long(), payoffs.double().diff(dim=1))


@pytest.mark.parametrize("path", ["walk", "suffix", "hook"])
@pytest.mark.parametrize("group", ["0", "2"])
def test_outputs_along_walks_are_those_of_the_masked_network(group: str, path: str) -> None:
    if path == "walk" and group == "2":
        path = "auto"
    game = make_game(group, path=path)
    walks = orders(game.n_players)[::7]
    samples = torch.arange(len(walks)) % game.n_samples
    before = game.n_evaluations
    outputs = game.walk_outputs(walks, samples)
    assert outputs.shape == (*walks.shape[:1], game.n_players + 1, N_CLASSES)
    assert game.n_evaluations - before == len(walks) * (game.n_players + 1)
    targets = data()[1][samples].repeat_interleave(game.n_players + 1)
    payoffs = -F.cross_entropy(outputs.flatten(0, 1), targets, reduction="none").view(len(walks), -1)
    torch.testing.assert_close(payoffs, game.walk_values(walks, samples), rtol=1e-5, atol=1e-5)
    images = data()[0][samples]
    torch.testing.assert_close(outputs[:, -1], network()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_guided_walks_over_all_orders_give_the_same_values(scale: float) -> None:
    game = make_game()
    guide = any_guide(game.n_samples, scale)
    for sample in (0, 1, 17):
        walks = orders()
        samples = torch.full((len(walks),), sample)
        plain, guided = game.walk_values(walks, samples), guide.payoffs(game, walks, samples)
        assert not torch.allclose(plain.double(), guided, atol=1e-3)
        # What a walk adds up to is what it was, and so is each player's mean over all orders.
        torch.testing.assert_close(guided[:, [0, -1]].float(), plain[:, [0, -1]], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(marginals(guided, walks).mean(0), marginals(plain, walks).mean(0), rtol=0, atol=1e-5)


def test_guided_walks_are_less_spread() -> None:
    images, labels = sc.fashion_mnist_subset("rank").first(60)
    game = sc.ChannelGame(sc.pretrained("lenet5"), "conv2", (images, labels))
    guide = Guide.measured(game, seed=1, n_walks=60)
    assert guide.shifts.shape == (10, 50, 10)
    walks = sc.ops.sample_permutations(7, 0, 400, game.n_players)
    samples = torch.arange(400) % 4
    of_both = [game.walk_values(walks, samples), guide.payoffs(game, walks, samples)]
    plain, guided = (
        torch.stack([marginals(payoffs, walks)[samples == s].var(0).mean() for s in range(4)]).mean()
        for payoffs in of_both
    )
    assert guided < 0.7 * plain


def test_guided_ranking_has_the_smaller_error_and_says_so() -> None:
    game = sc.ChannelGame(sc.pretrained("lenet5"), "conv2", sc.fashion_mnist_subset("rank").first(64))
    plain, guided = (sc.rank(game, tolerance=0, budget=150_000, seed=0, guided=g) for g in (False, True))
    assert guided.options["guide_strength"] > 0.5
    assert plain.standard_error is not None
    assert guided.standard_error is not None
    assert float(guided.standard_error.mean()) < 0.95 * float(plain.standard_error.mean())


def test_guide_is_made_of_its_own_walks_by_class() -> None:
    game = make_game()
    guide = Guide.measured(game, seed=3, n_walks=40)
    assert guide.shifts.shape == (3, N_PLAYERS, N_CLASSES)
    assert torch.equal(guide.kinds, data()[1])
    again, other = Guide.measured(game, seed=3, n_walks=40), Guide.measured(game, seed=4, n_walks=40)
    assert torch.equal(guide.shifts, again.shifts)
    assert not torch.equal(guide.shifts, other.shifts)


def test_guided_ranking_is_near_the_exact_one_and_counts_its_rows() -> None:
    exact = sc.rank(make_game(), "exact").values
    game = make_game(visits=200)
    guided = sc.rank(game, tolerance=0, budget=120_000, seed=0, guided=True)
    assert game.n_evaluations == guided.n_evaluations <= 120_000
    assert guided.options["guide_walks"] == 40 + 2 * 16 * 4
    assert guided.standard_error is not None
    assert bool(((guided.values - exact).abs() < 5 * guided.standard_error).all())
    assert float(guided.standard_error.max()) < 0.02 * float(exact.max() - exact.min())


def test_guided_intervals_cover_as_often_as_they_say() -> None:
    exact = sc.rank(make_game(), "exact").values
    inside = []
    for seed in range(60):
        estimate = run(make_game(visits=400), guided=True, budget=BUDGET, seed=seed)
        assert estimate.standard_error is not None
        inside.append((estimate.values - exact).abs() <= 1.96 * estimate.standard_error)
    assert 0.90 <= float(torch.stack(inside).double().mean()) <= 0.99


def test_budget_too_small_for_a_guide_is_spent_without_one() -> None:
    plain, guided = run(make_game()), run(make_game(), guided=True)
    assert guided.options.pop("guide_walks") == guided.options.pop("guide_strength") == 0
    guided.options["guided"] = plain.options["guided"]
    assert_same_bits(guided, plain)
    assert GuidePlan.within(32 * 16 * 6 - 1, make_game(), True, True) is None
    plan = GuidePlan.within(32 * 16 * 6, make_game(), True, True)
    assert plan is not None
    assert (plan.n_shifts, plan.n_trials, plan.n_walks) == (32, 4, 64)


def test_guide_that_says_little_is_hardly_followed() -> None:
    # Its payoffs are so nearly those of single channels that folded walks have next to no spread.
    plain, guided = (
        sc.rank(make_game("2", visits=200), tolerance=0, budget=120_000, seed=0, guided=g) for g in (False, True)
    )
    assert guided.options["guide_strength"] < 0.5
    assert plain.standard_error is not None
    assert guided.standard_error is not None
    assert float(guided.standard_error.mean()) < 1.1 * float(plain.standard_error.mean())


def test_many_classes_are_served_by_one_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shapley_cuda.rankers.guide._LARGEST", 3 * 5 * 3 - 1)
    game = make_game()
    guide = Guide.measured(game, seed=3, n_walks=40)
    assert guide.shifts.shape == (1, N_PLAYERS, N_CLASSES)
    walks = orders()
    samples = torch.zeros(len(walks), dtype=torch.int64)
    of_both = (guide.payoffs(game, walks, samples), game.walk_values(walks, samples))
    means = [marginals(payoffs, walks).mean(0) for payoffs in of_both]
    torch.testing.assert_close(*means, rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 7])
def test_guided_payoffs_do_not_depend_on_how_walks_are_cut(at_once: int) -> None:
    game, walks = make_game(), orders()
    guide, samples = any_guide(game.n_samples, 1.0), torch.arange(len(walks)) % game.n_samples
    whole = guide.payoffs(game, walks, samples)
    game.memory_budget = at_once * 5 * 4 * (N_PLAYERS + 1) ** 2
    torch.testing.assert_close(guide.payoffs(game, walks, samples), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "of_game", "text"),
    [
        ({"shared": True}, {}, "^guided must not come with shared$"),
        ({"settle": 2, "racing": True}, {}, "^guided must not come with racing$"),
        ({}, {"metric": "accuracy"}, "^guided must come with a game of metric 'cross_entropy', got 'accuracy'$"),
    ],
)
def test_guided_where_there_can_be_no_guide_is_refused(
    options: dict[str, Any], of_game: dict[str, Any], text: str
) -> None:
    game = make_game(**of_game)
    with pytest.raises(ValueError, match=text):
        run(game, guided=True, **options)
    assert game.n_evaluations == 0


def test_payoffs_that_are_not_finite_are_refused_by_guided_walks() -> None:
    images, labels = data()
    images[3] = torch.nan
    game = make_game(data=(images, labels))
    with pytest.raises(sc.NonFinitePayoff, match=r"walks met a payoff that is NaN or infinite"):
        run(game, guided=True, budget=BUDGET)
