"""Oracle sets: against brute force over itertools, and worked by hand where the answer is known."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from architectures import build
from closed_forms import ClosedFormGame, Payoff, additive, majority, pairwise, unanimity
from torch import Tensor

import shapley_cuda as sc
from shapley_cuda.oracle import OracleSets, oracle_agreement, oracle_rank, oracle_sets


def synergy(masks: Tensor, samples: Tensor) -> Tensor:
    """Players 0 and 1 replace each other (worth 6 if either is there); players 2 and 3 are worth 1 and 2.

    Best to remove: {2} would cost 1, {0} nothing; {0, 2} costs 1, {0, 1} costs 6, {0, 2, 3} costs 3.
    """
    return 6.0 * masks[:, :2].any(1).double() + masks[:, 2] + 2.0 * masks[:, 3]


def unnested(masks: Tensor, samples: Tensor) -> Tensor:
    """Players 0 and 1 are of use only together (5); players 2, 3 bring 3 and 4. Missed least: {2}, then {0, 1}."""
    return 5.0 * masks[:, :2].all(1).double() + 3.0 * masks[:, 2] + 4.0 * masks[:, 3]


def find(payoff: Payoff, n_players: int, n_samples: int = 1, **options: Any) -> OracleSets:
    game = ClosedFormGame(payoff, n_players, n_samples)
    sets = oracle_sets(cast(sc.ChannelGame, game), **options)
    assert sets.n_evaluations == game.n_evaluations
    return sets


def mask(players: tuple[int, ...], n_players: int) -> Tensor:
    kept = torch.zeros(1, n_players, dtype=torch.bool)
    kept[0, list(players)] = True
    return kept


def players(masks: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in masks]


def brute_force(payoff: Payoff, n_players: int, size: int, removing: bool) -> tuple[list[int], float]:
    """The best set, one at a time; of equal ones that which removes the smallest code."""

    def judged(chosen: tuple[int, ...]) -> tuple[float, int]:
        kept = mask(chosen, n_players) ^ removing
        code = sum(1 << c for c, is_kept in enumerate(kept[0].tolist()) if not is_kept)
        return float(payoff(kept, torch.zeros(1, dtype=torch.int64))), -code

    best = max(itertools.combinations(range(n_players), size), key=judged)
    return list(best), judged(best)[0]


GAMES: dict[str, tuple[Payoff, int]] = {
    "additive": (additive, 6),
    "unanimity": (unanimity, 6),
    "majority": (majority, 7),
    "pairwise": (pairwise, 6),
    "synergy": (synergy, 4),
    "unnested": (unnested, 4),
}


@pytest.mark.parametrize("at_once", [1, 5, 1 << 22])
@pytest.mark.parametrize("max_size", [None, 1, 2])
@pytest.mark.parametrize("name", GAMES)
def test_exhaustive_is_brute_force_whatever_the_batches(
    name: str, max_size: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    payoff, n_players = GAMES[name]
    monkeypatch.setattr("shapley_cuda.oracle._MASK_BYTES_AT_ONCE", at_once * n_players)
    sets = find(payoff, n_players, max_size=max_size, method="exhaustive")
    assert sets.exhaustive
    assert sets.max_size == (max_size or n_players)
    for size in range(sets.max_size + 1):
        for masks, payoffs, removing in (
            (sets.removed, sets.removed_payoffs, True),
            (sets.kept, sets.kept_payoffs, False),
        ):
            expected, value = brute_force(payoff, n_players, size, removing)
            assert players(masks[size : size + 1]) == [expected]
            assert payoffs[size].item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("method", ["exhaustive", "greedy"])
def test_additive_game_removes_the_least_worth_and_keeps_the_most(method: str) -> None:
    sets = find(additive, 6, method=method)  # worth 0.5, -1, 0, 2, 0.25, 3
    order = [1, 2, 4, 0, 3, 5]
    assert players(sets.removed) == [sorted(order[:size]) for size in range(7)]
    assert players(sets.kept) == [sorted(order[6 - size :]) for size in range(7)]
    assert sets.removed_payoffs.tolist() == [4.75, 5.75, 5.75, 5.5, 5.0, 3.0, 0.0]
    assert sets.kept_payoffs.tolist() == [0.0, 3.0, 5.0, 5.5, 5.75, 5.75, 4.75]


def test_unanimity_game_removes_those_who_are_not_needed_the_lower_first() -> None:
    sets = find(unanimity, 6)  # needs 1, 2 and 4
    assert players(sets.removed)[:4] == [[], [0], [0, 3], [0, 3, 5]]
    assert sets.removed_payoffs.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert players(sets.removed)[4] == [0, 1, 2, 3]  # nothing is left to lose: the smallest code
    assert players(sets.kept)[3] == [1, 2, 4]


def test_unnested_sets_are_found_and_the_greedy_walk_misses_them() -> None:
    exhaustive = find(unnested, 4)
    assert players(exhaustive.removed) == [[], [2], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert players(exhaustive.kept) == [[], [3], [2, 3], [0, 1, 3], [0, 1, 2, 3]]
    greedy = find(unnested, 4, method="greedy")
    assert (greedy.method, greedy.exhaustive) == ("greedy", False)
    assert players(greedy.removed) == [[], [2], [2, 3], [0, 2, 3], [0, 1, 2, 3]]
    assert greedy.removed_payoffs.tolist() == [12, 9, 5, 0, 0]
    assert players(greedy.kept) == [[], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]  # nothing gained: the highest joins
    assert greedy.kept_payoffs.tolist() == [0, 4, 7, 7, 12]


@pytest.mark.parametrize("name", GAMES)
def test_greedy_is_nested_and_no_better_than_exhaustive(name: str) -> None:
    payoff, n_players = GAMES[name]
    greedy, exhaustive = (find(payoff, n_players, method=method) for method in ("greedy", "exhaustive"))
    for field in ("removed", "kept"):
        masks = getattr(greedy, field)
        assert masks.sum(1).tolist() == list(range(n_players + 1))
        assert not (masks[:-1] & ~masks[1:]).any()
        assert (getattr(greedy, f"{field}_payoffs") <= getattr(exhaustive, f"{field}_payoffs") + 1e-12).all()


@pytest.mark.parametrize("method", ["exhaustive", "greedy"])
def test_equal_players_are_removed_in_the_order_in_which_a_ranking_has_them(method: str) -> None:
    sets = find(majority, 7, method=method)
    assert players(sets.removed) == [list(range(size)) for size in range(8)]
    assert players(sets.kept) == [list(range(7 - size, 7)) for size in range(8)]
    agreement = oracle_agreement(torch.arange(7), sets)
    assert (agreement.removed_pooled, agreement.kept_pooled) == (1, 1)


def test_cost_is_what_is_promised_and_the_budget_decides() -> None:
    def find_costly(**options: Any) -> OracleSets:
        return find(pairwise, 6, n_samples=3, **options)

    assert find_costly(method="exhaustive").n_evaluations == 64 * 3
    assert find_costly(method="exhaustive", max_size=2).n_evaluations == (1 + 6 + 15) * 2 * 3
    assert find_costly(method="greedy").n_evaluations == (2 + 2 * 21) * 3
    assert find_costly(method="greedy", max_size=2).n_evaluations == (2 + 2 * 11) * 3
    assert find_costly(budget=192).exhaustive
    assert not find_costly(budget=191).exhaustive
    message = (
        "budget must be at least 132 rows for greedy oracle sets of up to 6 of 6 players, got 131; exhaustive ones"
    )
    with pytest.raises(ValueError, match=message):
        find_costly(budget=131)
    with pytest.raises(ValueError, match="budget must be at least 192 rows for exhaustive oracle sets"):
        find_costly(method="exhaustive", budget=191)


def test_auto_many_players_is_greedy_unless_the_sets_are_small() -> None:
    def sizes(masks: Tensor, samples: Tensor) -> Tensor:
        return masks.double() @ torch.arange(40).double()

    assert not find(sizes, 40).exhaustive
    few = find(sizes, 40, max_size=2)
    assert few.exhaustive
    assert players(few.removed) == [[], [0], [0, 1]]
    assert players(few.kept) == [[], [39], [38, 39]]
    cost = r"exhaustive oracle sets of up to 40 of 40 players take about 10\^12.0 rows, .* \(1642 rows\)"
    with pytest.raises(ValueError, match=cost):
        find(sizes, 40, method="exhaustive")
    assert not find(sizes, 40, budget=10**20).exhaustive


def test_cost_of_thousands_of_players_can_be_told() -> None:
    game = ClosedFormGame(additive, 20_000)
    with pytest.raises(ValueError, match=r"take about 10\^6020.6 rows"):
        oracle_sets(cast(sc.ChannelGame, game), method="exhaustive")
    assert game.n_evaluations == 0


@pytest.mark.parametrize("method", ["exhaustive", "greedy"])
def test_nan_payoffs_are_worse_than_any_and_a_size_without_others_is_refused(method: str) -> None:
    def broken(masks: Tensor, samples: Tensor) -> Tensor:
        return torch.where(masks[:, 0], additive(masks, samples) - 100, torch.nan)

    game = ClosedFormGame(broken, 6)
    with pytest.raises(ValueError, match="game must have a finite payoff for each size, got none for 0 kept players"):
        oracle_sets(cast(sc.ChannelGame, game), method=method)

    def half_broken(masks: Tensor, samples: Tensor) -> Tensor:
        return torch.where(masks[:, 0] | (masks.sum(1) == 0), additive(masks, samples), torch.nan)

    sets = find(half_broken, 6, method=method)
    assert not sets.removed[:-1, 0].any()
    assert sets.kept[1:, 0].all()


def test_bad_arguments_are_refused_before_anything_is_evaluated() -> None:
    game = ClosedFormGame(additive, 6)
    for options, message in (
        ({"max_size": 0}, r"max_size must be in \[1, 6\], got 0"),
        ({"max_size": 7}, r"max_size must be in \[1, 6\], got 7"),
        ({"method": "lucky"}, "method must be one of auto, exhaustive, greedy, got 'lucky'"),
    ):
        with pytest.raises(ValueError, match=message):
            oracle_sets(cast(sc.ChannelGame, game), **cast(dict[str, Any], options))
    assert game.n_evaluations == 0


def test_rank_counts_the_keep_sets_of_all_sizes() -> None:
    assert oracle_rank(find(unnested, 4)).tolist() == [2, 2, 2, 4]  # of {3}, {2, 3}, {0, 1, 3}, everyone
    assert oracle_rank(find(additive, 6)).tolist() == [4, 1, 2, 5, 3, 6]


def test_rank_of_some_sizes_takes_those_to_keep_and_what_removing_leaves() -> None:
    assert oracle_rank(find(unnested, 4, max_size=1)).tolist() == [2, 2, 1, 3]  # of {3}, {0, 1, 3}, everyone


def test_rank_of_greedy_sets_takes_the_better_of_two_for_a_size() -> None:
    # Adding finds {3} and {2, 3}, removing leaves {1} and {0, 1}; of three players removing leaves the better.
    assert oracle_rank(find(unnested, 4, method="greedy")).tolist() == [2, 2, 2, 4]


def test_agreement_worked_by_hand() -> None:
    sets = find(unnested, 4)  # to remove {2}, {0, 1}, {0, 1, 2}; to keep {3}, {2, 3}, {0, 1, 3}
    agreement = oracle_agreement(torch.tensor([2, 0, 1, 3]), sets)
    assert agreement.sizes == (1, 2, 3)
    assert agreement.removed == agreement.kept == (1, 0.5, 1)
    assert agreement.removed_pooled == agreement.kept_pooled == pytest.approx(5 / 6)
    other = oracle_agreement(torch.tensor([2, 3, 0, 1]), sets, sizes=[3, 1])
    assert other.sizes == (3, 1)
    assert other.removed == (2 / 3, 1)
    assert other.kept == (1, 0)
    assert (other.removed_pooled, other.kept_pooled) == (3 / 4, 3 / 4)


def test_agreement_with_the_ranking_of_an_additive_game_is_whole_and_with_its_reverse_small() -> None:
    sets = find(additive, 6, max_size=3)
    ranking = torch.tensor([1, 2, 4, 0, 3, 5])
    assert oracle_agreement(ranking, sets).sizes == (1, 2, 3)
    assert oracle_agreement(ranking, sets).removed_pooled == 1
    assert oracle_agreement(ranking.flip(0), sets).removed_pooled == 0
    assert oracle_agreement(ranking.flip(0), sets, sizes=[3]).kept == (0,)


def test_agreement_bad_arguments_are_refused() -> None:
    sets = find(additive, 6, max_size=3)
    with pytest.raises(ValueError, match=r"ranking must hold each of the 6 players once, got \[0, 0, 1, 2, 3, 4\]"):
        oracle_agreement(torch.tensor([0, 0, 1, 2, 3, 4]), sets)
    for sizes in ([], [0], [4]):
        with pytest.raises(ValueError, match=r"sizes must be one or more numbers in \[1, 3\], got"):
            oracle_agreement(torch.arange(6), sets, sizes=sizes)


def test_one_player_has_sets_too() -> None:
    for method in ("exhaustive", "greedy"):
        sets = find(lambda masks, samples: masks[:, 0].double(), 1, method=method)
        assert players(sets.removed) == players(sets.kept) == [[], [0]]
        assert oracle_agreement(torch.tensor([0]), sets).removed_pooled == 1


def test_saved_sets_come_back_bit_for_bit(tmp_path: Path) -> None:
    sets = find(pairwise, 6, max_size=4, method="greedy")
    sets.save(tmp_path / "sets.json")
    again = OracleSets.load(tmp_path / "sets.json")
    assert (again.group, again.method, again.n_evaluations, again.seconds, again.n_players, again.max_size) == (
        "closed form", "greedy", sets.n_evaluations, sets.seconds, 6, 4,
    )  # fmt: skip
    for name in ("removed", "removed_payoffs", "kept", "kept_payoffs"):
        assert torch.equal(getattr(again, name), getattr(sets, name))
        assert getattr(again, name).dtype == getattr(sets, name).dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_players": 0}, r"n_players of oracle sets must be in \[1, 16776961\), got 0"),
        ({"n_players": 1 << 62}, r"n_players of oracle sets must be in \[1, 16776961\), got 4611686018427387904"),
        ({"method": "auto"}, "method of oracle sets must be one of"),
        ({"removed": [[], [6]]}, r"removed of oracle sets must list 0, 1, 2 .. different players in \[0, 6\)"),
        ({"kept": [[], [1], [2, 2]]}, "kept of oracle sets must list"),
        ({"kept": []}, "kept of oracle sets must list"),
        ({"kept": [[], [[1]]]}, "kept of oracle sets must list"),
        ({"kept_payoffs": [0.0, "1", 2.0]}, "kept_payoffs of oracle sets must be a list of numbers"),
        ({"kept_payoffs": [0.0, 1.0, math.inf]}, "kept_payoffs of oracle sets must be a list of numbers"),
        ({"group": 3}, "group of oracle sets must be of kind str, got 3"),
        ({"seconds": math.nan}, "seconds of oracle sets must be of kind float, got nan"),
        ({"kept_payoffs": [0.0, 1.0]}, "as many sets to remove as to keep, and a payoff for each"),
        ({"format": "other"}, "oracle sets must be a JSON object of format"),
    ],
)
def test_records_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    record = json.loads(find(additive, 6, max_size=2).to_json())
    with pytest.raises(ValueError, match=message):
        OracleSets.from_json(json.dumps(record | change))


def test_network_payoffs_of_the_sets_are_those_of_the_game() -> None:
    model, inputs, targets = build("chain")
    for group in ("conv1", "fc1"):
        game = sc.ChannelGame(model, group, (inputs, targets))
        everyone = torch.ones(1, game.n_players, dtype=torch.bool)
        for options in ({"method": "exhaustive"}, {"method": "exhaustive", "max_size": 1}, {"method": "greedy"}):
            sets = oracle_sets(game, **cast(dict[str, Any], options))
            assert sets.group == group
            torch.testing.assert_close(sets.removed_payoffs, game(~sets.removed), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(sets.kept_payoffs, game(sets.kept), rtol=1e-6, atol=1e-6)
            one_less = game(~torch.eye(game.n_players, dtype=torch.bool))
            assert sets.removed_payoffs[0].item() == pytest.approx(game(everyone).item(), rel=1e-5)
            assert sets.removed_payoffs[1].item() == pytest.approx(one_less.max().item(), rel=1e-5)
