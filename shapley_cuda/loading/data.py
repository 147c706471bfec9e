"""Data sets by name, as splits; and the samples drawn from one to rank on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets import (
    SPLITS,
    Split,
    as_tensors,
    cifar10,
    cifar100,
    fashion_mnist,
    fashion_mnist_subset,
    image_classes,
    load_idx_folder,
    load_image_folder,
)
from ..datasets.splits import balanced_order
from .named import import_named

__all__ = ["DataSource", "Samples", "draw_samples", "open_data"]

Samples = tuple[Tensor, Tensor | None]
"""Inputs ``[N, ...]``, and targets with one entry for each, or None where there are none."""

DataSource = Callable[[str, int | None], Samples | None]
"""Gives a split by its name, of so many samples at most where not all need be read; None where there is no such split.
"""

_FORMS = (
    "fashion-mnist, fashion-mnist:full, cifar10:FOLDER, cifar100:FOLDER, idx:FOLDER, images:FOLDER or "
    "package.module:function"
)
_HELD_OUT, _HELD_OUT_SHARE = 1000, 8  # samples each of "rank" and "select": so many, or so small a part if fewer
_SPLIT_SEED = 20250722
_RESIZED = 256 / 224  # shorter side of an image over the side of the square cut out of it
_MOST_TEST_IMAGES = 5000  # at 224 x 224 they take 3 GB


def open_data(name: str, image_size: int = 224) -> DataSource:
    """Open a data set by its name; nothing is downloaded, nothing is augmented.

    Args:
        name: ``"fashion-mnist"`` (the part that ships with the package) or ``"fashion-mnist:full"`` (where it is
            installed); ``"cifar10:FOLDER"``, ``"cifar100:FOLDER"``; ``"idx:FOLDER"`` for files laid out as MNIST's;
            ``"images:FOLDER"`` for a folder of images with a sub-folder for each class, or one with folders ``train``
            and ``test`` (or ``val``) of such; or ``"package.module:function"``, which is called without arguments and
            gives (inputs, targets), or inputs alone, or a dict of these by the names of splits, "rank" among them.
            Loaders and data sets of PyTorch will do as well.
        image_size: height and width that images of a folder are brought to.

    Returns:
        What gives the splits: "rank", and where there are any "train", "select" and "test".

    Raises:
        ValueError: the name has none of these forms.
        FileNotFoundError: there is no such folder.
        ImportError, TypeError: the function cannot be had, raises something or gives something else.
    """
    kind, _, rest = name.partition(":")
    if kind == "fashion-mnist" and rest in ("", "full"):
        return lambda split, _: (fashion_mnist if rest else fashion_mnist_subset)(split)
    if kind in ("cifar10", "cifar100"):
        reader = cifar10 if kind == "cifar10" else cifar100
        return lambda split, _: reader(split, rest or None)
    if kind in ("idx", "images"):
        folder = Path(rest)
        if not rest or not folder.is_dir():
            raise FileNotFoundError(f"{name!r} must name a folder, got {f'no {rest}' if rest else 'none'}")
        return _IdxFolder(folder) if kind == "idx" else _ImageFolder(folder, image_size)
    if ":" not in name:
        near = difflib.get_close_matches(name.lower(), ["fashion-mnist", "cifar10", "cifar100"], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"must be {_FORMS}, got {name!r}{hint}")
    return _UsersFunction(name)


def draw_samples(samples: Samples, count: int | None, seed: int) -> Samples:
    """Draw samples to rank on, the same whenever the seed is the same.

    Args:
        samples: all there are.
        count: how many; default 1,000, or all if there are fewer.
        seed: names the draw.

    Returns:
        As many of each class as of any other, give or take one, where targets are classes and the rarest has enough;
        else a draw from all.

    Raises:
        ValueError: there are fewer than ``count``.
    """
    inputs, targets = samples
    n = inputs.shape[0]
    count = min(n, 1000) if count is None else count
    if not 1 <= count <= n:
        raise ValueError(f"must be 1 to {n}, the samples that there are to rank on, got {count}")
    if count == n:
        return samples
    if targets is not None and targets.dtype == torch.int64 and targets.dim() == 1:
        sizes = targets.unique(return_counts=True)[1]
        if count <= len(sizes) * int(sizes.min()):
            return _chosen(samples, balanced_order(targets, count, seed, "draw_samples"))
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    return _chosen(samples, torch.from_numpy(shuffled[:count].copy()))


def _chosen(samples: Samples, chosen: Tensor) -> Samples:
    inputs, targets = samples
    if targets is None:
        return inputs[chosen.to(inputs.device)], None
    picked = inputs[chosen.to(inputs.device)], targets[chosen.to(targets.device)]
    return Split(*picked, samples.name) if isinstance(samples, Split) else picked


class _IdxFolder:
    """The training half of files laid out as MNIST's, parts of it held out to rank and to choose on; the test half."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, split: str, limit: int | None) -> Samples | None:
        if split == "test":
            return Split(*load_idx_folder(self._folder, train=False), split)
        images, labels = load_idx_folder(self._folder, train=True)
        held_out = min(_HELD_OUT, len(labels) // _HELD_OUT_SHARE)
        order = balanced_order(labels, 2 * held_out, _SPLIT_SEED, f"training set in {self._folder}")
        in_train = torch.ones(len(labels), dtype=torch.bool)
        in_train[order] = False
        chosen = {"rank": order[:held_out], "select": order[held_out:], "train": in_train.nonzero().flatten()}[split]
        return Split(images[chosen], labels[chosen], split)


class _ImageFolder:
    """Images in a sub-folder for each class; or in folders of such, named for what they are for."""

    def __init__(self, folder: Path, image_size: int):
        self._folder, self._size = folder, image_size

    def __call__(self, split: str, limit: int | None) -> Samples | None:
        names = {"rank": ("rank", "train"), "train": ("train",), "select": ("select",), "test": ("test", "val")}[split]
        parts = [self._folder / name for name in names if (self._folder / name).is_dir()]
        ranked = next((name for name in ("rank", "train") if (self._folder / name).is_dir()), None)
        if ranked is None:  # no splits: the folder is all there is, to rank on
            parts = [self._folder] if split == "rank" else []
        if not parts:
            return None
        if ranked is not None and image_classes(parts[0]) != image_classes(self._folder / ranked):
            raise ValueError(f"{parts[0]} must have the same classes as {self._folder / ranked}, got others")
        most = {"rank": limit or 1000, "test": limit or _MOST_TEST_IMAGES}.get(split, limit)
        resize = round(self._size * _RESIZED)
        return Split(*load_image_folder(parts[0], size=self._size, resize=resize, limit=most), split)


class _UsersFunction:
    """Splits that a function of the user's gives; it is called once."""

    def __init__(self, name: str):
        self._name = name
        function = import_named(name)
        if not callable(function):
            raise TypeError(f"{name} must be a function that gives data, got {type(function).__name__}")
        try:
            given = function()
        except Exception as error:  # whatever a user's function raises
            raise ImportError(f"calling {name}() gave {type(error).__name__}: {error}") from error
        self._splits: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"rank": given}
        unknown = [split for split in self._splits if split not in SPLITS]
        if unknown or "rank" not in self._splits:
            raise ValueError(
                f"{name}() must give splits named {', '.join(SPLITS)}, 'rank' among them, got "
                f"{', '.join(map(repr, self._splits)) or 'none'}"
            )

    def __call__(self, split: str, limit: int | None) -> Samples | None:
        if split not in self._splits:
            return None
        given = self._splits[split]
        if isinstance(given, Tensor):
            if given.dim() == 0 or given.shape[0] == 0:
                raise ValueError(f"{self._name}() must give samples, got {split!r} of shape {list(given.shape)}")
            return given, None
        try:
            inputs, targets = as_tensors(given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self._name}() gave {split!r} data that cannot be used: {error}") from error
        name = given.name if isinstance(given, Split) else split
        return Split(inputs, targets, name) if targets.dim() == 1 else (inputs, targets)
