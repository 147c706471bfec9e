"""Rankings by weights, gradients and activations, against what the layers themselves say."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch_pruning as tp
from architectures import FAMILIES, UNUSUAL, build, prepared
from closed_forms import closed_form, rank
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda.groups import coupled_items

BY_WEIGHTS = ("l1", "l2", "bn_scale", "taylor")


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss for outputs of any shape."""
    return outputs.flatten(1).square().mean(1)


def game_of(family: str, group: str, metric: str | sc.game.Loss = "cross_entropy") -> sc.ChannelGame:
    model, inputs, targets = build(family)
    return sc.ChannelGame(model, group, (inputs, targets), metric=metric)


def weight_of(game: sc.ChannelGame, layer: str) -> Tensor:
    """Weights as [channels that the layer produces, everything else]."""
    module = game.model.get_submodule(layer)
    weight = module.weight.detach().double()
    return (weight.transpose(0, 1) if getattr(module, "transposed", False) else weight).flatten(1)


@pytest.mark.parametrize(
    ("family", "group", "producers"),
    [
        ("chain", "conv2", ["conv2"]),
        ("decoder", "up1", ["up1"]),  # transposed: output channels lie along dimension 1
        ("mlp", "3", ["3"]),
        ("mobilenet", "2.expand.0", ["2.expand.0"]),  # what the depthwise convolution behind it does counts in neither
        ("resnet_basic", "3.conv2.0", ["3.conv2.0", "3.shortcut.0", "4.conv2.0"]),
    ],
)
def test_magnitude_is_the_norm_of_all_weights_that_make_the_channel(
    family: str, group: str, producers: list[str]
) -> None:
    game = game_of(family, group, mean_square)
    weights = torch.cat([weight_of(game, layer) for layer in producers], 1)
    for method, norm in (("l1", weights.abs().sum(1)), ("l2", weights.square().sum(1).sqrt())):
        torch.testing.assert_close(sc.rank(game, method).values, norm, rtol=1e-6, atol=0)
    assert game.n_evaluations == 0


def test_magnitude_by_its_usual_name_is_l1() -> None:
    game = game_of("chain", "conv1")
    estimate = sc.rank(game, "magnitude")
    assert estimate.method == "magnitude"
    assert torch.equal(estimate.values, sc.rank(game, "l1").values)


@pytest.mark.parametrize("method", ["l1", "l2"])
@pytest.mark.parametrize(("family", "group"), [("vgg", "7"), ("resnet_basic", "3.conv2.0"), ("densenet", "2.convs.0")])
def test_magnitude_of_the_whole_group_orders_as_torch_pruning_does_by_default(
    family: str, group: str, method: str
) -> None:
    game = game_of(family, group)
    _, items = coupled_items(game.model, group, game.data.inputs[:1])
    theirs = tp.importance.GroupMagnitudeImportance(p=int(method[1]))(items)
    ours = sc.rank(game, method, whole_group=True)
    assert torch.equal(ours.ranking(), theirs.argsort())
    assert (ours.values > sc.rank(game, method).values).all()


def test_bn_scale_is_the_mean_over_the_batchnorms_of_the_group() -> None:
    game = game_of("mobilenet", "2.expand.0")
    norms = [game.model.get_submodule(f"2.{name}.1").weight.detach().double() for name in ("expand", "depthwise")]
    with torch.no_grad():
        norms[0][3] *= -1
        game.model.get_submodule("2.expand.1").weight[3] *= -1  # the sign says nothing about the size
    expected = (norms[0].abs() + norms[1].abs()) / 2
    torch.testing.assert_close(sc.rank(game, "bn_scale").values, expected, rtol=1e-6, atol=0)


def test_bn_scale_without_a_batchnorm_is_refused() -> None:
    text = "bn_scale ranking needs a BatchNorm with scales among the layers of group 'conv2', got conv2"
    with pytest.raises(ValueError, match=f"^{text}$"):
        sc.rank(game_of("chain", "conv2"), "bn_scale")


