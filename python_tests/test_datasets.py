"""IDX files, and the Fashion-MNIST splits: disjoint, balanced, and honest about their names."""

from __future__ import annotations

import copy
import gzip
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from shapley_cuda.datasets import (
    CLASS_NAMES,
    SPLITS,
    Split,
    fashion_mnist,
    fashion_mnist_folder,
    fashion_mnist_subset,
    load_idx_folder,
    normalise,
    read_idx,
    subset_indices,
)

SUBSET_SIZES = {"train": 4000, "rank": 1000, "select": 1000, "test": 1000}


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_folder(folder: Path, n_images: int, n_labels: int) -> None:
    pixels = np.arange(n_images * 4, dtype=np.uint8).reshape(n_images, 2, 2)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(n_labels) % 10))


def has_full_data() -> bool:
    try:
        fashion_mnist_folder()
    except FileNotFoundError:
        return False
    return True


needs_full_data = pytest.mark.skipif(not has_full_data(), reason="the full Fashion-MNIST is not on this machine")


@pytest.mark.parametrize("shape", [(5,), (1,), (0,), (3, 2, 2), (0, 28, 28), (2, 3, 4, 5)])
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_round_trip_keeps_every_byte(tmp_path: Path, shape: tuple[int, ...], zipped: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    content = idx_bytes(array)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    assert np.array_equal(found, array)


GOOD = idx_bytes(np.arange(12).reshape(3, 2, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must start with two zero bytes (IDX magic), got nothing"),
        (b"PNG!....", "must start with two zero bytes (IDX magic), got 504e4721"),
        (b"\0\0\x08", "must start with two zero bytes (IDX magic), got 000008"),
        (b"\0\0\x0d\x01\0\0\0\0", "must hold unsigned bytes (IDX type 0x08), got type 0x0d"),
        (b"\0\0\x08\0", "must have 1 to 32 dimensions, got 0"),
        (GOOD[:10], "must have a header of 16 bytes, got a file of 10"),
        (GOOD[:-1], "must be 28 bytes for shape [3, 2, 2], got 27"),
        (GOOD + b"x", "must be 28 bytes for shape [3, 2, 2], got 29"),
        (b"\0\0\x08\x01\xff\xff\xff\xffabc", "must be 4294967303 bytes for shape [4294967295], got 11"),
    ],
)
def test_read_idx_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "damaged-idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'read_idx: {path} {message}')}$"):
        read_idx(path)


@pytest.mark.parametrize("keep", [2, 12, -9, -1])
def test_read_idx_truncated_gzip_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(GOOD)[:keep])
    with pytest.raises(ValueError, match=re.escape(f"read_idx: {path} must be a complete gzip file, got one that")):
        read_idx(path)


def test_read_idx_corrupt_gzip_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(bytes(GOOD) * 50))
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / "corrupt.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a complete gzip file"):
        read_idx(path)


def test_read_idx_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


def test_normalise_hand_worked_values() -> None:
    images = normalise(np.array([[[0, 255]]], dtype=np.uint8))
    assert images.shape == (1, 1, 1, 2)
    assert images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([-0.2860 / 0.3530, (1 - 0.2860) / 0.3530], rel=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_load_idx_folder_reads_plain_and_gzipped(tmp_path: Path, train: bool) -> None:
    write_folder(tmp_path, 6, 6)
    images, labels = load_idx_folder(tmp_path, train)
    assert images.shape == (6, 1, 2, 2)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_normalise_works_on_each_colour_by_its_own_mean_and_deviation() -> None:
    pixels = np.array([[[[255]], [[0]]]], dtype=np.uint8)
    images = normalise(pixels, mean=(0.5, 0.25), std=(0.5, 0.125))
    assert images.tolist() == [[[[1.0]], [[-2.0]]]]
    message = "normalise: pixels must be [N, H, W] or [N, C, H, W] with C = 1 means and 1 deviations, got [1, 2, 1, 1]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        normalise(pixels)


def test_load_idx_folder_mismatched_counts_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, 6, 5)
    message = f"load_idx_folder: {tmp_path} must hold as many train labels as images, got 5 labels and 6 images"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_idx_folder(tmp_path, train=True)


