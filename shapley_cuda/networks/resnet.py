"""Residual networks: ResNet-56 for 32 x 32 images, and ResNet-50 for ImageNet's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arguments import check_counts


class BasicBlock(nn.Module):
    """Add two 3 x 3 convolutions to what comes in, which is subsampled and padded with zero channels where needed."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self._stride = stride
        self._padding = (width - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, width, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self._padding:
            subsampled = x[:, :, :: self._stride, :: self._stride]
            x = F.pad(subsampled, (0, 0, 0, 0, self._padding, self._padding))
        return F.relu(out + x)


class Bottleneck(nn.Module):
    """Add a 1 x 1, a 3 x 3 and a 1 x 1 convolution to what comes in, which is projected where shapes differ."""

    EXPANSION = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, 4 * width, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(out + x)


class ResNet56(nn.Module):
    """Compute class logits with ResNet-56; build it with `resnet56`."""

    WIDTHS = (16, 32, 64)
    BLOCKS = 9

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, self.WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.WIDTHS[0])
        channels = self.WIDTHS[0]
        for stage, width in enumerate(self.WIDTHS, start=1):
            blocks = []
            for index in range(self.BLOCKS):
                blocks.append(BasicBlock(channels, width, 2 if stage > 1 and index == 0 else 1))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in range(1, len(self.WIDTHS) + 1):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


class ResNet50(nn.Module):
    """Compute class logits with ResNet-50; build it with `resnet50`."""

    WIDTHS = (64, 128, 256, 512)
    BLOCKS = (3, 4, 6, 3)

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, self.WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.WIDTHS[0])
        channels = self.WIDTHS[0]
        for stage, (width, count) in enumerate(zip(self.WIDTHS, self.BLOCKS, strict=True), start=1):
            blocks = []
            for index in range(count):
                blocks.append(Bottleneck(channels, width, 2 if stage > 1 and index == 0 else 1))
                channels = Bottleneck.EXPANSION * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        for stage in range(1, len(self.WIDTHS) + 1):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def resnet56(num_classes: int = 10, *, in_channels: int = 3) -> ResNet56:
    """Build ResNet-56 for 32 x 32 images: 853,018 parameters, 125,485,696 MACs.

    A 3 x 3 convolution, three stages of nine blocks with 16, 32 and 64 channels, and the classifier fc. Shortcuts have
    no parameters: between stages every second position is taken, and zero channels are added on both sides (option A).
    Those shift the numbers of the channels from stage to stage, so the groups of the residual stream cannot be pruned
    exactly. The inner groups can: ``layer1.0.conv1`` ... ``layer3.8.conv1``.

    Args:
        num_classes: outputs of fc.
        in_channels: channels of the images.

    Returns:
        The network with random weights (torch's default initialisation, from the global generator), in training mode.

    Raises:
        ValueError: when a count is not a positive integer.

    Source:
        He, Zhang, Ren, Sun, arXiv 1512.03385, section 4.2.

    Example:
        >>> sum(p.numel() for p in resnet56().parameters())
        853018
    """
    check_counts("resnet56", num_classes=num_classes, in_channels=in_channels)
    return ResNet56(num_classes, in_channels)


def resnet50(num_classes: int = 1000, *, in_channels: int = 3) -> ResNet50:
    """Build ResNet-50 for ImageNet: 25,557,032 parameters, 4,089,184,256 MACs for a 224 x 224 image.

    The stride is in the 3 x 3 convolution of a block (He et al. have it in the first 1 x 1), which is what the MACs say
    and what published weights expect: layers are named as in torchvision, so its ``state_dict`` loads. The inner groups
    are ``conv1`` and ``conv2`` of every block, ``layer1.0.conv1`` ... ``layer4.2.conv2``.

    Args:
        num_classes: outputs of fc.
        in_channels: channels of the images.

    Returns:
        The network with random weights (torch's default initialisation, from the global generator), in training mode.

    Raises:
        ValueError: when a count is not a positive integer.

    Source:
        He, Zhang, Ren, Sun, arXiv 1512.03385, table 1.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     sum(p.numel() for p in resnet50().parameters())
        25557032
    """
    check_counts("resnet50", num_classes=num_classes, in_channels=in_channels)
    return ResNet50(num_classes, in_channels)
