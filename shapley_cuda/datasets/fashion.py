"""Fashion-MNIST in three disjoint splits, and a reader for IDX files.

Ranking needs data that the training has not seen, and a test set that the ranking has not seen. So there are three
splits, each with one purpose: "train" to (re)train on, "rank" to estimate channel values on, "test" to report on. The
first two come from the official training set, the last from the official test set. A `Split` remembers its name, so
that code can refuse to rank on the test set.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CLASS_NAMES",
    "SPLITS",
    "Split",
    "fashion_mnist",
    "fashion_mnist_folder",
    "fashion_mnist_subset",
    "load_idx_folder",
    "normalise",
    "read_idx",
    "subset_indices",
]

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
SPLITS = ("train", "rank", "test")

# Mean and standard deviation of the official training set's pixels, as fractions of full white.
PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_SUBSET_FOLDER = Path(__file__).parent / "assets" / "fashion-mnist"
_UNSIGNED_BYTE = 0x08


class Split(tuple[Tensor, Tensor]):
    """Images and labels that know which split they are: unpacks and indexes as ``(images, labels)``.

    Attributes:
        name: one of `SPLITS`.
    """

    name: str

    def __new__(cls, images: Tensor, labels: Tensor, name: str) -> Self:
        """Pair images [N, ...] with labels [N] under a split's name."""
        if name not in SPLITS:
            raise ValueError(f"Split: name must be one of {', '.join(SPLITS)}, got {name!r}")
        if labels.ndim != 1 or images.ndim < 1 or images.shape[0] != labels.shape[0]:
            raise ValueError(
                "Split: images and labels must be [N, ...] and [N] with the same N, "
                f"got {list(images.shape)} and {list(labels.shape)}"
            )
        split = super().__new__(cls, (images, labels))
        split.name = name
        return split

    def __getnewargs__(self) -> tuple[Tensor, Tensor, str]:
        """Let copy and pickle rebuild the split: the plain tuple would lose the name."""
        return (self.images, self.labels, self.name)

    def __repr__(self) -> str:
        """Show shapes, not pixels."""
        return f"Split(name={self.name!r}, images={list(self.images.shape)}, labels={list(self.labels.shape)})"

    @property
    def images(self) -> Tensor:
        """The images, float32 [N, 1, 28, 28], normalised."""
        return self[0]

    @property
    def labels(self) -> Tensor:
        """The labels, int64 [N]."""
        return self[1]

    def first(self, count: int) -> Split:
        """Take the first `count` samples, as views. Of a shipped subset, any ten in a row hold each class once."""
        if not 1 <= count <= self.labels.shape[0]:
            raise ValueError(f"Split.first: count must be 1 to {self.labels.shape[0]}, got {count}")
        return Split(self.images[:count], self.labels[:count], self.name)

    def to(self, device: torch.device | str) -> Split:
        """Copy to a device (no copy where it is there already)."""
        return Split(self.images.to(device), self.labels.to(device), self.name)


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of the MNIST family, gzipped or plain.

    Args:
        path: the file. Compression is told by the content, not by the name.

    Returns:
        uint8 array with the shape that the header gives, owned by the caller.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged or no IDX file of bytes; the text names the file, what was expected and
            what was found.

    Example:
        >>> from importlib.resources import files
        >>> read_idx(str(files("shapley_cuda") / "assets/fashion-mnist/test-labels-idx1-ubyte.gz")).shape
        (1000,)
    """
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"read_idx: {path} must be a complete gzip file, got one that fails: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\x00\x00":
        raise ValueError(
            f"read_idx: {path} must start with two zero bytes (IDX magic), got {raw[:4].hex() or 'nothing'}"
        )
    kind, n_dims = raw[2], raw[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"read_idx: {path} must hold unsigned bytes (IDX type 0x08), got type {kind:#04x}")
    if n_dims == 0:
        raise ValueError(f"read_idx: {path} must have at least one dimension, got 0")
    header = 4 + 4 * n_dims
    if len(raw) < header:
        raise ValueError(f"read_idx: {path} must have a header of {header} bytes, got a file of {len(raw)}")
    shape = [int.from_bytes(raw[start : start + 4], "big") for start in range(4, header, 4)]
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise ValueError(f"read_idx: {path} must be {expected} bytes for shape {shape}, got {len(raw)}")
    # frombuffer gives a read-only view of the file's bytes.
    values: npt.NDArray[np.uint8] = np.array(np.frombuffer(raw, dtype=np.uint8, offset=header))
    return values.reshape(tuple(shape))


def normalise(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Turn bytes into what the shipped networks were trained on.

    Args:
        pixels: uint8 [N, H, W].

    Returns:
        float32 [N, 1, H, W] on the CPU: (pixel / 255 - 0.2860) / 0.3530, Fashion-MNIST's own mean and deviation.
    """
    images = torch.from_numpy(pixels).unsqueeze(1).to(torch.float32)
    return images.div_(255.0).sub_(PIXEL_MEAN).div_(PIXEL_STD)


