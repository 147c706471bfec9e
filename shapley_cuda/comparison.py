"""Comparison of two sets of values for the same players: their order, and their size."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["kendall_tau", "relative_rmse"]


def kendall_tau(a: Tensor, b: Tensor) -> float:
    """Say how far two sets of values order the players alike: Kendall's tau-b, from -1 (reversed) to 1 (the same).

    A pair of players counts 1 where both order it alike, -1 where they disagree, 0 where one of them has it tied; the
    sum is divided by sqrt(pairs not tied in a * pairs not tied in b). Without ties that is the plain tau: the share of
    pairs in the same order less the share in the opposite order. Takes memory for C x C numbers of 8 bits, 4 times.

    Args:
        a: ``[C]``, any real dtype.
        b: ``[C]``.

    Returns:
        tau, or NaN where one of them has all players tied and so no order to compare (also where C < 2).

    Raises:
        ValueError: the shapes differ or are not ``[C]``, or a value is NaN.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945.

    Example:
        >>> kendall_tau(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
        0.3333333333333333
    """
    _check_pair("a", a, "b", b)
    order_a, order_b = _order(a), _order(b)
    agreement = int((order_a * order_b).sum())
    untied = int(order_a.abs().sum()) * int(order_b.abs().sum())
    return agreement / untied**0.5 if untied else float("nan")


def relative_rmse(values: Tensor, reference: Tensor) -> float:
    """Compute the root of the mean squared error over the mean absolute value of the reference.

    Args:
        values: ``[C]``, what is judged.
        reference: ``[C]``, what it should be.

    Raises:
        ValueError: the shapes differ or are not ``[C]``, a value is NaN, or the reference is all zeros.

    Example:
        >>> relative_rmse(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
        0.5
    """
    _check_pair("values", values, "reference", reference)
    expected = reference.double()
    scale = float(expected.abs().mean()) if expected.numel() else 0.0
    if scale == 0:
        raise ValueError("reference must have a value other than 0, to which an error can be relative")
    return float((values.double() - expected.to(values.device)).square().mean().sqrt()) / scale


def _order(values: Tensor) -> Tensor:
    """Sign of the difference of each pair, int8 ``[C, C]``. Compared, not subtracted: infinite values have an order."""
    left, right = values[:, None], values[None, :]
    return (left > right).to(torch.int8) - (left < right).to(torch.int8)


def _check_pair(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    if a.dim() != 1 or a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must both have the shape [C], got {list(a.shape)} and {list(b.shape)}")
    for name, values in ((name_a, a), (name_b, b)):
        if bool(values.isnan().any()):
            raise ValueError(f"{name} must not hold NaN, got {int(values.isnan().sum())} among {len(values)} values")
