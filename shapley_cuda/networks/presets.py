"""How many channels the Shapley pruning paper keeps of its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from .arguments import known_name
from .resnet import ResNet50, ResNet56

_VGG16 = (34, 34, 60, 60, 70, 101, 97, 88, 95, 85, 86, 67, 61)
_RESNET56 = (11, 18, 30)
_RESNET50 = (42, 80, 130, 250)


def _inner_groups(kept: Sequence[int], blocks: Sequence[int], convolutions: Sequence[str]) -> dict[str, int]:
    """Keep the same number of channels in the inner convolutions of all blocks of a stage."""
    return {
        f"layer{stage}.{block}.{convolution}": width
        for stage, (width, count) in enumerate(zip(kept, blocks, strict=True), start=1)
        for block in range(count)
        for convolution in convolutions
    }


PRESETS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "lenet5_bn": {"conv1": 8, "conv2": 9, "fc1": 36, "fc2": 17},
        "resnet50": _inner_groups(_RESNET50, ResNet50.BLOCKS, ("conv1", "conv2")),
        "resnet56": _inner_groups(_RESNET56, [ResNet56.BLOCKS] * 3, ("conv1",)),
        "vgg16": {f"conv{index}": width for index, width in enumerate(_VGG16, start=1)} | {"fc1": 55},
    }
)
"""For each network of the paper, by its name in `NETWORKS`: channels kept of each group."""


def preset(name: str) -> dict[str, int]:
    """Tell how many channels of each group the Shapley pruning paper keeps; fits `plan_pruning`'s `keep`.

    What the pruned networks cost, with ten classes (ResNet-50: a thousand) and images of 28 x 28 (LeNet-5), 32 x 32 and
    224 x 224 (ResNet-50). Parameters are all that are trained, biases and BatchNorm's among them. MACs are those of
    convolutions and linear layers for one image; biases, BatchNorm, pools and additions count nothing.

    ========= ============================ ================================
    name      parameters                   MACs
    ========= ============================ ================================
    lenet5_bn 40,225 to 8,080              498,750 to 236,366
    vgg16     14,990,922 to 637,639        313,463,808 to 40,940,333
    resnet56  853,018 to 425,824           125,485,696 to 72,217,216
    resnet50  25,557,032 to 12,461,880     4,089,184,256 to 2,052,116,076
    ========= ============================ ================================

    Args:
        name: a key of `PRESETS`.

    Returns:
        A new mapping from the names of groups to the channels kept.

    Raises:
        ValueError: when there is no such preset; a near name is suggested.

    Source:
        Adamczewski, Li, Van Gool, arXiv 2407.15875, and the authors' code, github.com/kamadforge/dirichlet_pruning.

    Example:
        >>> preset("lenet5_bn")
        {'conv1': 8, 'conv2': 9, 'fc1': 36, 'fc2': 17}
    """
    return dict(PRESETS[known_name(name, "preset", PRESETS)])
