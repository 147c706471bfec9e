"""Walks by number: the same walk whoever asks, each sample once in every pass."""

from __future__ import annotations

import pytest
import torch

from shapley_cuda import WalkSampler, ops
from shapley_cuda.samplers import fold_halves


def test_walks_any_split_into_calls_gives_the_same(device: str) -> None:
    sampler = WalkSampler(n_players=33, n_samples=7, seed=5)
    permutations, samples = sampler.walks(0, 100)
    for first, count in ((0, 1), (1, 1), (13, 29), (99, 1), (14, 28)):
        part, part_samples = sampler.walks(first, count, device)
        assert part.device.type == part_samples.device.type == device
        assert torch.equal(part.cpu(), permutations[first : first + count])
        assert torch.equal(part_samples.cpu(), samples[first : first + count])


@pytest.mark.parametrize(("n_players", "n_samples"), [(1, 1), (2, 3), (9, 1), (9, 5), (10, 40)])
@pytest.mark.parametrize("antithetic", [True, False])
def test_walks_folded_any_split_into_calls_gives_the_same(
    n_players: int, n_samples: int, antithetic: bool, device: str
) -> None:
    sampler = WalkSampler(n_players, n_samples, seed=5, antithetic=antithetic, folded=True)
    permutations, samples = sampler.walks(0, 300)
    for first, count in ((0, 1), (1, 1), (13, 29), (299, 1), (14, 260), (7, 0)):
        part, part_samples = sampler.walks(first, count, device)
        assert part.device.type == part_samples.device.type == device
        assert torch.equal(part.cpu(), permutations[first : first + count])
        assert torch.equal(part_samples.cpu(), samples[first : first + count])


@pytest.mark.parametrize("n_players", [1, 2, 7, 12])
def test_walks_folded_second_pass_turns_either_half_of_the_first_one_round(n_players: int) -> None:
    plain = WalkSampler(n_players, n_samples=6, seed=3)
    permutations, samples = WalkSampler(n_players, n_samples=6, seed=3, folded=True).walks(0, 4 * 12)
    first, second = permutations.view(2, 2, 6, 2, n_players).unbind(1)
    half = n_players // 2
    assert torch.equal(first.flatten(0, 2), plain.walks(0, 2 * 12)[0])
    assert torch.equal(second[:, :, 0], torch.cat([first[:, :, 0, :half].flip(-1), first[:, :, 0, half:].flip(-1)], -1))
    assert torch.equal(second[:, :, 1], second[:, :, 0].flip(-1))
    assert torch.equal(samples.view(2, 2, 12)[:, 0], samples.view(2, 2, 12)[:, 1])


def test_walks_folded_each_player_is_once_in_every_quarter_of_four_walks() -> None:
    permutations, _ = WalkSampler(n_players=16, n_samples=1, seed=1, folded=True).walks(0, 4)
    quarters = permutations.argsort(1) // 4
    assert torch.equal(quarters.sort(0).values, torch.arange(4)[:, None].expand(4, 16))


def test_fold_halves_twice_is_the_order_itself() -> None:
    permutations, _ = WalkSampler(n_players=7, n_samples=1, seed=2).walks(0, 10)
    reverses = torch.arange(10) % 2 == 1
    folds = fold_halves(permutations, reverses)
    assert not torch.equal(folds, permutations)
    assert torch.equal(fold_halves(folds, reverses), permutations)


def test_walks_are_permutations_and_samples_with_the_promised_types() -> None:
    permutations, samples = WalkSampler(n_players=5, n_samples=3).walks(0, 60)
    assert permutations.dtype == torch.int32
    assert samples.dtype == torch.int64
    assert torch.equal(permutations.sort(1).values, torch.arange(5, dtype=torch.int32).expand(60, 5))


def test_walks_antithetic_pair_is_one_sample_and_an_order_with_its_reverse() -> None:
    sampler = WalkSampler(n_players=9, n_samples=4, seed=1, antithetic=True)
    assert sampler.block == 2
    permutations, samples = sampler.walks(0, 40)
    assert torch.equal(permutations[0::2], permutations[1::2].flip(1))
    assert torch.equal(samples[0::2], samples[1::2])
    assert len({tuple(p.tolist()) for p in permutations[0::2]}) > 15


def test_walks_independent_neither_reverses_nor_repeats() -> None:
    sampler = WalkSampler(n_players=9, n_samples=4, seed=1, antithetic=False)
    assert sampler.block == 1
    permutations, _ = sampler.walks(0, 40)
    assert not any(torch.equal(permutations[i], permutations[i + 1].flip(0)) for i in range(39))
    assert len({tuple(p.tolist()) for p in permutations}) == 40


def test_walks_every_pass_takes_each_sample_once_in_an_order_of_its_own() -> None:
    for antithetic in (False, True):
        sampler = WalkSampler(n_players=3, n_samples=50, seed=2, antithetic=antithetic)
        _, samples = sampler.walks(0, 4 * 50 * sampler.block)
        passes = samples[:: sampler.block].view(4, 50)
        assert torch.equal(passes.sort(1).values, torch.arange(50).expand(4, 50))
        assert len({tuple(order.tolist()) for order in passes}) == 4


def test_walks_order_of_samples_and_order_of_players_are_not_one_stream() -> None:
    # With as many players as samples, a shared stream would show as equal orders.
    _, samples = WalkSampler(n_players=20, n_samples=20, seed=3, antithetic=False).walks(0, 20)
    orders = ops.sample_permutations(3, 0, 20, 20)
    assert not any(torch.equal(samples, order.long()) for order in orders)


def test_walks_seed_decides_everything_and_touches_no_generator() -> None:
    state = torch.get_rng_state()
    first = WalkSampler(11, 6, seed=-7).walks(0, 30)
    torch.manual_seed(1)
    again = WalkSampler(11, 6, seed=-7).walks(0, 30)
    torch.set_rng_state(state)
    other = WalkSampler(11, 6, seed=8).walks(0, 30)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_walks_none_or_one_sample_or_one_player() -> None:
    permutations, samples = WalkSampler(4, 3).walks(7, 0)
    assert permutations.shape == (0, 4)
    assert samples.shape == (0,)
    permutations, samples = WalkSampler(1, 1).walks(0, 6)
    assert permutations.tolist() == [[0]] * 6
    assert samples.tolist() == [0] * 6


def test_walks_first_to_join_is_every_player_equally_often() -> None:
    permutations, _ = WalkSampler(8, 10, seed=4, antithetic=False).walks(0, 8000)
    counts = torch.bincount(permutations[:, 0].long(), minlength=8)
    assert ((counts - 1000).abs() < 5 * (8000 * 1 / 8 * 7 / 8) ** 0.5).all()
