"""Cases for permutation_conv2d: the 3 x 3 convolutions of a VGG-16 on 32 x 32 images, one of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from shapley_cuda import ops

from . import baselines
from .cases import Cases, Setting, best_chunk, bytes_of, random_walks, with_compiled
from .harness import Case

_SAMPLES = 8


def permutation_conv2d_cases(setting: Setting) -> Iterator[Case]:
    for channels, side in ((9, 5),) if setting.quick else ((64, 16), (128, 8), (256, 4), (512, 2)):
        g, device, walks = setting.generator, setting.device, setting.pick(6, 3)
        x = torch.randn(_SAMPLES, channels, side, side, generator=g, device=device).relu()
        weight = torch.randn(channels, channels, 3, 3, generator=g, device=device) / (9 * channels) ** 0.5
        bias = torch.randn(channels, generator=g, device=device)
        permutations, index = rows = random_walks(setting, walks, channels, _SAMPLES)
        layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        folded = {
            name: partial(
                baselines.walk_convolutions_folded,
                x.contiguous(memory_format=layout),
                weight.contiguous(memory_format=layout),
                bias,
            )
            for name, layout in layouts.items()
        }
        cumulative = {"": partial(baselines.walk_convolutions_cumulative, x, weight, bias)}
        contenders = [
            best_chunk(setting, "folded conv2d, relu", folded, rows),
            best_chunk(setting, "grouped conv2d, gather, cumsum, relu", cumulative, rows),
        ]
        output = channels * side * side
        yield Case(
            op="permutation_conv2d",
            shape=f"R={walks} C=K={channels} 3x3 on {side}x{side}, ReLU",
            ours=partial(
                ops.permutation_conv2d, x, weight, bias, permutations.int(), index, padding=1, activation="relu"
            ),
            baselines=with_compiled(setting, contenders),
            tolerance=1e-5,
            bytes_moved=bytes_of(x, weight, bias, index) + 4 * walks * (channels + (channels + 1) * output),
            operations=2 * 9 * walks * channels * output,
            rows=walks * (channels + 1),
        )


CASES: dict[str, Cases] = {"permutation_conv2d": permutation_conv2d_cases}
