"""The one table of tolerances: (relative, absolute) per op, against a float64 reference on the same float32 numbers.

Ops that are not listed are exact. The bounds are a few times the rounding that the summation implies.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES: dict[str, tuple[float, float]] = {
    "loss_difference": (1e-6, 2e-6),
    "marginals": (1e-12, 1e-12),
}


def assert_close(op: str, actual: Tensor, expected: Tensor) -> None:
    """Compare values with the reference within the op's tolerance; NaNs must be in the same places."""
    relative, absolute = TOLERANCES.get(op, (0.0, 0.0))
    torch.testing.assert_close(
        actual.double(), expected.double().to(actual.device), rtol=relative, atol=absolute, equal_nan=True
    )
