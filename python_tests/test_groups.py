"""Which layers are coupled, who reads them, and what is refused, with which reason."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from architectures import (
    FAMILIES,
    UNUSUAL,
    Attention,
    Chain,
    Functional,
    GroupedReader,
    LayerNormMlp,
    Normalised,
    Recurrent,
    build,
    prepared,
)
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda.groups import ChannelCutter, cut_channels

IMAGE = (3, 9, 9)


def summary(model: nn.Module, sample: Tensor) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Name, size and readers of the prunable groups."""
    groups = sc.find_groups(model, sample)
    return {g.name: (g.n_players, tuple(sorted(c.name for c in g.consumers))) for g in groups if g.prunable}


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("chain", {"conv1": (6, ("conv2",)), "conv2": (7, ("fc1",)), "fc1": (9, ("fc2",))}),
        (
            "resnet_basic",
            {
                "0.0": (6, ("2.conv1.0", "3.conv1.0", "3.shortcut.0")),
                "2.conv1.0": (6, ("2.conv2.0",)),
                "3.conv1.0": (8, ("3.conv2.0",)),
                "3.conv2.0": (8, ("4.conv1.0", "7")),
                "4.conv1.0": (8, ("4.conv2.0",)),
            },
        ),
        (
            "mobilenet",
            {
                "0.0": (6, ("2.expand.0", "3.expand.0")),
                "2.expand.0": (12, ("2.project.0",)),
                "3.expand.0": (9, ("3.project.0",)),
                "3.project.0": (8, ("6",)),
            },
        ),
        (
            "densenet",
            {
                "0.0": (6, ("2.convs.0", "2.convs.1", "2.convs.2", "7")),
                "2.convs.0": (3, ("2.convs.1", "2.convs.2", "7")),
                "2.convs.1": (3, ("2.convs.2", "7")),
                "2.convs.2": (3, ("7",)),
            },
        ),
        (
            "squeeze_excite_conv",
            {"0.0": (6, ("2.0",)), "2.0": (8, ("3.down", "4")), "3.down": (3, ("3.up",)), "4": (7, ("7",))},
        ),
        ("decoder", {"up1": (7, ("up2",)), "up2": (5, ("out",))}),
        ("shared_consumer", {"conv1": (6, ("conv2", "fc1")), "fc1": (8, ("fc2",))}),
    ],
)
def test_find_groups_lists_the_prunable_groups_and_their_readers(
    family: str, expected: dict[str, tuple[int, tuple[str, ...]]]
) -> None:
    model, inputs, _ = build(family)
    assert summary(model, inputs[:1]) == expected


@pytest.mark.parametrize("family", [*FAMILIES, *UNUSUAL])
def test_find_groups_gives_every_player_a_place_at_some_consumer(family: str) -> None:
    model, inputs, _ = build(family)
    groups = sc.find_groups(model, inputs[:1])
    assert len({g.name for g in groups}) == len(groups)
    for group in groups:
        layer = model.get_submodule(group.name)
        n_channels = getattr(layer, "out_channels", None) or layer.out_features
        parts = 3 if group.name.endswith("qkv") else 1  # queries, keys and values
        assert parts * group.n_players * group.channels_per_player == n_channels
        assert group.name in group.layers
        for consumer in group.consumers:
            reader = model.get_submodule(consumer.name)
            n_inputs = reader.in_features if isinstance(reader, nn.Linear) else reader.in_channels
            assert consumer.player_of_input.shape == (n_inputs,)
        if group.prunable:
            players = torch.cat([c.player_of_input for c in group.consumers]).unique()
            assert players[players >= 0].tolist() == list(range(group.n_players))


def test_find_groups_flatten_gives_each_channel_its_columns() -> None:
    model, inputs, _ = build("chain")
    group = sc.find_group(model, "conv2", inputs[:1])
    assert group.consumers[0].player_of_input.tolist() == [c for c in range(7) for _ in range(4)]


def test_find_groups_concatenation_marks_the_others_channels() -> None:
    model, inputs, _ = build("inception")
    group = sc.find_group(model, "2.branch3.2.0", inputs[:1])
    assert group.consumers[0].player_of_input.tolist() == [-1] * 3 + [0, 1, 2, 3, 4] + [-1] * 5


