"""The demo networks: shapes, names, tracing, errors, and the weights that ship."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from shapley_cuda.datasets import fashion_mnist_subset
from shapley_cuda.networks import (
    DEFAULT_NETWORK,
    NETWORKS,
    lenet5,
    lenet5_bn,
    network,
    pretrained,
    pretrained_meta,
    resnet50,
    resnet56,
    vgg16,
    vgg_bn,
    vit,
)
from shapley_cuda.training import evaluate

# The same float32 network on another processor may round a borderline logit the other way.
ACCURACY_TOLERANCE = 0.005
SHIPPED = ["lenet5", "lenet5_bn", "vgg_bn", "vit"]
IMAGE_SHAPES = {
    "lenet5": (1, 28, 28),
    "lenet5_bn": (1, 28, 28),
    "resnet50": (3, 64, 64),
    "resnet56": (3, 32, 32),
    "vgg16": (3, 32, 32),
    "vgg_bn": (1, 28, 28),
    "vit": (1, 28, 28),
}


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_lenet5_default_has_the_published_parameter_count_and_names() -> None:
    model = lenet5()
    assert n_parameters(model) == 431_080
    assert [name for name, _ in model.named_children()] == ["conv1", "conv2", "fc1", "fc2"]


def test_lenet5_widths_set_every_layer() -> None:
    model = lenet5((3, 5, 7), num_classes=4, in_channels=3, image_size=32)
    assert model.conv1.weight.shape == (3, 3, 5, 5)
    assert model.conv2.weight.shape == (5, 3, 5, 5)
    assert model.fc1.weight.shape == (7, 5 * 5 * 5)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_lenet5_smallest_image_runs_and_one_less_is_refused() -> None:
    assert lenet5(image_size=16)(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"^lenet5: image_size must be at least 16, got 15$"):
        lenet5(image_size=15)


def test_lenet5_rectifies_after_each_convolution() -> None:
    model = lenet5()
    with torch.no_grad():
        model.conv2.weight.zero_()
        model.get_parameter("conv2.bias").fill_(-1.0)
    rectified = torch.relu(model.fc1.bias) @ model.fc2.weight.T + model.fc2.bias
    assert torch.allclose(model(torch.randn(3, 1, 28, 28)), rectified.expand(3, 10), atol=1e-6)


def test_vgg_bn_default_has_the_parameters_of_its_widths() -> None:
    model = vgg_bn()
    widths = [1, 32, 32, 64, 64, 128, 128]
    expected = sum(9 * a * b + 2 * b for a, b in pairwise(widths)) + 128 * 10 + 10
    assert n_parameters(model) == expected
    names = [name for name, _ in model.named_children()]
    assert names == [f"{kind}{i}" for i in range(1, 7) for kind in ("conv", "bn")] + ["pool", "fc1"]


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 33)])
def test_vgg_bn_takes_images_of_several_sizes(channels: int, side: int) -> None:
    model = vgg_bn(in_channels=channels, num_classes=7).eval()
    assert model(torch.randn(2, channels, side, side)).shape == (2, 7)


def test_vgg_bn_pools_where_the_widths_say() -> None:
    sides: list[int] = []
    model = vgg_bn((4, "M", 4, 4, "M", 4)).eval()
    for index in range(1, 5):
        model.get_submodule(f"conv{index}").register_forward_hook(lambda *hooked: sides.append(hooked[2].shape[-1]))
    model(torch.zeros(1, 1, 28, 28))
    assert sides == [28, 14, 14, 7]


def test_lenet5_bn_normalises_what_was_rectified_and_leaves_the_linear_layers_linear() -> None:
    model = lenet5_bn((2, 3, 4, 5)).eval()
    with torch.no_grad():
        model.get_parameter("conv2.bias").fill_(-100.0)
        model.get_parameter("bn2.bias").copy_(torch.tensor([1.0, -2.0, 3.0]))
    shifts = model.bn2.bias.repeat_interleave(16)
    expected = model.fc3(model.fc2(model.fc1(shifts)))
    assert torch.allclose(model(torch.randn(2, 1, 28, 28)), expected.expand(2, 10), atol=1e-5)


def test_vgg16_has_one_position_left_of_32_pixels() -> None:
    seen: list[torch.Size] = []
    model = vgg16([4] * 14).eval()
    model.pool.register_forward_hook(lambda *hooked: seen.append(hooked[1][0].shape))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert seen == [(1, 4, 1, 1)]
    assert [name for name, _ in model.named_children()][-4:] == ["bn13", "pool", "fc1", "fc2"]


def test_resnet56_shortcut_subsamples_and_pads_with_zero_channels_on_both_sides() -> None:
    block = resnet56().layer2[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 16, 8, 8)
    out = block(images)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_resnet50_names_its_layers_as_published_weights_do() -> None:
    with torch.device("meta"):
        keys = set(resnet50().state_dict())
    first = [f"conv{i}.weight" for i in (1, 2, 3)] + ["downsample.0.weight", "downsample.1.running_mean", "bn3.bias"]
    assert {f"layer1.0.{name}" for name in first} <= keys
    assert {"conv1.weight", "bn1.weight", "layer4.2.conv3.weight", "fc.weight", "fc.bias"} <= keys
    assert not {key for key in keys if "downsample" in key and ".0.downsample" not in key}
    assert len(keys) == 320


def test_vit_sizes_set_every_layer() -> None:
    model = vit((3, 1), (5, 7), 4, dim=6, head_dim=2, patch_size=8, in_channels=3, image_size=32).eval()
    assert [block.attention.num_heads for block in model.blocks] == [3, 1]
    assert model.blocks[0].attention.q.weight.shape == (6, 6)
    assert model.blocks[1].attention.project.weight.shape == (6, 2)
    assert [block.mlp.fc1.out_features for block in model.blocks] == [5, 7]
    assert model.position.shape == (1, 16, 6)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_vit_attention_is_that_of_torch() -> None:
    model = vit((2,), (3,), dim=6, head_dim=3).eval()
    ours, theirs = model.blocks[0].attention, nn.MultiheadAttention(6, 2, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.project.state_dict())
        tokens = torch.randn(4, 5, 6)
        assert torch.allclose(ours(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0], atol=1e-6)


@pytest.mark.parametrize(("heads", "neurons"), [((), ()), ((4,), (8, 8)), ((4, 0), (8, 8)), ((4,), (8.0,))])
def test_vit_bad_heads_and_neurons_are_refused(heads: tuple[int, ...], neurons: tuple[float, ...]) -> None:
    message = f"one of each for every block, got {heads!r} and {neurons!r}"
    with pytest.raises(ValueError, match=f"^vit: heads and neurons must be positive integers, {re.escape(message)}$"):
        vit(heads, neurons)  # type: ignore[arg-type]


def test_vit_patches_that_do_not_fill_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^vit: image_size must be a multiple of patch_size 7, got 32$"):
        vit(image_size=32)
    with pytest.raises(ValueError, match=r"^vit: head_dim must be a positive integer, got 0$"):
        vit(head_dim=0)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_network_traces_and_gives_the_same_numbers(name: str) -> None:
    model = network(name).eval()
    images = torch.randn(3, *IMAGE_SHAPES[name])
    traced = torch.fx.symbolic_trace(model)
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    assert leaves == called
    assert torch.equal(traced(images), model(images))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_network_can_be_deep_copied(name: str) -> None:
    model = network(name).eval()
    images = torch.randn(2, *IMAGE_SHAPES[name])
    assert torch.equal(copy.deepcopy(model)(images), model(images))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_network_of_a_seed_is_the_same_again(name: str) -> None:
    first, second = (_seeded(name, 7).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def _seeded(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(name)


def test_network_default_is_lenet5() -> None:
    assert DEFAULT_NETWORK == "lenet5"
    assert n_parameters(network()) == 431_080
    assert n_parameters(pretrained()) == 431_080


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet", "got 'lenet'; did you mean 'lenet5'?"),
        ("VGG-BN", "got 'VGG-BN'; did you mean 'vgg_bn'?"),
        ("resnet-56", "got 'resnet-56'; did you mean 'resnet56'?"),
        ("x", "got 'x'"),
    ],
)
def test_network_unknown_name_suggests_a_near_one(name: str, message: str) -> None:
    known = "lenet5, lenet5_bn, resnet50, resnet56, vgg16, vgg_bn, vit"
    with pytest.raises(ValueError, match=f"^{re.escape(f'network: name must be one of {known}, {message}')}$"):
        network(name)


def test_network_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        network("lenet5", depth=3)


@pytest.mark.parametrize("widths", [(20, 50), (20, 50, 500, 10), (20, 0, 500), (20, 50.0, 500), (True, 50, 500)])
def test_lenet5_bad_widths_are_refused(widths: tuple[int, ...]) -> None:
    message = f"lenet5: widths must be three positive integers (conv1, conv2, fc1), got {widths!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lenet5(widths)


def test_lenet5_bn_and_vgg16_bad_widths_are_refused() -> None:
    message = "lenet5_bn: widths must be four positive integers (conv1, conv2, fc1, fc2), got (10, 20, 100)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lenet5_bn((10, 20, 100))
    with pytest.raises(ValueError, match=r"^vgg16: widths must be 14 positive integers .conv1 ... conv13, fc1., got "):
        vgg16([64] * 13 + [0])


@pytest.mark.parametrize("widths", [("M", 8), (8, "M", "M"), (8, 0), (8, "N"), (8, 2.0)])
def test_vgg_bn_bad_widths_are_refused(widths: tuple[int | str, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"at most one 'M' (a pool), got {widths!r}")):
        vgg_bn(widths)


def test_vgg_bn_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^vgg_bn: widths must name at least one convolution, got \(\)$"):
        vgg_bn(())


@pytest.mark.parametrize("builder", [lenet5, lenet5_bn, resnet50, resnet56, vgg16, vgg_bn, vit])
def test_network_bad_counts_are_refused(builder: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"num_classes must be a positive integer, got 0$"):
        builder(num_classes=0)
    with pytest.raises(ValueError, match=r"in_channels must be a positive integer, got 1\.5$"):
        builder(in_channels=1.5)


@pytest.mark.parametrize("name", SHIPPED)
def test_pretrained_is_float32_in_eval_mode_and_leaves_random_state(name: str) -> None:
    before = torch.get_rng_state()
    model = pretrained(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_pretrained_gives_independent_copies() -> None:
    first, second = pretrained("lenet5"), pretrained("lenet5")
    with torch.no_grad():
        first.get_parameter("fc2.bias").add_(1.0)
    assert not torch.equal(first.get_parameter("fc2.bias"), second.get_parameter("fc2.bias"))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("split", ["rank", "test"])
def test_pretrained_accuracy_is_the_recorded_one(name: str, split: str) -> None:
    recorded = pretrained_meta(name)[split]
    measured = evaluate(pretrained(name), *fashion_mnist_subset(split))
    assert recorded["images"] == 1000
    assert abs(measured.accuracy - recorded["accuracy"]) <= ACCURACY_TOLERANCE
    assert measured.loss == pytest.approx(recorded["loss"], rel=0.01)


@pytest.mark.parametrize(("name", "least"), [("lenet5", 0.90), ("lenet5_bn", 0.90), ("vgg_bn", 0.92), ("vit", 0.87)])
def test_pretrained_is_well_trained_and_half_precision_costs_nothing(name: str, least: float) -> None:
    meta = pretrained_meta(name)
    assert meta["test_full"]["images"] == 10_000
    assert meta["test_full"]["accuracy"] >= least
    assert abs(meta["test_full"]["accuracy"] - meta["unrounded_test_full_accuracy"]) <= 0.001
    assert meta["parameters"] == n_parameters(pretrained(name))


def test_pretrained_unknown_name_suggests_a_near_one() -> None:
    message = "pretrained: name must be one of lenet5, lenet5_bn, vgg_bn, vit, got 'lenet_5'; did you mean 'lenet5'?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pretrained("lenet_5")


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with torchvision's two functions, so that the lookup is tested where it is not installed."""
    models = ModuleType("torchvision.models")
    known = {"tiny": lambda width=3: nn.Linear(width, 2)}
    setattr(models, "list_models", lambda module: sorted(known) if module is models else [])  # noqa: B010
    setattr(models, "get_model", lambda name, **options: known[name](**options))  # noqa: B010
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.usefixtures("torchvision")
def test_network_of_torchvision_is_built_with_its_options() -> None:
    built = network("torchvision:tiny", width=5)
    assert isinstance(built, nn.Linear)
    assert built.in_features == 5


@pytest.mark.usefixtures("torchvision")
def test_network_of_torchvision_unknown_name_suggests_a_near_one() -> None:
    message = "network: torchvision: name must be one of tiny, got 'tini'; did you mean 'tiny'?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        network("torchvision:tini")


def test_network_of_torchvision_where_it_is_absent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    message = r"^network: torchvision must be installed for 'torchvision:resnet18' \(pip install torchvision\), got: "
    with pytest.raises(ModuleNotFoundError, match=message):
        network("torchvision:resnet18")


def test_importing_the_package_leaves_torchvision_alone(tmp_path: Path) -> None:
    code = "import sys, shapley_cuda; sys.exit('torchvision' in sys.modules)"
    # Not in a source tree, whose package without its native module would come first.
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
