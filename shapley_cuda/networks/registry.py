"""Networks by name, as the command line knows them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from .arguments import known_name
from .lenet import lenet5, lenet5_bn
from .resnet import resnet50, resnet56
from .vgg import vgg16, vgg_bn
from .vit import vit

DEFAULT_NETWORK = "lenet5"

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "lenet5_bn": lenet5_bn,
    "resnet50": resnet50,
    "resnet56": resnet56,
    "vgg16": vgg16,
    "vgg_bn": vgg_bn,
    "vit": vit,
}
"""Builders by name; `network` takes these, and ``"torchvision:NAME"``."""

_TORCHVISION = "torchvision:"


def network(name: str = DEFAULT_NETWORK, **options: Any) -> nn.Module:
    """Build a network by its name, with random weights; use `pretrained` for trained ones.

    Args:
        name: a key of `NETWORKS`, or ``"torchvision:NAME"`` for a classifier of torchvision, where that is installed.
        **options: passed to the builder, which names those that it takes. torchvision downloads weights if, and only
            if, an option ``weights`` asks for them.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: when no network has that name; a near name is suggested.
        ModuleNotFoundError: when a network of torchvision is asked for, and torchvision is not installed.
        TypeError: when the builder does not take an option.

    Example:
        >>> network("lenet5", widths=(10, 25, 250)).conv2.out_channels
        25
    """
    if isinstance(name, str) and name.startswith(_TORCHVISION):
        return _from_torchvision(name.removeprefix(_TORCHVISION), options)
    return NETWORKS[known_name(name, "network", NETWORKS)](**options)


def _from_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        models = importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"network: torchvision must be installed for {_TORCHVISION + name!r} (pip install torchvision), "
            f"got: {error}"
        ) from error
    known = known_name(name, "network: torchvision", models.list_models(module=models))
    model: nn.Module = models.get_model(known, **options)
    return model
