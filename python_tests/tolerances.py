"""The one table of tolerances: (relative, absolute) per op, against a float64 reference on the same float32 numbers.

Ops that are not listed are exact. The bounds are a few times the rounding that the summation implies.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES: dict[str, tuple[float, float]] = {
    "exhaustive_eval": (2e-6, 2e-6),
    "loss_difference": (1e-6, 2e-6),
    "marginals": (1e-12, 1e-12),
    "masked_eval": (2e-6, 2e-6),
    "permutation_conv2d": (2e-6, 2e-6),
    "permutation_eval": (2e-6, 2e-6),
    "permutation_linear": (2e-6, 2e-6),
}


def assert_close(op: str, actual: Tensor, expected: Tensor) -> None:
    """Compare values with the reference within the op's tolerance; NaNs must be in the same places."""
    relative, absolute = TOLERANCES.get(op, (0.0, 0.0))
    torch.testing.assert_close(
        actual.double(), expected.double().to(actual.device), rtol=relative, atol=absolute, equal_nan=True
    )


MASKED_IS_PRUNED = 1e-5
"""Greatest difference between a masked and a pruned network's outputs, as a share of the greatest output."""

PATHS_AGREE = (1e-5, 1e-5)
"""Payoffs of the three paths: relative and absolute."""

CHUNKS_AGREE = (1e-6, 1e-6)
"""Payoffs from chunks of different sizes: relative and absolute."""

STANDARD_ERRORS = 5
"""How many of its own standard errors an estimate may be off."""

BFLOAT16_AGREES = (0.05, 0.05)
"""Payoffs of a suffix in bfloat16, whose numbers have 8 bits, against those in float32: relative and absolute."""
