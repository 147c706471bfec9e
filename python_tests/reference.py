"""What the ops must give, in plain float64 loops and PyTorch: slow, and short enough to be checked by eye."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MASK32 = 0xFFFFFFFF
METRICS = ("cross_entropy", "accuracy", "squared_error")


def row_metric(outputs: Tensor, targets: Tensor, metric: str) -> Tensor:
    """Metric of each row of outputs [R, K] for its own target, float64 [R]."""
    z = outputs.double()
    if metric == "squared_error":
        return (z - targets.double()).square().mean(1)
    chosen = z.gather(1, targets[:, None])[:, 0]
    if metric == "cross_entropy":
        return functional.cross_entropy(z, targets, reduction="none")
    place = torch.arange(z.shape[1], device=z.device)
    beaten = torch.where(place < targets[:, None], z >= chosen[:, None], z > chosen[:, None]).any(1)
    return torch.where(z.isnan().any(1), torch.nan, (~beaten).double())


def loss_difference(
    outputs: Tensor, targets: Tensor, sample_index: Tensor | None, baseline: Tensor | None, metric: str
) -> Tensor:
    samples = torch.arange(outputs.shape[0], device=outputs.device) if sample_index is None else sample_index
    values = row_metric(outputs, targets[samples], metric)
    return values if baseline is None else values - baseline.double()[samples]


def apply_masks(x: Tensor, masks: Tensor, sample_index: Tensor | None) -> Tensor:
    pairs = (
        [(m, n) for m in range(masks.shape[0]) for n in range(x.shape[0])]
        if sample_index is None
        else list(enumerate(sample_index.tolist()))
    )
    out = x.new_zeros((len(pairs), *x.shape[1:]))
    for row, (mask, sample) in enumerate(pairs):
        for player in range(x.shape[1]):
            if masks[mask, player]:
                out[row, player] = x[sample, player]
    return out


def marginals(values: Tensor, permutations: Tensor, block: int) -> tuple[Tensor, Tensor]:
    steps = values.double().diff(dim=1).cpu()
    by_player = torch.zeros_like(steps).scatter_(1, permutations.long().cpu(), steps)
    means = by_player.unflatten(0, (-1, block)).mean(1)
    return by_player.sum(0), means.square().sum(0)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox-4x32-10 as in the paper's section 3.3 (Salmon et al., SC 2011)."""
    for round_number in range(10):
        bumped = [(k + round_number * w) & MASK32 for k, w in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = (
            (b >> 32) ^ counter[1] ^ bumped[0],
            b & MASK32,
            (a >> 32) ^ counter[3] ^ bumped[1],
            a & MASK32,
        )
    return counter


def sample_permutations(seed: int, first: int, count: int, n_players: int, antithetic: bool) -> Tensor:
    rows = []
    for walk in range(first, first + count):
        base = walk // 2 if antithetic else walk
        key = (seed & MASK32, seed >> 32 & MASK32)
        words = [philox((c // 4, 0, base & MASK32, base >> 32), key)[c % 4] for c in range(n_players)]
        order = sorted(range(n_players), key=lambda c: (words[c], c))
        rows.append(order[::-1] if antithetic and walk % 2 else order)
    return torch.tensor(rows, dtype=torch.int32).reshape(count, n_players)


def contributions(features: Tensor, weight: Tensor) -> Tensor:
    """What each channel of each sample adds to a head's outputs, float64 [N, C, K]."""
    x, w = features.double(), weight.double()
    if x.dim() == 3 and w.shape[1] == x.shape[1]:
        x = x.mean(2)
    x = x[:, :, None] if x.dim() == 2 else x
    return torch.einsum("ncs,kcs->nck", x, w.reshape(w.shape[0], *x.shape[1:]))


def masked_outputs(added: Tensor, masks: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs [M, K] of one sample, from its contributions [C, K], under each mask. Absent players add nothing."""
    present = torch.where(masks[:, :, None], added[None], torch.zeros((), dtype=added.dtype, device=added.device))
    return present.sum(1) if bias is None else present.sum(1) + bias.double()


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
    if len(masks) == 0:
        return torch.empty(0, dtype=torch.float64, device=masks.device)
    added = contributions(features, weight)
    values = torch.stack(
        [
            row_metric(
                masked_outputs(added[n], masks, bias), targets[n : n + 1].expand(len(masks), *targets[n].shape), metric
            )
            - (0.0 if baseline is None else baseline[n].double())
            for n in range(len(features))
        ]
    )
    if sample_index is None:
        return values.mean(0)
    return values[sample_index, torch.arange(len(masks), device=masks.device)]


def activated(outputs: Tensor, activation: str, negative_slope: float) -> Tensor:
    if activation == "leaky_relu":
        return functional.leaky_relu(outputs, negative_slope)
    return outputs if activation == "none" else getattr(functional, activation)(outputs)


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
    rows, n_players = permutations.shape
    joined = contributions(features, weight)[sample_index].gather(
        1, permutations.long()[:, :, None].expand(rows, n_players, weight.shape[0])
    )
    outputs = joined.new_zeros(rows, n_players + 1, weight.shape[0])
    for step in range(n_players):
        outputs[:, step + 1] = outputs[:, step] + joined[:, step]
    if bias is not None:
        outputs = outputs + bias.double()
    if residual is not None:
        outputs = outputs + residual.double()[sample_index][:, None]
    return activated(outputs, activation, negative_slope)


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
    outputs = permutation_linear(features, permutations, weight, bias, sample_index)
    return torch.stack([row_metric(step, targets[sample_index], metric) for step in outputs.unbind(1)], 1)


def every_mask(n_players: int, device: torch.device) -> Tensor:
    """All coalitions, bool [2^C, C]: bit c of the row number says whether player c is kept."""
    bits = torch.arange(1 << n_players, device=device)[:, None] >> torch.arange(n_players, device=device)
    return bits.bitwise_and(1).bool()


def exhaustive_eval(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, metric: str = "cross_entropy"
) -> Tensor:
    return masked_eval(features, every_mask(features.shape[1], features.device), weight, bias, targets, metric=metric)


def permutation_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    permutations: Tensor,
    sample_index: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
    pool: int = 1,
    channels_last: bool = False,
) -> Tensor:
    """A convolution of every masked row. `channels_last` is about memory, not about values."""
    walks, n_players = permutations.shape
    rows = x.new_zeros((walks, n_players + 1, *x.shape[1:]), dtype=torch.float64)
    for walk, sample in enumerate(sample_index.tolist()):
        for step, player in enumerate(permutations[walk].tolist()):
            rows[walk, step + 1 :, player] = x[sample, player].double()
    out = functional.conv2d(
        rows.flatten(0, 1), weight.double(), None if bias is None else bias.double(), stride, padding, dilation
    )
    if residual is not None:
        out = out + residual.double()[sample_index].repeat_interleave(n_players + 1, 0)
    out = activated(out, activation, negative_slope)
    if pool == 2:
        out = functional.max_pool2d(out, 2)
    return out.unflatten(0, (walks, n_players + 1))
