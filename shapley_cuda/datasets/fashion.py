"""Fashion-MNIST: a part that ships with the package, and the full set where it is installed.

Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from .idx import find_idx, read_pair
from .pixels import normalise
from .splits import Split, check_split

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_SUBSET_FOLDER = Path(__file__).parents[1] / "assets" / "fashion-mnist"
_OFFICIAL_TRAINING_IMAGES = 60_000


def fashion_mnist_folder() -> Path:
    """Find the full Fashion-MNIST: $SHAPLEY_DATA, its sub-folder fashion-mnist, or Debian's dataset-fashion-mnist.

    Raises:
        FileNotFoundError: when none of them holds the data; the text says where it looked and how to get it.
    """
    candidates = [_DEBIAN_FOLDER]
    chosen = os.environ.get("SHAPLEY_DATA")
    if chosen:
        candidates = [Path(chosen), Path(chosen) / "fashion-mnist", *candidates]
    for folder in candidates:
        if find_idx(folder, "train-images-idx3-ubyte") is not None:
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(
        f"fashion_mnist: train-images-idx3-ubyte[.gz] must be in one of {looked}, got none. Install Debian's "
        "dataset-fashion-mnist, or set SHAPLEY_DATA to a folder with the four IDX files. "
        "fashion_mnist_subset() needs neither."
    )


def fashion_mnist(split: str) -> Split:
    """Load a split of the full Fashion-MNIST from this machine; nothing is downloaded, nothing is augmented.

    Use `fashion_mnist_subset` where a few thousand images will do: it always works.

    Args:
        split: "train" (58,000 images: the official training set without the next two), "rank" and "select" (the same
            1,000 images each as in the shipped subset) or "test" (the official 10,000). The shipped networks were
            trained on "train" and some on "select": choose on "select" among networks that were retrained since.

    Returns:
        The images and labels on the CPU; the four splits are disjoint.

    Raises:
        ValueError: when there is no such split, or a file is damaged, or the training set is not the official one.
        FileNotFoundError: when the data set is not on this machine.
    """
    check_split("fashion_mnist", split)
    folder = fashion_mnist_folder()
    pixels, classes = read_pair(folder, "t10k" if split == "test" else "train")
    labels = torch.from_numpy(classes).to(torch.int64)
    if split == "test":
        return Split(normalise(pixels), labels, split)
    if labels.shape[0] != _OFFICIAL_TRAINING_IMAGES:
        raise ValueError(
            f"fashion_mnist: {folder} must hold the official {_OFFICIAL_TRAINING_IMAGES} training images, "
            f"got {labels.shape[0]}"
        )
    if split == "train":
        kept = torch.ones(labels.shape[0], dtype=torch.bool)
        kept[subset_indices("rank")] = False
        kept[subset_indices("select")] = False
        chosen = kept.nonzero().flatten()
    else:
        chosen = subset_indices(split)
    return Split(normalise(pixels[chosen.numpy()]), labels[chosen], split)


def fashion_mnist_subset(split: str) -> Split:
    """Load a class-balanced part of Fashion-MNIST that ships with the package.

    Args:
        split: "train" (4,000 images of the official training set), "rank" (1,000 others of it, which the shipped
            networks were not trained on), "select" (yet 1,000 others, which some of them were trained on: choose on
            them among networks that were retrained since) or "test" (1,000 of the official test set).

    Returns:
        The images and labels on the CPU. Classes take turns, 0 to 9, so every multiple of ten is balanced.

    Raises:
        ValueError: when there is no such split.

    Example:
        >>> images, labels = fashion_mnist_subset("rank")
        >>> tuple(images.shape), labels[:3].tolist()
        ((1000, 1, 28, 28), [0, 1, 2])
    """
    check_split("fashion_mnist_subset", split)
    pixels, labels = read_pair(_SUBSET_FOLDER, split)
    return Split(normalise(pixels), torch.from_numpy(labels).to(torch.int64), split)


def subset_indices(split: str) -> Tensor:
    """Tell which official images a shipped subset holds.

    Args:
        split: one of `SPLITS`.

    Returns:
        int64 [N], positions in the official training set ("train", "rank", "select") or test set ("test"), in the
        subset's order.

    Raises:
        ValueError: when there is no such split.
    """
    check_split("subset_indices", split)
    stored = json.loads((_SUBSET_FOLDER / "indices.json").read_text(encoding="utf-8"))
    return torch.tensor(stored[split], dtype=torch.int64)
