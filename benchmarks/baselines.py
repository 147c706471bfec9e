"""The ops' work in plain PyTorch, as one would write it who knows PyTorch well. See README.md for why these are fair.

Permutations are int64 here, since that is what torch.argsort gives and torch.gather takes. Nothing else is prepared
that our ops would have to prepare themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Head(NamedTuple):
    """A linear layer, what it reads and what it should say."""

    features: Tensor  # [N, C] or [N, C, S]
    weight: Tensor  # [K, C * S]
    bias: Tensor  # [K]
    targets: Tensor  # int64 [N]


# For functions that are a loop: torch.compile would unroll it, and takes the functions that it calls instead.
loop = torch.compiler.disable(recursive=False)


@loop
def in_chunks(function: Callable[..., Tensor], size: int, *per_row: Tensor) -> Tensor:
    """Apply a function to some rows at a time, so that what lies between its steps stays small."""
    results = [function(*parts) for parts in zip(*(t.split(size) for t in per_row), strict=True)]
    return results[0] if len(results) == 1 else torch.cat(results)


def masks_along(permutations: Tensor) -> Tensor:
    """Coalitions of walks [R, C], bool [R, C + 1, C]: in step j the first j players are kept."""
    steps = torch.arange(permutations.shape[1] + 1, device=permutations.device)
    return permutations.argsort(1)[:, None, :] < steps[None, :, None]


@loop
def walk_losses_by_step(head: Head, permutations: Tensor, sample_index: Tensor) -> Tensor:
    """Cross-entropy along walks [R, C + 1]: one masked matrix product for each step."""
    x, wanted = head.features[sample_index], head.targets[sample_index]
    mask, kept = torch.zeros_like(x), torch.ones_like(x[:, :1])
    losses = []
    for step in range(permutations.shape[1] + 1):
        if step:
            mask.scatter_(1, permutations[:, step - 1 : step], kept)
        losses.append(_masked_losses(head, x, mask, wanted))
    return torch.stack(losses, 1)


def _masked_losses(head: Head, x: Tensor, masks: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x * masks, head.weight, head.bias), wanted, reduction="none")


def walk_losses_folded(head: Head, permutations: Tensor, sample_index: Tensor) -> Tensor:
    """Cross-entropy along walks [R, C + 1]: all steps' masked features in one matrix product."""
    masks = masks_along(permutations)
    rows = (head.features[sample_index][:, None] * masks).flatten(0, 1)
    wanted = head.targets[sample_index].repeat_interleave(masks.shape[1])
    losses = F.cross_entropy(F.linear(rows, head.weight, head.bias), wanted, reduction="none")
    return losses.view(masks.shape[:2])


def walk_losses_cumulative(head: Head, permutations: Tensor, sample_index: Tensor) -> Tensor:
    """Cross-entropy along walks [R, C + 1]: contributions in the walk's order, summed up; outputs innermost."""
    n_walks, n_players = permutations.shape
    z = head.features.new_empty(n_walks, n_players + 1, head.weight.shape[0])
    z[:, 0] = head.bias
    x = head.features[sample_index].gather(1, permutations)
    torch.mul(x[:, :, None], head.weight.T[permutations], out=z[:, 1:])
    z.cumsum_(1)
    wanted = head.targets[sample_index].repeat_interleave(n_players + 1)
    return F.cross_entropy(z.flatten(0, 1), wanted, reduction="none").view(n_walks, -1)


def walk_losses_cumulative_steps_inside(head: Head, permutations: Tensor, sample_index: Tensor) -> Tensor:
    """The same with the steps innermost, where a cumulative sum reads neighbouring numbers."""
    n_walks, n_players = permutations.shape
    z = head.features.new_empty(head.weight.shape[0], n_walks, n_players + 1)
    z[:, :, 0] = head.bias[:, None]
    x = head.features[sample_index].gather(1, permutations)
    torch.mul(x, head.weight[:, permutations], out=z[:, :, 1:])
    z.cumsum_(2)
    wanted = head.targets[sample_index][None, :, None].expand(1, -1, n_players + 1)
    return z.logsumexp(0) - z.gather(0, wanted)[0]


@loop
def mean_losses_by_contributions(head: Head, masks: Tensor, samples_at_a_time: int) -> Tensor:
    """Mean cross-entropy under shared masks [M]: masks times contributions [C, N * K], some samples at a time."""
    kept = masks.float()
    total = head.features.new_zeros(masks.shape[0])
    for x, wanted in zip(head.features.split(samples_at_a_time), head.targets.split(samples_at_a_time), strict=True):
        total += _summed_losses(head, kept, x, wanted)
    return total / head.features.shape[0]


