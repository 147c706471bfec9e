"""A few cases under pytest-benchmark, for its histograms and comparisons between runs: `pytest benchmarks`.

`python -m benchmarks` has all cases, with their spread, ceilings and memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .cases import Setting
from .harness import Case
from .heads import masked_eval_cases, permutation_eval_cases
from .kernels import loss_difference_cases, sample_permutations_cases

_MAKERS = (permutation_eval_cases, masked_eval_cases, loss_difference_cases, sample_permutations_cases)


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=_MAKERS, ids=lambda make: make.__name__.removesuffix("_cases"))
def case(request: pytest.FixtureRequest) -> Case:
    """The first case of an op."""
    first: Case = next(request.param(Setting(torch.device("cpu"))))
    return first


@pytest.mark.parametrize("contender", ["ours", "baseline"])
def test_contender_agrees_and_is_timed(case: Case, contender: str, benchmark: BenchmarkFixture) -> None:
    best = case.baselines[-1]
    benchmark.group = f"{case.op} {case.shape}"
    benchmark.extra_info["contender"] = "ours" if contender == "ours" else best.name
    result = benchmark(case.ours if contender == "ours" else best.call)
    ours, theirs = (result, best.call()) if contender == "ours" else (case.ours(), result)
    assert best.compare(ours, theirs) <= case.tolerance
