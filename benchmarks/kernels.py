"""Cases for the ops around a network: masks, losses, marginals, permutations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from shapley_cuda import ops

from . import baselines
from .cases import Cases, Setting, bytes_of, random_walks, with_compiled
from .harness import Baseline, Case


def apply_masks_cases(setting: Setting) -> Iterator[Case]:
    players, side = (8, 5) if setting.quick else (64, 16)
    rows = setting.pick(2048, 33)
    for dtype, layout in (
        (torch.float32, torch.contiguous_format),
        (torch.float32, torch.channels_last),
        (torch.bfloat16, torch.contiguous_format),
    ):
        g = setting.generator
        x = torch.randn(256, players, side, side, generator=g, device=setting.device)
        x = x.to(dtype).contiguous(memory_format=layout)
        masks = torch.rand(rows, players, generator=g, device=setting.device) > 0.5
        index = torch.randint(256, (rows,), generator=g, device=setting.device)
        arguments = (x, masks, index)
        yield Case(
            op="apply_masks",
            shape=f"R={rows} C={players} {side}x{side}" + " channels_last" * (layout is torch.channels_last),
            dtype=str(dtype).removeprefix("torch."),
            ours=partial(ops.apply_masks, *arguments),
            baselines=[
                Baseline("index_select, where", partial(baselines.rows_selected, *arguments)),
                Baseline("index_select * mask", partial(baselines.rows_multiplied, *arguments)),
            ],
            tolerance=0.0,
            bytes_moved=bytes_of(*arguments) + rows * x[0].numel() * x.element_size(),
            operations=0,
            rows=rows,
        )


def loss_difference_cases(setting: Setting) -> Iterator[Case]:
    for n_outputs, full in ((10, 1 << 18), (1000, 1 << 13)):
        g, device, rows = setting.generator, setting.device, setting.pick(full, 257)
        outputs = 3 * torch.randn(rows, n_outputs, generator=g, device=device)
        targets = torch.randint(n_outputs, (512,), generator=g, device=device)
        index = torch.randint(512, (rows,), generator=g, device=device)
        reference = torch.rand(512, generator=g, device=device)
        plain = partial(baselines.loss_difference, outputs, targets, index, reference)
        yield Case(
            op="loss_difference",
            shape=f"R={rows} K={n_outputs}",
            ours=partial(ops.loss_difference, outputs, targets, sample_index=index, baseline=reference),
            baselines=with_compiled(setting, [Baseline("F.cross_entropy - baseline", plain)]),
            tolerance=1e-5,
            bytes_moved=bytes_of(outputs, targets, index, reference) + 4 * rows,
            operations=3 * outputs.numel(),
            rows=rows,
        )


def marginals_cases(setting: Setting) -> Iterator[Case]:
    rows, players = setting.pick(4096, 34), 33 if setting.quick else 512
    values = torch.randn(rows, players + 1, generator=setting.generator, device=setting.device)
    walks, _ = random_walks(setting, rows, players, 1)
    for block in (1, 2):
        contenders = [Baseline("scatter into rows, sum", partial(baselines.marginals_by_row, values, walks, block))]
        if block == 1:
            contenders.append(Baseline("scatter_add", partial(baselines.marginals_flat, values, walks)))
        yield Case(
            op="marginals",
            shape=f"R={rows} C={players} block={block}",
            dtype="float32, sums float64",
            ours=partial(ops.marginals, values, walks.int(), block=block),
            baselines=contenders,
            tolerance=1e-11,
            bytes_moved=bytes_of(values) + 4 * walks.numel() + 16 * players,
            operations=3 * walks.numel(),
            rows=values.numel(),
        )


def sample_permutations_cases(setting: Setting) -> Iterator[Case]:
    for players, full in ((64, 1 << 15), (512, 1 << 12)):
        count = setting.pick(full, 65)
        yield Case(
            op="sample_permutations",
            shape=f"R={count} C={players}",
            dtype="int32",
            ours=partial(ops.sample_permutations, 0, 0, count, players, device=setting.device),
            baselines=[
                Baseline(
                    "torch.rand().argsort()",
                    partial(baselines.permutations, count, players, setting.device),
                    compare=_both_permute,
                )
            ],
            tolerance=0.0,
            bytes_moved=4 * count * players,
            operations=0,
        )


def _both_permute(ours: Tensor, baseline: Tensor) -> float:
    """Random numbers differ by nature; what must agree is that every row holds every player once."""
    players = torch.arange(ours.shape[1], device=ours.device, dtype=ours.dtype)
    same_shape = ours.shape == baseline.shape
    return 0.0 if same_shape and all(bool((rows.sort(1)[0] == players).all()) for rows in (ours, baseline)) else 1.0


CASES: dict[str, Cases] = {
    "apply_masks": apply_masks_cases,
    "loss_difference": loss_difference_cases,
    "marginals": marginals_cases,
    "sample_permutations": sample_permutations_cases,
}
