"""The ops of the package on tensors: typed, documented wrappers of `torch.ops.shapley.*`, and their fake kernels.

Every op runs on CPU and CUDA tensors, computes in float32, never modifies an argument, and returns values without
gradients. A row's result does not depend on the other rows of the call, nor on the number of threads, and is the same
bit for bit from run to run on one device. Arguments that do not fit raise RuntimeError with the text
`shapley::<op>: <argument> must be <expected>, got <what came>`. Out-of-range indices and rows that are no permutation
raise on the CPU; on CUDA, where looking would cost a synchronisation, they give NaN rows.

This is the only module that touches `torch.ops`. Its fake kernels make the ops work under `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shapley_cuda import build as _build  # noqa: F401  loads the native module, which registers the ops

__all__ = ["loss_difference"]

_library = torch.library.Library("shapley", "FRAGMENT")


def _register_fake(op: str) -> Callable[[Callable[..., object]], None]:
    """Register the decorated function as an op's fake kernel, and that the op's outputs carry no gradient."""

    def register(fake: Callable[..., object]) -> None:
        _library.impl(op, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake(f"shapley::{op}", fake, lib=_library)

    return register


def loss_difference(
    outputs: Tensor,
    targets: Tensor,
    *,
    sample_index: Tensor | None = None,
    baseline: Tensor | None = None,
    metric: str = "cross_entropy",
) -> Tensor:
    """Compute the metric of every row of network outputs, less that of a reference, in one pass."""
    result: Tensor = torch.ops.shapley.loss_difference(
        outputs, targets, sample_index=sample_index, baseline=baseline, metric=metric
    )
    return result


@_register_fake("loss_difference")
def _(
    outputs: Tensor,
    targets: Tensor,
    *,
    sample_index: Tensor | None = None,
    baseline: Tensor | None = None,
    metric: str = "cross_entropy",
) -> Tensor:
    return outputs.new_empty(outputs.shape[0], dtype=torch.float32)
