"""Coalitions by number: the laws of the random ones, the order and completeness of the enumerated ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from reference import philox
from tolerances import STANDARD_ERRORS
from torch import Tensor

from shapley_cuda import ops
from shapley_cuda.samplers import (
    AllCoalitions,
    CoalitionsBySize,
    KernelSampler,
    UniformSizeSampler,
    _uniform,
    masks_of_codes,
)

Kind = type[KernelSampler] | type[UniformSizeSampler]
RANDOM: tuple[Kind, ...] = (KernelSampler, UniformSizeSampler)


def codes_of(masks: Tensor) -> list[int]:
    return [sum(1 << c for c, kept in enumerate(mask) if kept) for mask in masks.tolist()]


def size_law(sampler: KernelSampler | UniformSizeSampler) -> list[float]:
    """Probability of each size, from the papers' formulas."""
    n = sampler.n_players
    if isinstance(sampler, UniformSizeSampler):
        return [1 / (n + 1)] * (n + 1)
    kernel = [(n - 1) / (math.comb(n, s) * s * (n - s)) * math.comb(n, s) for s in range(1, n)]
    return [0.0, *(k / math.fsum(kernel) for k in kernel), 0.0]


def assert_frequencies(counts: Tensor, probabilities: list[float]) -> None:
    """Each within so many standard errors; what has no probability must not occur."""
    draws, p = int(counts.sum()), torch.tensor(probabilities, dtype=torch.float64)
    assert ((counts - draws * p).abs() <= STANDARD_ERRORS * (draws * p * (1 - p)).sqrt()).all()
    assert (counts[p == 0] == 0).all()


def test_uniform_is_philox_of_the_number_and_the_key() -> None:
    for key, first in ((7, 0), (-3, 5), (2**62 + 1, 2**32 - 2)):
        drawn = _uniform(key, first, 4, "cpu")
        for i, number in enumerate(range(first, first + 4)):
            words = philox((0, 1, number & 0xFFFFFFFF, number >> 32), (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))
            assert drawn[i].item() == (words[0] << 21 | words[1] >> 11) / 2**53


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("n_players", [2, 3, 10])
def test_random_sizes_have_the_law_promised(kind: Kind, n_players: int, paired: bool) -> None:
    sampler = kind(n_players, seed=2, paired=paired)
    masks = sampler.masks(0, 40_000)[:: sampler.block]  # only blocks are independent
    assert_frequencies(torch.bincount(masks.sum(1), minlength=n_players + 1), size_law(sampler))
    if paired:  # the law favours no size over its complement's, so the others of the pairs have it too
        others = sampler.masks(0, 40_000)[1::2]
        assert_frequencies(torch.bincount(others.sum(1), minlength=n_players + 1), size_law(sampler))


@pytest.mark.parametrize("kind", RANDOM)
def test_random_subsets_of_a_size_are_equally_frequent(kind: Kind) -> None:
    masks = kind(5, seed=3, paired=False).masks(0, 40_000)
    for size in (1, 2, 3, 4):
        codes = torch.tensor(codes_of(masks[masks.sum(1) == size]))
        subsets = [sum(1 << c for c in subset) for subset in itertools.combinations(range(5), size)]
        counts = torch.bincount(codes, minlength=32)[subsets]
        assert_frequencies(counts, [1 / len(subsets)] * len(subsets))


def test_random_sizes_of_thousands_of_players_keep_to_the_law() -> None:
    sampler = KernelSampler(4096, seed=1, paired=False)
    sizes = sampler.masks(0, 2000).sum(1)
    assert 1 <= int(sizes.min()) <= int(sizes.max()) <= 4095
    ends = int(((sizes == 1) | (sizes == 4095)).sum())
    harmonic = math.fsum(1 / size for size in range(1, 4096))  # 1 / (s (C - s)) = (1 / s + 1 / (C - s)) / C
    probability = (1 + 1 / 4095) / harmonic
    assert_frequencies(torch.tensor([ends, 2000 - ends]), [probability, 1 - probability])


@pytest.mark.parametrize("kind", RANDOM)
def test_random_pairs_are_complements_and_the_first_is_the_unpaired_draw(kind: Kind) -> None:
    paired, single = kind(9, seed=4, paired=True), kind(9, seed=4, paired=False)
    assert (paired.block, single.block) == (2, 1)
    masks = paired.masks(0, 60)
    assert torch.equal(masks[0::2], ~masks[1::2])
    assert torch.equal(masks[0::2], single.masks(0, 30))
    assert len(set(codes_of(single.masks(0, 200)))) > 50


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("kind", RANDOM)
def test_random_any_split_into_calls_gives_the_same(kind: Kind, paired: bool, device: str) -> None:
    sampler = kind(17, seed=-5, paired=paired)
    masks = sampler.masks(0, 100)
    for first, count in ((0, 1), (1, 1), (13, 29), (99, 1), (14, 28), (50, 0)):
        part = sampler.masks(first, count, device)
        assert part.device.type == device
        assert torch.equal(part.cpu(), masks[first : first + count])
    far = 2**40 + 1
    assert torch.equal(sampler.masks(far, 3)[1:], sampler.masks(far + 1, 2))


