from __future__ import annotations

import math

import pytest
import reference
import torch
from conftest import CUDA
from scipy.stats import chi2

import shapley_cuda
from shapley_cuda.ops import sample_permutations


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_reference_philox_gives_the_published_words(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert reference.philox(counter, key) == words


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("n_players", [1, 2, 3, 4, 33, 129, 1134])
@pytest.mark.parametrize(("seed", "first"), [(0, 0), (-1, 5), (2**63 - 1, 2**32 - 1), (-(2**63), 2**40 + 7)])
def test_sample_permutations_equal_the_reference(
    seed: int, first: int, n_players: int, antithetic: bool, device: str
) -> None:
    actual = sample_permutations(seed, first, 3, n_players, antithetic=antithetic, device=device)
    expected = reference.sample_permutations(seed, first, 3, n_players, antithetic)
    assert actual.dtype == torch.int32
    assert actual.device.type == device
    assert torch.equal(actual.cpu(), expected)


def test_sample_permutations_rows_hold_every_player_once(device: str) -> None:
    walks = sample_permutations(3, 0, 50, 3000, device=device)
    assert torch.equal(walks.sort(1).values.cpu(), torch.arange(3000, dtype=torch.int32).expand(50, 3000))


@pytest.mark.parametrize("antithetic", [False, True])
def test_sample_permutations_do_not_depend_on_the_split(antithetic: bool, device: str) -> None:
    whole = sample_permutations(5, 0, 101, 17, antithetic=antithetic, device=device)
    for size in (1, 2, 7, 50):
        parts = [
            sample_permutations(5, first, min(size, 101 - first), 17, antithetic=antithetic, device=device)
            for first in range(0, 101, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_sample_permutations_antithetic_walks_are_reversed_pairs(device: str) -> None:
    pairs = sample_permutations(5, 0, 20, 17, antithetic=True, device=device)
    assert torch.equal(pairs[1::2], pairs[::2].flip(1))
    assert torch.equal(pairs[::2], sample_permutations(5, 0, 10, 17, device=device))


def test_sample_permutations_of_different_seeds_differ(device: str) -> None:
    walks = [sample_permutations(seed, 0, 1, 64, device=device)[0].tolist() for seed in range(8)]
    assert len({tuple(walk) for walk in walks}) == 8


def test_sample_permutations_all_orders_are_equally_frequent(device: str) -> None:
    count, n_players = 60000, 4
    walks = sample_permutations(1, 0, count, n_players, device=device).cpu().long()
    codes = (walks * torch.tensor([64, 16, 4, 1])).sum(1)
    seen = codes.unique(return_counts=True)[1].double()
    orders = math.factorial(n_players)
    assert len(seen) == orders
    assert float(((seen - count / orders) ** 2 / (count / orders)).sum()) < chi2.ppf(0.999, orders - 1)


def test_sample_permutations_players_take_all_places_equally_often(device: str) -> None:
    count, n = 20000, 33
    walks = sample_permutations(2, 0, count, n, device=device).cpu().long()
    seen = torch.zeros(n, n, dtype=torch.float64)  # [place, player]
    for place in range(n):
        seen[place] = torch.bincount(walks[:, place], minlength=n)
    statistic = float(((seen - count / n) ** 2 / (count / n)).sum())
    # Rows and columns sum to `count`: Chi^2 with (n - 1)^2 degrees, stretched since a walk's places exclude each other.
    assert statistic * (n - 1) / n < chi2.ppf(0.999, (n - 1) ** 2)


def test_sample_permutations_no_walks_gives_an_empty_tensor(device: str) -> None:
    assert sample_permutations(0, 0, 0, 5, device=device).shape == (0, 5)


@pytest.mark.parametrize(
    ("first", "count", "n_players", "device", "message"),
    [
        (-1, 1, 3, None, "first must be at least 0, got -1"),
        (0, -2, 3, None, "count must be at least 0 and first + count below 2^63, got -2"),
        (2**63 - 1, 2, 3, None, "count must be at least 0 and first + count below 2^63, got 2"),
        (0, 1, 0, None, "n_players must be in [1, 16776960], got 0"),
        (0, 1, 16776961, None, "n_players must be in [1, 16776960], got 16776961"),
        (0, 1, 3, "meta", "device must be cpu or cuda, got another device"),
    ],
)
def test_sample_permutations_bad_argument_raises(
    first: int, count: int, n_players: int, device: str | None, message: str
) -> None:
    with pytest.raises(RuntimeError) as error:
        sample_permutations(0, first, count, n_players, device=device)
    assert str(error.value) == "shapley::sample_permutations: " + message


@pytest.mark.skipif(CUDA, reason="a CUDA device can be used")
def test_sample_permutations_without_cuda_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError) as error:
        sample_permutations(0, 0, 1, 3, device="cuda")
    if not shapley_cuda.build_info().cuda:
        missing = (
            "this build of shapley_cuda has no CUDA kernels; "
            "install it again where nvcc is on PATH, with SHAPLEY_CUDA=1"
        )
    elif torch.version.cuda is None:
        missing = "this torch has no CUDA"
    else:
        missing = "no CUDA device can be used: "
    assert str(error.value).startswith("shapley::sample_permutations: " + missing)
