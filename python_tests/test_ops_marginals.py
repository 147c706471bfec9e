from __future__ import annotations

import pytest
import reference
import torch
from op_samples import random_permutations
from tolerances import assert_close
from torch import Tensor

from shapley_cuda.ops import marginals


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("walks", "n_players", "block"),
    [(1, 1, 1), (2, 3, 2), (64, 5, 1), (65, 33, 1), (130, 33, 2), (300, 4, 100), (129, 129, 3), (6, 3000, 2)],
)
def test_marginals_agree_with_the_reference(
    walks: int, n_players: int, block: int, dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    values = torch.randn(walks, n_players + 1, generator=generator, dtype=dtype).to(device)
    permutations = random_permutations(walks, n_players, generator).to(device)
    actual = marginals(values, permutations, block=block)
    for result, expected in zip(actual, reference.marginals(values, permutations, block), strict=True):
        assert result.dtype == torch.float64
        assert_close("marginals", result, expected)


def test_marginals_sum_to_what_the_walks_gain(device: str, generator: torch.Generator) -> None:
    values = torch.randn(200, 34, generator=generator).to(device)
    total, _ = marginals(values, random_permutations(200, 33, generator).to(device))
    gained = (values[:, -1].double() - values[:, 0].double()).sum()
    assert_close("marginals", total.sum(), gained)


def test_marginals_of_an_additive_game_are_its_weights(device: str, generator: torch.Generator) -> None:
    weights = torch.arange(1.0, 8.0, dtype=torch.float64, device=device)  # integers: every sum is exact
    permutations = random_permutations(6, 7, generator).to(device)
    values = torch.nn.functional.pad(weights[permutations.long()].cumsum(1), (1, 0))
    for block in (1, 2, 3, 6):
        total, squares = marginals(values, permutations, block=block)
        assert torch.equal(total, 6 * weights)
        assert torch.equal(squares, 6 // block * weights**2)


def test_marginals_antithetic_pairs_are_averaged_before_squaring(device: str) -> None:
    values = torch.tensor([[0.0, 5.0, 6.0], [0.0, 1.0, 6.0]], device=device)  # player 0: 5, 5; player 1: 1, 1
    permutations = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32, device=device)
    total, squares = marginals(values, permutations, block=2)
    assert total.tolist() == [10.0, 2.0]
    assert squares.tolist() == [25.0, 1.0]


def test_marginals_nan_value_stays_with_the_players_it_touches(device: str) -> None:
    values = torch.tensor([[0.0, 1.0, float("nan"), 3.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0]], device=device)
    permutations = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]], dtype=torch.int32, device=device)
    for result in marginals(values, permutations):
        assert result.isnan().tolist() == [True, False, False, True]


def test_marginals_no_walks_give_zeros(device: str) -> None:
    empty = torch.zeros(0, 3, dtype=torch.int32, device=device)
    for result in marginals(torch.zeros(0, 4, device=device), empty):
        assert result.tolist() == [0.0, 0.0, 0.0]


VALUES, PERMUTATIONS = torch.zeros(4, 4), torch.tensor([[0, 1, 2]] * 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("values", "permutations", "block", "message"),
    [
        (VALUES.half(), PERMUTATIONS, 1, "values must be float32 or float64 [R, C + 1], got float16 [4, 4]"),
        (VALUES[0], PERMUTATIONS, 1, "values must be float32 or float64 [R, C + 1], got float32 [4]"),
        (
            VALUES[:, :1],
            PERMUTATIONS,
            1,
            "values must be of at least one player, [R, C + 1] with C >= 1, got float32 [4, 1]",
        ),
        (VALUES, PERMUTATIONS.long(), 1, "permutations must be int32 [R = 4, C = 3], got int64 [4, 3]"),
        (VALUES, PERMUTATIONS[:3], 1, "permutations must be int32 [R = 4, C = 3], got int32 [3, 3]"),
        (VALUES, PERMUTATIONS, 0, "block must be at least 1 and a divisor of R = 4, got 0"),
        (VALUES, PERMUTATIONS, 3, "block must be at least 1 and a divisor of R = 4, got 3"),
    ],
)
def test_marginals_bad_argument_raises(
    values: Tensor, permutations: Tensor, block: int, message: str, device: str
) -> None:
    with pytest.raises(RuntimeError) as error:
        marginals(values.to(device), permutations.to(device), block=block)
    assert str(error.value) == "shapley::marginals: " + message


@pytest.mark.parametrize("row", [[0, 1, 3], [0, -1, 2], [0, 1, 1]])
def test_marginals_row_that_is_no_permutation_raises_or_gives_nan(row: list[int], device: str) -> None:
    permutations = PERMUTATIONS.clone()
    permutations[2] = torch.tensor(row)
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            marginals(VALUES, permutations)
        text = "shapley::marginals: permutations must be rows that hold each of 0 .. 2 once, got another at row 2"
        assert str(error.value) == text
    elif row != [0, 1, 1]:  # a player twice is not noticed there
        for result in marginals(VALUES.to(device), permutations.to(device)):
            assert result.isnan().all()
