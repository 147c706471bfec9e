"""Thousands of calls of every op, drawn at random: right as the reference has it, or refused by name."""

from __future__ import annotations

import re
from typing import Any

import fuzz_calls
import fuzzing
import pytest
import reference
import torch
from fuzz_calls import CONTRACTS, Call
from tolerances import assert_close
from torch import Tensor

from shapley_cuda import ops


def bits(call: Call) -> dict[str, Tensor]:
    return {
        name: value.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)
        for name, value in call.items()
        if isinstance(value, Tensor) and value.is_cpu
    }


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def check_answer(op: str, call: Call, outputs: tuple[Tensor, ...]) -> None:
    expected = as_tuple(getattr(reference, op)(**call))
    fakes = as_tuple(getattr(ops, op)(**{name: on_meta(value) for name, value in call.items()}))
    for output, value, fake in zip(outputs, expected, fakes, strict=True):
        assert_close(op, output, value)
        if op != "sample_permutations":  # has no tensor that could be on the meta device
            assert (output.shape, output.dtype, output.stride()) == (fake.shape, fake.dtype, fake.stride())


def check(op: str, call: Call) -> str:
    problem, before = fuzz_calls.problem(CONTRACTS[op], call), bits(call)
    outputs, refusal = None, ""
    try:
        outputs = as_tuple(getattr(ops, op)(**call))
    except RuntimeError as error:
        refusal = str(error)
    after = bits(call)
    assert all(torch.equal(before[name], after[name]) for name in before)
    if outputs is not None:
        assert problem is None, f"a call was answered that must be refused: {problem}"
        check_answer(op, call, outputs)
        return "answered"
    assert problem is not None, f"a valid call was refused: {refusal}"
    # With brackets: torch's own words for an argument of a wrong type.
    assert re.match(rf"shapley::{op}(: |\(\) Expected a value of type )", refusal), refusal
    return "refused"


@pytest.mark.parametrize("op", CONTRACTS)
def test_op_random_call_is_right_or_refused_by_name(op: str) -> None:
    share = fuzzing.SHARES["ops"] / len(CONTRACTS)
    outcomes = fuzzing.run(share, fuzz_calls.calls(CONTRACTS[op]), lambda call: check(op, call))
    assert outcomes["answered"] > 0
    assert outcomes["refused"] > 0


def test_every_op_has_a_contract() -> None:
    assert set(CONTRACTS) == set(ops.__all__)
