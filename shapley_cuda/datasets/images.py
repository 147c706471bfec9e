"""Folders of images, one sub-folder a class, as ImageNet's validation set is usually laid out. Needs Pillow."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .pixels import normalise

# Of ImageNet's training images; what published weights were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_MOST_PIXELS = 1 << 26  # of an image whose shorter side has been resized
_ENDINGS = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_classes(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Name the classes of a folder of images, in the order of their labels: its sub-folders, sorted.

    Raises:
        FileNotFoundError: when the folder does not exist or has no sub-folders.
    """
    root = Path(folder)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not classes:
        raise FileNotFoundError(
            f"load_image_folder: {folder} must be a folder with a sub-folder for each class, got none"
        )
    return tuple(classes)


def load_image_folder(
    folder: str | os.PathLike[str],
    *,
    size: int = 224,
    resize: int = 256,
    limit: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> tuple[Tensor, Tensor]:
    """Load a folder of images with a sub-folder for each class; nothing is augmented.

    Each image is resized so that its shorter side has `resize` pixels (bilinear, antialiased), and its centre is cut
    out: what published accuracies on ImageNet are measured with. Name the result with `as_tensors`.

    Args:
        folder: holds the sub-folders, see `image_classes`; files in them without an image's ending are passed over.
        size: height and width of the images returned, in pixels.
        resize: shorter side before the centre is cut out, at least `size`.
        limit: load so many images at most. An image of 224 x 224 takes 600 kB.
        mean: of red, green and blue, as a fraction of full white.
        std: of red, green and blue, as a fraction of full white.

    Returns:
        Images float32 [N, 3, size, size], normalised, and labels int64 [N], on the CPU. Within a class they are sorted
        by name; classes take turns while they last, so the first n are balanced.

    Raises:
        ModuleNotFoundError: when Pillow is not installed.
        FileNotFoundError: when there are no sub-folders, or one without images; the text names it.
        ValueError: when a file is no image that Pillow can read (the text names it), or an argument is out of range.

    Example:
        >>> images, labels = load_image_folder("imagenet/val", limit=1000)  # doctest: +SKIP
        >>> data = as_tensors((images, labels), split="rank")  # doctest: +SKIP
    """
    if not (isinstance(size, int) and isinstance(resize, int) and 1 <= size <= resize):
        raise ValueError(f"load_image_folder: size must be 1 to resize, both in pixels, got {size!r} and {resize!r}")
    if limit is not None and not (isinstance(limit, int) and limit >= 1):
        raise ValueError(f"load_image_folder: limit must be a positive integer or None, got {limit!r}")
    pillow = _import_pillow()
    files = [_images_in(Path(folder) / name) for name in image_classes(folder)]
    turns = [(path, label) for turn in zip_longest(*files) for label, path in enumerate(turn) if path is not None][
        :limit
    ]
    pixels = np.empty((len(turns), 3, size, size), dtype=np.uint8)
    for index, (path, _) in enumerate(turns):
        pixels[index] = _read_image(pillow, path, size, resize)
    return normalise(pixels, mean, std), torch.tensor([label for _, label in turns], dtype=torch.int64)


def _import_pillow() -> ModuleType:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"load_image_folder: Pillow must be installed to read images (pip install pillow), got: {error}"
        ) from error
    return Image


def _images_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    if not found:
        raise FileNotFoundError(
            f"load_image_folder: {folder} must hold images ({', '.join(sorted(_ENDINGS))}), got none"
        )
    return found


def _read_image(pillow: ModuleType, path: Path, size: int, resize: int) -> npt.NDArray[np.uint8]:
    """Read one image, uint8 [3, size, size]."""
    try:
        with pillow.open(path) as image:
            colours = image.convert("RGB")
    except Exception as error:  # whatever a decoder meets in a damaged file
        raise ValueError(f"load_image_folder: {path} must be an image that Pillow can read, got: {error}") from error
    shorter = min(colours.size)
    if shorter != resize:
        width, height = (max(resize, side * resize // shorter) for side in colours.size)
        if width * height > _MOST_PIXELS:
            raise ValueError(f"load_image_folder: {path} must not be so long and narrow, got {colours.size} pixels")
        colours = colours.resize((width, height), pillow.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in colours.size)
    cut = colours.crop((left, top, left + size, top + size))
    return np.moveaxis(np.asarray(cut, dtype=np.uint8), -1, 0)
