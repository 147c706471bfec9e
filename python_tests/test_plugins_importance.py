"""torch_pruning's pruners with Shapley values as their importance."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch_pruning as tp
from architectures import (
    FAMILIES,
    WITH_HEADS,
    Attention,
    Functional,
    GroupedReader,
    Normalised,
    Recurrent,
    build,
    prepared,
)
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.plugins import ShapleyImportance

EXAMPLES = Path(__file__).parent.parent / "examples"
OPTIONS: dict[str, Any] = {"budget": 1500, "seed": 3}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def groups_of(model: nn.Module, inputs: Tensor, *ignored: nn.Module) -> list[tp.Group]:
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    return list(graph.get_all_groups(ignored_layers=list(ignored)))


def root_name(model: nn.Module, group: tp.Group) -> str:
    return next(name for name, module in model.named_modules() if module is group[0].dep.target.module)


def power(outputs: Tensor, targets: Tensor) -> Tensor:
    """For networks whose output is an image: they have no classes."""
    return outputs.flatten(1).square().mean(1)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_example_of_torch_pruning_runs_with_one_line_changed(scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"global_pruning": scope != "local", "isomorphic": scope == "isomorphic"}
    model = example("torch_pruning_importance").prune("shapley", n_images=40, **options)
    widths = (model.conv1.out_channels, model.conv2.out_channels, model.fc1.out_features)
    if scope == "global":
        assert sum(widths) == pytest.approx(0.4 * 570, abs=1)
        assert widths[0] > 0.4 * 20 + 1  # a channel of the first layer is worth more than one of the last
    else:  # no two layers of LeNet-5 are alike
        assert widths == (8, 20, 200)
    printed = capsys.readouterr().out
    assert re.search(r"shapley  : MACs 2\.31 M -> [01]\.\d+ M, parameters 431 k -> \d+ k, accuracy \d", printed)


def test_local_pruning_removes_the_channels_of_least_value() -> None:
    model, inputs, targets = build("chain")
    estimates = {
        name: sc.rank(sc.ChannelGame(model, name, (inputs, targets)), **OPTIONS) for name in ("conv1", "conv2", "fc1")
    }
    plan = sc.plan_pruning(model, estimates, {"conv1": 3, "conv2": 3, "fc1": 4}, example_input=inputs)
    expected = sc.prune(model, plan, inputs)
    importance = ShapleyImportance(model, (inputs, targets), **OPTIONS)
    tp.pruner.BasePruner(model, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=[model.fc2]).step()
    torch.testing.assert_close(model(inputs), expected(inputs))
    for name, estimate in estimates.items():
        assert torch.equal(importance.estimates[name].values, estimate.values)


def test_iterative_pruning_ranks_the_network_as_it_has_become() -> None:
    model, inputs, targets = build("chain")
    importance = ShapleyImportance(model, (inputs, targets), **OPTIONS)
    pruner = tp.pruner.MetaPruner(
        model, inputs, importance=importance, pruning_ratio=0.6, iterative_steps=3, ignored_layers=[model.fc2]
    )
    seen = []
    for _ in range(3):
        twin = copy.deepcopy(model)
        for group in pruner.step(interactive=True):
            group.prune()
        seen.append([len(importance.estimates[name].values) for name in ("conv1", "conv2", "fc1")])
        current = sc.rank(sc.ChannelGame(twin, "conv2", (inputs, targets)), **OPTIONS)
        assert torch.equal(importance.estimates["conv2"].values, current.values)
    assert seen[0] == [6, 7, 9]
    assert seen[1] == [4, 5, 7]
    assert seen[2] == [3, 4, 5]
    assert (model.conv1.out_channels, model.conv2.out_channels, model.fc1.out_features) == (2, 2, 3)
    assert model(inputs).shape == (len(inputs), 5)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(WITH_HEADS)))
def test_every_family_is_scored_group_by_group_and_pruned(family: str) -> None:
    model, inputs, targets = build(family)
    metric: Any = "cross_entropy" if model(inputs).dim() == 2 else power
    ours = sc.find_groups(model, inputs[:1])
    outputs = [model.get_submodule(group.name) for group in ours if not group.prunable]
    importance = ShapleyImportance(model, (inputs, targets), metric=metric, budget=30 * len(inputs))
    for group in groups_of(model, inputs, *outputs):
        scores = importance(group)
        name = next(g.name for g in ours if root_name(model, group) in (g.name, *g.layers))
        assert torch.equal(scores, importance.estimates[name].values)
    assert len(importance.estimates) == len(ours) - len(outputs)
    before = sc.count_parameters(model)
    tp.pruner.BasePruner(
        model, inputs, importance=importance, pruning_ratio=0.4, global_pruning=True, ignored_layers=outputs
    ).step()
    assert sc.count_parameters(model) < before
    assert model(inputs).isfinite().all()


def test_scores_follow_the_indices_of_the_root() -> None:
    model, inputs, targets = build("chain")
    importance = ShapleyImportance(model, (inputs, targets), **OPTIONS)
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    everyone = importance(graph.get_pruning_group(model.conv1, tp.prune_conv_out_channels, list(range(6))))
    some = importance(graph.get_pruning_group(model.conv1, tp.prune_conv_out_channels, [4, 1, 3]))
    assert torch.equal(some, everyone[[4, 1, 3]])
    from_reader = importance(graph.get_pruning_group(model.conv2, tp.prune_conv_in_channels, [5, 0]))
    assert torch.equal(from_reader, everyone[[5, 0]])
    importance(graph.get_pruning_group(model.conv2, tp.prune_conv_out_channels, list(range(7))))
    flattened = importance(graph.get_pruning_group(model.fc1, tp.prune_linear_in_channels, list(range(28))))
    assert torch.equal(flattened, importance.estimates["conv2"].values.repeat_interleave(4))


def test_group_is_ranked_once_until_a_parameter_or_buffer_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, targets = build("vgg")
    group = groups_of(model, inputs, model[-1])[0]
    importance = ShapleyImportance(model, (inputs, targets), **OPTIONS)
    calls = []
    rank = sc.plugins.importance.rank
    monkeypatch.setattr(sc.plugins.importance, "rank", lambda *a, **k: calls.append(a) or rank(*a, **k))
    first = importance(group)
    assert torch.equal(importance(group), first)
    assert len(calls) == 1
    with torch.no_grad():
        model[0].weight.data[0] *= -2
    changed = importance(group)
    assert not torch.equal(changed, first)
    model[1].running_mean += 0.5
    assert not torch.equal(importance(group), changed)
    assert len(calls) == 3


def test_callers_mode_gradients_and_random_state_stay() -> None:
    model, inputs, targets = build("vgg")
    group = groups_of(model, inputs, model[-1])[0]
    model.train()
    model[7].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    modes = [module.training for module in model.modules()]
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            enabled = torch.is_grad_enabled()
            scores = ShapleyImportance(model, (inputs, targets), **OPTIONS)(group)
            assert torch.is_grad_enabled() == enabled
        assert not scores.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert model[5].weight.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


class Heads(nn.Module):
    """Attention by hand, as in vision transformers: one linear layer makes queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project, self.fc = nn.Linear(4, 24), nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        attention = (query @ key.transpose(-2, -1)).softmax(-1)
        return self.fc(torch.relu(self.project(attention @ value)).mean(1))


