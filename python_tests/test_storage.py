"""Pruned networks on disk: the same bits come back, and what does not fit is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, build
from torch import Tensor, nn

import shapley_cuda as sc


def saved(folder: Path, family: str = "vgg") -> tuple[nn.Module, Tensor, sc.PruningPlan]:
    model, inputs, _ = build(family)
    generator = torch.Generator().manual_seed(0)
    sizes = {group.name: group.n_players for group in sc.find_groups(model, inputs[:1]) if group.prunable}
    values = {name: torch.rand(n, generator=generator) for name, n in sizes.items()}
    plan = sc.plan_pruning(model, values, 0.5, inputs)
    pruned = sc.prune(model, plan, inputs)
    sc.save_pruned(pruned, plan, folder)
    return pruned, inputs, plan


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_into_a_fresh_network_gives_the_same_bits(family: str, tmp_path: Path) -> None:
    pruned, inputs, plan = saved(tmp_path, family)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "plan.json"]
    assert sc.PruningPlan.from_json((tmp_path / "plan.json").read_text()) == plan
    fresh = FAMILIES[family].make()
    before = copy.deepcopy(fresh.state_dict())
    loaded = sc.load_pruned(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), pruned(inputs))
    assert not any(module.training for module in loaded.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_save_writes_no_pickle(tmp_path: Path) -> None:
    saved(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {entry["dtype"] for entry in header.values()} == {"F32", "I64"}


def test_save_tied_weights_come_back(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model[2].weight = model[0].weight
    plan = sc.plan_pruning(model, {"2": torch.arange(8.0)}, {"2": 8}, torch.zeros(1, 8))
    pruned = sc.prune(model, plan, torch.randn(3, 8))
    sc.save_pruned(pruned, plan, tmp_path)
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sc.load_pruned(model, tmp_path)(inputs), pruned(inputs))


def other_input(folder: Path) -> nn.Module:
    return sc.lenet5()


def great_input(folder: Path) -> nn.Module:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"input_shape": [1, 3, 1 << 20, 1 << 20]}))
    return FAMILIES["vgg"].make()


def flat_input(folder: Path) -> nn.Module:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"input_shape": [3]}))
    return FAMILIES["vgg"].make()


def no_text(folder: Path) -> nn.Module:
    (folder / "plan.json").write_bytes(b"\xff")
    return FAMILIES["vgg"].make()


def more_layers(folder: Path) -> nn.Module:
    return nn.Sequential(*FAMILIES["vgg"].make().children(), nn.Linear(5, 5))


def cut_short(folder: Path) -> nn.Module:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    return FAMILIES["vgg"].make()


def not_a_plan(folder: Path) -> nn.Module:
    (folder / "plan.json").write_text("{}")
    return FAMILIES["vgg"].make()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (other_input, r"plan\.json does not fit the network: "),
        (more_layers, r"model\.safetensors does not fit the network: (?s:.*)16\.weight"),
        (cut_short, r"model\.safetensors does not fit the network: "),
        (not_a_plan, r"plan\.json cannot be read: a plan must be a JSON object of format"),
        (no_text, r"plan\.json cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (great_input, r"plan\.json must be for one sample, got input_shape \(1, 3, 1048576, 1048576\)"),
        (flat_input, r"plan\.json does not fit the network: "),
    ],
)
def test_load_what_does_not_fit_is_named(spoil: Callable[[Path], nn.Module], text: str, tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match=text):
        sc.load_pruned(spoil(tmp_path), tmp_path)


def test_load_other_network_is_refused_by_its_groups(tmp_path: Path) -> None:
    saved(tmp_path, "chain")
    plan = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"input_shape": [1, 3, 32, 32]}))
    with pytest.raises(sc.GroupError, match=r"^group 'conv1' has 20 channels, the plan is for 6$"):
        sc.load_pruned(sc.lenet5(in_channels=3, image_size=32), tmp_path)


def test_load_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"plan\.json"):
        sc.load_pruned(FAMILIES["vgg"].make(), tmp_path)