def test_random_streams_of_one_seed_differ_from_each_other_and_from_the_walks() -> None:
    kernel, uniform = (kind(20, seed=3, paired=False).masks(0, 50) for kind in RANDOM)
    walks = ops.sample_permutations(3, 0, 50, 20).long()
    heads = [torch.zeros(50, 20, dtype=torch.bool).scatter_(1, walks, torch.arange(20) < m.sum(1)[:, None])
             for m in (kernel, uniform)]  # fmt: skip
    large = (kernel.sum(1) > 4) & (kernel.sum(1) < 16)
    assert not (kernel == uniform).all(1)[large].any()
    assert not (kernel == heads[0]).all(1)[large].any()
    large = (uniform.sum(1) > 4) & (uniform.sum(1) < 16)
    assert not (uniform == heads[1]).all(1)[large].any()


def test_random_seed_decides_everything_and_touches_no_generator() -> None:
    state = torch.get_rng_state()
    first = KernelSampler(11, seed=6).masks(0, 30)
    torch.manual_seed(1)
    again = KernelSampler(11, seed=6).masks(0, 30)
    torch.set_rng_state(state)
    assert torch.equal(first, again)
    assert not torch.equal(first, KernelSampler(11, seed=7).masks(0, 30))


def test_random_too_few_players_are_refused() -> None:
    with pytest.raises(ValueError, match="n_players of KernelSampler must be at least 2, got 1"):
        KernelSampler(1)
    with pytest.raises(ValueError, match="n_players of UniformSizeSampler must be at least 1, got 0"):
        UniformSizeSampler(0)


@pytest.mark.parametrize("n_players", [1, 2, 5, 9])
def test_by_size_each_size_is_complete_and_in_the_order_of_codes(n_players: int) -> None:
    for size in range(n_players + 1):
        coalitions = CoalitionsBySize(n_players, (size,))
        subsets = itertools.combinations(range(n_players), size)
        expected = sorted(sum(1 << c for c in subset) for subset in subsets)
        assert coalitions.count == len(expected)
        assert codes_of(coalitions.masks(0, coalitions.count)) == expected


def test_by_size_sizes_follow_each_other_and_any_split_into_calls_gives_the_same(device: str) -> None:
    coalitions = CoalitionsBySize(7, (7, 2, 0, 6))
    masks = coalitions.masks(0, coalitions.count)
    assert masks.sum(1).tolist() == [7] + [2] * 21 + [0] + [6] * 7
    for first, count in ((0, 1), (0, 3), (5, 20), (21, 3), (29, 1), (30, 0), (4, 0)):
        part = coalitions.masks(first, count, device)
        assert part.device.type == device
        assert torch.equal(part.cpu(), masks[first : first + count])


def test_by_size_many_players_are_found_by_their_number_alone() -> None:
    coalitions = CoalitionsBySize(300, (7, 293))  # 4e13 of each
    half = math.comb(300, 7)
    assert coalitions.count == 2 * half
    generator = torch.Generator().manual_seed(0)
    for number in [0, 1, half - 1, *torch.randint(half, (20,), generator=generator).tolist()]:
        players = coalitions.masks(number, 1)[0].nonzero().flatten().tolist()
        assert sum(math.comb(player, place + 1) for place, player in enumerate(players)) == number
        mirrored = coalitions.masks(2 * half - 1 - number, 1)[0]
        assert (~mirrored).nonzero().flatten().tolist() == players  # complements come in the reverse order


def test_all_coalitions_every_code_once_and_neighbours_differ_in_one_bit(device: str) -> None:
    for n_players in (1, 2, 6):
        coalitions = AllCoalitions(n_players)
        codes = coalitions.codes(0, coalitions.count, device)
        assert codes.device.type == device
        assert sorted(codes.tolist()) == list(range(1 << n_players))
        assert all((a ^ b).bit_count() == 1 for a, b in itertools.pairwise(codes.tolist()))
        assert codes_of(coalitions.masks(0, coalitions.count)) == codes.tolist()
        assert torch.equal(coalitions.codes(1, 1, device), codes[1:2])


def test_masks_of_codes_up_to_62_players() -> None:
    code = (1 << 61) | (1 << 33) | 1
    assert masks_of_codes(torch.tensor([code]), 62)[0].nonzero().flatten().tolist() == [0, 33, 61]
    assert codes_of(AllCoalitions(62).masks(2**61, 2)) == AllCoalitions(62).codes(2**61, 2).tolist()


def test_enumerated_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes must be different numbers in \[0, 4\], got \(1, 5\)"):
        CoalitionsBySize(4, (1, 5))
    with pytest.raises(ValueError, match=r"sizes must be different numbers in \[0, 4\], got \(1, 1\)"):
        CoalitionsBySize(4, (1, 1))
    with pytest.raises(ValueError, match=r"sizes must give fewer than 2\^62 coalitions"):
        CoalitionsBySize(300, (20,))
    for n_players in (0, 63):
        with pytest.raises(ValueError, match=rf"n_players of AllCoalitions must be in \[1, 62\], got {n_players}"):
            AllCoalitions(n_players)
    with pytest.raises(ValueError, match=r"must be in \[0, 8\), got 2 from 7 onwards"):
        AllCoalitions(3).codes(7, 2)
    with pytest.raises(ValueError, match=r"must be in \[0, 3\), got 1 from -1 onwards"):
        CoalitionsBySize(3, (1,)).masks(-1, 1)
