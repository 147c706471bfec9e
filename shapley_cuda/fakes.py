"""Fake kernels: the shapes and dtypes of what the ops return, so that they work under `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shapley_cuda import build as _build  # noqa: F401  loads the native module, which registers the ops

_library = torch.library.Library("shapley", "FRAGMENT")


def _register_fake(op: str) -> Callable[[Callable[..., object]], None]:
    """Register the decorated function as an op's fake kernel, and that the op's outputs carry no gradient."""

    def register(fake: Callable[..., object]) -> None:
        def checked(*args: object, **kwargs: object) -> object:
            _check_one_device(op, args, kwargs)
            return fake(*args, **kwargs)

        _library.impl(op, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake(f"shapley::{op}", checked, lib=_library)

    return register


def _check_one_device(op: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """A single meta tensor brings a call here; a CPU result of it would hold no numbers."""
    devices = {value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
    if len(devices) > 1:
        raise RuntimeError(
            f"shapley::{op}: tensors must be on one device, got {' and '.join(sorted(map(str, devices)))}"
        )


@_register_fake("apply_masks")
def _(x: Tensor, masks: Tensor, sample_index: Tensor | None = None) -> Tensor:
    rows = masks.shape[0] if sample_index is not None else masks.shape[0] * x.shape[0]
    channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((rows, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=memory_format)


@_register_fake("exhaustive_eval")
def _(features: Tensor, *others: object, **options: object) -> Tensor:
    return features.new_empty(1 << features.shape[1], dtype=torch.float32)


@_register_fake("loss_difference")
def _(outputs: Tensor, *others: object, **options: object) -> Tensor:
    return outputs.new_empty(outputs.shape[0], dtype=torch.float32)


@_register_fake("marginals")
def _(values: Tensor, permutations: Tensor, *, block: int = 1) -> tuple[Tensor, Tensor]:
    n_players = values.shape[1] - 1
    return values.new_empty(n_players, dtype=torch.float64), values.new_empty(n_players, dtype=torch.float64)


@_register_fake("masked_eval")
def _(features: Tensor, masks: Tensor, *others: object, **options: object) -> Tensor:
    return features.new_empty(masks.shape[0], dtype=torch.float32)


@_register_fake("permutation_conv2d")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    permutations: Tensor,
    sample_index: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    *,
    pool: int = 1,
    channels_last: bool = False,
    **options: object,
) -> Tensor:
    height, width = (
        ((x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1) // pool
        for i in range(2)
    )
    rows = (permutations.shape[0], permutations.shape[1] + 1)
    if channels_last:
        out = x.new_empty((*rows, height, width, weight.shape[0]), dtype=torch.float32)
        return out.permute(0, 1, 4, 2, 3)
    return x.new_empty((*rows, weight.shape[0], height, width), dtype=torch.float32)


@_register_fake("permutation_eval")
def _(features: Tensor, permutations: Tensor, *others: object, **options: object) -> Tensor:
    return features.new_empty((permutations.shape[0], permutations.shape[1] + 1), dtype=torch.float32)


@_register_fake("permutation_linear")
def _(features: Tensor, permutations: Tensor, weight: Tensor, *others: object, **options: object) -> Tensor:
    rows, n_players = permutations.shape
    return features.new_empty((rows, n_players + 1, weight.shape[0]), dtype=torch.float32)


@_register_fake("sample_permutations")
def _(
    seed: int, first: int, count: int, n_players: int, *, device: torch.device | None = None, **options: object
) -> Tensor:
    return torch.empty((count, n_players), dtype=torch.int32, device=device or "cpu")
