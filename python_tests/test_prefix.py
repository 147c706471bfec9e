"""Wherever the prefix's results are kept, a game has the same payoffs; and not all of them take memory by sample."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from architectures import build
from test_bounded_memory import data, network
from tolerances import BFLOAT16_AGREES, CHUNKS_AGREE
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import shapley_cuda as sc
from shapley_cuda.memory import PeakMemory

KEPT = ("memory", "bfloat16", "disk", "recompute")
GAMES = [
    ("chain", "conv2", "auto"),  # walks through a convolution
    ("chain", "fc1", "auto"),  # walks to the outputs
    ("chain", "fc1", "suffix"),
    ("chain", "conv1", "suffix"),
    ("resnet_basic", "3.conv2.0", "auto"),  # a residual stream
    ("branching", "conv1", "auto"),  # hooks
]


def masks_of(game: sc.ChannelGame, count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, game.n_players, generator=generator) < 0.5).to(game.device)


def payoffs(game: sc.ChannelGame) -> list[Tensor]:
    """Of walks, rows and coalitions."""
    masks = masks_of(game)
    permutations, samples = sc.WalkSampler(game.n_players, game.n_samples).walks(0, 12, game.device)
    return [game.walk_values(permutations, samples), game.row_values(masks, samples), game(masks)]


def assert_payoffs_agree(actual: list[Tensor], expected: list[Tensor], tolerance: tuple[float, float]) -> None:
    for values, others in zip(actual, expected, strict=True):
        torch.testing.assert_close(values, others, rtol=tolerance[0], atol=tolerance[1])


@pytest.mark.parametrize("prefix", KEPT[1:])
@pytest.mark.parametrize(("family", "group", "path"), GAMES)
def test_payoffs_are_the_same_wherever_the_prefix_is_kept(
    family: str, group: str, path: str, prefix: str, device: str
) -> None:
    model, inputs, targets = build(family)
    model = model.to(device)
    expected = payoffs(sc.ChannelGame(model, group, (inputs.to(device), targets.to(device)), path=path))
    # Data on the CPU come to the network wherever that is.
    game = sc.ChannelGame(model, group, (inputs, targets), path=path, prefix=prefix)
    assert f"prefix: {prefix}" in game.describe()
    tolerance = BFLOAT16_AGREES if prefix == "bfloat16" else CHUNKS_AGREE
    actual = payoffs(game)
    assert_payoffs_agree(actual, expected, tolerance)
    if prefix == "bfloat16" and game.path != "hook":
        assert not torch.equal(actual[0], expected[0])  # else nothing was kept in bfloat16


@pytest.mark.parametrize("prefix", KEPT)
def test_all_payoffs_of_a_head_in_chunks_of_samples_are_the_same(prefix: str) -> None:
    model, inputs, targets = build("chain")
    expected = sc.ChannelGame(model, "fc1", (inputs, targets)).all_payoffs()
    game = sc.ChannelGame(model, "fc1", (inputs, targets), prefix=prefix)
    game.memory_budget = 4 * game.bytes_per_row  # chunks of 4 samples and 2
    assert game.chunk_rows < game.n_samples
    tolerance = BFLOAT16_AGREES if prefix == "bfloat16" else CHUNKS_AGREE
    torch.testing.assert_close(game.all_payoffs(), expected, rtol=tolerance[0], atol=tolerance[1])
    masks = masks_of(game)
    codes = (masks * 2 ** torch.arange(game.n_players)).sum(1)
    torch.testing.assert_close(game(masks), expected[codes], rtol=tolerance[0], atol=tolerance[1])


@pytest.mark.parametrize("data_from", [DataLoader, TensorDataset])
def test_game_on_a_loader_has_the_payoffs_of_its_tensors(data_from: type) -> None:
    model, inputs, targets = build("chain")
    loaded = TensorDataset(inputs, targets)
    game = sc.ChannelGame(model, "conv2", loaded if data_from is TensorDataset else DataLoader(loaded, batch_size=4))
    assert_payoffs_agree(payoffs(game), payoffs(sc.ChannelGame(model, "conv2", (inputs, targets))), (0, 0))
    assert game.data.inputs.untyped_storage().filename  # mapped


def peak_of_game(prefix: str, n_samples: int) -> int:
    """Bytes of tensors at the worst moment of building a game of so many samples, and of its use."""
    inputs, targets = sc.stream_data(DataLoader(TensorDataset(*data(n_samples)), batch_size=50))
    with PeakMemory() as memory:
        game = sc.ChannelGame(network(), "0", (inputs, targets), memory_budget=2 << 20, prefix=prefix)
        payoffs(game)
    return memory.peak


def test_memory_stays_as_samples_grow_where_the_prefix_is_not_in_memory() -> None:
    few, many = 200, 1000
    peaks = {prefix: [peak_of_game(prefix, count) for count in (few, many)] for prefix in KEPT}
    grown = {prefix: after - before for prefix, (before, after) in peaks.items()}
    one = 4 * 24 * 10 * 10  # bytes that the prefix gives for a sample
    assert grown["memory"] >= (many - few) * one
    assert 0.4 * (many - few) * one <= grown["bfloat16"] < 0.6 * grown["memory"]
    for prefix in ("disk", "recompute"):
        assert grown[prefix] < 0.05 * (many - few) * one
        assert peaks[prefix][1] < 3 << 20


def test_prefix_runs_on_batches_that_fit_the_budget() -> None:
    sizes: list[int] = []
    model, (inputs, targets) = network(), data(100)
    sc.ChannelGame(model, "0", (inputs, targets))  # what building does besides is the same whatever the budget
    model[0].register_forward_hook(lambda layer, args, output: sizes.append(len(output)))
    for budget, most in ((1 << 20, 32), (1 << 26, 98)):
        sizes.clear()
        sc.ChannelGame(model, "0", (inputs, targets), memory_budget=budget)
        assert max(sizes) == most
        assert sum(size for size in sizes if size == most) >= 90


def test_prefix_that_runs_out_of_memory_is_computed_in_halves() -> None:
    model, (inputs, targets) = network(), data(100)
    expected = payoffs(sc.ChannelGame(model, "0", (inputs, targets)))

    def run_out(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].shape[0] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model[0].register_forward_pre_hook(run_out)
    for prefix in KEPT[:3]:
        actual = payoffs(sc.ChannelGame(model, "0", (inputs, targets), path="walk", prefix=prefix))
        assert_payoffs_agree(actual, expected, BFLOAT16_AGREES if prefix == "bfloat16" else CHUNKS_AGREE)


def test_prefix_recomputed_runs_once_for_coalitions_of_the_same_samples() -> None:
    model, (inputs, targets) = network(), data(20)
    game = sc.ChannelGame(model, "0", (inputs, targets), prefix="recompute")
    game.memory_budget = 20 * game.bytes_per_row  # a coalition at a time
    n_samples = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal n_samples
        n_samples += args[0].shape[0]

    model[0].register_forward_pre_hook(count)
    game(masks_of(game))
    assert n_samples == 20


def test_prefix_on_disk_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    written: list[str] = []
    original = tempfile.NamedTemporaryFile

    def watch(*args: object, **kwargs: object) -> object:
        file = original(*args, **kwargs)  # type: ignore[call-overload]
        written.append(file.name)
        return file

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", watch)
    game = sc.ChannelGame(network(), "0", data(), prefix="disk")
    assert written
    assert all(Path(name).parent == tmp_path for name in written)
    assert list(tmp_path.iterdir()) == []
    payoffs(game)
    del game
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["apoz", "taylor", "permutation", "leave_one_out"])
def test_rankings_are_the_same_on_mapped_data(method: str) -> None:
    model, inputs, targets = build("chain")
    budget = {"budget": 60 * 8, "tolerance": 0} if method == "permutation" else {}
    mapped = sc.stream_data([(inputs, targets)])
    estimates = [
        sc.rank(sc.ChannelGame(model, "conv1", pair, prefix=prefix), method, **budget)
        for pair, prefix in (((inputs, targets), "memory"), (mapped, "disk"))
    ]
    torch.testing.assert_close(estimates[1].values, estimates[0].values, rtol=1e-5, atol=1e-6)
