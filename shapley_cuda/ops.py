"""The ops of the package on tensors: typed, documented wrappers of `torch.ops.shapley.*`, and their fake kernels.

Every op runs on CPU and CUDA tensors, computes in float32 unless said otherwise, never modifies an argument, and
returns values without gradients. A row's result does not depend on the other rows of the call, nor on the number of
threads, and is the same bit for bit from run to run on one device. Arguments that do not fit raise RuntimeError with
the text `shapley::<op>: <argument> must be <expected>, got <what came>`. Out-of-range indices and rows that are no
permutation raise on the CPU; on CUDA, where looking would cost a synchronisation, indices out of range give NaN.

Shape letters: N samples, C players, M coalitions, R rows or walks, K outputs, S positions. Masks are True for kept
players. Only this module and convolution.py, which it shows too, touch `torch.ops`; the fake kernels that make the ops
work under `torch.compile` are in fakes.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shapley_cuda import fakes as _fakes  # noqa: F401  loads the native module and makes its ops whole
from shapley_cuda.convolution import permutation_conv2d

__all__ = [
    "apply_masks",
    "exhaustive_eval",
    "loss_difference",
    "marginals",
    "masked_eval",
    "permutation_conv2d",
    "permutation_eval",
    "permutation_linear",
    "sample_permutations",
]


def sample_permutations(
    seed: int,
    first: int,
    count: int,
    n_players: int,
    *,
    antithetic: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw the permutations of walks first .. first + count - 1, each from its number alone.

    A walk is the same permutation in whichever call, chunk, process and device it is drawn. Unlike torch.randperm, it
    neither reads nor advances a generator.

    Args:
        seed: Any signed 64-bit integer; streams of different seeds are independent.
        first: Number of the first walk, at least 0.
        count: How many walks, at least 0.
        n_players: C, in [1, 16776960]. On CUDA the work grows with its square.
        antithetic: Whether walk 2i + 1 is walk 2i reversed. Walk 2i is then what walk i is without.
        device: CPU (the default) or CUDA device of the result.

    Returns:
        int32 [count, C]: entry [r, j] is the player that joins at step j + 1 of walk first + r.

    Raises:
        RuntimeError: A number is out of range, or the device is neither a CPU nor a usable CUDA device.

    Determinism: integers only; CPU and CUDA give the same bits. Uniform but for ties of 32-bit sort keys, which go to
    the lower player: a bias below C^2 / 2^33.

    Source: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), key = seed,
    counter = (c // 4, 0, walk low, walk high); word c % 4 is player c's sort key.

    Example:
        >>> walks = sample_permutations(0, first=10, count=2, n_players=3, antithetic=True)
        >>> torch.equal(walks[1], walks[0].flip(0))
        True
    """
    result: Tensor = torch.ops.shapley.sample_permutations(
        seed, first, count, n_players, antithetic=antithetic, device=None if device is None else torch.device(device)
    )
    return result


def apply_masks(x: Tensor, masks: Tensor, sample_index: Tensor | None = None) -> Tensor:
    """Set the removed players' channels to zero, for each pair of a coalition and a sample.

    A select, not a product: a NaN or infinity in a removed channel leaves no trace.

    Args:
        x: float32, float64, bfloat16 or float16 [N, C, ...]: samples, fewer than 2^31 elements each.
        masks: bool [M, C], True for kept players.
        sample_index: int64 [M], each in [0, N): the sample that each mask is applied to. Without it every mask is
            applied to every sample.

    Returns:
        Like x, [M, C, ...] with sample_index: row m is masks[m] on x[sample_index[m]]. [M * N, C, ...] without: row
        m * N + n is masks[m] on x[n]. Contiguous, or channels_last where a 4-D x is.

    Raises:
        RuntimeError: A dtype, shape, device or (CPU) index does not fit. On CUDA a row whose index is out of range is
            NaN.

    Determinism: no arithmetic; CPU and CUDA give the same bits.

    Example:
        >>> x = torch.tensor([[1.0, float("nan")], [3.0, 4.0]])
        >>> apply_masks(x, torch.tensor([[True, False]]))
        tensor([[1., 0.],
                [3., 0.]])
    """
    result: Tensor = torch.ops.shapley.apply_masks(x, masks, sample_index)
    return result