@pytest.mark.parametrize(
    ("model", "sample_shape", "name", "reason"),
    [
        (LayerNormMlp(), (10,), "fc1", "norm: a LayerNorm normalises over the channels"),
        (Normalised(nn.GroupNorm(2, 8)), IMAGE, "conv1", "norm: a GroupNorm normalises over several channels"),
        (GroupedReader(), IMAGE, "conv1", "grouped convolution conv2 (2 groups) reads it"),
        (GroupedReader(), IMAGE, "conv2", "grouped convolution conv2 (2 groups) produces it"),
        (Attention(), (5, 4), "embed", "attention: nn.MultiheadAttention cuts its channels into heads"),
        (Recurrent(), (5, 4), "embed", "lstm: an LSTM mixes its channels over time"),
        (Chain(), (3, 12, 12), "fc2", "its channels are outputs of the network"),
        (FAMILIES["resnet_basic"].make(), (3, 12, 12), "7", "its channels are outputs of the network"),
        (
            Functional(lambda x: F.glu(x, 1), outputs=16),
            IMAGE,
            "conv1",
            "its channels do not reach conv2 one by one",
        ),
        (
            Functional(lambda x: F.pixel_shuffle(x, 2), inputs=2),
            IMAGE,
            "conv1",
            "its channels do not reach conv2 one by one",
        ),
        (
            Functional(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), outputs=16),
            IMAGE,
            "conv1",
            "some of its channels reach a layer only together with others",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)),
            IMAGE,
            "0",
            "depthwise convolution 0 takes its channels from where none can be cut",
        ),
        (FAMILIES["decoder"].make(), (10,), "fc", "its channels do not reach up1 one by one"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_find_groups_what_cannot_be_cut_exactly_is_refused_with_the_reason(
    model: nn.Module, sample_shape: tuple[int, ...], name: str, reason: str
) -> None:
    model = prepared(model)
    inputs = torch.randn(2, *sample_shape)
    group = sc.find_group(model, name, inputs[:1])
    assert not group.prunable
    assert group.reason is not None
    assert reason in group.reason
    assert f"not prunable: {group.reason}" in str(group)
    message = re.escape(f"group {name!r} cannot be pruned exactly: {group.reason}")
    with pytest.raises(sc.GroupError, match=message):
        sc.ChannelGame(model, name, (inputs, torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(sc.GroupError, match=message):
        sc.plan_pruning(model, {name: torch.zeros(group.n_players)}, 0.5, inputs)


def shuffle(x: Tensor) -> Tensor:
    return x.view(x.shape[0], 2, -1, x.shape[2], x.shape[3]).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    ("between", "channels"),
    [
        (lambda x: F.softmax(x, 1), 8),
        (lambda x: F.layer_norm(x, x.shape[1:]), 8),
        (lambda x: F.group_norm(x, 2), 8),
        (lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)), 8),
        (lambda x: x - x.amax(1, keepdim=True), 8),
        (lambda x: x.cumsum(1), 8),
        (shuffle, 8),
        *((lambda x: x.flip(1), n) for n in range(2, 9)),
        (lambda x: x.roll(4, 1), 8),
    ],
)
def test_game_functional_channel_mixing_is_refused_at_construction(between: object, channels: int) -> None:
    # torch_pruning calls these elementwise. Only the trial cut finds out; flips and rolls look right to a regular mask.
    model = prepared(Functional(between, channels, channels))
    inputs = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(0))
    assert sc.find_group(model, "conv1", inputs[:1]).prunable
    with pytest.raises(sc.GroupError, match=r"^group 'conv1' cannot be pruned(:| exactly:)"):
        sc.ChannelGame(model, "conv1", (inputs, torch.zeros(3, dtype=torch.int64)))
    assert sc.ChannelGame(model, "conv2", (inputs, torch.zeros(3, dtype=torch.int64))).n_players == 7


def test_find_group_any_producing_layer_finds_its_group() -> None:
    model, inputs, _ = build("resnet_basic")
    group = sc.find_group(model, "4.conv2.0", inputs[:1])
    assert group.name == "3.conv2.0"
    assert {"3.conv2.0", "3.shortcut.0", "4.conv2.0"} <= set(group.layers)


