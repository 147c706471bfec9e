"""Payoffs that need no labels: how well a masked network agrees with the dense one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["agreement", "cosine_distance", "kl_divergence"]

_BATCH = 32  # images of 224 x 224 pixels take some 20 MiB each in early layers


def kl_divergence(outputs: Tensor, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row's class probabilities from those of its target, in nats.

    Args:
        outputs: logits ``[R, K, ...]``, classes along dimension 1.
        targets: logits of the reference, of the same shape.

    Returns:
        ``[R]``: KL(softmax(targets) || softmax(outputs)), the mean over positions where there are any.
    """
    q, p = F.log_softmax(outputs.to(targets.dtype), 1), F.log_softmax(targets, 1)
    divergence = F.kl_div(q, p, reduction="none", log_target=True).sum(1)
    return divergence.flatten(1).mean(1) if divergence.dim() > 1 else divergence


def cosine_distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of the angle between each row and its target, without a unit.

    Args:
        outputs: ``[R, ...]``; all of a row is one vector.
        targets: of the same shape.

    Returns:
        ``[R]``, from 0 (the same direction) to 2 (the opposite one); 1 where a row is all zeros.
    """
    return 1 - F.cosine_similarity(outputs.to(targets.dtype).flatten(1), targets.flatten(1), dim=1)


_KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl_divergence, "cosine": cosine_distance}


@torch.no_grad()
def agreement(
    model: nn.Module, inputs: Tensor, kind: str = "kl"
) -> tuple[tuple[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Make the data and the metric of a game that is about agreement with the network as it is.

    Use it where there are no labels, or where the pruned network should do what the dense one does, right or wrong. The
    targets are the dense network's own outputs, so that v(all) is 0 to rounding and v(S) is minus the mean distance:
    values say how much of the agreement each channel carries. With labels at hand ChannelGame's own metrics are
    cheaper, since their kernels need no outputs in memory where the group is read by the classifier.

    Args:
        model: a network in evaluation mode; unchanged.
        inputs: ``[N, ...]``, on the model's device.
        kind: ``"kl"`` for networks that give logits, ``[N, K]`` or ``[N, K, ...]``: :func:`kl_divergence`, in nats.
            ``"cosine"`` for any outputs ``[N, ...]``, such as embeddings: :func:`cosine_distance`.

    Returns:
        ``(inputs, targets)`` and the metric, as :class:`~shapley_cuda.ChannelGame` takes them. Targets are at least
        float32. The walk, suffix and hook paths all take the metric.

    Raises:
        ValueError: an unknown kind, a model in training mode, no sample, or outputs that the kind cannot compare (not
            finite, without classes, or for cosines all zeros).
        TypeError: the model does not return one tensor.

    Example:
        >>> images, _ = sc.fashion_mnist_subset("rank")
        >>> data, metric = sc.payoffs.agreement(model, images, kind="kl")
        >>> game = sc.ChannelGame(model, "conv2", data, metric=metric)
    """
    if kind not in _KINDS:
        raise ValueError(f"agreement: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    if any(module.training for module in model.modules()):
        raise ValueError("agreement: model must be in evaluation mode (model.eval()), got one in training mode")
    if inputs.dim() == 0 or inputs.shape[0] == 0:
        raise ValueError(f"agreement: inputs must hold at least one sample, got shape {list(inputs.shape)}")
    targets = torch.cat([_outputs(model, batch) for batch in inputs.split(_BATCH)])
    _check_targets(targets, kind)
    return (inputs, targets), _KINDS[kind]


def _outputs(model: nn.Module, batch: Tensor) -> Tensor:
    outputs = model(batch)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"agreement: model must return one tensor, got {type(outputs).__name__}")
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _check_targets(targets: Tensor, kind: str) -> None:
    if targets.dim() < 2 or (kind == "kl" and targets.shape[1] < 2):
        wanted = "logits of at least two classes, [N, K, ...]," if kind == "kl" else "vectors, [N, ...],"
        raise ValueError(f"agreement: model must return {wanted} for kind {kind!r}, got {list(targets.shape)}")
    bad = ~targets.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        raise ValueError(f"agreement: model must give finite outputs, got others for {int(bad.sum())} samples")
    zero = ~targets.flatten(1).any(1)
    if kind == "cosine" and bool(zero.any()):
        raise ValueError(
            f"agreement: outputs must not be all zeros for kind 'cosine', got such for {int(zero.sum())} samples"
        )
