"""CIFAR-10 and CIFAR-100, from their python batches or their binary ones.

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .batches import read_python_batch
from .pixels import normalise
from .splits import Split, balanced_order, check_split

_SPLIT_SEED = 20090408
_HELD_OUT = 1000  # images each of "rank" and "select"
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


class _Layout(NamedTuple):
    """How one of the two data sets lies on disk; a binary file has the name of a python one and ``.bin``."""

    name: str
    folders: tuple[str, str]  # as the archives unpack: python, binary
    train: tuple[str, ...]
    test: tuple[str, ...]
    n_classes: int
    label_key: str
    label_bytes: int  # before the pixels of a binary record; the last one is the label
    mean: tuple[float, float, float]  # of the official training images, as fractions of full white
    std: tuple[float, float, float]


_CIFAR10 = _Layout(
    name="cifar10",
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    train=tuple(f"data_batch_{index}" for index in range(1, 6)),
    test=("test_batch",),
    n_classes=10,
    label_key="labels",
    label_bytes=1,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_CIFAR100 = _Layout(
    name="cifar100",
    folders=("cifar-100-python", "cifar-100-binary"),
    train=("train",),
    test=("test",),
    n_classes=100,
    label_key="fine_labels",
    label_bytes=2,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


def cifar10(split: str, folder: str | os.PathLike[str] | None = None) -> Split:
    """Load a split of CIFAR-10 from this machine; nothing is downloaded, nothing is augmented.

    Args:
        split: "rank" and "select" (1,000 images each of the official training set, drawn once and for all, 100 of each
            class, classes taking turns), "train" (the other 48,000) or "test" (the official 10,000).
        folder: where the python or the binary batches are, or a folder that holds ``cifar-10-batches-py`` or
            ``cifar-10-batches-bin``. Default: $SHAPLEY_DATA.

    Returns:
        The images float32 [N, 3, 32, 32], normalised by the training set's mean and deviation of each colour, and the
        labels, on the CPU; the four splits are disjoint. "train" takes 590 MB.

    Raises:
        ValueError: when there is no such split, or a file is damaged; the text names the file.
        FileNotFoundError: when a file is missing.
    """
    return _load_split(_CIFAR10, split, folder)


def cifar100(split: str, folder: str | os.PathLike[str] | None = None) -> Split:
    """Load a split of CIFAR-100, with its hundred fine labels, from this machine; else as `cifar10`.

    Args:
        split: "rank" and "select" (1,000 images each of the official training set, ten of each class), "train" (the
            other 48,000) or "test" (the official 10,000).
        folder: where the python or the binary files are, or a folder that holds ``cifar-100-python`` or
            ``cifar-100-binary``. Default: $SHAPLEY_DATA.

    Returns:
        The images float32 [N, 3, 32, 32], normalised, and the labels, on the CPU.

    Raises:
        ValueError: when there is no such split, or a file is damaged; the text names the file.
        FileNotFoundError: when a file is missing.
    """
    return _load_split(_CIFAR100, split, folder)


def load_cifar_folder(folder: str | os.PathLike[str], train: bool) -> tuple[Tensor, Tensor]:
    """Load an official half of CIFAR-10 or CIFAR-100 as it is; use `cifar10` and `cifar100` for splits with a purpose.

    Args:
        folder: as for `cifar10` or `cifar100`; the files tell which of the two it is.
        train: the training half, else the test half.

    Returns:
        Images float32 [N, 3, 32, 32], normalised, and labels int64 [N], on the CPU.

    Raises:
        ValueError: when a file is damaged; the text names it.
        FileNotFoundError: when a file is missing.
    """
    for layout in (_CIFAR10, _CIFAR100):
        if (place := _find_folder(layout, Path(folder))) is not None:
            pixels, labels = _read_half(layout, place, train)
            return normalise(pixels, layout.mean, layout.std), torch.from_numpy(labels)
    raise FileNotFoundError(
        f"load_cifar_folder: {folder} must hold data_batch_1[.bin] (CIFAR-10) or train[.bin] (CIFAR-100), got neither"
    )


def _load_split(layout: _Layout, split: str, folder: str | os.PathLike[str] | None) -> Split:
    check_split(layout.name, split)
    root = os.environ.get("SHAPLEY_DATA") if folder is None else folder
    if not root:
        raise FileNotFoundError(
            f"{layout.name}: folder must be given, or SHAPLEY_DATA set to one, that holds {' or '.join(layout.folders)}"
        )
    place = _find_folder(layout, Path(root))
    if place is None:
        raise FileNotFoundError(
            f"{layout.name}: {root} must hold {layout.train[0]} or {layout.train[0]}.bin, itself or in "
            f"{' or '.join(layout.folders)}, got none"
        )
    pixels, classes = _read_half(layout, place, train=split != "test")
    labels = torch.from_numpy(classes)
    chosen = torch.arange(labels.shape[0])
    if split != "test":
        held_out = balanced_order(labels, 2 * _HELD_OUT, _SPLIT_SEED, f"{layout.name}: training set in {place}")
        if split == "train":
            kept = torch.ones(labels.shape[0], dtype=torch.bool)
            kept[held_out] = False
            chosen = kept.nonzero().flatten()
        else:
            chosen = held_out[:_HELD_OUT] if split == "rank" else held_out[_HELD_OUT:]
    return Split(normalise(pixels[chosen.numpy()], layout.mean, layout.std), labels[chosen], split)


def _find_folder(layout: _Layout, root: Path) -> Path | None:
    for folder in (root, *(root / name for name in layout.folders)):
        if any((folder / f"{layout.train[0]}{ending}").is_file() for ending in ("", ".bin")):
            return folder
    return None


def _read_half(layout: _Layout, folder: Path, train: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read pixels uint8 [N, 3, 32, 32] and labels int64 [N]."""
    parts = [_read_file(layout, folder, stem) for stem in (layout.train if train else layout.test)]
    return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def _read_file(layout: _Layout, folder: Path, stem: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    if (path := folder / stem).is_file():
        pixels, labels = _read_python(layout, path)
    elif (path := folder / f"{stem}.bin").is_file():
        pixels, labels = _read_binary(layout, path)
    else:
        raise FileNotFoundError(f"{layout.name}: {folder} must hold {stem} or {stem}.bin, got neither")
    if labels.size and not 0 <= labels.min() <= labels.max() < layout.n_classes:
        raise ValueError(
            f"{layout.name}: {path} must have labels from 0 to {layout.n_classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    return pixels.reshape(-1, *_SHAPE), labels


def _read_python(layout: _Layout, path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    batch = read_python_batch(path)
    pixels, labels = batch.get("data"), batch.get(layout.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (_PIXELS,):
        raise ValueError(f"{layout.name}: {path} must have 'data', bytes [N, {_PIXELS}], got {_describe(pixels)}")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(map(_is_int64, labels)):
        raise ValueError(
            f"{layout.name}: {path} must have {layout.label_key!r}, a list of {len(pixels)} numbers, "
            f"got {_describe(labels)}"
        )
    return pixels, np.array(labels, dtype=np.int64)


def _read_binary(layout: _Layout, path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    raw = np.fromfile(path, dtype=np.uint8)
    record = layout.label_bytes + _PIXELS
    if raw.size == 0 or raw.size % record:
        raise ValueError(f"{layout.name}: {path} must hold records of {record} bytes, got {raw.size} bytes")
    records = raw.reshape(-1, record)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].astype(np.int64)


def _is_int64(label: Any) -> bool:
    return isinstance(label, int) and -(1 << 63) <= label < 1 << 63


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"bytes {list(value.shape)}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
