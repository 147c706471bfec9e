"""Cases for the ops that evaluate a linear head under many coalitions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from shapley_cuda import ops

from . import baselines
from .baselines import Head
from .cases import Cases, Setting, best_chunk, best_of, bytes_of, random_walks, with_compiled
from .harness import Baseline, Case, fastest


def _head(setting: Setting, n_samples: int, n_players: int, n_outputs: int, n_positions: int | None = None) -> Head:
    """Rectified features and a layer whose outputs have a spread of about 1."""
    g, device, positions = setting.generator, setting.device, n_positions or 1
    shape = (n_samples, n_players) if n_positions is None else (n_samples, n_players, n_positions)
    columns = n_players * positions
    return Head(
        torch.randn(shape, generator=g, device=device).relu(),
        torch.randn(n_outputs, columns, generator=g, device=device) / columns**0.5,
        torch.randn(n_outputs, generator=g, device=device),
        torch.randint(n_outputs, (n_samples,), generator=g, device=device),
    )


def permutation_eval_cases(setting: Setting) -> Iterator[Case]:
    for n_outputs, full in ((10, 512), (1000, 32)):
        walks, players = setting.pick(full, 6), 33 if setting.quick else 512
        head = _head(setting, 256, players, n_outputs)
        permutations, index = rows = random_walks(setting, walks, players, 256)
        cumulative = {
            "outputs inside": partial(baselines.walk_losses_cumulative, head),
            "steps inside": partial(baselines.walk_losses_cumulative_steps_inside, head),
        }
        contenders = [
            Baseline("loop over steps", partial(baselines.walk_losses_by_step, head, *rows)),
            best_chunk(setting, "folded batch", {"": partial(baselines.walk_losses_folded, head)}, rows),
            best_chunk(setting, "gather, cumsum", cumulative, rows),
        ]
        yield Case(
            op="permutation_eval",
            shape=f"R={walks} C={players} K={n_outputs}",
            ours=partial(
                ops.permutation_eval, head.features, permutations.int(), head.weight, head.bias, head.targets, index
            ),
            baselines=with_compiled(setting, contenders),
            tolerance=1e-4,
            bytes_moved=bytes_of(*head, index) + 4 * (2 * walks * players + walks),
            operations=4 * walks * players * n_outputs,
            rows=walks * (players + 1),
        )


def permutation_linear_cases(setting: Setting) -> Iterator[Case]:
    for players, positions, n_outputs, full in ((50, 16, 500, 256), (512, 1, 512, 24)):
        walks = setting.pick(full, 6)
        if setting.quick:
            players, n_outputs = 9, 33
        samples = walks // 2
        head = _head(setting, samples, players, n_outputs, positions)
        permutations, index = rows = random_walks(setting, walks, players, samples)
        yield Case(
            op="permutation_linear",
            shape=f"R={walks} C={players} S={positions} K={n_outputs}",
            ours=partial(ops.permutation_linear, head.features, permutations.int(), head.weight, head.bias, index),
            baselines=with_compiled(
                setting,
                [
                    best_chunk(setting, "folded batch", {"": partial(baselines.walk_outputs_folded, head)}, rows),
                    best_chunk(
                        setting, "bmm, gather, cumsum", {"": partial(baselines.walk_outputs_cumulative, head)}, rows
                    ),
                ],
            ),
            tolerance=1e-5,
            bytes_moved=bytes_of(*head[:3], index) + 4 * walks * (players + (players + 1) * n_outputs),
            operations=walks * players * n_outputs + 2 * samples * players * positions * n_outputs,
            rows=walks * (players + 1),
        )


def masked_eval_cases(setting: Setting) -> Iterator[Case]:
    n_masks, samples, players = (40, 33, 33) if setting.quick else (4096, 512, 512)
    head = _head(setting, samples, players, 10)
    masks = torch.rand(n_masks, players, generator=setting.generator, device=setting.device) > 0.5
    by_samples = {
        f"masks @ contributions, {n} samples at a time": partial(baselines.mean_losses_by_contributions, head, masks, n)
        for n in sorted({min(n, samples) for n in (8, 32, 128, 512)})
    }
    by_masks = {
        f"features @ masked weights, {n} masks at a time": partial(
            baselines.mean_losses_by_masked_weights, head, masks, n
        )
        for n in sorted({min(n, n_masks) for n in (8, 64, 512, 4096)})
    }
    arguments = (head.features, masks, head.weight, head.bias, head.targets)
    yield Case(
        op="masked_eval",
        shape=f"M={n_masks} N={samples} C={players} K=10, mean over samples",
        ours=partial(ops.masked_eval, *arguments),
        baselines=with_compiled(setting, [best_of(setting, by_samples), best_of(setting, by_masks)]),
        tolerance=1e-5,
        bytes_moved=bytes_of(*head, masks) + 4 * n_masks,
        operations=2 * n_masks * samples * players * 10,
        rows=n_masks * samples,
    )
    rows = setting.pick(4096, 40)
    own = torch.rand(rows, players, generator=setting.generator, device=setting.device) > 0.5
    index = torch.randint(samples, (rows,), generator=setting.generator, device=setting.device)
    yield Case(
        op="masked_eval",
        shape=f"R={rows} C={players} K=10, own samples",
        ours=partial(ops.masked_eval, head.features, own, *head[1:], sample_index=index),
        baselines=with_compiled(
            setting,
            [best_chunk(setting, "masked features @ weight", {"": partial(baselines.own_losses, head)}, (own, index))],
        ),
        tolerance=1e-5,
        bytes_moved=bytes_of(*head, own, index) + 4 * rows,
        operations=2 * rows * players * 10,
        rows=rows,
    )


def exhaustive_eval_cases(setting: Setting) -> Iterator[Case]:
    players, samples = (9, 10) if setting.quick else (20, 256)
    head = _head(setting, samples, players, 10)
    some = min(1 << players, 1 << 14)  # enough to tell which chunk size is best
    sizes = sorted({min(n, some) for n in (256, 1024, 4096)})
    trials = {str(n): partial(baselines.all_losses_by_contributions, head, n, some) for n in sizes}
    size = int(fastest(trials, setting.device)[0])
    matmul = partial(baselines.all_losses_by_contributions, head, size, 1 << players)
    yield Case(
        op="exhaustive_eval",
        shape=f"C={players} N={samples} K=10",
        ours=partial(ops.exhaustive_eval, *head),
        baselines=with_compiled(
            setting,
            [
                Baseline(f"masks @ contributions, {size} masks at a time", matmul),
                Baseline("sums of two halves", partial(baselines.all_losses_by_halves, head)),
                Baseline("exponentials of two halves, matmul", partial(baselines.all_losses_by_exponentials, head)),
            ],
        ),
        tolerance=1e-5,
        bytes_moved=bytes_of(*head) + (4 << players),
        operations=2 * (samples * 10 << players),
        rows=samples << players,
    )


CASES: dict[str, Cases] = {
    "permutation_eval": permutation_eval_cases,
    "permutation_linear": permutation_linear_cases,
    "masked_eval": masked_eval_cases,
    "exhaustive_eval": exhaustive_eval_cases,
}