def load_idx_folder(folder: str | os.PathLike[str], train: bool) -> tuple[Tensor, Tensor]:
    """Load the training or test half of a data set laid out as MNIST is.

    Use `fashion_mnist` for splits with a purpose; this one is for other data, and for the official halves as they are.

    Args:
        folder: holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-...``, each with or
            without ``.gz``.
        train: the ``train-`` files, else the ``t10k-`` files.

    Returns:
        Images float32 [N, 1, H, W], normalised by `normalise`, and labels int64 [N], on the CPU.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file is damaged, or images and labels do not fit together.
    """
    return _load_pair(Path(folder), "train" if train else "t10k")


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
        if _find(folder, "train-images-idx3-ubyte") is not None:
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(
        f"fashion_mnist: train-images-idx3-ubyte[.gz] must be in one of {looked}, got none. Install Debian's "
        "dataset-fashion-mnist, or set SHAPLEY_DATA to a folder with the four IDX files. "
        "fashion_mnist_subset() needs neither."
    )


def fashion_mnist(split: str) -> Split:
    """Load a split of the full Fashion-MNIST from this machine; nothing is downloaded.

    Use `fashion_mnist_subset` where a few thousand images will do: it always works.

    Args:
        split: "train" (59,000 images: the official training set without the rank images), "rank" (the same 1,000
            images as in the shipped subset) or "test" (the official 10,000).

    Returns:
        The images and labels on the CPU; the three splits are disjoint.

    Raises:
        ValueError: when there is no such split, or a file is damaged.
        FileNotFoundError: when the data set is not on this machine.
    """
    _check_split("fashion_mnist", split)
    images, labels = load_idx_folder(fashion_mnist_folder(), train=split != "test")
    if split == "test":
        return Split(images, labels, split)
    rank = subset_indices("rank")
    if split == "rank":
        return Split(images[rank], labels[rank], split)
    kept = torch.ones(labels.shape[0], dtype=torch.bool)
    kept[rank] = False
    return Split(images[kept], labels[kept], split)


def fashion_mnist_subset(split: str) -> Split:
    """Load a class-balanced part of Fashion-MNIST that ships with the package.

    Args:
        split: "train" (4,000 images of the official training set), "rank" (1,000 others of it, which the shipped
            networks were not trained on) or "test" (1,000 of the official test set).

    Returns:
        The images and labels on the CPU. Classes take turns, 0 to 9, so every multiple of ten is balanced.

    Raises:
        ValueError: when there is no such split.

    Example:
        >>> images, labels = fashion_mnist_subset("rank")
        >>> tuple(images.shape), labels[:3].tolist()
        ((1000, 1, 28, 28), [0, 1, 2])
    """
    _check_split("fashion_mnist_subset", split)
    return Split(*_load_pair(_SUBSET_FOLDER, split), split)


def subset_indices(split: str) -> Tensor:
    """Tell which official images a shipped subset holds.

    Args:
        split: one of `SPLITS`.

    Returns:
        int64 [N], positions in the official training set ("train", "rank") or test set ("test"), in the subset's order.

    Raises:
        ValueError: when there is no such split.
    """
    _check_split("subset_indices", split)
    stored = json.loads((_SUBSET_FOLDER / "indices.json").read_text(encoding="utf-8"))
    return torch.tensor(stored[split], dtype=torch.int64)


def _check_split(caller: str, split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"{caller}: split must be one of {', '.join(SPLITS)}, got {split!r}")


def _find(folder: Path, stem: str) -> Path | None:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    return None


def _load_pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    arrays = []
    for kind, n_dims in (("images-idx3", 3), ("labels-idx1", 1)):
        stem = f"{prefix}-{kind}-ubyte"
        path = _find(folder, stem)
        if path is None:
            raise FileNotFoundError(f"load_idx_folder: {folder} must hold {stem} or {stem}.gz, got neither")
        array = read_idx(path)
        if array.ndim != n_dims:
            raise ValueError(f"load_idx_folder: {path} must have {n_dims} dimensions, got shape {list(array.shape)}")
        arrays.append(array)
    pixels, labels = arrays
    if len(pixels) != len(labels):
        raise ValueError(
            f"load_idx_folder: {folder} must hold as many {prefix} labels as images, "
            f"got {len(labels)} labels and {len(pixels)} images"
        )
    return normalise(pixels), torch.from_numpy(labels).to(torch.int64)
