"""How the suffix runs changes how fast it is, and its numbers no more than its precision says."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from architectures import build
from tolerances import BFLOAT16_AGREES, CHUNKS_AGREE
from torch import Tensor, nn

import shapley_cuda as sc

SUFFIX_PATHS = ("walk", "suffix")


def values_of(
    family: str, group: str, path: str, execution: sc.Execution | None, device: str = "cpu", walks: int = 6
) -> tuple[sc.ChannelGame, Tensor]:
    model, inputs, targets = build(family)
    data = (inputs.to(device), targets.to(device))
    game = sc.ChannelGame(model.to(device), group, data, path=path, execution=execution)
    permutations, samples = sc.WalkSampler(game.n_players, len(inputs)).walks(0, walks, device)
    return game, game.walk_values(permutations, samples)


def assert_agree(actual: Tensor, expected: Tensor, tolerance: tuple[float, float]) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance[0], atol=tolerance[1])


def watch_rows(game: sc.ChannelGame, path: str) -> list[Tensor]:
    """Collect what the suffix's image layers read from now on."""
    seen: list[Tensor] = []
    suffix = (game._paths.walk if path == "walk" else game._paths.rows)._suffix.run
    for module in suffix.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return seen


@pytest.mark.parametrize("path", SUFFIX_PATHS)
@pytest.mark.parametrize("family", ["resnet_basic", "vgg"])
def test_execution_channels_last_gives_the_same_values(family: str, path: str, device: str) -> None:
    group = {"resnet_basic": "3.conv1.0", "vgg": "0"}[family]
    _, expected = values_of(family, group, path, sc.Execution(channels_last=False), device)
    game, actual = values_of(family, group, path, sc.Execution(channels_last=True), device)
    assert_agree(actual, expected, CHUNKS_AGREE)
    seen = watch_rows(game, path)
    permutations, samples = sc.WalkSampler(game.n_players, game.n_samples).walks(0, 2, device)
    game.walk_values(permutations, samples)
    assert seen
    assert all(rows.is_contiguous(memory_format=torch.channels_last) for rows in seen)


@pytest.mark.parametrize("path", SUFFIX_PATHS)
@pytest.mark.parametrize("group", ["conv1", "fc1"])
def test_execution_bfloat16_is_within_its_precision(group: str, path: str, device: str) -> None:
    _, expected = values_of("chain", group, path, None, device)
    game, actual = values_of("chain", group, path, sc.Execution(dtype=torch.bfloat16), device)
    assert actual.dtype == torch.float32
    assert_agree(actual, expected, BFLOAT16_AGREES)
    if game._head is None:
        assert not torch.equal(actual, expected)  # else nothing ran in bfloat16


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None or not torch._dynamo.is_dynamo_supported(),
    reason="torch.compile needs Linux, g++ and a Python that torch._dynamo supports",
)
def test_execution_compiled_suffix_agrees() -> None:
    _, expected = values_of("chain", "conv1", "walk", None)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    _, actual = values_of("chain", "conv1", "walk", sc.Execution(compile=True))
    assert_agree(actual, expected, CHUNKS_AGREE)
    assert counters["stats"]["unique_graphs"] >= 1  # else it has run as it is


def test_execution_hook_path_takes_none() -> None:
    wanted = sc.Execution(channels_last=True, dtype=torch.bfloat16, compile=True)
    (_, plain), (_, with_options) = (values_of("resnet_basic", "3.conv1.0", "hook", e) for e in (None, wanted))
    assert torch.equal(with_options, plain)