def test_load_idx_folder_wrong_dimensions_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, 6, 6)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(GOOD)
    message = f"load_idx_folder: {path} must have 1 dimensions, got shape [3, 2, 2]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_idx_folder(tmp_path, train=False)


def test_load_idx_folder_missing_file_is_reported(tmp_path: Path) -> None:
    stem = "train-images-idx3-ubyte"
    message = f"load_idx_folder: {tmp_path} must hold {stem} or {stem}.gz, got neither"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_idx_folder(tmp_path, train=True)


@pytest.mark.parametrize("split", SPLITS)
def test_subset_has_its_size_and_is_balanced_in_every_prefix_of_tens(split: str) -> None:
    data = fashion_mnist_subset(split)
    assert data.name == split
    assert data.images.shape == (SUBSET_SIZES[split], 1, 28, 28)
    assert data.images.dtype == torch.float32
    turns = torch.arange(10).repeat(SUBSET_SIZES[split] // 10)
    assert torch.equal(data.labels, turns)
    assert len(CLASS_NAMES) == 10


def test_subsets_share_no_image() -> None:
    seen: set[bytes] = set()
    for split in SPLITS:
        images = fashion_mnist_subset(split).images.numpy()
        seen |= {image.tobytes() for image in images}
    assert len(seen) == sum(SUBSET_SIZES.values())


def test_subset_indices_of_the_training_set_are_disjoint() -> None:
    chosen = [index for split in ("train", "rank", "select") for index in subset_indices(split).tolist()]
    assert len(set(chosen)) == len(chosen) == 6000
    assert min(chosen) >= 0
    assert max(chosen) < 60_000
    assert max(subset_indices("test").tolist()) < 10_000


def test_subset_pixels_have_the_documented_mean_and_deviation() -> None:
    images = fashion_mnist_subset("train").images
    assert abs(images.mean().item()) < 0.05
    assert images.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("load", [fashion_mnist, fashion_mnist_subset, subset_indices])
def test_unknown_split_is_refused(load: object) -> None:
    assert callable(load)
    with pytest.raises(ValueError, match=r": split must be one of train, rank, select, test, got 'valid'$"):
        load("valid")


def test_fashion_mnist_reads_the_folder_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, 6, 6)
    monkeypatch.setenv("SHAPLEY_DATA", str(tmp_path))
    assert fashion_mnist_folder() == tmp_path
    assert fashion_mnist("test").labels.tolist() == [0, 1, 2, 3, 4, 5]
    nested = tmp_path / "fashion-mnist"
    nested.mkdir()
    for path in list(tmp_path.glob("*ubyte*")):
        path.rename(nested / path.name)
    assert fashion_mnist_folder() == nested


def test_fashion_mnist_without_data_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAPLEY_DATA", str(tmp_path))
    monkeypatch.setattr("shapley_cuda.datasets.fashion._DEBIAN_FOLDER", tmp_path / "debian")
    places = f"{tmp_path}, {tmp_path / 'fashion-mnist'}, {tmp_path / 'debian'}"
    with pytest.raises(FileNotFoundError, match=re.escape(places)):
        fashion_mnist_folder()


@pytest.mark.parametrize("split", ["train", "rank", "select"])
def test_fashion_mnist_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    write_folder(tmp_path, 6, 6)
    monkeypatch.setenv("SHAPLEY_DATA", str(tmp_path))
    message = f"fashion_mnist: {tmp_path} must hold the official 60000 training images, got 6"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fashion_mnist(split)