def loss_difference(
    outputs: Tensor,
    targets: Tensor,
    *,
    sample_index: Tensor | None = None,
    baseline: Tensor | None = None,
    metric: str = "cross_entropy",
) -> Tensor:
    """Compute the metric of every row of network outputs, less that of a reference, in one pass.

    For outputs that a network has already given; masked_eval and permutation_eval compute a linear head's outputs
    themselves and never store them.

    Args:
        outputs: float32, bfloat16 or float16 [R, K], K >= 1: logits, or values for squared_error.
        targets: int64 [N], classes in [0, K); for squared_error float32, bfloat16 or float16 [N, K].
        sample_index: int64 [R], each in [0, N): the sample that each row belongs to. Without it R = N and row r is
            sample r's.
        baseline: float32 [N]: each sample's metric of the reference, subtracted.
        metric: "cross_entropy" in nats, "accuracy" (1 if the target is the first index of the greatest output, else
            0), or "squared_error" (mean over K).

    Returns:
        float32 [R]. A NaN among a row's outputs makes the row NaN, whatever the metric.

    Raises:
        RuntimeError: A dtype, shape, device, metric or (CPU) index or class does not fit. On CUDA a row whose index or
            class is out of range is NaN.

    Determinism: the same bits on every run and in any split of the rows; CPU and CUDA agree to rounding.

    Example:
        >>> outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> loss_difference(outputs, torch.tensor([0, 0]), metric="accuracy")
        tensor([1., 0.])
    """
    result: Tensor = torch.ops.shapley.loss_difference(
        outputs, targets, sample_index=sample_index, baseline=baseline, metric=metric
    )
    return result


def marginals(values: Tensor, permutations: Tensor, *, block: int = 1) -> tuple[Tensor, Tensor]:
    """Add up what each player contributed along its walks, with the squares that standard errors need.

    Over R walks the Shapley value's estimate is sum / R. Blocks of walks being independent of each other, with
    B = R / block its squared standard error is (sum_of_squares / B - (sum / R) ** 2) / (B - 1).

    Args:
        values: float32 or float64 [R, C + 1], C >= 1: a payoff along each walk, from the empty coalition to the full.
        permutations: int32 [R, C]: the player that joins at each step.
        block: Consecutive walks that are averaged before squaring, a divisor of R: 2 for antithetic pairs.

    Returns:
        sum, float64 [C]: over walks, of values[r, j + 1] - values[r, j] for the player permutations[r, j].
        sum_of_squares, float64 [C]: over blocks, of the square of the player's mean difference in the block.

    Raises:
        RuntimeError: A dtype, shape, device, block or (CPU) permutation does not fit. On CUDA a player out of range
            makes both results NaN.

    Determinism: float64 in a fixed order; CPU and CUDA give the same bits, on any number of threads.

    Example:
        >>> values = torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 3.0]])
        >>> marginals(values, torch.tensor([[0, 1], [1, 0]], dtype=torch.int32))
        (tensor([2., 4.], dtype=torch.float64), tensor([2., 8.], dtype=torch.float64))
    """
    total, squares = torch.ops.shapley.marginals(values, permutations, block=block)
    return total, squares


def masked_eval(
    features: Tensor,
    masks: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    sample_index: Tensor | None = None,
    baseline: Tensor | None = None,
    metric: str = "cross_entropy",
) -> Tensor:
    """Evaluate a linear head under coalitions of its input channels, without storing rows or outputs.

    For coalitions that have nothing to do with each other; permutation_eval is far cheaper along walks.

    Args:
        features: float32, bfloat16 or float16 [N, C] or [N, C, S], C and S >= 1: channels at S positions.
        masks: bool [M, C], True for kept players. A removed player is absent: its NaN leaves no trace.
        weight: float32, bfloat16 or float16 [K, C], or [K, C * S] with column c * S + s for channel c at position s.
            [K, C] on features [N, C, S] is a head on the mean over positions.
        bias: Like weight, [K], or None for zeros.
        targets: int64 [N], classes in [0, K); for squared_error float32, bfloat16 or float16 [N, K].
        sample_index: int64 [M], each in [0, N): the sample that each mask is applied to.
        baseline: float32 [N]: each sample's metric of a reference, subtracted.
        metric: As in loss_difference.

    Returns:
        float32 [M]. With sample_index the metric of each mask on its sample; without, the mean over all N samples.

    Raises:
        RuntimeError: A dtype, shape, device, metric or (CPU) index or class does not fit, or N = 0 without
            sample_index. On CUDA an index or class out of range gives NaN.

    Determinism: outputs float32, means float64, in orders that depend on N, C, S and K alone: the same bits on every
    run and for a mask in whichever call. Memory beside the arguments does not grow with M, but for 8 bytes a mask
    with sample_index on the CPU.

    Example:
        >>> features, weight = torch.eye(2), torch.tensor([[8.0, 0.0], [0.0, 8.0]])
        >>> masks = torch.tensor([[True, True], [True, False], [False, False]])
        >>> masked_eval(features, masks, weight, None, torch.tensor([0, 1]), metric="accuracy")
        tensor([1.0000, 0.5000, 0.5000])
    """
    result: Tensor = torch.ops.shapley.masked_eval(
        features, masks, weight, bias, targets, sample_index=sample_index, baseline=baseline, metric=metric
    )
    return result


