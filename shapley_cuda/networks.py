"""The networks that the demo, the benchmarks and the tests prune.

`lenet5` is the default: the network of most channel-pruning studies, small enough that exact answers are within
reach. `vgg_bn` adds what makes pruning harder: a deep stack and BatchNorm between a channel and its reader. Layers have
flat names (``conv1`` ... ``fc2``), so that a group can be named by its layer. Both trace with `torch.fx`.

`pretrained` loads the weights that ship with the package, trained on Fashion-MNIST. They are safetensors, never
pickles.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "DEFAULT_NETWORK",
    "NETWORKS",
    "LeNet5",
    "VggBn",
    "lenet5",
    "network",
    "pretrained",
    "pretrained_meta",
    "vgg_bn",
]

DEFAULT_NETWORK = "lenet5"
VGG_WIDTHS: tuple[int | Literal["M"], ...] = (32, 32, "M", 64, 64, "M", 128, 128, "M")

_ASSETS = Path(__file__).parent / "assets"


class LeNet5(nn.Module):
    """Compute class logits with Caffe's LeNet-5; build it with `lenet5`."""

    def __init__(self, widths: tuple[int, int, int], num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"lenet5: image_size must be at least 16, got {image_size}")
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


class VggBn(nn.Module):
    """Compute class logits with a small VGG; build it with `vgg_bn`."""

    def __init__(self, widths: Sequence[int | str], num_classes: int, in_channels: int) -> None:
        super().__init__()
        # One entry per convolution: is it followed by a pool? Plain Python, so that tracing sees a straight line.
        self._pooled: list[bool] = []
        channels = in_channels
        for width in widths:
            if isinstance(width, str):
                self._pooled[-1] = True
                continue
            self._pooled.append(False)
            index = len(self._pooled)
            # BatchNorm's shift makes the convolution's own bias redundant.
            self.add_module(f"conv{index}", nn.Conv2d(channels, width, 3, padding=1, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = images
        for index, pooled in enumerate(self._pooled, start=1):
            x = getattr(self, f"conv{index}")(x)
            x = F.relu(getattr(self, f"bn{index}")(x))
            if pooled:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.fc1(torch.flatten(self.pool(x), 1))
        return logits


def lenet5(
    widths: Sequence[int] = (20, 50, 500), num_classes: int = 10, *, in_channels: int = 1, image_size: int = 28
) -> LeNet5:
    """Build Caffe's LeNet-5, the default demo network: 431,080 parameters for 28 x 28 images.

    conv1 (5 x 5) - ReLU - pool - conv2 (5 x 5) - ReLU - pool - fc1 - ReLU - fc2. Caffe's original has no ReLU after
    its convolutions. The pruning literature usually trains it with them, and so do we: every prunable channel is then
    rectified, and a removed channel equals one that never fires. No normalisation layers: for those see `vgg_bn`.

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
    if len(widths) != 3 or not all(_is_count(width) for width in widths):
        raise ValueError(f"lenet5: widths must be three positive integers (conv1, conv2, fc1), got {widths!r}")
    _check_counts("lenet5", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    conv1, conv2, fc1 = widths
    return LeNet5((conv1, conv2, fc1), num_classes, in_channels, image_size)


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
        if not (_is_count(width) or (width == "M" and previous != "M")):
            raise ValueError(
                "vgg_bn: widths must be positive integers, each followed by at most one 'M' (a pool), "
                f"got {tuple(widths)!r}"
            )
        previous = width
    if len(widths) == 0:
        raise ValueError("vgg_bn: widths must name at least one convolution, got ()")
    _check_counts("vgg_bn", num_classes=num_classes, in_channels=in_channels)
    return VggBn(widths, num_classes, in_channels)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"lenet5": lenet5, "vgg_bn": vgg_bn}
"""Builders by name, as `network` and the command line know them."""


def network(name: str = DEFAULT_NETWORK, **options: Any) -> nn.Module:
    """Build a network by its name, with random weights; use `pretrained` for trained ones.

    Args:
        name: a key of `NETWORKS`.
        **options: passed to the builder, which names those that it takes.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: when no network has that name; a near name is suggested.
        TypeError: when the builder does not take an option.

    Example:
        >>> network("lenet5", widths=(10, 25, 250)).conv2.out_channels
        25
    """
    return NETWORKS[_known(name, "network", NETWORKS)](**options)


def pretrained(name: str = DEFAULT_NETWORK) -> nn.Module:
    """Load a network that ships with the package, trained on Fashion-MNIST.

    The training never saw the images of the splits "rank" and "test", so values estimated on "rank" and accuracies
    measured on "test" are honest. Inputs must be normalised as `datasets` does.

    Args:
        name: a key of `NETWORKS`.

    Returns:
        The network in eval mode, float32, on the CPU. Each call gives a new one. Global random state is not touched.

    Raises:
        ValueError: when no shipped network has that name.

    Example:
        >>> pretrained("lenet5").training
        False
    """
    meta = pretrained_meta(name)
    # On the meta device nothing is initialised, so no random number is drawn only to be overwritten.
    with torch.device("meta"):
        model = network(meta["network"], **meta["options"])
    stored = load_file(_ASSETS / meta["weights"])
    # Weights are stored in half precision for size; the arithmetic stays float32.
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def pretrained_meta(name: str = DEFAULT_NETWORK) -> dict[str, Any]:
    """Read how a shipped network was trained and how well it does.

    Args:
        name: a key of `NETWORKS`.

    Returns:
        The training settings, and accuracies (fractions of 1) and mean losses (nats) on the official test set
        ("test_full") and on the shipped subsets ("rank", "test"). `tools/make_assets.py` writes them.

    Raises:
        ValueError: when no shipped network has that name.

    Example:
        >>> pretrained_meta("lenet5")["parameters"]
        431080
    """
    shipped = [path.stem for path in sorted(_ASSETS.glob("*.json"))]
    known = _known(name, "pretrained", shipped)
    meta: dict[str, Any] = json.loads((_ASSETS / f"{known}.json").read_text(encoding="utf-8"))
    return meta


def _known(name: str, caller: str, names: Sequence[str] | dict[str, Any]) -> str:
    if name in names:
        return name
    choices = ", ".join(sorted(names))
    near = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{caller}: name must be one of {choices}, got {name!r}{hint}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_counts(caller: str, **counts: object) -> None:
    for name, value in counts.items():
        if not _is_count(value):
            raise ValueError(f"{caller}: {name} must be a positive integer, got {value!r}")