@needs_full_data
def test_fashion_mnist_full_splits_agree_with_the_subset_and_share_no_image() -> None:
    splits = {name: fashion_mnist(name) for name in SPLITS}
    assert [len(split.labels) for split in splits.values()] == [58_000, 1000, 1000, 10_000]
    assert [split.name for split in splits.values()] == list(SPLITS)
    for name in ("rank", "select"):
        assert torch.equal(splits[name].images, fashion_mnist_subset(name).images)
        assert torch.equal(splits[name].labels, fashion_mnist_subset(name).labels)
    assert torch.equal(splits["test"].images[subset_indices("test")], fashion_mnist_subset("test").images)
    held_out = {image.tobytes() for name in ("rank", "select") for image in splits[name].images.numpy()}
    assert len(held_out) == 2000
    assert not any(image.tobytes() in held_out for image in splits["train"].images.numpy())
    assert splits["train"].labels.bincount().tolist() == [5800] * 10


def test_split_unpacks_as_a_pair_and_keeps_its_name() -> None:
    split = Split(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2]), "rank")
    images, labels = split
    assert isinstance(split, tuple)
    assert len(split) == 2
    assert images is split.images
    assert labels is split.labels
    assert split.first(2).labels.tolist() == [0, 1]
    assert split.first(2).name == split.to("cpu").name == "rank"
    assert repr(split) == "Split(name='rank', images=[3, 2], labels=[3])"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda split: pickle.loads(pickle.dumps(split))])
def test_split_copies_keep_the_name(duplicate: object) -> None:
    assert callable(duplicate)
    split = duplicate(Split(torch.zeros(2, 3), torch.tensor([1, 0]), "test"))
    assert split.name == "test"
    assert split.labels.tolist() == [1, 0]


def test_split_bad_arguments_are_refused() -> None:
    images, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^Split: name must be one of train, rank, select, test, got 'val'$"):
        Split(images, labels, "val")
    with pytest.raises(ValueError, match=r"same N, got \[3, 2\] and \[2\]$"):
        Split(images, labels[:2], "rank")
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"^Split.first: count must be 1 to 3, got {count}$"):
            Split(images, labels, "rank").first(count)


def imbalanced() -> Split:
    labels = torch.tensor([5] * 9 + [2] * 6 + [7] * 4)[torch.tensor([(7 * i) % 19 for i in range(19)])]
    return Split(torch.arange(19.0)[:, None], labels, "rank")


def test_split_balanced_takes_turns_and_draws_each_sample_at_most_once() -> None:
    split = imbalanced()
    drawn = split.balanced(11, seed=3)
    assert drawn.name == "rank"
    assert drawn.labels.tolist() == [2, 5, 7] * 3 + [2, 5]
    positions = drawn.images.flatten().to(torch.int64)
    assert len(set(positions.tolist())) == 11
    assert torch.equal(split.labels[positions], drawn.labels)


def test_split_balanced_is_named_by_its_seed_and_smaller_draws_are_prefixes() -> None:
    split = imbalanced()
    before = torch.get_rng_state()
    drawn = split.balanced(12, seed=3).images
    assert torch.equal(split.balanced(12, seed=3).images, drawn)
    assert torch.equal(split.balanced(5, seed=3).images, drawn[:5])
    assert not torch.equal(split.balanced(12, seed=4).images, drawn)
    assert torch.equal(torch.get_rng_state(), before)
    # What one seed draws may never change: splits of data sets are drawn so.
    assert drawn.flatten().tolist() == [4, 0, 16, 7, 9, 5, 10, 1, 13, 18, 12, 8]


@pytest.mark.parametrize("count", [0, 13, -1])
def test_split_balanced_beyond_the_rarest_class_is_refused(count: int) -> None:
    message = f"Split.balanced: count must be 1 to 12, the rarest of 3 classes has 4 samples, got {count}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        imbalanced().balanced(count)


def test_split_balanced_of_other_labels_is_refused() -> None:
    split = Split(torch.zeros(3, 2), torch.zeros(3), "rank")
    with pytest.raises(
        ValueError, match=r"^Split.balanced: labels must be class indices, int64 .N., got torch.float32$"
    ):
        split.balanced(2)
