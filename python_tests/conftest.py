"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

# Before torch starts its threads: waiting threads that spin make small tensors ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

import shapley_cuda

CUDA = shapley_cuda.build_info().cuda and torch.cuda.is_available()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not CUDA, reason="no CUDA device"))])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that the ops run on here."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """The same number of threads wherever the tests run."""
    torch.set_num_threads(2)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own for each test; draws are on the CPU, so that devices see the same numbers."""
    return torch.Generator().manual_seed(1)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set torch's number of threads, for this test only."""
    before = torch.get_num_threads()
    try:
        yield torch.set_num_threads
    finally:
        torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many calls were generated, where any were."""
    if "fuzzing" in sys.modules and (made := sys.modules["fuzzing"].made):
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(made.items()))
        terminalreporter.write_line(f"{made.total():,} generated calls: {outcomes}")
