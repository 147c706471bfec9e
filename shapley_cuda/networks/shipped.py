"""The trained weights that ship with the package. They are safetensors, never pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from .arguments import known_name
from .registry import DEFAULT_NETWORK, network

_ASSETS = Path(__file__).parents[1] / "assets"


def _names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _ASSETS.glob("*.json")))


SHIPPED = _names()
"""Names that `pretrained` takes."""


def pretrained(name: str = DEFAULT_NETWORK) -> nn.Module:
    """Load a network that ships with the package, trained on Fashion-MNIST.

    The training never saw the images of the splits "rank" and "test", so values estimated on "rank" and accuracies
    measured on "test" are honest. Those of "select", which is for choosing among networks retrained without them, were
    seen by "lenet5" and "vgg_bn", not by "lenet5_bn" and "vit". Inputs must be normalised as `datasets` does.

    Args:
        name: "lenet5", "lenet5_bn", "vgg_bn" or "vit".

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
        name: "lenet5", "lenet5_bn", "vgg_bn" or "vit".

    Returns:
        The training settings, and accuracies (fractions of 1) and mean losses (nats) on the official test set
        ("test_full") and on the shipped subsets ("rank", "test"). `tools/make_assets.py` writes them.

    Raises:
        ValueError: when no shipped network has that name.

    Example:
        >>> pretrained_meta("lenet5")["parameters"]
        431080
    """
    known = known_name(name, "pretrained", _names())
    meta: dict[str, Any] = json.loads((_ASSETS / f"{known}.json").read_text(encoding="utf-8"))
    return meta