def permutation_eval(
    features: Tensor,
    permutations: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    sample_index: Tensor,
    *,
    metric: str = "cross_entropy",
) -> Tensor:
    """Evaluate a linear head along walks that add one input channel at a time, O(K) a step instead of O(C K).

    For a network whose consumer is its classifier; permutation_linear gives the outputs themselves, for a suffix.

    Args:
        features: As in masked_eval.
        permutations: int32 [R, C]: entry [r, j] is the player that joins walk r at step j + 1.
        weight: As in masked_eval; on CUDA K <= 32768.
        bias: As in masked_eval.
        targets: As in masked_eval.
        sample_index: int64 [R], each in [0, N): each walk's sample.
        metric: As in loss_difference.

    Returns:
        float32 [R, C + 1]: the metric after each step. Column 0 is the empty coalition, column C the full one.

    Raises:
        RuntimeError: A dtype, shape, device, metric or (CPU) index, class or permutation does not fit. On CUDA an
            index, class or player out of range makes the walk's row NaN.

    Determinism: float32 in orders that depend on C, S and K alone: a walk has the same bits on every run and in
    whichever call. Sums along a walk are two-level; at C = 4096 outputs were within 2e-6 of float64.

    Example:
        >>> features, weight = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 9.0], [2.0, 0.0]])
        >>> walks = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
        >>> own = torch.tensor([0, 0])
        >>> permutation_eval(features, walks, weight, None, torch.tensor([0]), own, metric="accuracy")
        tensor([[1., 0., 1.],
                [1., 1., 1.]])
    """
    result: Tensor = torch.ops.shapley.permutation_eval(
        features, permutations, weight, bias, targets, sample_index, metric=metric
    )
    return result


def permutation_linear(
    features: Tensor,
    permutations: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sample_index: Tensor,
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """Compute a linear layer's outputs at every step of walks that add one input channel at a time.

    For a layer that other layers follow, with the activation between them; permutation_eval is for the last layer.

    Args:
        features: As in masked_eval.
        permutations: As in permutation_eval.
        weight: As in masked_eval.
        bias: As in masked_eval.
        sample_index: As in permutation_eval.
        residual: Like features, [N, K]: added to every row of its sample before the activation.
        activation: As in permutation_conv2d.
        negative_slope: leaky_relu's.

    Returns:
        float32 [R, C + 1, K]: the outputs after each step.

    Raises:
        RuntimeError: A dtype, shape, device, activation or (CPU) index or permutation does not fit. On CUDA an index or
            player out of range makes the walk NaN.

    Determinism: The sums of permutation_eval, bit for bit, where there is no residual; it is added to the bias first.
    Activations are within 1e-6 relative or 1e-7.

    Example:
        >>> walks = torch.tensor([[1, 0]], dtype=torch.int32)
        >>> permutation_linear(torch.tensor([[2.0, 3.0]]), walks, torch.ones(1, 2), None, torch.tensor([0]))
        tensor([[[0.],
                 [3.],
                 [5.]]])
    """
    result: Tensor = torch.ops.shapley.permutation_linear(
        features,
        permutations,
        weight,
        bias,
        sample_index,
        residual=residual,
        activation=activation,
        negative_slope=negative_slope,
    )
    return result


def exhaustive_eval(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, metric: str = "cross_entropy"
) -> Tensor:
    """Evaluate a linear head under every coalition of at most 24 input channels, mean over the samples.

    For exact values; masked_eval takes any number of channels and the coalitions of your choice.

    Args:
        features: As in masked_eval, N >= 1 and C <= 24.
        weight: As in masked_eval.
        bias: As in masked_eval.
        targets: As in masked_eval.
        metric: As in loss_difference.

    Returns:
        float32 [2^C]: entry T is the mean under the coalition whose player c is kept where bit c of T is set.

    Raises:
        RuntimeError: A dtype, shape, device, metric or (CPU) class does not fit. On CUDA a class out of range makes
            everything NaN.

    Determinism: outputs float32, means float64, in orders that depend on N, C, S and K alone.

    Example:
        >>> features, weight = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 9.0], [2.0, 0.0]])
        >>> exhaustive_eval(features, weight, None, torch.tensor([0]), metric="accuracy")
        tensor([1., 0., 1., 1.])
    """
    result: Tensor = torch.ops.shapley.exhaustive_eval(features, weight, bias, targets, metric=metric)
    return result
