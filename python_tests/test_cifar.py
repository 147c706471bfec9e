"""CIFAR folders: both formats, honest splits, and errors that name the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_files import python2_batch, write_cifar

from shapley_cuda.datasets import SPLITS, Split, cifar10, cifar100, load_cifar_folder

N_IMAGES = 2300
FOLDERS = {
    (10, False): "cifar-10-batches-py",
    (10, True): "cifar-10-batches-bin",
    (100, False): "cifar-100-python",
    (100, True): "cifar-100-binary",
}
LOADERS: dict[int, Callable[..., Split]] = {10: cifar10, 100: cifar100}
MEAN_STD = {10: (0.4914, 0.2470), 100: (0.5071, 0.2673)}


def numbered_images() -> np.ndarray:
    """Images that can be told apart by their first two pixels."""
    pixels = np.zeros((N_IMAGES, 3072), dtype=np.uint8)
    pixels[:, 0], pixels[:, 1] = np.divmod(np.arange(N_IMAGES), 256)
    pixels[:, 2048:] = 255
    return pixels


def numbers_of(images: torch.Tensor, n_classes: int) -> list[int]:
    mean, std = MEAN_STD[n_classes]
    first = ((images[:, 0, 0, :2] * std + mean) * 255).round().to(torch.int64)
    return (first[:, 0] * 256 + first[:, 1]).tolist()


@pytest.fixture(scope="module", params=FOLDERS, ids=FOLDERS.get)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    n_classes, binary = request.param
    root = tmp_path_factory.mktemp("data")
    labels = np.arange(N_IMAGES) * 7 % n_classes
    folder = root / FOLDERS[n_classes, binary]
    write_cifar(folder, numbered_images(), labels, n_classes=n_classes, binary=binary)
    return folder, n_classes


def test_cifar_splits_are_disjoint_balanced_and_named(data: tuple[Path, int]) -> None:
    folder, n_classes = data
    splits = {name: LOADERS[n_classes](name, folder) for name in SPLITS}
    assert [split.name for split in splits.values()] == list(SPLITS)
    assert [len(split.labels) for split in splits.values()] == [N_IMAGES - 2000, 1000, 1000, N_IMAGES // 5]
    numbers = {name: numbers_of(split.images, n_classes) for name, split in splits.items()}
    assert sorted(numbers["train"] + numbers["rank"] + numbers["select"]) == list(range(N_IMAGES))
    assert numbers["train"] == sorted(numbers["train"])
    assert numbers["test"] == list(range(N_IMAGES - N_IMAGES // 5, N_IMAGES))
    for name in ("rank", "select"):
        assert splits[name].labels.tolist() == list(range(n_classes)) * (1000 // n_classes)
    for name, split in splits.items():
        assert split.labels.tolist() == [number * 7 % n_classes for number in numbers[name]]


def test_cifar_split_is_drawn_once_and_for_all(data: tuple[Path, int]) -> None:
    folder, n_classes = data
    drawn = numbers_of(LOADERS[n_classes]("rank", folder).images[:4], n_classes)
    assert drawn == {10: [2200, 1633, 1706, 1749], 100: [2200, 1443, 1686, 29]}[n_classes]


def test_cifar_images_are_normalised_colour_by_colour(data: tuple[Path, int]) -> None:
    folder, n_classes = data
    images = LOADERS[n_classes]("test", folder).images
    assert images.shape[1:] == (3, 32, 32)
    assert images.dtype == torch.float32
    mean, std = {10: (0.4465, 0.2616), 100: (0.4409, 0.2762)}[n_classes]
    assert images[:, 2].unique().item() == pytest.approx((1 - mean) / std, rel=1e-6)
    assert images[0, 1].unique().numel() == 1
    assert images[0, 0, 0, 1] != images[1, 0, 0, 1]


def test_cifar_finds_the_folder_in_its_parent_and_in_the_environment(
    data: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, n_classes = data
    expected = LOADERS[n_classes]("select", folder).labels
    assert torch.equal(LOADERS[n_classes]("select", folder.parent).labels, expected)
    monkeypatch.setenv("SHAPLEY_DATA", str(folder.parent))
    assert torch.equal(LOADERS[n_classes]("select").labels, expected)


def test_load_cifar_folder_gives_the_official_halves(data: tuple[Path, int]) -> None:
    folder, n_classes = data
    images, labels = load_cifar_folder(folder.parent, train=True)
    assert numbers_of(images, n_classes) == list(range(N_IMAGES))
    assert labels.tolist() == [number * 7 % n_classes for number in range(N_IMAGES)]
    assert load_cifar_folder(folder, train=False)[1].shape == (N_IMAGES // 5,)


def small_folder(folder: Path, binary: bool) -> None:
    write_cifar(folder, np.zeros((20, 3072), dtype=np.uint8), np.arange(20) % 10, n_classes=10, binary=binary)


def test_cifar_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cifar10: split must be one of train, rank, select, test, got 'val'$"):
        cifar10("val", tmp_path)


def test_cifar_without_data_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHAPLEY_DATA", raising=False)
    where = "cifar-100-python or cifar-100-binary"
    message = f"cifar100: folder must be given, or SHAPLEY_DATA set to one, that holds {where}"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        cifar100("rank")
    message = f"cifar100: {tmp_path} must hold train or train.bin, itself or in {where}, got none"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        cifar100("rank", tmp_path)
    message = f"load_cifar_folder: {tmp_path} must hold data_batch_1[.bin] (CIFAR-10) or train[.bin] (CIFAR-100), got "
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_cifar_folder(tmp_path, train=True)


@pytest.mark.parametrize("binary", [False, True])
def test_cifar_missing_batch_is_reported(tmp_path: Path, binary: bool) -> None:
    small_folder(tmp_path, binary)
    (tmp_path / ("data_batch_4" + ".bin" * binary)).unlink()
    message = f"cifar10: {tmp_path} must hold data_batch_4 or data_batch_4.bin, got neither"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        cifar10("train", tmp_path)


def test_cifar_with_too_few_images_to_split_is_refused(tmp_path: Path) -> None:
    small_folder(tmp_path, binary=True)
    message = (
        f"cifar10: training set in {tmp_path}: count must be 1 to 20, the rarest of 10 classes has 2 samples, got 2000"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cifar10("rank", tmp_path)
    assert cifar10("test", tmp_path).labels.shape == (4,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold records of 3073 bytes, got 0 bytes"),
        (bytes(3072), "must hold records of 3073 bytes, got 3072 bytes"),
        (bytes([10]) + bytes(3072), "must have labels from 0 to 9, got 10 to 10"),
    ],
)
def test_cifar_damaged_binary_batch_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    small_folder(tmp_path, binary=True)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'cifar10: {path} {message}')}$"):
        cifar10("test", tmp_path)


ONE = np.zeros((1, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python2_batch(ONE, [3], "fine_labels"), "must have 'labels', a list of 1 numbers, got NoneType"),
        (python2_batch(ONE, [3, 4]), "must have 'labels', a list of 1 numbers, got a list of 2"),
        (python2_batch(ONE[:, :1024], [3]), "must have 'data', bytes [N, 3072], got bytes [1, 1024]"),
        (python2_batch(ONE, [-1]), "must have labels from 0 to 9, got -1 to -1"),
        (b"\x80\x02}.", "must have 'data', bytes [N, 3072], got NoneType"),
    ],
)
def test_cifar_damaged_python_batch_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    small_folder(tmp_path, binary=False)
    path = tmp_path / "test_batch"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'cifar10: {path} {message}')}$"):
        cifar10("test", tmp_path)


def test_cifar_batch_that_is_no_pickle_is_refused_by_name(tmp_path: Path) -> None:
    small_folder(tmp_path, binary=False)
    (tmp_path / "test_batch").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=re.escape(f"read_python_batch: {tmp_path / 'test_batch'} must be a pickled")):
        load_cifar_folder(tmp_path, train=False)
