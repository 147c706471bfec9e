"""Rules that end an estimate: each says when it holds, and the first to hold ends it."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from closed_forms import ClosedFormGame, closed_form, glove, rank
from torch import Tensor

import shapley_cuda as sc
from shapley_cuda.rankers import chunks
from shapley_cuda.rankers.stopping import Boundary, Found, StoppingRules


def found(values: list[float], errors: list[float], n_draws: int = 1000, settled: tuple[int, ...] = ()) -> Found:
    as_tensors = [torch.tensor(numbers, dtype=torch.float64) for numbers in (values, errors)]
    active = torch.tensor([player not in settled for player in range(len(values))])
    return Found(as_tensors[0], as_tensors[1], None, n_draws, active)


def test_relative_error_is_the_largest_over_the_range() -> None:
    assert found([1.0, 5.0, 3.0], [0.1, 0.2, 0.4]).relative_error() == pytest.approx(0.1)
    assert found([1.0, 1.0], [0.0, 0.0]).relative_error() == 0.0
    assert found([1.0, 1.0], [0.1, 0.0]).relative_error() == math.inf
    assert found([1.0, 2.0], [math.inf, math.inf]).relative_error() == math.inf


def test_boundary_effort_is_the_square_of_reach_over_distance() -> None:
    # The boundary of 2 kept lies at 3; five players share out 0.05, two-sided: z = 2.5758.
    values, errors = [0.0, 2.0, 4.0, 7.0, 1.0], [1.0, 1.0, 0.1, 2.0, 0.0]
    effort = Boundary(2, 0.95).effort(found(values, errors))
    z = 2.5758293
    assert effort.tolist() == pytest.approx([1.0, z**2, 1.0, (2 * z / 4) ** 2, 1.0], rel=1e-6)


@pytest.mark.parametrize("n_kept", [0, 3, 4])
def test_boundary_of_all_or_none_is_settled(n_kept: int) -> None:
    assert (Boundary(n_kept, 0.95).effort(found([1.0, 2.0, 3.0], [9.0, 9.0, 9.0])) <= 1).all()


def test_boundary_players_known_to_lie_on_it_are_settled() -> None:
    effort = Boundary(2, 0.95).effort(found([0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.1]))
    assert (effort <= 1).all()
    effort = Boundary(2, 0.95).effort(found([0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.1, 0.1]))
    assert effort[2] == math.inf


def test_settled_players_stay_settled_and_out_of_the_error() -> None:
    told = found([0.0, 2.0, 4.0, 7.0], [9.0, 0.1, 0.2, 9.0], settled=(0, 3))
    assert (Boundary(2, 0.95).effort(told) <= 1).all()
    assert told.relative_error() == pytest.approx(0.2 / 7)
    assert found([0.0, 2.0], [9.0, 9.0], settled=(0, 1)).relative_error() == 0


@pytest.mark.parametrize(
    ("rules", "n_draws", "reason"),
    [
        (StoppingRules(0.2), 64, "tolerance"),
        (StoppingRules(0.2), 63, None),
        (StoppingRules(0.1), 64, None),
        (StoppingRules(0.0, Boundary(1, 0.9)), 64, "settled"),
        (StoppingRules(0.0, Boundary(1, 0.9)), 63, None),
        (StoppingRules(0.0, Boundary(2, 0.9)), 64, None),
        (StoppingRules(0.2, Boundary(1, 0.9)), 64, "settled"),
        (StoppingRules(0.2, Boundary(2, 0.9)), 64, "tolerance"),
    ],
)
def test_rules_first_to_hold_is_the_reason(rules: StoppingRules, n_draws: int, reason: str | None) -> None:
    assert rules.reason(found([0.0, 0.5, 5.0], [0.3, 0.5, 0.5], n_draws)) == reason


def test_rank_settled_keeps_the_players_that_are_worth_most() -> None:
    game, values = closed_form("glove")
    estimate = rank(game, tolerance=0, settle=1, budget=10**6)
    assert estimate.stopped == "settled"
    assert estimate.ranking()[-1] == values.argmax()
    assert estimate.n_evaluations < 10**4  # the others' tie need not be settled
    assert rank(closed_form("glove")[0], tolerance=0, settle=2, budget=10**4).stopped == "budget"


def test_rank_settled_set_is_right_as_often_as_it_says() -> None:
    # Two players on either side of the boundary are so close that stopping after the fewest visits would be a guess.
    weights = torch.tensor([0.0, 1.0, 1.05, 2.0], dtype=torch.float64)

    def payoff(masks: Tensor, samples: Tensor) -> Tensor:
        return masks.double() @ weights + masks[:, :3].all(1).double() - masks[:, 1:].all(1).double()

    right, rows = 0, []
    for seed in range(60):
        game = ClosedFormGame(payoff, 4)
        estimate = rank(game, tolerance=0, settle=0.5, confidence=0.8, budget=10**6, seed=seed, antithetic=False)
        assert estimate.stopped == "settled"
        right += set(estimate.ranking()[2:].tolist()) == {2, 3}
        rows.append(estimate.n_evaluations)
    assert right >= 48
    assert sorted(rows)[30] > 4 * 64 * 5


def test_rank_settle_share_is_rounded_and_never_none() -> None:
    # Players are worth 1/6, 7/6, 2, 2.001, 5 and 6: only a boundary between the third and the fourth is not settled.
    weights = torch.tensor([0.0, 1.0, 4 / 3, 2.001, 5.0, 6.0], dtype=torch.float64)

    def payoff(masks: Tensor, samples: Tensor) -> Tensor:
        return masks.double() @ weights + glove(masks, samples)

    stopped = {
        settle: rank(ClosedFormGame(payoff, 6), tolerance=0, settle=settle, budget=2000, antithetic=False).stopped
        for settle in (0.01, 0.1, 0.3, 0.5, 0.6, 1.0)
    }
    assert stopped == {0.01: "settled", 0.1: "settled", 0.3: "settled", 0.5: "budget", 0.6: "settled", 1.0: "settled"}


def test_rank_time_limit_ends_after_a_chunk() -> None:
    game, _ = closed_form("glove", chunk_walks=10)
    estimate = rank(game, tolerance=0, max_seconds=1e-9)
    assert estimate.stopped == "time"
    assert estimate.options["n_walks"] == 10
    assert rank(closed_form("glove")[0], tolerance=0, max_seconds=1e9).stopped == "budget"


def test_rank_seconds_are_those_of_all_chunks_the_last_included(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(chunks, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class SlowGame(ClosedFormGame):
        def walk_values(self, *args: Any, **kwargs: Any) -> Tensor:
            now[0] += 2.0
            return super().walk_values(*args, **kwargs)

    def seconds(**options: Any) -> tuple[float, str]:
        estimate = rank(SlowGame(glove, 3, chunk_walks=10), tolerance=0, **options)
        return estimate.seconds, estimate.stopped

    assert seconds(budget=10 * 4) == (2.0, "budget")
    assert seconds(budget=30 * 4) == (6.0, "budget")
    assert seconds(max_seconds=1.0) == (2.0, "time")
    assert seconds(max_seconds=4.0) == (4.0, "time")


def test_rank_whatever_comes_first_ends_it() -> None:
    reasons = {
        rank(ClosedFormGame(glove, 3), **options).stopped
        for options in (
            {"tolerance": 0.05, "settle": 2, "budget": 10**6},
            {"tolerance": 1e-4, "settle": 1, "budget": 10**6},
            {"tolerance": 1e-4, "settle": 2, "budget": 10**3},
            {"tolerance": 1e-4, "settle": 2, "max_seconds": 1e-9, "budget": 10**6},
        )
    }
    assert reasons == {"tolerance", "settled", "budget", "time"}


def test_progress_seconds_left_is_the_least_of_what_the_rules_leave() -> None:
    def left(**changes: Any) -> float:
        fields = {"n_evaluations": 100, "budget": 1000, "error": math.inf, "tolerance": 0.1, "seconds": 2.0}
        return sc.RankingProgress(**fields | changes).seconds_left

    assert left() == pytest.approx(18.0)
    assert left(max_seconds=5.0) == pytest.approx(3.0)
    assert left(max_seconds=1.0) == 0.0
    assert left(rows_to_settle=300.0) == pytest.approx(4.0)
    assert left(rows_to_settle=300.0, error=0.1) == 0.0
    assert left(n_evaluations=0, seconds=0.0, max_seconds=7.0) == 7.0


def test_progress_tells_how_many_players_are_settled() -> None:
    told: list[sc.RankingProgress] = []
    game, _ = closed_form("glove", chunk_walks=4)
    estimate = rank(game, tolerance=0, settle=1, budget=10**5, on_progress=told.append)
    assert estimate.stopped == "settled"
    assert all(p.n_players == 3 and p.rows_to_settle >= p.n_evaluations for p in told)
    assert told[0].n_settled is not None
    assert told[0].n_settled < 3
    assert told[-1].n_settled == 3
    assert told[-1].seconds_left == 0
    rank(closed_form("glove")[0], tolerance=0, on_progress=told.append)
    assert told[-1].n_settled is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"settle": 0.0}, "settle must be a share of the players to keep, as a float in (0, 1], or a number of them"),
        ({"settle": 1.5}, "settle must be a share of the players to keep"),
        ({"settle": 0}, "settle must be a share of the players to keep"),
        ({"settle": True}, "settle must be a share of the players to keep"),
        ({"settle": 4}, "settle must be at most the 3 players of the game, got 4"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"confidence": 0}, "confidence must be between 0 and 1, got 0"),
        ({"racing": True}, "racing must come with settle"),
        ({"max_seconds": 0}, "max_seconds must be above 0, got 0"),
        ({"max_seconds": math.nan}, "max_seconds must be above 0, got nan"),
    ],
)
def test_rank_bad_stopping_option_is_refused(options: dict[str, Any], text: str) -> None:
    game, _ = closed_form("glove")
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        rank(game, **options)
    assert game.n_evaluations == 0
