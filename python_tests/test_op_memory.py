"""The memory that an op takes beside its output stays within what its kernel's header says, on the CPU."""

from __future__ import annotations

import pytest
import torch
from high_water import extra_bytes, needs_high_water
from op_samples import convolution, linear_head, random_permutations
from torch import Tensor

from shapley_cuda import ops

_MIB = 1 << 20
_SLACK = 4 * _MIB  # pages come in twos of megabytes, and threads have stacks
_THREADS = 2


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@needs_high_water
def test_extra_bytes_sees_what_is_freed_before_the_end() -> None:
    assert extra_bytes(lambda: torch.ones(16 * _MIB).sum()) >= 60 * _MIB
    assert extra_bytes(lambda: torch.ones(16 * _MIB)) <= _SLACK


@needs_high_water
@pytest.mark.parametrize("n_masks", [1 << 10, 1 << 16])
@pytest.mark.parametrize("own_samples", [False, True])
def test_masked_eval_memory_does_not_grow_with_the_masks(
    own_samples: bool, n_masks: int, generator: torch.Generator
) -> None:
    n_samples = 20
    head = linear_head(n_samples, (40,), 50, generator)
    masks = torch.rand(n_masks, 40, generator=generator) > 0.5
    samples = torch.randint(0, n_samples, (n_masks,), generator=generator) if own_samples else None
    order = 8 * n_masks if own_samples else 0
    rows, outputs = 4 * 40 * n_masks, 4 * 50 * n_masks  # that it must not store
    assert n_masks == 1 << 10 or min(rows, outputs) > 2 * _SLACK
    features, weight, bias, targets = head
    extra = extra_bytes(lambda: ops.masked_eval(features, masks, weight, bias, targets, sample_index=samples))
    assert extra <= order + _SLACK


@needs_high_water
def test_exhaustive_eval_memory_is_the_output_and_scratch_of_any_number_of_players(generator: torch.Generator) -> None:
    features, weight, bias, targets = linear_head(2, (20,), 10, generator)
    assert extra_bytes(lambda: ops.exhaustive_eval(features, weight, bias, targets)) <= _SLACK


@needs_high_water
@pytest.mark.parametrize("n_positions", [1, 16])
@pytest.mark.parametrize("op", ["permutation_eval", "permutation_linear"])
def test_walks_memory_is_the_output_and_contributions_of_a_sample_a_thread(
    op: str, n_positions: int, generator: torch.Generator
) -> None:
    n_players, n_outputs, n_walks = 512, 257, 60
    features, weight, bias, targets = linear_head(9, (n_players, n_positions), n_outputs, generator)
    walks = random_permutations(n_walks, n_players, generator)
    samples = torch.randint(0, 9, (n_walks,), generator=generator)
    padded = round_up(n_outputs, 16)
    packed_head = 4 * padded * (n_players * n_positions + 1)
    scratch = 4 * (3 * round_up(n_players + 1, 16) + padded * (1 + (n_players if n_positions > 1 else 0)))
    outputs = 4 * n_walks * (n_players + 1) * n_outputs  # that permutation_eval must not store
    assert outputs > packed_head + _THREADS * scratch + 2 * _SLACK

    def call() -> Tensor:
        if op == "permutation_eval":
            return ops.permutation_eval(features, walks, weight, bias, targets, samples)
        return ops.permutation_linear(features, walks, weight, bias, samples, activation="relu")

    assert extra_bytes(call) <= packed_head + _THREADS * scratch + _SLACK


@needs_high_water
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pool", [1, 2])
def test_permutation_conv2d_memory_is_the_output_and_scratch_a_thread(
    pool: int, channels_last: bool, generator: torch.Generator
) -> None:
    x, weight, bias, walks, samples = convolution((4, 32, 16, 16), (64, 32, 3, 3), 24, generator)
    residual = torch.randn(4, 64, 16, 16, generator=generator)

    def call() -> Tensor:
        return ops.permutation_conv2d(
            x, weight, bias, walks, samples, 1, 1, residual=residual, activation="silu", pool=pool,
            channels_last=channels_last,
        )  # fmt: skip

    assert call().untyped_storage().nbytes() > 2 * _SLACK
    sums, packed_weight = 4 * 64 * 16 * 16, 4 * weight.numel()
    assert extra_bytes(call) <= _THREADS * (sums + packed_weight) + _SLACK
