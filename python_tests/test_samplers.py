"""Walks by number: the same walk whoever asks, each sample once in every pass."""

from __future__ import annotations

import torch

from shapley_cuda import WalkSampler, ops


def test_walks_any_split_into_calls_gives_the_same(device: str) -> None:
    sampler = WalkSampler(n_players=33, n_samples=7, seed=5)
    permutations, samples = sampler.walks(0, 100)
    for first, count in ((0, 1), (1, 1), (13, 29), (99, 1), (14, 28)):
        part, part_samples = sampler.walks(first, count, device)
        assert part.device.type == part_samples.device.type == device
        assert torch.equal(part.cpu(), permutations[first : first + count])
        assert torch.equal(part_samples.cpu(), samples[first : first + count])


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
