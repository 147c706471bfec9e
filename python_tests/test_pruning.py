"""Whole networks pruned: rounds add up to one plan, each split serves one purpose, and what is recorded is what was."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import Functional, build, prepared
from tolerances import MASKED_IS_PRUNED
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda import planning
from shapley_cuda.groups import find_group
from shapley_cuda.masking import masked_outputs, relative_deviation
from shapley_cuda.pruning import PrunedNetwork, prune_network
from shapley_cuda.training import Progress, Recipe, evaluate

SIZES = {"conv1": 10, "conv2": 12, "fc1": 40}


def small_lenet() -> nn.Module:
    return prepared(sc.lenet5((10, 12, 40)))


def small_vgg() -> nn.Module:
    return prepared(sc.vgg_bn((8, 8, "M", 12)))


def splits(n_samples: int = 40) -> dict[str, sc.Split]:
    return {f"{use}_on": sc.fashion_mnist_subset(use).first(n_samples) for use in ("rank", "select", "train")}


def by_bias(network: nn.Module, group: sc.Group, data: Any) -> Tensor:
    """Values that a channel keeps whatever else is cut."""
    layer = network.get_submodule(group.name)
    assert isinstance(layer.bias, Tensor)
    return layer.bias.detach()


def by_weight(network: nn.Module, group: sc.Group, data: Any) -> Tensor:
    """Values that change as the layers in front are cut."""
    layer = network.get_submodule(group.name)
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach().flatten(1).abs().sum(1)


def numbers_kept(plan: sc.PruningPlan) -> dict[str, int]:
    return {name: len(plan.kept(name)) for name in plan.n_players}


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize("goal", [{"keep": 0.5}, {"macs": 0.3, "across": "global"}, {"parameters": 0.4}])
def test_prune_network_in_one_round_is_rank_plan_and_prune(goal: dict[str, Any]) -> None:
    model, data = small_lenet(), splits()
    result = prune_network(model, by_weight, **data, **goal)
    values = {name: by_weight(model, find_group(model, name, data["rank_on"][0][:1]), None) for name in SIZES}
    plan = sc.plan_pruning(model, values, example_input=data["rank_on"][0], **goal)
    assert result.plan.removed == plan.removed
    assert (result.plan.macs, result.plan.parameters) == (plan.macs, plan.parameters)
    assert result.plan.options == plan.options | {"rounds": 1}
    assert [step.plan.removed for step in result.rounds] == [plan.removed]
    images = data["select_on"][0]
    assert torch.equal(outputs(result.model, images), outputs(sc.prune(model, plan, images), images))
    assert result.accuracy_before == evaluate(model, *data["select_on"]).accuracy
    step = result.rounds[0]
    assert step.accuracy_pruned == evaluate(result.model, *data["select_on"]).accuracy
    assert (step.accuracy_recalibrated, step.accuracy_retrained, step.training) == (None, None, None)
    assert torch.equal(step.values["fc1"], values["fc1"])


@pytest.mark.parametrize("across", ["uniform", "global"])
def test_prune_network_rounds_of_a_fixed_ranking_end_where_one_round_does(across: str) -> None:
    model, data = small_lenet(), splits(10)
    once, thrice = (prune_network(model, by_bias, **data, keep=0.3, across=across, rounds=n) for n in (1, 3))
    assert once.plan.removed == thrice.plan.removed
    assert len(thrice.rounds) == 3


@pytest.mark.parametrize("make", [small_lenet, small_vgg])
@pytest.mark.parametrize(
    "goal", [{"keep": 0.3}, {"macs": 0.2}, {"parameters": 0.2, "across": "global", "normalise": "mean"}]
)
def test_prune_network_rounds_add_up_to_the_network_that_masks_compute(make: Any, goal: dict[str, Any]) -> None:
    model, data = make(), splits(10)
    result = prune_network(model, by_weight, **data, **goal, rounds=3)
    images = data["select_on"][0]
    coalitions = []
    for name, n_players in result.plan.n_players.items():
        mask = torch.zeros(n_players, dtype=torch.bool)
        mask[result.plan.kept(name)] = True
        coalitions.append((find_group(model, name, images[:1]), mask))
    masked = masked_outputs(model, coalitions, images)
    assert relative_deviation(result.model(images), masked) < MASKED_IS_PRUNED
    assert relative_deviation(sc.prune(model, result.plan, images)(images), masked) < MASKED_IS_PRUNED
    assert sc.count_parameters(result.model) == result.plan.parameters[1]
    assert sc.count_macs(result.model, images[:1]) == result.plan.macs[1]


def test_prune_network_keep_shrinks_geometrically() -> None:
    result = prune_network(small_lenet(), by_bias, **splits(10), keep=0.125, rounds=3)
    assert [numbers_kept(step.plan) for step in result.rounds] == [
        {"conv1": 5, "conv2": 7, "fc1": 20},
        {"conv1": 2, "conv2": 4, "fc1": 10},
        {"conv1": 1, "conv2": 2, "fc1": 5},
    ]
    keep = {"fc1": 5, "conv1": 0.1}
    result = prune_network(small_lenet(), by_bias, **splits(10), keep=keep, rounds=2)
    assert [numbers_kept(step.plan) for step in result.rounds] == [{"fc1": 14, "conv1": 3}, {"fc1": 5, "conv1": 1}]
    assert result.plan.options["keep"] == keep


def test_prune_network_in_multiples_ends_where_one_round_does() -> None:
    result = prune_network(small_lenet(), by_bias, **splits(10), keep=0.25, multiple_of=4, rounds=3)
    assert numbers_kept(result.plan) == {"conv1": 4, "conv2": 4, "fc1": 12}


@pytest.mark.parametrize(
    ("keep_at_least", "recorded", "conv1", "fc1"),
    [(None, 0.1, 1, 4), (0.25, 0.25, 3, 10), ({"conv1": 4, "fc1": 0.3}, {"conv1": 4, "fc1": 0.3}, 4, 12)],
)
def test_prune_network_floor_is_of_the_original_after_all_rounds(
    keep_at_least: Any, recorded: Any, conv1: int, fc1: int
) -> None:
    def only_conv2_counts(network: nn.Module, group: sc.Group, data: object) -> Tensor:
        del network, data
        return torch.full((group.n_players,), 1.0 if group.name == "conv2" else -1.0)

    options: dict[str, Any] = {"across": "global", "keep_at_least": keep_at_least, "keep": (conv1 + 12 + fc1) / 62}
    result = prune_network(small_lenet(), only_conv2_counts, **splits(10), **options, rounds=3)
    assert numbers_kept(result.plan) == {"conv1": conv1, "conv2": 12, "fc1": fc1}
    assert result.plan.options["keep_at_least"] == recorded


@pytest.mark.parametrize("across", ["uniform", "global"])
@pytest.mark.parametrize("goal", ["macs", "parameters", "latency", "keep"])
def test_prune_network_every_round_keeps_its_share_of_the_budget(
    goal: str, across: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(models: Sequence[nn.Module], inputs: Tensor, repeats: int) -> list[float]:
        return [sc.count_macs(network, inputs) / 1000 for network in models]

    monkeypatch.setattr(planning, "measure_latencies", measure)
    model, data, target = small_lenet(), splits(10), 0.15
    example = data["rank_on"][0][:3]
    result = prune_network(model, by_weight, **data, across=across, rounds=3, example_input=example, **{goal: target})
    left = 1.0
    for number, step in enumerate(result.rounds, start=1):
        if goal == "keep":
            left *= sum(numbers_kept(step.plan).values()) / sum(step.plan.n_players.values())
        else:
            before, after = step.plan.parameters if goal == "parameters" else step.plan.macs
            left *= after / before
        budget = target ** (number / 3)
        rounded = 1.2 if goal == "keep" and across == "uniform" else 1 + 1e-9
        assert 0.6 * budget < left <= rounded * budget
    if goal == "latency":
        assert result.plan.latency is not None
        assert result.plan.latency.after_ms / result.plan.latency.before_ms == pytest.approx(left)
        assert result.plan.latency.input_shape == (3, 1, 28, 28)
    else:
        assert result.plan.latency is None


def test_prune_network_each_split_serves_its_own_purpose() -> None:
    data, seen = splits(30), list[Any]()

    def rank_group(network: nn.Module, group: sc.Group, given: Any) -> Tensor:
        assert not any(module.training for module in network.modules())
        seen.append((group.name, group.n_players, given))
        return by_weight(network, group, given)

    model, rank_on = small_vgg(), data["rank_on"]
    alone, other = (
        prune_network(model, by_weight, **changed, keep=0.5, rounds=2, recalibrate=True, retrain=Recipe(batch_size=10))
        for changed in (data, data | {"select_on": sc.fashion_mnist_subset("select").first(7)})
    )
    result = prune_network(
        model, rank_group, **data, keep=0.5, rounds=2, recalibrate=True, retrain=Recipe(batch_size=10)
    )
    assert [(name, n) for name, n, _ in seen] == [
        ("conv1", 8), ("conv2", 8), ("conv3", 12), ("conv1", 6), ("conv2", 6), ("conv3", 8),
    ]  # fmt: skip
    assert all(given is rank_on for *_, given in seen)
    # With one epoch there is nothing to select, so the selection split leaves no trace in the network.
    images = rank_on[0]
    assert torch.equal(outputs(alone.model, images), outputs(other.model, images))
    assert torch.equal(outputs(alone.model, images), outputs(result.model, images))


def test_prune_network_recalibrates_and_retrains_in_every_round_and_tells_the_accuracies_apart() -> None:
    model, data = sc.pretrained("lenet5"), splits(100)
    recipe = Recipe(epochs=3, batch_size=20, lr=0.02)
    result = prune_network(model, by_weight, **data, keep=0.2, rounds=2, retrain=recipe)
    for step in result.rounds:
        assert step.training is not None
        assert step.accuracy_recalibrated is None
        assert step.accuracy_retrained == max(step.training.select_accuracies)
        assert len(step.training.losses) == 3
    last = result.rounds[-1]
    assert last.accuracy_retrained == evaluate(result.model, *data["select_on"]).accuracy > last.accuracy_pruned


def test_prune_network_recalibration_is_measured_apart() -> None:
    model, data = small_vgg(), splits()
    plain, recalibrated = (prune_network(model, by_weight, **data, keep=0.5, recalibrate=r) for r in (False, True))
    assert recalibrated.rounds[0].accuracy_pruned == plain.rounds[0].accuracy_pruned
    expected = copy.deepcopy(plain.model)
    sc.recalibrate_batchnorm(expected, data["train_on"][0])
    assert not torch.equal(expected.bn1.running_mean, plain.model.bn1.running_mean)
    images, labels = data["select_on"]
    assert torch.equal(outputs(recalibrated.model, images), outputs(expected, images))
    assert recalibrated.rounds[0].accuracy_recalibrated == evaluate(expected, images, labels).accuracy
    assert recalibrated.rounds[0].training is None


def test_prune_network_with_shapley_values_reports_and_is_saved(tmp_path: Path) -> None:
    model, data, doing = small_lenet(), splits(10), list[str]()

    def rank_group(network: nn.Module, group: sc.Group, given: Any) -> sc.Estimate:
        game = sc.ChannelGame(network, group, given)
        return sc.rank(game, tolerance=0, budget=4 * 10 * (game.n_players + 1))

    def report(what: str, progress: Progress | None) -> None:
        if what not in doing:
            doing.append(what)
        assert (progress is None) == ("ranking" in what)

    result = prune_network(model, rank_group, ["conv2", "fc1"], **data, keep=0.5, retrain="brief", report=report)
    assert doing == [
        "round 1 of 1: ranking conv2, 12 channels",
        "round 1 of 1: ranking fc1, 40 channels",
        "round 1 of 1: retraining",
    ]
    assert all(isinstance(estimate, sc.Estimate) for estimate in result.rounds[0].values.values())
    sc.save_pruned(result.model, result.plan, tmp_path)
    images = data["select_on"][0]
    assert torch.equal(
        outputs(sc.load_pruned(sc.lenet5((10, 12, 40)), tmp_path), images), outputs(result.model, images)
    )


def test_prune_network_group_of_one_channel_is_not_ranked_again() -> None:
    asked: list[str] = []

    def rank_group(network: nn.Module, group: sc.Group, data: Any) -> Tensor:
        asked.append(group.name)
        return by_bias(network, group, data)

    keep = {"conv1": 1, "conv2": 1, "fc1": 10}
    result = prune_network(small_lenet(), rank_group, **splits(10), keep=keep, rounds=4)
    assert numbers_kept(result.plan) == keep
    assert [asked.count(name) for name in keep] == [4, 4, 4]
    asked.clear()
    again = prune_network(result.model, rank_group, **splits(10), parameters=0.5)
    assert asked == ["fc1"]
    assert set(again.plan.n_players) == set(keep)
    assert again.plan.parameters[1] <= 0.5 * again.plan.parameters[0]


def test_prune_network_of_coupled_layers_under_another_name() -> None:
    model, _, _ = build("resnet_basic")
    inputs, labels = torch.randn(12, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 5
    result = prune_network(
        model, by_weight, rank_on=(inputs, labels), select_on=(inputs, labels), keep={"4.conv2.0": 2}, rounds=2
    )
    assert numbers_kept(result.plan) == {"3.conv2.0": 2}
    assert [numbers_kept(step.plan) for step in result.rounds] == [{"3.conv2.0": 4}, {"3.conv2.0": 2}]


def test_prune_network_leaves_out_what_only_its_layers_would_allow() -> None:
    model = prepared(Functional(lambda x: x.roll(1, 1)))
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(12, 3, 9, 9, generator=generator), torch.arange(12) % 5
    assert [group.name for group in sc.find_groups(model, data[0][:1]) if group.prunable] == ["conv1", "conv2"]
    result = prune_network(model, by_weight, rank_on=data, select_on=data, keep=0.5)
    assert numbers_kept(result.plan) == {"conv2": 4}
    with pytest.raises(sc.GroupError, match=r"^group 'conv1' cannot be pruned exactly: outputs of the pruned and of"):
        prune_network(model, by_weight, ["conv1"], rank_on=data, select_on=data, keep=0.5)


def test_prune_network_leaves_model_data_and_random_state_alone() -> None:
    model, data = small_vgg().train(), splits(20)
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    images = data["train_on"][0].clone()
    prune_network(model, by_weight, **data, keep=0.5, recalibrate=True, retrain="brief")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(data["train_on"][0], images)
    assert torch.equal(torch.get_rng_state(), random_state)


def run(**changes: Any) -> PrunedNetwork:
    def rank_group(network: nn.Module, group: sc.Group, data: Any) -> Tensor:
        raise AssertionError("nothing may be ranked before arguments are checked")

    return prune_network(small_lenet(), rank_group, **({**splits(10), "keep": 0.5} | changes))


TOO_GOOD = ": what is chosen on it would make its accuracies too good"


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        *(
            (
                {use: sc.fashion_mnist_subset(split).first(10)},
                ValueError,
                f"prune_network: {use} must not be the split {split!r}{TOO_GOOD}",
            )
            for use, split in (
                ("rank_on", "test"), ("rank_on", "select"), ("select_on", "test"), ("train_on", "test"),
                ("train_on", "select"),
            )
        ),
        ({"rounds": 0}, ValueError, "prune_network: rounds must be a positive integer, got 0"),
        ({"rounds": 2.0}, ValueError, "prune_network: rounds must be a positive integer, got 2.0"),
        (
            {"train_on": None, "retrain": "brief"},
            ValueError,
            "prune_network: train_on must be given to recalibrate or retrain, got None",
        ),
        (
            {"train_on": None, "recalibrate": True},
            ValueError,
            "prune_network: train_on must be given to recalibrate or retrain, got None",
        ),
        ({"retrain": "finetun"}, ValueError, "recipe must be one of brief, finetune, got 'finetun'; did you mean "),
        ({"macs": 0.5}, ValueError, "plan_pruning: exactly one of keep, macs, parameters, latency must be given, got "),
        ({"keep": None, "macs": 0.001}, ValueError, "plan_pruning: macs must be at least 0.0"),
        ({"keep": {"conv9": 3}}, sc.GroupError, "group must name a layer that produces channels, got 'conv9'"),
        ({"keep": {"conv1": 3}, "groups": ["fc1"]}, ValueError, "keep must name the groups that are ranked, ['fc1'],"),
        ({"groups": ["fc2"]}, sc.GroupError, "group 'fc2' cannot be pruned exactly: its channels are outputs"),
        ({"groups": []}, ValueError, "rankings must hold at least one group, got none"),
    ],
)  # fmt: skip
def test_prune_network_bad_argument_is_refused_before_anything_is_ranked(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match="^" + re.escape(text)):
        run(**changes)
