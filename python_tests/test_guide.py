"""The control variate of guided walks: nothing on average over orders, and less spread."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from architectures import prepared
from small_runs import assert_same_bits, data, make_game, network, run
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda.memory import PeakMemory
from shapley_cuda.rankers.guide import Guide, GuidePlan

N_PLAYERS, N_CLASSES = 5, 3
BUDGET = 8000


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guides are followed in full, whatever trials say."""
    in_trials = Guide._strength_in_trials
    monkeypatch.setattr(Guide, "_strength_in_trials", lambda *given: max(1.0, in_trials(*given)))


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
    # All 40 samples have been visited; by class their means count as much as there are of them, the mean of all as 4.
    of_all = Guide.measured(make_game(data=(data()[0], torch.zeros_like(data()[1]))), seed=3, n_walks=40).shifts[0]
    count = torch.bincount(data()[1])[:, None, None]
    means = guide.shifts * (count + 4) / count - 4 * of_all / count
    torch.testing.assert_close((means * count).sum(0) / 40, of_all, rtol=1e-4, atol=1e-6)
    again, other = Guide.measured(game, seed=3, n_walks=40), Guide.measured(game, seed=4, n_walks=40)
    assert torch.equal(guide.shifts, again.shifts)
    assert not torch.equal(guide.shifts, other.shifts)


def test_guide_of_one_sample_is_what_its_walk_found() -> None:
    images, labels = data()
    game = make_game(data=(images[:1], labels[:1]))
    shifts = Guide.measured(game, seed=3, n_walks=1).shifts[0]
    assert shifts.abs().max() > 0.01
    # Players add up to what the whole network says more than an empty one, but for what is the same for all classes.
    masks = torch.tensor([[False] * N_PLAYERS, [True] * N_PLAYERS])
    none, everyone = game._paths.rows.outputs(masks, torch.zeros(2, dtype=torch.int64))
    differences = everyone - none
    torch.testing.assert_close(shifts.sum(0), differences - differences.mean(), rtol=1e-4, atol=1e-5)


def test_guided_payoffs_keep_the_memory_budget_where_the_classifier_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = prepared(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 300)))
    inputs, targets = torch.randn(40, 6, generator=generator), torch.randint(0, 300, (40,), generator=generator)
    budget = 1 << 21
    game = sc.ChannelGame(wide, "0", (inputs, targets), memory_budget=budget)
    assert game.chunk_walks > 1000
    walks = sc.ops.sample_permutations(1, 0, 1000, 12)
    samples = torch.arange(1000) % 40
    with PeakMemory() as memory:
        guide = Guide.measured(game, seed=0, n_walks=40)
    tables = 40 * guide.shifts[0].numel() * 4  # by class, a few at a time
    assert memory.peak < budget + 8 * tables
    with PeakMemory() as memory:
        payoffs = guide.payoffs(game, walks, samples)
    assert memory.peak < budget + 5 * payoffs.numel() * 8


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize("options", [{}, {"folded": False}, {"antithetic": False}, {"repeats": False}], ids=str)
def test_guided_ranking_is_near_the_exact_one_and_counts_its_rows(options: dict[str, bool]) -> None:
    exact = sc.rank(make_game(), "exact").values
    game = make_game(visits=200)
    guided = sc.rank(game, tolerance=0, budget=120_000, seed=0, guided=True, **options)
    assert game.n_evaluations == guided.n_evaluations <= 120_000
    walks_of_a_visit = {"folded": 2, "antithetic": 1, "repeats": 2}.get(next(iter(options), ""), 4)
    assert guided.options["guide_walks"] == 40 + 2 * 16 * walks_of_a_visit
    assert guided.options["guide_strength"] == 1
    assert guided.standard_error is not None
    assert bool(((guided.values - exact).abs() < 5 * guided.standard_error).all())
    if options.get("repeats", True):
        assert float(guided.standard_error.max()) < 0.03 * float(exact.max() - exact.min())


@pytest.mark.usefixtures("followed")
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
    assert GuidePlan.within(64 * 16 * 6 - 1, make_game(), True, True) is None
    plan = GuidePlan.within(64 * 16 * 6, make_game(), True, True)
    assert plan is not None
    assert (plan.n_shifts, plan.n_trials, plan.n_walks) == (40, 8, 104)


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
def test_guided_payoffs_do_not_depend_on_how_walks_are_cut(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    game, walks = make_game(), orders()
    guide, samples = any_guide(game.n_samples, 1.0), torch.arange(len(walks)) % game.n_samples
    whole = guide.payoffs(game, walks, samples)
    monkeypatch.setattr("shapley_cuda.rankers.guide._walks_at_once", lambda *_: at_once)
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


@pytest.mark.usefixtures("followed")
def test_payoffs_that_are_not_finite_are_refused_by_guided_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = data()
    images[3] = torch.nan
    game = make_game(data=(images, labels))
    assert not Guide.measured(game, seed=3, n_walks=40).shifts.any()
    monkeypatch.setattr(Guide, "measured", lambda game, *_: any_guide(game.n_samples, 1.0))
    with pytest.raises(sc.NonFinitePayoff, match=r"walks met a payoff that is NaN or infinite"):
        run(game, guided=True, budget=BUDGET)
