"""From ranking to plan to smaller network and back from disk: what was masked is what is cut."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import FAMILIES, N_SAMPLES, UNUSUAL, build
from tolerances import MASKED_IS_PRUNED
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda import surgery
from shapley_cuda.groups import cut_channels
from shapley_cuda.masking import masked_outputs, relative_deviation

LENET_SAMPLE = torch.zeros(1, 1, 28, 28)


def random_mask(n_players: int, seed: int) -> Tensor:
    mask = torch.rand(n_players, generator=torch.Generator().manual_seed(seed)) < 0.55
    mask[seed % n_players] = True
    return mask


def removed_by(mask: Tensor) -> list[int]:
    return mask.logical_not().nonzero().flatten().tolist()


def keeping(model: nn.Module, sample: Tensor, masks: dict[str, Tensor]) -> sc.PruningPlan:
    """The plan that keeps exactly the players of the masks."""
    keep = {name: int(mask.sum()) for name, mask in masks.items()}
    return sc.plan_pruning(model, {name: mask.double() for name, mask in masks.items()}, keep, sample)


@pytest.mark.parametrize("family", [*FAMILIES, *UNUSUAL])
def test_pruned_network_computes_what_the_masked_one_does_for_every_group(family: str) -> None:
    model, inputs, _ = build(family)
    groups = [group for group in sc.find_groups(model, inputs[:1]) if group.prunable]
    assert groups
    changes = []
    for group in groups:
        for seed in range(3):
            mask = random_mask(group.n_players, seed)
            pruned = cut_channels(model, {group.name: removed_by(mask)}, inputs[:1])
            masked = masked_outputs(model, [(group, mask)], inputs)
            assert relative_deviation(pruned(inputs), masked) < MASKED_IS_PRUNED, (group.name, mask.tolist())
            changes.append(relative_deviation(masked, model(inputs)))
    assert max(changes) > 0.1  # else agreement would mean nothing


@pytest.mark.parametrize("family", [*FAMILIES, *UNUSUAL])
@pytest.mark.parametrize("seed", [0, 1])
def test_pruned_network_all_groups_at_once_computes_what_the_masked_one_does(family: str, seed: int) -> None:
    model, inputs, _ = build(family)
    groups = [group for group in sc.find_groups(model, inputs[:1]) if group.prunable]
    masks = {group.name: random_mask(group.n_players, seed + i) for i, group in enumerate(groups)}
    plan = keeping(model, inputs, masks)
    pruned = sc.prune(model, plan, inputs)
    coalitions = [(group, masks[group.name]) for group in groups]
    assert relative_deviation(pruned(inputs), masked_outputs(model, coalitions, inputs)) < MASKED_IS_PRUNED
    assert {name: plan.kept(name) for name in masks} == {
        name: mask.nonzero().flatten().tolist() for name, mask in masks.items()
    }
    assert sc.count_parameters(pruned) == plan.parameters[1] < plan.parameters[0]


@pytest.mark.parametrize("family", [*FAMILIES, *UNUSUAL])
def test_whole_way_from_groups_to_pruned_network_keeps_the_payoff_that_the_game_promised(family: str) -> None:
    model, inputs, targets = build(family)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.dim() == 2:
            return F.cross_entropy(outputs, targets, reduction="none")
        return (outputs.flatten(1).mean(1) - targets) ** 2

    for group in sc.find_groups(model, inputs[:1]):
        if not group.prunable:
            continue
        game = sc.ChannelGame(model, group.name, (inputs, targets), metric=loss)
        estimate = sc.rank(game, tolerance=0, budget=2 * N_SAMPLES * (game.n_players + 1))
        plan = sc.plan_pruning(model, {group.name: estimate}, 0.5, inputs)
        pruned = sc.prune(model, plan, inputs)
        mask = torch.zeros(1, game.n_players, dtype=torch.bool)
        mask[0, plan.kept(group.name)] = True
        with torch.no_grad():
            promised, kept = game(mask).item(), -loss(pruned(inputs), targets).double().mean().item()
        assert kept == pytest.approx(promised, rel=1e-5, abs=1e-6)


def test_plan_removes_the_least_valuable_and_keeps_ties_in_order() -> None:
    model, inputs, _ = build("chain")
    values = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 3.0])
    assert sc.plan_pruning(model, {"conv1": values}, {"conv1": 3}, inputs).removed == {"conv1": [0, 2, 3]}
    estimate = sc.Estimate("conv1", "mine", values.double(), None, 0, 0.0, None, "complete")
    assert sc.plan_pruning(model, {"conv1": estimate}, {"conv1": 3}, inputs).kept("conv1") == [1, 4, 5]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (0.5, {"conv1": 3, "fc1": 4}),  # half of nine is rounded to even
        (1.0, {"conv1": 6, "fc1": 9}),
        (0.01, {"conv1": 1, "fc1": 1}),
        ({"conv1": 2, "fc1": 1.0}, {"conv1": 2, "fc1": 9}),
        ({"conv1": 0.34, "fc1": 5}, {"conv1": 2, "fc1": 5}),
    ],
)
def test_plan_keep_is_a_share_or_a_number(keep: Any, kept: dict[str, int]) -> None:
    model, inputs, _ = build("chain")
    rankings = {"conv1": torch.arange(6.0), "fc1": torch.arange(9.0)}
    plan = sc.plan_pruning(model, rankings, keep, inputs)
    assert {name: len(plan.kept(name)) for name in rankings} == kept
    assert plan.n_players == {"conv1": 6, "fc1": 9}


@pytest.mark.parametrize(
    ("rankings", "keep", "text"),
    [
        ({"conv1": torch.zeros(6)}, 0.0, "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping"),
        ({"conv1": torch.zeros(6)}, 1.5, "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping"),
        (
            {"conv1": torch.zeros(6)},
            float("nan"),
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping",
        ),
        ({"conv1": torch.zeros(6)}, 1, "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping"),
        (
            {"conv1": torch.zeros(6)},
            {"conv1": 0},
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
            "as an int from 1 to 6, got 0",
        ),
        (
            {"conv1": torch.zeros(6)},
            {"conv1": 7},
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
            "as an int from 1 to 6, got 7",
        ),
        (
            {"conv1": torch.zeros(6)},
            {"conv1": True},
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
            "as an int from 1 to 6, got True",
        ),
        (
            {"conv1": torch.zeros(6)},
            {"conv2": 2},
            "keep must name the groups that are ranked, ['conv1'], got ['conv2']",
        ),
        ({"conv1": torch.zeros(5)}, 0.5, "ranking of 'conv1' must have 6 values, got shape [5]"),
        (
            {"conv1": torch.tensor([0, 1, 2, 3, 4, float("nan")])},
            0.5,
            "ranking of 'conv1' must be finite, got NaN or infinite values",
        ),
        ({"conv9": torch.zeros(6)}, 0.5, "group must name a layer that produces channels, got 'conv9'"),
        ({"fc2": torch.zeros(5)}, 0.5, "group 'fc2' cannot be pruned exactly: its channels are outputs of the network"),
    ],
)
def test_plan_bad_argument_is_refused_with_a_text_that_says_what_is_wrong(
    rankings: dict[str, Tensor], keep: Any, text: str
) -> None:
    model, inputs, _ = build("chain")
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        sc.plan_pruning(model, rankings, keep, inputs)


def test_plan_group_under_another_name_is_the_same_group() -> None:
    model, inputs, _ = build("resnet_basic")
    values = torch.arange(8.0)
    plan = sc.plan_pruning(model, {"4.conv2.0": values}, {"4.conv2.0": 5}, inputs)
    assert plan.removed == {"3.conv2.0": [0, 1, 2]}
    with pytest.raises(ValueError, match=r"^rankings must name each group once, got '4.conv2.0' and another layer of"):
        sc.plan_pruning(model, {"3.conv2.0": values, "4.conv2.0": values}, 0.5, inputs)


def test_plan_of_lenet5_pruned_to_8_9_36_counts_what_the_hand_counts() -> None:
    plan = sc.plan_pruning(
        sc.pretrained("lenet5"),
        {"conv1": torch.arange(20.0), "conv2": torch.arange(50.0), "fc1": torch.arange(500.0)},
        {"conv1": 8, "conv2": 9, "fc1": 36},
        LENET_SAMPLE,
    )
    whole = (20 * 25 + 20) + (50 * 20 * 25 + 50) + (500 * 800 + 500) + (10 * 500 + 10)
    cut = (8 * 25 + 8) + (9 * 8 * 25 + 9) + (36 * 9 * 16 + 36) + (10 * 36 + 10)
    assert plan.parameters == (whole, cut) == (431080, 7607)
    whole_macs = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 500 * 800 + 10 * 500
    cut_macs = 24 * 24 * 8 * 25 + 8 * 8 * 9 * 8 * 25 + 36 * 9 * 16 + 10 * 36
    assert plan.macs == (whole_macs, cut_macs) == (2293000, 235944)
    assert plan.input_shape == (1, 1, 28, 28)
    assert str(plan) == (
        "conv1: 20 -> 8, conv2: 50 -> 9, fc1: 500 -> 36; parameters 431,080 -> 7,607 (1.8%); "
        "MACs 2,293,000 -> 235,944 (10.3%)"
    )


def test_plan_json_round_trip_is_the_same_plan() -> None:
    model, inputs, _ = build("chain")
    plan = sc.plan_pruning(model, {"conv1": torch.arange(6.0), "fc1": torch.arange(9.0)}, 0.5, inputs)
    assert sc.PruningPlan.from_json(plan.to_json()) == plan


def record(**changes: Any) -> str:
    plan = sc.PruningPlan({"conv1": [0, 3]}, {"conv1": 6}, (100, 60), (1000, 500), (1, 3, 12, 12))
    fields = json.loads(plan.to_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value != "drop"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a plan must be JSON, got: "),
        ("3", "a plan must be a JSON object of format shapley_cuda.plan/1 with fields ["),
        (record(format="shapley_cuda.plan/2"), "a plan must be a JSON object of format shapley_cuda.plan/1"),
        (record(removed="drop"), "a plan must be a JSON object of format shapley_cuda.plan/1"),
        (record(surprise=1), "a plan must be a JSON object of format shapley_cuda.plan/1"),
        (record(removed=[1]), "removed of a plan must list the channels of ['conv1'], got [1]"),
        (record(removed={"conv2": [1]}), "removed of a plan must list the channels of ['conv1'], got {'conv2': [1]}"),
        (record(n_players=[6]), "n_players of a plan must map groups to numbers of channels, got [6]"),
        (record(n_players={"conv1": "6"}), "n_players of a plan must map groups to numbers of channels"),
        (record(parameters=[1]), "parameters of a plan must be a list of 2 sizes, got [1]"),
        (record(macs=["1", "2"]), "macs of a plan must be a list of 2 sizes, got ['1', '2']"),
        (record(input_shape=None), "input_shape of a plan must be a list of"),
        *(
            (
                record(removed={"conv1": channels}),
                f"a plan must remove ascending channels of 'conv1' from 0 to 5, got {channels}",
            )
            for channels in ([3, 0], [0, 0], [6], [-1], [0.5], ["a"], 3)
        ),
        (record(removed={"conv1": [0, 1, 2, 3, 4, 5]}), "a plan must keep a channel of 'conv1', got all 6 removed"),
    ],
)  # fmt: skip
def test_plan_malformed_json_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        sc.PruningPlan.from_json(text)


def test_prune_nothing_of_the_callers_is_changed() -> None:
    model, inputs, _ = build("vgg")
    model.train()
    model[1].eval()  # a mixture of modes, as a frozen BatchNorm makes it
    model[0].weight.requires_grad_(False)
    state, inputs_before = copy.deepcopy(model.state_dict()), inputs.clone()
    flags = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    plan = sc.plan_pruning(model, {"0": torch.arange(6.0), "7": torch.arange(7.0)}, 0.5, inputs)
    plan_before = copy.deepcopy(plan)
    pruned = sc.prune(model, plan, inputs)
    assert plan == plan_before
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(inputs, inputs_before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module.training for module in pruned.modules())
    assert {name: p.requires_grad for name, p in pruned.named_parameters()} == {
        name: p.requires_grad for name, p in model.named_parameters()
    }
    with torch.no_grad():
        pruned[0].weight.zero_()
    assert torch.equal(state["0.weight"], model[0].weight)


@pytest.mark.parametrize("shift", [1, 2])
def test_prune_verify_catches_a_cut_of_the_wrong_channel(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, _ = build("resnet_basic")
    plan = sc.plan_pruning(model, {"2.conv1.0": torch.arange(6.0)}, {"2.conv1.0": 5}, inputs)

    def off_by_some(model: nn.Module, removed: dict[str, list[int]], sample: Tensor) -> nn.Module:
        return cut_channels(model, {name: [c + shift for c in channels] for name, channels in removed.items()}, sample)

    monkeypatch.setattr(surgery, "cut_channels", off_by_some)
    with pytest.raises(
        sc.PruningError, match=r"^pruned and masked network differ by .* groups 2.conv1.0 cannot be pruned"
    ):
        sc.prune(model, plan, inputs)
    assert sc.prune(model, plan, inputs, verify=False).get_submodule("2.conv1.0").out_channels == 5


def test_prune_plan_for_another_network_is_refused() -> None:
    model, inputs, _ = build("chain")
    plan = sc.PruningPlan({"conv1": [0]}, {"conv1": 20}, (1, 1), (1, 1), (1, 3, 12, 12))
    with pytest.raises(sc.GroupError, match=r"^group 'conv1' has 6 channels, the plan is for 20$"):
        sc.prune(model, plan, inputs)
    with pytest.raises(sc.GroupError, match=r"^group must name a layer that produces channels, got 'features'"):
        sc.prune(model, sc.PruningPlan({"features": [0]}, {"features": 2}, (1, 1), (1, 1), (1,)), inputs)


def test_prune_order_of_the_groups_does_not_matter() -> None:
    model, inputs, _ = build("densenet")
    masks = {g.name: random_mask(g.n_players, 1) for g in sc.find_groups(model, inputs[:1]) if g.prunable}
    forwards = sc.prune(model, keeping(model, inputs, masks), inputs)
    backwards = sc.prune(model, keeping(model, inputs, dict(reversed(masks.items()))), inputs)
    assert torch.equal(forwards(inputs), backwards(inputs))


def saved(folder: Path, family: str = "vgg") -> tuple[nn.Module, Tensor, sc.PruningPlan]:
    model, inputs, _ = build(family)
    groups = [group for group in sc.find_groups(model, inputs[:1]) if group.prunable]
    plan = keeping(model, inputs, {g.name: random_mask(g.n_players, i) for i, g in enumerate(groups)})
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
        (not_a_plan, r"^a plan must be a JSON object of format"),
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