class SumWithConcatenation(nn.Module):
    """Half of the channels of one layer are coupled to a second layer, half to a third."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        self.reader, self.fc = nn.Conv2d(8, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1) + self.both(x)
        return self.fc(self.reader(x.relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "shape", "layer", "reason"),
    [
        (GroupedReader(), (3, 8, 8), "conv1", "grouped convolution conv2 (2 groups) reads it"),
        (Normalised(nn.GroupNorm(2, 8)), (3, 8, 8), "conv1", "a GroupNorm normalises over several channels"),
        (Functional(lambda x: x.softmax(1)), (3, 8, 8), "conv1", "some operation between its layers"),
        (Attention(), (3, 4), "embed", "nn.MultiheadAttention cuts its channels into heads"),
        (Recurrent(), (3, 4), "lstm", "(LSTM) must have its channels one by one in one of the groups"),
        (SumWithConcatenation(), (3, 8, 8), "both", "sums with concatenated channels"),
        (Heads(), (3, 4), "qkv", "copies or parts of a tensor, which are followed through attention alone"),
    ],
    ids=["grouped", "group_norm", "softmax", "attention", "lstm", "concatenation", "heads"],
)
def test_groups_that_cannot_be_served_are_refused_or_left_to_the_fallback(
    model: nn.Module, shape: tuple[int, ...], layer: str, reason: str
) -> None:
    prepared(model)
    inputs, targets = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    roots = [nn.Conv2d, nn.Linear, nn.LSTM]
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    group = next(g for g in graph.get_all_groups(root_module_types=roots) if root_name(model, g) == layer)
    with pytest.raises(sc.GroupError, match=re.escape(layer)) as refusal:
        ShapleyImportance(model, (inputs, targets), **OPTIONS)(group)
    assert reason in str(refusal.value)
    magnitude = tp.importance.GroupMagnitudeImportance()
    instead = ShapleyImportance(model, (inputs, targets), fallback=magnitude, **OPTIONS)(group)
    torch.testing.assert_close(instead, magnitude(group))
    left_alone = ShapleyImportance(model, (inputs, targets), fallback=lambda group: None, **OPTIONS)
    assert left_alone(group) is None


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("family", ["vit", "fused_attention"])
def test_heads_have_one_value_each_and_are_pruned_whole(family: str) -> None:
    model, inputs, targets = build(family)
    groups = [group for group in sc.find_groups(model, inputs[:1]) if group.prunable]
    estimates = {g.name: sc.rank(sc.ChannelGame(model, g, (inputs, targets)), **OPTIONS) for g in groups}
    # As torch_pruning rounds: the heads that go up, the neurons that stay down.
    keep = {g.name: g.n_players // 2 for g in groups}
    expected = sc.prune(model, sc.plan_pruning(model, estimates, keep, inputs), inputs)

    heads = [group for group in groups if group.channels_per_player > 1]
    importance = ShapleyImportance(model, (inputs, targets), **OPTIONS)
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    reader = model.get_submodule(heads[0].consumers[0].name)
    scores = importance(graph.get_pruning_group(reader, tp.prune_linear_in_channels, [7, 0, 1, 4]))
    assert torch.equal(scores, estimates[heads[0].name].values[[3, 0, 0, 2]])
    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance=importance,
        pruning_ratio=0.5,
        ignored_layers=[model.embed, model.head],
        num_heads={model.get_submodule(layer): group.n_players for group in heads for layer in group.layers},
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=0.5,
    )
    pruner.step()
    if family == "fused_attention":  # the caller's part, since torch_pruning knows no attributes
        for attention, left in zip(model.attentions, (2, 1), strict=True):
            attention.num_heads, attention.attn_dim = left, 2 * left
    torch.testing.assert_close(model(inputs), expected(inputs))


def test_attention_heads_whose_number_is_unknown_are_refused() -> None:
    model = prepared(Heads())
    inputs, targets = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    importance = ShapleyImportance(model, (inputs, targets), **OPTIONS)
    pruner = tp.pruner.BasePruner(
        model, inputs, importance=importance, ignored_layers=[model.fc, model.project], num_heads={model.qkv: 2}
    )
    with pytest.raises(sc.GroupError, match=r"group of 'project' .* attention heads"):
        pruner.step()
    assert model.qkv.out_features == 24


def test_classifier_that_was_not_ignored_is_named() -> None:
    model, inputs, targets = build("chain")
    pruner = tp.pruner.BasePruner(model, inputs, importance=ShapleyImportance(model, (inputs, targets), **OPTIONS))
    with pytest.raises(sc.GroupError, match="'fc2' cannot be pruned exactly: its channels are outputs of the network"):
        pruner.step()
    assert model.conv1.out_channels == 6


def test_group_of_another_network_is_refused() -> None:
    model, inputs, targets = build("chain")
    importance = ShapleyImportance(copy.deepcopy(model), (inputs, targets), **OPTIONS)
    with pytest.raises(ValueError, match="must be one of the model that ShapleyImportance was made for"):
        importance(groups_of(model, inputs)[0])


def test_options_reach_the_game_and_the_ranker() -> None:
    model, inputs, targets = build("chain")
    group = groups_of(model, inputs, model.fc2)[0]
    importance = ShapleyImportance(
        model, (inputs, targets), metric="accuracy", game_options={"path": "hook"}, budget=800, shared=True
    )
    game = sc.ChannelGame(model, root_name(model, group), (inputs, targets), metric="accuracy", path="hook")
    assert torch.equal(importance(group), sc.rank(game, budget=800, shared=True).values)
    with pytest.raises(ValueError, match="metric must be one of"):
        ShapleyImportance(model, (inputs, targets), metric="f1")(group)