def test_find_group_unknown_name_suggests_near_ones() -> None:
    model, inputs, _ = build("chain")
    with pytest.raises(sc.GroupError, match=r"got 'convv2'; did you mean 'conv2' or 'conv1'\?$"):
        sc.find_group(model, "convv2", inputs[:1])
    with pytest.raises(sc.GroupError, match=r"got 'zzz'; groups: conv1, conv2, fc1, fc2$"):
        sc.find_group(model, "zzz", inputs[:1])


def test_find_groups_frozen_and_training_network_is_seen_whole_and_left_as_it_was() -> None:
    model, inputs, _ = build("vgg")
    expected = summary(model, inputs[:1])
    model.requires_grad_(False)
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    assert summary(model, inputs[:1]) == expected
    assert [module.training for module in model.modules()] == flags
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_find_groups_under_no_grad_and_inference_mode_finds_the_same() -> None:
    model, inputs, _ = build("chain")
    expected = summary(model, inputs[:1])
    with torch.no_grad():
        assert summary(model, inputs[:1]) == expected
    with torch.inference_mode():
        assert summary(model, inputs[:1] + 0) == expected


def test_cut_channels_keeps_the_right_weights_and_the_original() -> None:
    model, inputs, _ = build("chain")
    before = copy.deepcopy(model.state_dict())
    cut = cut_channels(model, {"conv1": [0, 4], "fc1": [8]}, inputs[:1])
    assert torch.equal(cut.conv1.weight, model.conv1.weight[[1, 2, 3, 5]])
    assert torch.equal(cut.conv2.weight, model.conv2.weight[:, [1, 2, 3, 5]])
    assert torch.equal(cut.fc2.weight, model.fc2.weight[:, :8])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_channel_cutter_cuts_again_and_again_what_each_cut_alone_would() -> None:
    model, inputs, _ = build("densenet")
    sizes = {group.name: group.n_players for group in sc.find_groups(model, inputs[:1]) if group.prunable}
    cutter = ChannelCutter(model, sizes, inputs[:1])
    for removed in ({name: [0, n - 1] for name, n in sizes.items()}, {name: [1] for name in list(sizes)[1:]}):
        one_by_one = model
        for name, channels in removed.items():
            one_by_one = cut_channels(one_by_one, {name: channels}, inputs[:1])
        assert torch.equal(cutter.cut(removed)(inputs), one_by_one(inputs))


def test_cut_channels_nothing_removed_is_a_copy() -> None:
    model, inputs, _ = build("vgg")
    cut = cut_channels(model, {"0": []}, inputs[:1])
    assert cut is not model
    assert torch.equal(cut(inputs), model(inputs))


def test_cut_channels_parameters_want_gradients_as_before() -> None:
    model, inputs, _ = build("chain")
    model.conv1.requires_grad_(False)
    cut = cut_channels(model, {"conv1": [0], "conv2": [1]}, inputs[:1])
    wants = {name: p.requires_grad for name, p in cut.named_parameters()}
    assert wants == {name: not name.startswith("conv1") for name in wants}


def test_cut_channels_tied_weights_come_apart_and_are_cut() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    model = prepared(model)
    cut = cut_channels(model, {"0": [2, 5]}, torch.zeros(1, 8))
    assert cut[0].weight.shape == (6, 8)
    assert cut[2].weight.shape == (8, 6)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_cut_channels_layers_that_torch_pruning_cannot_cut_are_named() -> None:
    model, inputs, _ = build("chain")
    nn.utils.parametrizations.weight_norm(model.conv1)
    with pytest.raises(sc.GroupError, match=r"^group 'conv1' cannot be pruned: cutting it gave "):
        cut_channels(model, {"conv1": [0]}, inputs[:1])


def test_find_groups_linear_layers_activated_in_place_are_groups() -> None:
    model = nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 5)
    )
    groups = sc.find_groups(model.eval(), torch.randn(1, 3))
    readers = {group.name: [consumer.name for consumer in group.consumers] for group in groups if group.prunable}
    assert readers == {"0": ["2"], "2": ["4"]}
