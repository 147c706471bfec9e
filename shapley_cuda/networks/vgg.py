"""VGG with BatchNorm: a small one for 28 x 28 images, and VGG-16 for 32 x 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arguments import check_counts, is_count

VGG_WIDTHS: tuple[int | Literal["M"], ...] = (32, 32, "M", 64, 64, "M", 128, 128, "M")
VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512)

_VGG16_STAGES = (2, 2, 3, 3, 3)  # convolutions between pools


class _ConvStack(nn.Module):
    """Convolutions conv1, conv2, ..., each with its BatchNorm and ReLU, and pools where the widths have an ``"M"``."""

    def __init__(self, widths: Sequence[int | str], in_channels: int, *, bias: bool) -> None:
        super().__init__()
        # One entry per convolution: is it followed by a pool? Plain Python, so that tracing sees a straight line.
        self._pooled: list[bool] = []
        self._channels = in_channels
        for width in widths:
            if isinstance(width, str):
                self._pooled[-1] = True
                continue
            self._pooled.append(False)
            index = len(self._pooled)
            self.add_module(f"conv{index}", nn.Conv2d(self._channels, width, 3, padding=1, bias=bias))
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
            self._channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)

    def _features(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to the last convolution's means over positions [N, C]."""
        x = images
        for index, pooled in enumerate(self._pooled, start=1):
            x = getattr(self, f"conv{index}")(x)
            x = F.relu(getattr(self, f"bn{index}")(x))
            if pooled:
                x = F.max_pool2d(x, 2)
        return torch.flatten(self.pool(x), 1)


class VggBn(_ConvStack):
    """Compute class logits with a small VGG; build it with `vgg_bn`."""

    def __init__(self, widths: Sequence[int | str], num_classes: int, in_channels: int) -> None:
        # BatchNorm's shift makes the convolution's own bias redundant.
        super().__init__(widths, in_channels, bias=False)
        self.fc1 = nn.Linear(self._channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.fc1(self._features(images))
        return logits


class Vgg16(_ConvStack):
    """Compute class logits with VGG-16; build it with `vgg16`."""

    def __init__(self, widths: Sequence[int | str], fc1: int, num_classes: int, in_channels: int) -> None:
        super().__init__(widths, in_channels, bias=True)
        self.fc1 = nn.Linear(self._channels, fc1)
        self.fc2 = nn.Linear(fc1, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.fc2(self.fc1(self._features(images)))
        return logits


def vgg_bn(widths: Sequence[int | str] = VGG_WIDTHS, num_classes: int = 10, *, in_channels: int = 1) -> VggBn:
    """Build a small VGG with BatchNorm for 28 x 28 or 32 x 32 images: six convolutions and one linear layer.

    Each convolution (3 x 3, no bias) is followed by BatchNorm and ReLU, each ``"M"`` is a 2 x 2 max pool. A mean over
    positions feeds the classifier fc1, so any image size that survives the pools will do. Use it to see what BatchNorm
    does to a ranking: a channel whose weights are zeroed still emits its shift, a removed one does not.

    Args:
        widths: output channels of conv1, conv2, ... with ``"M"`` where a pool follows.
        num_classes: outputs of fc1.
        in_channels: channels of the images (3 for colour).

    Returns:
        The network with random weights (torch's default initialisation, from the global generator), in training mode.

    Raises:
        ValueError: when `widths` has no convolution, starts with a pool or has two pools in a row, or a count is not
            a positive integer.

    Example:
        >>> [name for name, _ in vgg_bn((8, "M", 16), in_channels=3).named_children()]
        ['conv1', 'bn1', 'conv2', 'bn2', 'pool', 'fc1']
    """
    previous: object = "M"
    for width in widths:
        if not (is_count(width) or (width == "M" and previous != "M")):
            raise ValueError(
                "vgg_bn: widths must be positive integers, each followed by at most one 'M' (a pool), "
                f"got {tuple(widths)!r}"
            )
        previous = width
    if len(widths) == 0:
        raise ValueError("vgg_bn: widths must name at least one convolution, got ()")
    check_counts("vgg_bn", num_classes=num_classes, in_channels=in_channels)
    return VggBn(widths, num_classes, in_channels)


def vgg16(widths: Sequence[int] = VGG16_WIDTHS, num_classes: int = 10, *, in_channels: int = 3) -> Vgg16:
    """Build VGG-16 for 32 x 32 images, as pruning studies on CIFAR use it: 14,990,922 parameters, 313,463,808 MACs.

    Thirteen convolutions (3 x 3, with bias), each with BatchNorm and ReLU, in five stages with a 2 x 2 max pool behind
    each; then fc1 and the classifier fc2. As in the authors' code, nothing comes between fc1 and fc2. Of larger images
    the positions that the pools leave are averaged.

    Args:
        widths: output channels of conv1 ... conv13, then units of fc1; fourteen positive integers.
        num_classes: outputs of fc2.
        in_channels: channels of the images.

    Returns:
        The network with random weights (torch's default initialisation, from the global generator), in training mode.

    Raises:
        ValueError: when a width or count is not a positive integer, or there are not fourteen widths.

    Source:
        Adamczewski, Li, Van Gool, arXiv 2407.15875, and the authors' code, github.com/kamadforge/dirichlet_pruning.

    Example:
        >>> sum(p.numel() for p in vgg16().parameters())
        14990922
    """
    if len(widths) != len(VGG16_WIDTHS) or not all(is_count(width) for width in widths):
        raise ValueError(
            f"vgg16: widths must be {len(VGG16_WIDTHS)} positive integers (conv1 ... conv13, fc1), "
            f"got {tuple(widths)!r}"
        )
    check_counts("vgg16", num_classes=num_classes, in_channels=in_channels)
    layout: list[int | str] = []
    first = 0
    for length in _VGG16_STAGES:
        layout += [*widths[first : first + length], "M"]
        first += length
    return Vgg16(layout, widths[-1], num_classes, in_channels)
