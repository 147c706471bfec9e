"""Presets: cut to the paper's widths, the networks cost what the paper says."""

from __future__ import annotations

import copy
import re

import pytest
import torch

import shapley_cuda as sc
from shapley_cuda.networks import NETWORKS, PRESETS, network, preset

# name: image, parameters and MACs before and after. Then the same as published, with their unit and digits; of LeNet-5
# the paper gives only widths.
COUNTS = {
    "lenet5_bn": ((1, 28), (40_225, 8_080), (498_750, 236_366)),
    "vgg16": ((3, 32), (14_990_922, 637_639), (313_463_808, 40_940_333)),
    "resnet56": ((3, 32), (853_018, 425_824), (125_485_696, 72_217_216)),
    "resnet50": ((3, 224), (25_557_032, 12_461_880), (4_089_184_256, 2_052_116_076)),
}
PUBLISHED = {
    "vgg16": (("14.99 M", "0.638 M"), ("313.5 M", "40.9 M")),
    "resnet56": (("0.853 M", "0.426 M"), ("125.5 M", "72.2 M")),
    "resnet50": (("25.56 M", "12.46 M"), ("4.09 G", "2.05 G")),
}


def rounded(count: int, like: str) -> str:
    """Write a count with the digits and the unit of a published figure."""
    figure, unit = like.split()
    return f"{count / {'M': 1e6, 'G': 1e9}[unit]:.{len(figure.partition('.')[2])}f} {unit}"


def macs_of(model: torch.nn.Module, channels: int, side: int) -> int:
    """Count on the meta device, where nothing is computed."""
    return sc.count_macs(copy.deepcopy(model).to("meta"), torch.empty(1, channels, side, side, device="meta"))


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_network_cut_to_its_preset_costs_what_the_paper_says(name: str, generator: torch.Generator) -> None:
    (channels, side), parameters, macs = COUNTS[name]
    model = network(name).eval()
    # What is cut does not depend on the size of the images, and small ones are quicker.
    images = torch.rand(2, channels, min(side, 32), min(side, 32), generator=generator)
    keep = preset(name)
    n_players = {g.name: g.n_players for g in sc.find_groups(model, images) if g.name in keep}
    assert set(n_players) == set(keep)
    plan = sc.plan_pruning(
        model, {group: torch.rand(n, generator=generator) for group, n in n_players.items()}, keep, images
    )
    assert {group: len(plan.kept(group)) for group in keep} == keep
    pruned = sc.prune(model, plan, images)
    assert (sc.count_parameters(model), sc.count_parameters(pruned)) == plan.parameters == parameters
    assert (macs_of(model, channels, side), macs_of(pruned, channels, side)) == macs
    for counts, published in zip((parameters, macs), PUBLISHED.get(name, ()), strict=False):
        assert tuple(map(rounded, counts, published)) == published


def test_preset_is_named_for_its_network_and_may_be_changed() -> None:
    assert set(PRESETS) == set(COUNTS) < set(NETWORKS)
    preset("vgg16")["conv1"] = 1
    assert preset("vgg16")["conv1"] == 34
    assert list(preset("vgg16").values()) == [34, 34, 60, 60, 70, 101, 97, 88, 95, 85, 86, 67, 61, 55]
    assert len(preset("resnet50")) == 32
    assert len(preset("resnet56")) == 27


def test_preset_unknown_name_suggests_a_near_one() -> None:
    message = "preset: name must be one of lenet5_bn, resnet50, resnet56, vgg16, got 'vgg-16'; did you mean 'vgg16'?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        preset("vgg-16")


def test_resnet56_residual_streams_are_refused_and_inner_groups_are_not(generator: torch.Generator) -> None:
    model = sc.network("resnet56").eval()
    images = torch.rand(2, 3, 32, 32, generator=generator)
    data = (images, torch.tensor([3, 7]))
    for stream in ("conv1", "layer2.0.conv2", "layer3.0.conv2"):
        with pytest.raises(sc.GroupError, match="cannot be pruned"):
            sc.ChannelGame(model, stream, data)
    assert sc.ChannelGame(model, "layer2.0.conv1", data).n_players == 32
