"""The networks that the demo, the studies, the benchmarks and the tests prune.

`lenet5` is the default: small enough that exact answers are within reach. `vgg_bn` adds what makes pruning harder: a
deep stack and BatchNorm between a channel and its reader; `vit` is a transformer, whose attention heads and MLP neurons
are pruned. These ship trained, see `pretrained`, and so does `lenet5_bn`. It, `vgg16`, `resnet56` and `resnet50` are
those of "Shapley Pruning for Neural Network Compression" (Adamczewski, Li, Van Gool, arXiv 2407.15875), and `preset`
gives the widths that they are pruned to there.

All are plain modules that `torch.fx` and `torch_pruning` trace, with readable layer names, so that a group can be named
by its layer: ``conv1`` ... ``fc2``, and ``layer1.0.conv1`` in a ResNet. Weights are torch's default initialisation,
drawn from the global generator.
"""

from .lenet import LeNet5, LeNet5Bn, lenet5, lenet5_bn
from .presets import PRESETS, preset
from .registry import DEFAULT_NETWORK, NETWORKS, network
from .resnet import ResNet50, ResNet56, resnet50, resnet56
from .shipped import SHIPPED, pretrained, pretrained_meta
from .vgg import Vgg16, VggBn, vgg16, vgg_bn
from .vit import Vit, vit

__all__ = [
    "DEFAULT_NETWORK",
    "NETWORKS",
    "PRESETS",
    "SHIPPED",
    "LeNet5",
    "LeNet5Bn",
    "ResNet50",
    "ResNet56",
    "Vgg16",
    "VggBn",
    "Vit",
    "lenet5",
    "lenet5_bn",
    "network",
    "preset",
    "pretrained",
    "pretrained_meta",
    "resnet50",
    "resnet56",
    "vgg16",
    "vgg_bn",
    "vit",
]
