"""LeNet-5: Caffe's with one hidden linear layer, and a narrow one with two and BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arguments import check_counts, is_count


class LeNet5(nn.Module):
    """Compute class logits with Caffe's LeNet-5; build it with `lenet5`."""

    def __init__(self, widths: tuple[int, int, int], num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        side = _side_after_pools("lenet5", image_size)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.fc1 = nn.Linear(widths[1] * side * side, widths[2])
        self.fc2 = nn.Linear(widths[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        logits: Tensor = self.fc2(x)
        return logits


class LeNet5Bn(nn.Module):
    """Compute class logits with the narrow LeNet-5; build it with `lenet5_bn`."""

    def __init__(self, widths: tuple[int, int, int, int], num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        side = _side_after_pools("lenet5_bn", image_size)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.bn2 = nn.BatchNorm2d(widths[1])
        self.fc1 = nn.Linear(widths[1] * side * side, widths[2])
        self.fc2 = nn.Linear(widths[2], widths[3])
        self.fc3 = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = self.bn1(F.relu(F.max_pool2d(self.conv1(images), 2)))
        x = self.bn2(F.relu(F.max_pool2d(self.conv2(x), 2)))
        x = torch.flatten(x, 1)
        logits: Tensor = self.fc3(self.fc2(self.fc1(x)))
        return logits


def lenet5(
    widths: Sequence[int] = (20, 50, 500), num_classes: int = 10, *, in_channels: int = 1, image_size: int = 28
) -> LeNet5:
    """Build Caffe's LeNet-5, the default demo network: 431,080 parameters for 28 x 28 images.

    conv1 (5 x 5) - ReLU - pool - conv2 (5 x 5) - ReLU - pool - fc1 - ReLU - fc2. Caffe's original has no ReLU after
    its convolutions. The pruning literature usually trains it with them, and so do we: every prunable channel is then
    rectified, and a removed channel equals one that never fires. No normalisation layers: for those see `lenet5_bn`.

    Args:
        widths: channels of conv1 and conv2 and units of fc1, each at least 1. Smaller widths give the pruned shape.
        num_classes: outputs of fc2.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels, at least 16.

    Returns:
        The network with random weights (torch's default initialisation, from the global generator), in training mode.

    Raises:
        ValueError: when a width or size is out of range.

    Example:
        >>> sum(p.numel() for p in lenet5().parameters())
        431080
    """
    if len(widths) != 3 or not all(is_count(width) for width in widths):
        raise ValueError(f"lenet5: widths must be three positive integers (conv1, conv2, fc1), got {widths!r}")
    check_counts("lenet5", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    conv1, conv2, fc1 = widths
    return LeNet5((conv1, conv2, fc1), num_classes, in_channels, image_size)


def lenet5_bn(
    widths: Sequence[int] = (10, 20, 100, 25), num_classes: int = 10, *, in_channels: int = 1, image_size: int = 28
) -> LeNet5Bn:
    """Build the LeNet-5 of the Shapley pruning paper: 40,225 parameters for 28 x 28 images.

    conv1 (5 x 5) - pool - ReLU - bn1 - conv2 (5 x 5) - pool - ReLU - bn2 - fc1 - fc2 - fc3. As in the authors' code,
    BatchNorm comes after the ReLU and nothing between the linear layers. A channel that never fires still emits its
    BatchNorm's shift, so removing it is not the same as zeroing its weights.

    Args:
        widths: channels of conv1 and conv2 and units of fc1 and fc2, each at least 1.
        num_classes: outputs of fc3.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels, at least 16.

    Returns:
        The network with random weights (torch's default initialisation, from the global generator), in training mode.

    Raises:
        ValueError: when a width or size is out of range.

    Source:
        Adamczewski, Li, Van Gool, arXiv 2407.15875, and the authors' code, github.com/kamadforge/dirichlet_pruning.

    Example:
        >>> sum(p.numel() for p in lenet5_bn().parameters())
        40225
    """
    if len(widths) != 4 or not all(is_count(width) for width in widths):
        raise ValueError(f"lenet5_bn: widths must be four positive integers (conv1, conv2, fc1, fc2), got {widths!r}")
    check_counts("lenet5_bn", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    conv1, conv2, fc1, fc2 = widths
    return LeNet5Bn((conv1, conv2, fc1, fc2), num_classes, in_channels, image_size)


def _side_after_pools(caller: str, image_size: int) -> int:
    side = ((image_size - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError(f"{caller}: image_size must be at least 16, got {image_size}")
    return side
