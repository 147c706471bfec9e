"""Comparisons of values: worked by hand, and Kendall's tau as SciPy has it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kendalltau

from shapley_cuda.comparison import kendall_tau, relative_rmse


def test_kendall_tau_worked_by_hand() -> None:
    order = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert kendall_tau(order, 10 * order - 7) == 1
    assert kendall_tau(order, -order) == -1
    assert kendall_tau(order, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(4 / 6)
    tied = torch.tensor([1, 1, 2, 3])  # 5 pairs have an order, all the same way; of the other 6
    assert kendall_tau(order, tied) == pytest.approx(5 / math.sqrt(5 * 6))
    assert kendall_tau(tied, tied) == 1


def test_kendall_tau_ties_are_counted_as_scipy_does(generator: torch.Generator) -> None:
    for size, levels in ((33, 4), (129, 10**6), (20, 2)):
        a, b = torch.randint(levels, (2, size), generator=generator).unbind()
        assert kendall_tau(a, b) == pytest.approx(kendalltau(a.numpy(), b.numpy()).statistic, abs=1e-12)


def test_kendall_tau_infinite_values_have_an_order() -> None:
    assert kendall_tau(torch.tensor([-math.inf, 0.0, math.inf]), torch.tensor([1, 2, 3])) == 1
    assert kendall_tau(torch.tensor([math.inf, 0.0, math.inf]), torch.tensor([1, 0, 1])) == 1


def test_kendall_tau_without_an_order_to_compare_is_nan() -> None:
    assert math.isnan(kendall_tau(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])))
    assert math.isnan(kendall_tau(torch.ones(1), torch.ones(1)))


def test_relative_rmse_worked_by_hand() -> None:
    assert relative_rmse(torch.tensor([1.0, 3.0, -2.0]), torch.tensor([1.0, 0.0, -2.0])) == pytest.approx(math.sqrt(3))
    assert relative_rmse(torch.tensor([5, 6]), torch.tensor([5.0, 6.0])) == 0


def test_bad_values_are_refused() -> None:
    for compare in (kendall_tau, relative_rmse):
        with pytest.raises(ValueError, match=r"must both have the shape \[C\], got \[2\] and \[3\]"):
            compare(torch.zeros(2), torch.zeros(3))
        with pytest.raises(ValueError, match="must not hold NaN, got 1 among 2 values"):
            compare(torch.ones(2), torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="reference must have a value other than 0"):
        relative_rmse(torch.ones(2), torch.zeros(2))