def _summed_losses(head: Head, kept: Tensor, x: Tensor, wanted: Tensor) -> Tensor:
    contributions = (x[:, None, :] * head.weight).flatten(0, 1).T
    logits = torch.addmm(head.bias.repeat(x.shape[0]), kept, contributions).view(-1, head.weight.shape[0])
    losses = F.cross_entropy(logits, wanted.repeat(kept.shape[0]), reduction="none")
    return losses.view(kept.shape[0], -1).sum(1)


@loop
def mean_losses_by_masked_weights(head: Head, masks: Tensor, masks_at_a_time: int) -> Tensor:
    """Mean cross-entropy under shared masks [M]: a masked head for each of them, some masks at a time."""
    return torch.cat([_mean_losses(head, kept) for kept in masks.split(masks_at_a_time)])


def _mean_losses(head: Head, kept: Tensor) -> Tensor:
    heads = (kept[:, None, :] * head.weight).flatten(0, 1)
    logits = F.linear(head.features, heads, head.bias.repeat(kept.shape[0])).view(-1, head.weight.shape[0])
    losses = F.cross_entropy(logits, head.targets.repeat_interleave(kept.shape[0]), reduction="none")
    return losses.view(head.features.shape[0], -1).mean(0)


def coalitions(first: int, count: int, n_players: int, device: torch.device) -> Tensor:
    """Coalitions by number, bool [count, C]: bit c of a number says whether player c is kept."""
    numbers = torch.arange(first, first + count, device=device)
    return (numbers[:, None] >> torch.arange(n_players, device=device) & 1).bool()


@loop
def all_losses_by_contributions(head: Head, masks_at_a_time: int, n_masks: int) -> Tensor:
    """Mean cross-entropy of the first coalitions [n_masks]: masks times contributions, some masks at a time."""
    (n_samples, n_players), device = head.features.shape, head.features.device
    means = []
    for first in range(0, n_masks, masks_at_a_time):
        masks = coalitions(first, min(masks_at_a_time, n_masks - first), n_players, device)
        means.append(mean_losses_by_contributions(head, masks, n_samples))
    return torch.cat(means)


def _outputs_of_halves(head: Head) -> tuple[Tensor, Tensor]:
    """Outputs with bias under all subsets of the high players, and without under those of the low: [N, 2^half, K]."""
    n_players = head.features.shape[1]
    low = n_players // 2
    contributions = head.features[:, :, None] * head.weight.T  # [N, C, K]
    subsets = [coalitions(0, 1 << n, n, head.features.device).float() for n in (n_players - low, low)]
    return subsets[0] @ contributions[:, low:] + head.bias, subsets[1] @ contributions[:, :low]


@loop
def all_losses_by_halves(head: Head) -> Tensor:
    """Mean cross-entropy of all coalitions [2^C]: every sum of a high subset's outputs and a low subset's."""
    high, low = _outputs_of_halves(head)
    total = high.new_zeros(high.shape[1] * low.shape[1])
    for one_high, one_low, target in zip(high, low, head.targets[:, None], strict=True):
        total += _losses_of_sums(one_high, one_low, target)
    return total / high.shape[0]


def _losses_of_sums(high: Tensor, low: Tensor, target: Tensor) -> Tensor:
    logits = (high[:, None] + low).flatten(0, 1)
    return F.cross_entropy(logits, target.expand(logits.shape[0]), reduction="none")


@loop
def all_losses_by_exponentials(head: Head) -> Tensor:
    """The same with the sum over outputs as a matrix product of the halves' exponentials, each less its greatest. The
    product is 0 where the halves favour other outputs by 90 or more: fit for outputs of moderate size."""
    high, low = _outputs_of_halves(head)
    total = high.new_zeros(high.shape[1], low.shape[1])
    for one_high, one_low, target in zip(high, low, head.targets[:, None], strict=True):
        total += _losses_of_products(one_high, one_low, target)
    return total.flatten() / high.shape[0]


def _losses_of_products(high: Tensor, low: Tensor, target: Tensor) -> Tensor:
    peaks = high.amax(1, keepdim=True), low.amax(1, keepdim=True)
    sums = (high - peaks[0]).exp_() @ (low - peaks[1]).exp_().T
    chosen = high[:, target] - peaks[0] + (low[:, target] - peaks[1]).T
    return sums.log_() - chosen


