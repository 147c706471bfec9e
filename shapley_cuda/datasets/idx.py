"""IDX files, the format of the MNIST family."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .pixels import normalise

_UNSIGNED_BYTE = 0x08
_MOST_DIMENSIONS = 32  # that every NumPy has


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
    if not 1 <= n_dims <= _MOST_DIMENSIONS:
        raise ValueError(f"read_idx: {path} must have 1 to {_MOST_DIMENSIONS} dimensions, got {n_dims}")
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
    pixels, labels = read_pair(Path(folder), "train" if train else "t10k")
    return normalise(pixels), torch.from_numpy(labels).to(torch.int64)


def find_idx(folder: Path, stem: str) -> Path | None:
    """Find an IDX file, gzipped or plain."""
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    return None


def read_pair(folder: Path, prefix: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read images uint8 [N, H, W] and their labels uint8 [N]; see `load_idx_folder` for what it raises."""
    arrays = []
    for kind, n_dims in (("images-idx3", 3), ("labels-idx1", 1)):
        stem = f"{prefix}-{kind}-ubyte"
        path = find_idx(folder, stem)
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
    return pixels, labels