@pytest.mark.parametrize("metric", ["cross_entropy", "squared_error", mean_square])
def test_taylor_is_the_weights_times_the_gradient_of_the_mean_loss(metric: str | sc.game.Loss) -> None:
    model = prepared(nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(150, 1, 4, 4, generator=generator)  # more than one batch
    classes, numbers = torch.randint(4, (150,), generator=generator), torch.randn(150, 4, generator=generator)
    game = sc.ChannelGame(model, "0", (inputs, numbers if metric == "squared_error" else classes), metric=metric)
    plain, signed, whole = (
        sc.rank(game, "taylor", **options) for options in ({}, {"multivariable": True}, {"whole_group": True})
    )
    assert plain.n_evaluations == 150
    assert game.n_evaluations == 450

    twin = copy.deepcopy(model).double()
    outputs = twin(inputs.double())
    losses = {
        "cross_entropy": F.cross_entropy(outputs, classes),
        "squared_error": F.mse_loss(outputs, numbers.double()),
        mean_square: outputs.square().mean(),
    }
    losses[metric].backward()
    products = (twin[0].weight * twin[0].weight.grad).detach().flatten(1)
    torch.testing.assert_close(plain.values, products.abs().sum(1), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(signed.values, products.sum(1).abs(), rtol=1e-3, atol=1e-7)
    read = (twin[3].weight * twin[3].weight.grad).detach().view(4, 6, 4)
    expected = products.abs().sum(1) + read.abs().sum((0, 2))
    torch.testing.assert_close(whole.values, expected, rtol=1e-4, atol=1e-9)


def test_taylor_without_a_gradient_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^taylor ranking needs a metric with a gradient, got 'accuracy'; take 'cross"
    ):
        sc.rank(game_of("chain", "conv1", "accuracy"), "taylor")

    def errors(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).float()

    with pytest.raises(ValueError, match=r"^taylor ranking needs a metric with a gradient, got losses that have none$"):
        sc.rank(game_of("chain", "conv1", errors), "taylor")


def test_apoz_is_the_share_of_entries_that_are_not_zero() -> None:
    model, inputs, _ = build("vgg")
    targets = torch.zeros(len(inputs), dtype=torch.int64)
    with torch.no_grad():
        for group, consumer in (("0", 4), ("4", 7), ("13", 15)):
            game = sc.ChannelGame(model, group, (inputs, targets))
            read = model[:consumer](inputs).movedim(1, 0).flatten(1)
            expected = (read != 0).double().mean(1)
            torch.testing.assert_close(sc.rank(game, "apoz").values, expected, rtol=1e-12, atol=0)
            assert game.n_evaluations == len(inputs)
            assert expected.min() < expected.max()


def test_apoz_pools_all_consumers_and_the_columns_of_a_flattened_channel() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.coarse, self.fine = nn.Conv2d(1, 3, 3), nn.Linear(3, 4), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            return self.coarse(x.amax((2, 3))) + self.fine(x.flatten(1))

    model = prepared(Fork(), seed=3)
    inputs = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    game = sc.ChannelGame(model, "conv", (inputs, torch.zeros(200, dtype=torch.int64)))
    with torch.no_grad():
        x = F.relu(model.conv(inputs))
    active = (x.amax((2, 3)) > 0).sum(0) + (x > 0).sum((0, 2, 3))
    torch.testing.assert_close(sc.rank(game, "apoz").values, active.double() / (200 * 5), rtol=1e-12, atol=0)


def test_random_ranking_is_an_order_that_the_seed_decides() -> None:
    game, _ = closed_form("majority")
    first, again, other = (rank(game, method="random", seed=seed) for seed in (1, 1, 2))
    assert sorted(first.values.tolist()) == list(range(7))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert first.n_evaluations == game.n_evaluations == 0
    assert first.stopped == "complete"


@pytest.mark.parametrize("family", FAMILIES | UNUSUAL)
def test_baselines_value_every_group_of_every_architecture(family: str) -> None:
    model, inputs, targets = build(family)
    for group in sc.find_groups(model, inputs[:1]):
        if not group.prunable:
            continue
        game = sc.ChannelGame(model, group, (inputs, targets), metric=mean_square)
        for method in (*BY_WEIGHTS, "apoz", "random"):
            if method == "bn_scale" and not any(isinstance(model.get_submodule(n), _NORMS) for n in group.layers):
                with pytest.raises(ValueError, match=re.escape(f"group {group.name!r}")):
                    sc.rank(game, method)
                continue
            values = sc.rank(game, method).values
            assert values.shape == (group.n_players,)
            assert (values >= 0).all()


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@pytest.mark.parametrize("method", [*BY_WEIGHTS, "apoz"])
def test_baselines_change_nothing_and_run_where_nothing_is_recorded(method: str) -> None:
    game = game_of("vgg", "4")
    expected = sc.rank(game, method).values
    game.model.requires_grad_(False)
    before, random_state = copy.deepcopy(game.model.state_dict()), torch.get_rng_state()
    with torch.inference_mode():
        values = sc.rank(game, method).values
    assert torch.equal(values, expected)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in game.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None and not p.requires_grad for p in game.model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in game.model.modules())


def test_baselines_game_made_under_inference_mode_has_gradients_all_the_same() -> None:
    with torch.inference_mode():
        model, inputs, targets = build("chain")
        game = sc.ChannelGame(model, "conv1", (inputs * 1, targets * 1))
        inside = sc.rank(game, "taylor").values
    assert torch.equal(inside, sc.rank(game_of("chain", "conv1"), "taylor").values)