def own_losses(head: Head, masks: Tensor, sample_index: Tensor) -> Tensor:
    """Cross-entropy of rows [M], each under a mask of its own."""
    return _masked_losses(head, head.features[sample_index], masks, head.targets[sample_index])


def walk_outputs_folded(head: Head, permutations: Tensor, sample_index: Tensor) -> Tensor:
    """Outputs [R, C + 1, K] along walks over [N, C, S]: all steps' masked features in one matrix product."""
    masks = masks_along(permutations)
    rows = (head.features[sample_index][:, None] * masks[..., None]).flatten(2)
    return F.linear(rows, head.weight, head.bias)


def walk_outputs_cumulative(head: Head, permutations: Tensor, sample_index: Tensor) -> Tensor:
    """Outputs [R, C + 1, K] along walks over [N, C, S]: contributions of each sample's channels, in the walk's order,
    summed up."""
    n_walks, n_players = permutations.shape
    by_channel = head.weight.view(head.weight.shape[0], n_players, -1).permute(1, 2, 0)  # [C, S, K]
    contributions = torch.bmm(head.features.transpose(0, 1), by_channel)  # [C, N, K]
    z = head.features.new_empty(n_walks, n_players + 1, head.weight.shape[0])
    z[:, 0] = head.bias
    z[:, 1:] = contributions[permutations, sample_index[:, None]]
    return z.cumsum_(1)


def walk_convolutions_folded(
    x: Tensor, weight: Tensor, bias: Tensor, permutations: Tensor, sample_index: Tensor
) -> Tensor:
    """Rectified outputs [R, C + 1, K, H, W] of a 3 x 3 convolution along walks: all steps' masked images in one batch.
    Runs in the memory format of x and weight."""
    masks = masks_along(permutations)
    rows = (x[sample_index][:, None] * masks[..., None, None]).flatten(0, 1)
    return F.conv2d(rows, weight, bias, padding=1).relu_().unflatten(0, masks.shape[:2])


def walk_convolutions_cumulative(
    x: Tensor, weight: Tensor, bias: Tensor, permutations: Tensor, sample_index: Tensor
) -> Tensor:
    """The same from each sample's contributions [N, C, K, H, W], a grouped convolution, summed up in the walk's
    order."""
    n_outputs, n_players = weight.shape[:2]
    by_channel = weight.transpose(0, 1).reshape(n_players * n_outputs, 1, *weight.shape[2:])
    contributions = F.conv2d(x, by_channel, padding=1, groups=n_players).unflatten(1, (n_players, n_outputs))
    z = x.new_empty(permutations.shape[0], n_players + 1, *contributions.shape[2:])
    z[:, 0] = bias[:, None, None]
    z[:, 1:] = contributions[sample_index[:, None], permutations]
    return z.cumsum_(1).relu_()


def rows_selected(x: Tensor, masks: Tensor, sample_index: Tensor) -> Tensor:
    """Rows [R, C, H, W] of x, each under a mask of its own, by a select."""
    return torch.where(masks[:, :, None, None], x.index_select(0, sample_index), 0)


def rows_multiplied(x: Tensor, masks: Tensor, sample_index: Tensor) -> Tensor:
    """The same by a product: faster, but a NaN in a removed channel survives it."""
    return x.index_select(0, sample_index) * masks[:, :, None, None]


def loss_difference(outputs: Tensor, targets: Tensor, sample_index: Tensor, reference: Tensor) -> Tensor:
    """Cross-entropy of rows [R] less that of a reference."""
    return F.cross_entropy(outputs, targets[sample_index], reduction="none") - reference[sample_index]


def marginals_flat(values: Tensor, permutations: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares of the players' contributions [C]: one scatter_add for each."""
    steps, players = values.double().diff(dim=1).flatten(), permutations.flatten()
    zero = steps.new_zeros(permutations.shape[1])
    return zero.scatter_add(0, players, steps), zero.scatter_add(0, players, steps.square())


def marginals_by_row(values: Tensor, permutations: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The same for blocks of walks: contributions put into the players' order, then summed down the columns."""
    steps = values.double().diff(dim=1)
    by_player = torch.empty_like(steps).scatter_(1, permutations, steps)
    means = by_player.view(-1, block, steps.shape[1]).mean(1)
    return by_player.sum(0), means.square().sum(0)


def permutations(count: int, n_players: int, device: torch.device) -> Tensor:
    """Random permutations, int32 [count, C]."""
    return torch.rand(count, n_players, device=device).argsort(1).int()
