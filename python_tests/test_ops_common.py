"""What holds for every op, on the samples of op_samples.py."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest
import torch
from conftest import CUDA
from op_samples import SAMPLES, Arguments, arguments, map_tensors, op_of, results, tensors
from tolerances import assert_close
from torch import Tensor

from shapley_cuda import ops

each_sample = pytest.mark.parametrize("name", SAMPLES)


def same_bits(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Compare as bytes, so that a NaN equals itself and 0.0 differs from -0.0."""
    return len(actual) == len(expected) and all(
        a.shape == e.shape and torch.equal(a.contiguous().view(torch.uint8), e.contiguous().view(torch.uint8))
        for a, e in zip(actual, expected, strict=True)
    )


def spread_out(tensor: Tensor) -> Tensor:
    """Return the same values with gaps between them in memory."""
    wide = tensor.new_zeros((*tensor.shape, 2))
    wide[..., 0] = tensor
    return wide[..., 0]


def test_samples_cover_every_op() -> None:
    assert {op_of(name) for name in SAMPLES} == set(ops.__all__)


@each_sample
def test_op_passes_opcheck(name: str, device: str) -> None:
    args, kwargs = arguments(name, device)
    outcome = torch.library.opcheck(getattr(torch.ops.shapley, op_of(name)).default, args, kwargs)
    assert set(outcome.values()) == {"SUCCESS"}


@each_sample
def test_op_wrapper_gives_the_same_bits(name: str, device: str) -> None:
    args, kwargs = call = arguments(name, device)
    wrapped = getattr(ops, op_of(name))(*args, **kwargs)
    assert same_bits(wrapped if isinstance(wrapped, tuple) else (wrapped,), results(name, call))


@each_sample
def test_op_inputs_stay_unchanged(name: str, device: str) -> None:
    call = arguments(name, device)
    results(name, call)
    assert same_bits(tuple(tensors(call)), tuple(tensors(arguments(name, device))))


@each_sample
def test_op_rerun_gives_the_same_bits(name: str, device: str) -> None:
    call = arguments(name, device)
    assert same_bits(results(name, call), results(name, call))


@each_sample
def test_op_threads_do_not_change_bits(name: str, set_threads: Callable[[int], None]) -> None:
    call = arguments(name)
    set_threads(1)
    alone = results(name, call)
    set_threads(3)
    assert same_bits(results(name, call), alone)


@each_sample
def test_op_non_contiguous_inputs_give_the_same_values(name: str, device: str) -> None:
    call = arguments(name, device)
    spread = map_tensors(call, spread_out)
    assert not any(tensor.is_contiguous() for tensor in tensors(spread))
    assert all(torch.equal(a, e) for a, e in zip(results(name, spread), results(name, call), strict=True))


@each_sample
def test_op_inputs_with_grad_give_outputs_without(name: str, device: str) -> None:
    call = map_tensors(arguments(name, device), lambda t: t.requires_grad_() if t.is_floating_point() else t)
    assert not any(output.requires_grad for output in results(name, call))


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@each_sample
def test_op_cuda_agrees_with_cpu(name: str) -> None:
    on_cuda = arguments(name, "cuda")
    if op_of(name) == "sample_permutations":
        on_cuda[1]["device"] = "cuda"
    for actual, expected in zip(results(name, on_cuda), results(name, arguments(name)), strict=True):
        assert actual.is_cuda
        assert_close(op_of(name), actual, expected)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@each_sample
def test_op_side_stream_sees_what_was_queued_before(name: str) -> None:
    expected = results(name, arguments(name, "cuda"))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        actual = results(name, map_tensors(arguments(name, "cuda"), torch.clone))
    stream.synchronize()
    assert same_bits(actual, expected)


def test_ops_examples_print_what_they_say() -> None:
    outcome = doctest.testmod(ops)
    assert outcome.attempted >= len(ops.__all__)
    assert outcome.failed == 0


with_tensors = pytest.mark.parametrize("name", [name for name in SAMPLES if op_of(name) != "sample_permutations"])


def with_argument(call: Arguments, place: int, value: Tensor | None) -> Arguments:
    """The same call with another positional argument."""
    args, kwargs = call
    return (*args[:place], value, *args[place + 1 :]), kwargs


@with_tensors
def test_op_missing_tensor_is_refused_by_name(name: str) -> None:
    schema = getattr(torch.ops.shapley, op_of(name)).default._schema
    for place, argument in enumerate(schema.arguments):
        if str(argument.type) == "Tensor":
            text = f"^shapley::{op_of(name)}: {argument.name} must be a tensor, got None$"
            with pytest.raises(RuntimeError, match=text):
                results(name, with_argument(arguments(name), place, None))


@with_tensors
def test_op_tensors_on_several_devices_are_refused(name: str) -> None:
    call = arguments(name)
    for place, tensor in enumerate(call[0]):
        if isinstance(tensor, Tensor):
            text = rf"^shapley::{op_of(name)}: tensors must be on one device, got cpu and meta$"
            with pytest.raises(RuntimeError, match=text):
                results(name, with_argument(call, place, tensor.to("meta")))


def test_op_result_larger_than_memory_is_an_error_that_names_the_op() -> None:
    with pytest.raises(RuntimeError, match=r"^shapley::sample_permutations: "):
        ops.sample_permutations(0, 0, 1 << 40, 1 << 20)
