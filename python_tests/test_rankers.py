"""Rankers on games whose Shapley values are known in closed form, and on networks small enough to enumerate."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from architectures import prepared
from closed_forms import CLOSED_FORMS, ClosedFormGame, by_sample, closed_form, glove, pairwise, rank, unanimity
from scipy.stats import kendalltau
from tolerances import STANDARD_ERRORS
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.rankers import RANKERS


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_permutation_closed_form_is_met_within_its_standard_errors(name: str, antithetic: bool, shared: bool) -> None:
    game, values = closed_form(name)
    budget = 2000 * (game.n_players + 1) * game.n_samples
    estimate = rank(game, tolerance=0, budget=budget, seed=1, antithetic=antithetic, shared=shared)
    assert estimate.standard_error is not None
    assert ((estimate.values - values).abs() <= STANDARD_ERRORS * estimate.standard_error + 1e-6).all()
    assert (estimate.standard_error < 0.1 * values.abs().max()).all()  # else being within them would mean little


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_permutation_efficiency_values_add_up_to_the_worth_of_everyone(name: str) -> None:
    game, values = closed_form(name)
    estimate = rank(game, tolerance=0, budget=8 * game.n_samples * (game.n_players + 1))
    assert estimate.values.sum().item() == pytest.approx(values.sum().item(), abs=2e-6)


def test_permutation_null_player_is_worth_exactly_nothing() -> None:
    for name, nulls in (("additive", [2]), ("unanimity", [0, 3, 5])):
        game, _ = closed_form(name)
        estimate = rank(game, tolerance=0, budget=200 * 7)
        assert (estimate.values[nulls] == 0).all()
        assert estimate.standard_error is not None
        assert (estimate.standard_error[nulls] == 0).all()


def test_permutation_additive_game_is_exact_and_stops_at_once() -> None:
    game, values = closed_form("additive")
    estimate = rank(game, tolerance=0.01, budget=1000 * 7)
    torch.testing.assert_close(estimate.values, values, rtol=0, atol=1e-6)
    assert estimate.stopped == "tolerance"
    assert estimate.options["n_walks"] <= 128


def test_permutation_symmetric_players_are_worth_the_same_within_errors() -> None:
    game, _ = closed_form("glove")
    estimate = rank(game, tolerance=0, budget=4000 * 4)
    assert estimate.standard_error is not None
    apart = (estimate.values[0] - estimate.values[1]).abs().item()
    assert apart <= STANDARD_ERRORS * (estimate.standard_error[:2] ** 2).sum().sqrt().item()


def test_permutation_linearity_holds_for_the_same_seed() -> None:
    def combined(masks: Tensor, samples: Tensor) -> Tensor:
        return 2.0 * pairwise(masks, samples) - 3.0 * unanimity(masks, samples)

    estimates = [
        rank(ClosedFormGame(payoff, 6), tolerance=0, budget=300 * 7, seed=4, antithetic=False)
        for payoff in (pairwise, unanimity, combined)
    ]
    first, second, both = (estimate.values for estimate in estimates)
    torch.testing.assert_close(both, 2.0 * first - 3.0 * second, rtol=0, atol=1e-5)


def test_permutation_relabelled_players_relabel_the_values() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = rank(ClosedFormGame(pairwise, 6), tolerance=0, budget=4000 * 7)
    moved = rank(
        ClosedFormGame(lambda masks, samples: pairwise(masks[:, order], samples), 6), tolerance=0, budget=28000
    )
    torch.testing.assert_close(moved.values[order], plain.values, rtol=0, atol=0.05)


def test_permutation_antithetic_pairs_take_pairwise_interactions_out() -> None:
    # A player's marginals in an order and in its reverse add up to the same in every order.
    values = closed_form("pairwise")[1]
    errors = {}
    for antithetic in (True, False):
        estimate = rank(ClosedFormGame(pairwise, 6), tolerance=0, budget=60 * 7, antithetic=antithetic)
        errors[antithetic] = (estimate.values - values).abs().max().item()
    assert errors[True] < 1e-5 < errors[False]


def test_permutation_standard_error_is_that_of_independent_blocks() -> None:
    game = ClosedFormGame(glove, 3)
    estimate = rank(game, tolerance=0, budget=101 * 2 * 4, seed=9)
    permutations, samples = sc.WalkSampler(3, 1, 9).walks(0, 202)
    steps = ClosedFormGame(glove, 3).walk_values(permutations, samples).double().diff(dim=1)
    marginals = torch.zeros(202, 3, dtype=torch.float64).scatter_(1, permutations.long(), steps)
    blocks = marginals.view(101, 2, 3).mean(1)
    assert estimate.standard_error is not None
    torch.testing.assert_close(estimate.values, blocks.mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(estimate.standard_error, blocks.std(0) / math.sqrt(101), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("antithetic", [True, False])
def test_permutation_standard_errors_are_honest_over_many_seeds(antithetic: bool) -> None:
    game, values = closed_form("majority")
    scores = []
    for seed in range(60):
        estimate = rank(game, tolerance=0, budget=200 * 8, seed=seed, antithetic=antithetic)
        assert estimate.standard_error is not None
        scores.append((estimate.values - values) / estimate.standard_error)
    mean_square = torch.stack(scores).square().mean().item()
    assert 0.7 < mean_square < 1.4


@pytest.mark.parametrize("chunk_walks", [2, 64])
def test_permutation_without_repeats_spends_every_walk_on_another_sample(chunk_walks: int) -> None:
    game, values = closed_form("by_sample", chunk_walks=chunk_walks)
    options: dict[str, Any] = {"tolerance": 0, "budget": 4 * 7, "antithetic": False, "seed": 0}
    estimate = rank(game, **options, repeats=False)
    assert estimate.options["n_walks"] == 4
    torch.testing.assert_close(estimate.values, values, rtol=0, atol=1e-6)  # all four samples were seen
    of_samples = torch.arange(1, 5)[:, None] * values / 2.5
    torch.testing.assert_close(estimate.standard_error, of_samples.std(0) / 2, rtol=1e-6, atol=1e-6)
    assert estimate.population_standard_error is None
    with_repeats = rank(closed_form("by_sample")[0], **options)  # two samples, twice each
    assert with_repeats.options["n_walks"] == 4
    assert (with_repeats.values - values).abs().max() > 0.1


def test_permutation_chunks_of_any_size_give_the_same_values() -> None:
    estimates = []
    for chunk_walks, chunk_visits in ((2, 1), (14, 6), (512, 240)):
        game, _ = closed_form("by_sample", chunk_walks=chunk_walks)
        estimates.append(rank(game, tolerance=0, budget=202 * 7, seed=3))
        assert estimates[-1].options["chunk_visits"] == chunk_visits
    for estimate in estimates[1:]:
        torch.testing.assert_close(estimate.values, estimates[0].values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(estimate.standard_error, estimates[0].standard_error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [100, 112, 299, 300])
def test_permutation_budget_is_kept_and_counted_by_the_game(shared: bool, budget: int) -> None:
    game, _ = closed_form("glove", chunk_walks=6)
    game.n_samples, game.n_evaluations = 3, 12345
    estimate = rank(game, tolerance=0, budget=budget, shared=shared)
    assert estimate.n_evaluations == game.n_evaluations - 12345 <= budget
    one_more_visit = 2 * (2 if estimate.options["n_walks"] < 64 else 1) * 4
    assert estimate.n_evaluations > budget - (2 * 4 * 3 if shared else one_more_visit)
    assert estimate.n_evaluations == estimate.options["n_walks"] * 4 * (3 if shared else 1)
    assert estimate.stopped == "budget"


def test_permutation_default_budget_is_32_pairs_for_every_sample_and_repeats() -> None:
    game, values = closed_form("by_sample")
    estimate = rank(game, tolerance=0)
    assert estimate.n_evaluations == 2 * (32 * 4 + 16 + 7) * 7  # the first 16 visits and then every 16th are doubled
    assert estimate.values.sum().item() == pytest.approx(values.sum().item(), abs=1e-5)
    assert rank(closed_form("glove")[0], tolerance=0).n_evaluations == 64 * 4  # one sample: nothing to tell apart


def test_permutation_tolerance_stops_early_and_is_met() -> None:
    game, _ = closed_form("glove")
    estimate = rank(game, tolerance=0.05, budget=10**6)
    assert estimate.stopped == "tolerance"
    assert estimate.n_evaluations < 10**5
    assert estimate.standard_error is not None
    spread = estimate.values.max() - estimate.values.min()
    assert (estimate.standard_error.max() / spread).item() < 0.05
    tighter = rank(ClosedFormGame(glove, 3), tolerance=0.01, budget=10**6)
    assert tighter.n_evaluations > 5 * estimate.n_evaluations


def test_permutation_tolerance_is_not_trusted_before_64_blocks() -> None:
    game, _ = closed_form("additive", chunk_walks=2)
    estimate = rank(game, tolerance=0.5, budget=1000 * 7)
    assert estimate.options["n_walks"] == 128


def test_permutation_shared_is_the_definition_of_the_paper() -> None:
    # One order for the whole data set; the payoff of a coalition is the mean over all samples.
    game, _ = closed_form("by_sample")
    estimate = rank(game, tolerance=0, budget=10 * 4 * 7, seed=6, shared=True, antithetic=False)
    assert estimate.n_evaluations == 280
    permutations, _ = sc.WalkSampler(6, 1, 6, antithetic=False).walks(0, 10)
    marginals = torch.zeros(6, dtype=torch.float64)
    for permutation in permutations.tolist():
        for place, player in enumerate(permutation):
            before, after = torch.zeros(2, 1, 6, dtype=torch.bool)
            before[0, permutation[:place]] = True
            after[0, permutation[: place + 1]] = True
            for sample in torch.arange(4):
                marginals[player] += (by_sample(after, sample) - by_sample(before, sample)).item() / 4 / 10
    torch.testing.assert_close(estimate.values, marginals, rtol=1e-5, atol=1e-5)


def far_and_close(masks: Tensor, samples: Tensor) -> Tensor:
    """Players worth 5, 4, 2/3, -5/3, 2 and 2.1, by orders too: the last two lie on either side of a boundary of 3."""
    weights = torch.tensor([5.0, 4.0, 0.0, -1.0, 2.0, 2.1], dtype=torch.float64)
    together = masks[:, [0, 2, 4]].all(1).double() - masks[:, [1, 3, 5]].all(1).double()
    return (
        masks.double() @ weights + together - masks[:, [0, 3, 4]].all(1).double() + masks[:, [1, 2, 5]].all(1).double()
    )


def test_permutation_racing_evaluates_only_the_players_that_are_not_settled() -> None:
    game = ClosedFormGame(far_and_close, 6, n_samples=10, chunk_walks=20)
    race = rank(game, tolerance=0, settle=3, racing=True, budget=10**5, antithetic=False)
    plain_game = ClosedFormGame(far_and_close, 6, n_samples=10, chunk_walks=20)
    plain = rank(plain_game, tolerance=0, settle=3, budget=10**5, antithetic=False)
    assert race.stopped == plain.stopped == "settled"
    assert set(race.ranking()[3:].tolist()) == set(plain.ranking()[3:].tolist()) == {0, 1, 5}
    assert race.n_evaluations == game.n_evaluations
    assert race.options["rows_saved"] == race.options["n_walks"] * 7 - race.n_evaluations
    assert race.options["rows_saved"] > 0.2 * race.n_evaluations
    # Players far from the boundary keep the errors that they had when they were settled.
    assert race.standard_error is not None
    assert plain.standard_error is not None
    assert (race.standard_error[:4] > 1.5 * plain.standard_error[:4]).all()
    torch.testing.assert_close(race.standard_error[4:], plain.standard_error[4:], rtol=0.3, atol=0)


def test_permutation_racing_is_right_as_often_as_it_says() -> None:
    right = 0
    for seed in range(40):
        game = ClosedFormGame(far_and_close, 6, n_samples=10, chunk_walks=20)
        estimate = rank(game, tolerance=0, settle=3, racing=True, confidence=0.8, budget=10**5, seed=seed)
        right += set(estimate.ranking()[3:].tolist()) == {0, 1, 5}
    assert right >= 32


@pytest.mark.parametrize(("shared", "budget"), [(True, 40 * 70), (False, 150 * 7)])
def test_permutation_racing_before_anything_is_settled_changes_nothing(shared: bool, budget: int) -> None:
    options = {"tolerance": 0, "budget": budget, "settle": 3, "shared": shared}
    plain, race = (
        rank(ClosedFormGame(far_and_close, 6, n_samples=10, chunk_walks=20), racing=racing, **options)
        for racing in (False, True)
    )
    assert race.options["rows_saved"] == 0
    assert torch.equal(race.values, plain.values)
    assert race.standard_error is not None
    assert plain.standard_error is not None
    assert torch.equal(race.standard_error, plain.standard_error)


def test_permutation_progress_is_told_after_every_chunk() -> None:
    game, _ = closed_form("glove", chunk_walks=10)
    told: list[sc.RankingProgress] = []
    estimate = rank(game, tolerance=0, budget=50 * 4, on_progress=told.append)
    assert [p.n_evaluations for p in told] == [40, 80, 120, 160, 200]
    assert all(p.budget == 200 and p.tolerance == 0 for p in told)
    assert told[-1].n_evaluations == estimate.n_evaluations
    assert told[-1].seconds_left == 0


def test_progress_seconds_left_follows_the_error_and_the_budget() -> None:
    def left(n_evaluations: int, error: float, tolerance: float) -> float:
        return sc.RankingProgress(n_evaluations, 1000, error, tolerance, seconds=2.0).seconds_left

    assert left(0, 1.0, 0.1) == math.inf
    assert left(100, math.inf, 0.1) == pytest.approx(18.0)  # the budget is ten times as much
    assert left(100, 0.2, 0.1) == pytest.approx(6.0)  # half the error takes four times as much
    assert left(100, 0.2, 0.0) == pytest.approx(18.0)
    assert left(100, 0.05, 0.1) == 0.0


def test_permutation_same_seed_same_bits_and_no_generator_touched() -> None:
    state = torch.get_rng_state()
    first, again, other = (
        rank(closed_form("pairwise")[0], tolerance=0, budget=700, seed=seed, antithetic=False) for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tolerance": -0.1}, "tolerance must be at least 0, got -0.1"),
        ({"tolerance": math.nan}, "tolerance must be at least 0, got nan"),
        ({"budget": 15}, "budget must be at least 16 rows (two visits of samples), got 15"),
        ({"budget": 0}, "budget must be at least 16 rows (two visits of samples), got 0"),
        (
            {"method": "permutatoin"},
            f"method must be one of {', '.join(RANKERS)}, got 'permutatoin'; did you mean 'permutation'?",
        ),
    ],
)
def test_rank_bad_option_is_refused(options: dict[str, Any], text: str) -> None:
    game, _ = closed_form("glove")
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        rank(game, **options)
    assert game.n_evaluations == 0


def test_rank_unknown_option_is_refused() -> None:
    text = "permutation ranking takes the options .*, got 'tolerence'; did you mean 'tolerance'?"
    with pytest.raises(TypeError, match=text):
        rank(closed_form("glove")[0], tolerence=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_permutation_payoff_that_is_not_finite_is_refused(bad: float) -> None:
    def broken(masks: Tensor, samples: Tensor) -> Tensor:
        return torch.where(samples == 1, bad, 0.0)

    game = ClosedFormGame(broken, 4, n_samples=3)
    with pytest.raises(sc.NonFinitePayoff, match=r"^4 of the last 12 walks met a payoff that is NaN or infinite"):
        rank(game, budget=12 * 5, tolerance=0)


def exact_values(game: sc.ChannelGame) -> Tensor:
    """Shapley values from all 2^C coalitions, by the definition."""
    n = game.n_players
    masks = torch.tensor(list(itertools.product([False, True], repeat=n)))
    worth = game(masks)
    index = (masks.long() * 2 ** torch.arange(n - 1, -1, -1)).sum(1)
    assert torch.equal(index, torch.arange(2**n))
    values = torch.zeros(n, dtype=torch.float64)
    for player in range(n):
        without = masks[:, player].logical_not().nonzero().flatten()
        size = masks[without].sum(1)
        weight = torch.tensor([1 / (n * math.comb(n - 1, k)) for k in range(n)], dtype=torch.float64)[size]
        values[player] = (weight * (worth[without + 2 ** (n - 1 - player)] - worth[without])).sum()
    return values


@pytest.mark.parametrize("group", ["0", "2", "6"])
def test_permutation_small_network_meets_the_sum_over_all_coalitions(group: str, device: str) -> None:
    model = prepared(
        nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(32, 7), nn.ReLU(), nn.Linear(7, 4),
        )
    ).to(device)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(40, 1, 8, 8, generator=generator), torch.randint(0, 4, (40,), generator=generator)
    game = sc.ChannelGame(model, group, (inputs.to(device), targets.to(device)))
    expected = exact_values(game)
    estimate = sc.rank(game, tolerance=0)
    assert estimate.standard_error is not None
    assert ((estimate.values - expected.cpu()).abs() <= STANDARD_ERRORS * estimate.standard_error).all()
    assert estimate.values.sum().item() == pytest.approx(expected.sum().item(), abs=1e-5)
    spread = (expected.max() - expected.min()).item()
    assert (estimate.standard_error < 0.1 * spread).all()  # else being within them would mean little
    again = sc.rank(game, tolerance=0)
    assert torch.equal(again.values, estimate.values)


def test_permutation_lenet5_two_walks_per_sample_rank_like_a_long_run() -> None:
    images, labels = sc.fashion_mnist_subset("rank").first(500)
    game = sc.ChannelGame(sc.pretrained("lenet5"), "conv2", (images, labels))
    walk_of_everyone = 500 * (game.n_players + 1)
    brief = sc.rank(game, tolerance=0, budget=2 * walk_of_everyone, seed=0)
    long = sc.rank(game, tolerance=0, budget=32 * walk_of_everyone, seed=1)
    assert brief.n_evaluations == 2 * walk_of_everyone
    assert kendalltau(brief.values, long.values).statistic >= 0.85
    assert long.standard_error is not None
    assert brief.standard_error is not None
    together = (long.standard_error**2 + brief.standard_error**2).sqrt()
    assert ((brief.values - long.values).abs() <= STANDARD_ERRORS * together).all()
