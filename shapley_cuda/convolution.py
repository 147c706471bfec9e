"""The op for walks through a convolution, which :mod:`shapley_cuda.ops` shows with the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shapley_cuda import fakes as _fakes  # noqa: F401  loads the native module and makes its ops whole


def permutation_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    permutations: Tensor,
    sample_index: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
    pool: int = 1,
    channels_last: bool = False,
) -> Tensor:
    """Compute a convolution's outputs at every step of walks that add one input channel at a time.

    For the layer that reads the channels, with what follows it up to the next layer; a step costs C times less than
    F.conv2d on a masked row. permutation_linear is for linear layers. A BatchNorm behind the convolution is
    another weight and bias: torch.nn.utils.fusion.fuse_conv_bn_weights.

    Args:
        x: float32, bfloat16 or float16 [N, C, H, W], C >= 1, the input whose channels are the players; any strides.
            A channel that has not joined is absent: its NaN leaves no trace.
        weight: float32, bfloat16 or float16 [K, C, kh, kw]; no groups.
        bias: Like weight, [K], or None for zeros.
        permutations: int32 [R, C]: entry [r, j] is the player that joins walk r at step j + 1.
        sample_index: int64 [R], each in [0, N): each walk's sample.
        stride: As in F.conv2d, for rows and columns or one for both.
        padding: As in F.conv2d, in zeros on each side.
        dilation: As in F.conv2d.
        residual: Like x, [N, K, the convolution's output size]: added to every row of its sample before the activation.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "hardswish", "gelu" (the exact one), "sigmoid" or
            "tanh".
        negative_slope: leaky_relu's.
        pool: 1, or 2 for the greatest of every 2 x 2 after the activation, as F.max_pool2d(..., 2); a last odd row or
            column is left out.
        channels_last: Whether the rows' memory is [H', W', K], for layers that are faster so. The values are the same
            to the bit.

    Returns:
        float32 [R, C + 1, K, H', W']: entry [r, j] after step j. Entry [r, 0] is that of the empty coalition, entry
        [r, C] that of all channels. It takes 4 R (C + 1) K H' W' bytes; choose R by that. On the CPU results below
        32 MiB are several times as fast: their memory comes from the last one, not fresh from the system.

    Raises:
        RuntimeError: A dtype, shape, device, option or (CPU) index or permutation does not fit. On CUDA an index or
            player out of range makes the walk NaN.

    Determinism: float32, one rounding a tap and one a channel, in an order that depends on kh and kw and the walk
    alone: a walk has the same bits on every run and in whichever call. Activations are within 1e-6 relative
    or 1e-7.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0]], [[4.0, -8.0]]]])
        >>> walks, own = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([0])
        >>> permutation_conv2d(x, torch.ones(1, 2, 1, 1), None, walks, own, activation="relu")[0, :, 0, 0]
        tensor([[0., 0.],
                [4., 0.],
                [5., 0.]])
    """
    result: Tensor = torch.ops.shapley.permutation_conv2d(
        x,
        weight,
        bias,
        permutations,
        sample_index,
        stride,
        padding,
        dilation,
        residual=residual,
        activation=activation,
        negative_slope=negative_slope,
        pool=pool,
        channels_last=channels_last,
    )
    return result
