"""From plan to smaller network: what was masked is what is cut."""

from __future__ import annotations

import copy

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
