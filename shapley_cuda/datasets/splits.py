"""Named splits, and draws of samples in which each class occurs as often as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

SPLITS = ("train", "rank", "select", "test")


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
        """The images, [N, ...]; those that this package loads are float32 [N, C, H, W], normalised."""
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

    def balanced(self, count: int, seed: int = 0) -> Split:
        """Draw `count` samples, as copies, with as many of each class as of any other, give or take one.

        Args:
            count: samples to draw, at least 1; at most as many per class as the rarest class has.
            seed: names the draw. The same seed gives the same samples, on any machine and device. Smaller draws are
                prefixes of larger ones.

        Returns:
            The samples, classes taking turns in the order of their labels.

        Raises:
            ValueError: when `count` is out of range or labels are not int64.

        Example:
            >>> from shapley_cuda.datasets import fashion_mnist_subset
            >>> fashion_mnist_subset("rank").balanced(20, seed=1).labels.bincount().tolist()
            [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
        """
        chosen = balanced_order(self.labels, count, seed, "Split.balanced").to(self.labels.device)
        return Split(self.images[chosen.to(self.images.device)], self.labels[chosen], self.name)

    def to(self, device: torch.device | str) -> Split:
        """Copy to a device (no copy where it is there already)."""
        return Split(self.images.to(device), self.labels.to(device), self.name)


def balanced_order(labels: Tensor, count: int, seed: int, caller: str) -> Tensor:
    """Draw positions of `count` samples so that classes take turns; every slice of the draw is balanced as well.

    Args:
        labels: int64 [N].
        count: positions to draw, 1 up to the number of classes times the size of the rarest.
        seed: names the draw, which is the same on every machine and for every version of the libraries.
        caller: named in errors.

    Returns:
        int64 [count], distinct positions, on the CPU.

    Raises:
        ValueError: when `count` is out of range or labels are not int64.
    """
    if labels.dtype != torch.int64:
        raise ValueError(f"{caller}: labels must be class indices, int64 [N], got {labels.dtype}")
    known = labels.cpu().numpy()
    classes, sizes = np.unique(known, return_counts=True)
    rarest = int(sizes.min(initial=len(known)))
    if not 1 <= count <= len(classes) * rarest:
        raise ValueError(
            f"{caller}: count must be 1 to {len(classes) * rarest}, the rarest of {len(classes)} classes has {rarest} "
            f"samples, got {count}"
        )
    # Sorting raw bits of the generator: NumPy promises those for ever, but no order of a shuffle.
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(known)), kind="stable")
    turn = np.empty(len(known), dtype=np.int64)
    for label in classes:
        members = shuffled[known[shuffled] == label]
        turn[members] = np.arange(len(members))
    return torch.from_numpy(np.lexsort((known, turn))[:count].copy())


def check_split(caller: str, split: str) -> None:
    """Refuse a name that is no split's."""
    if split not in SPLITS:
        raise ValueError(f"{caller}: split must be one of {', '.join(SPLITS)}, got {split!r}")
