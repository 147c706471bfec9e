"""Folders of images: labels by class, geometry as published accuracies use it, and errors that name the file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shapley_cuda.datasets import as_tensors, image_classes, load_image_folder

Image = pytest.importorskip("PIL.Image")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}  # leaves bytes as they are


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def grey(value: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of three, one and two images, each of one grey that tells it."""
    for name, values in {"n03": [30], "n01": [10, 11, 12], "n12": [50, 51]}.items():
        for value in values:
            save(tmp_path / name / f"{value}.png", grey(value))
    (tmp_path / "n01" / "notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no class")
    return tmp_path


def test_classes_are_the_sorted_sub_folders_and_take_turns(folder: Path) -> None:
    assert image_classes(folder) == ("n01", "n03", "n12")
    images, labels = load_image_folder(folder, size=4, resize=4, **PLAIN)
    assert images.shape == (6, 3, 4, 4)
    assert images.dtype == torch.float32
    assert images[:, 0, 0, 0].round().tolist() == [10, 30, 50, 11, 51, 12]
    assert labels.tolist() == [0, 1, 2, 0, 2, 0]


def test_limit_takes_the_first_and_the_pair_can_be_named(folder: Path) -> None:
    split = as_tensors(load_image_folder(folder, size=4, resize=4, limit=4), split="rank")
    assert getattr(split, "name", None) == "rank"
    assert split[1].tolist() == [0, 1, 2, 0]


def test_images_are_normalised_by_imagenets_colours(folder: Path) -> None:
    images, _ = load_image_folder(folder, size=2, resize=2, limit=1)
    expected = [(10 / 255 - mean) / std for mean, std in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    assert images[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tall", [False, True])
def test_centre_is_cut_out_without_resizing_where_sizes_fit(tmp_path: Path, tall: bool) -> None:
    pixels = np.arange(4 * 9 * 3).reshape(4, 9, 3)
    save(tmp_path / "a" / "one.png", pixels.transpose(1, 0, 2) if tall else pixels)
    images, _ = load_image_folder(tmp_path, size=2, resize=4, **PLAIN)
    # (9 - 2) / 2 = 3.5 rounds to 4, the even neighbour, as published crops have it.
    expected = pixels[1:3, 4:6].transpose(2, 1, 0) if tall else pixels[1:3, 4:6].transpose(2, 0, 1)
    assert torch.equal(images[0].round(), torch.from_numpy(expected).float())


def test_shorter_side_is_resized_and_the_shape_of_things_kept(tmp_path: Path) -> None:
    pixels = grey(0, 20, 60)
    pixels[:, 20:40] = 200  # the middle third
    save(tmp_path / "a" / "one.png", pixels)
    images, _ = load_image_folder(tmp_path, size=10, resize=10, **PLAIN)
    assert images.shape == (1, 3, 10, 10)
    assert (images[0, :, :, 1:-1] > 190).all()
    smaller, _ = load_image_folder(tmp_path, size=8, resize=10, **PLAIN)
    assert torch.equal(smaller, images[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_other_modes_become_colours(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(grey(255).astype(np.uint8)).convert(mode).save(tmp_path / "a" / "one.png")
    images, _ = load_image_folder(tmp_path, size=4, resize=4, **PLAIN)
    assert images.round().unique().tolist() == [255.0]


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "nowhere"):
        message = f"load_image_folder: {missing} must be a folder with a sub-folder for each class, got none"
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
            load_image_folder(missing)


def test_class_without_images_is_refused_by_name(folder: Path) -> None:
    (folder / "n99").mkdir()
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"load_image_folder: {folder / 'n99'} must hold images (.bmp")
    ):
        load_image_folder(folder)


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_damaged_image_is_refused_by_name(folder: Path, damage: str) -> None:
    path = folder / "n12" / "51.png"
    save(path, np.random.default_rng(0).integers(0, 256, (40, 40, 3)))
    path.write_bytes(b"no image" if damage == "text" else path.read_bytes()[:-1000])
    with pytest.raises(
        ValueError, match=re.escape(f"load_image_folder: {path} must be an image that Pillow can read, got")
    ):
        load_image_folder(folder, size=4, resize=4)


def test_image_that_would_grow_beyond_memory_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cat" / "long.png"
    save(path, np.zeros((1, 20_000, 3)))
    with pytest.raises(ValueError, match=re.escape(f"load_image_folder: {path} must not be so long and narrow")):
        load_image_folder(tmp_path)


@pytest.mark.parametrize(("size", "resize"), [(0, 4), (5, 4), (4.0, 4)])
def test_bad_sizes_are_refused(folder: Path, size: int, resize: int) -> None:
    message = f"load_image_folder: size must be 1 to resize, both in pixels, got {size} and {resize}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_image_folder(folder, size=size, resize=resize)
    with pytest.raises(ValueError, match=r"^load_image_folder: limit must be a positive integer or None, got 0$"):
        load_image_folder(folder, limit=0)


def test_without_pillow_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^load_image_folder: Pillow must be installed .* \(pip install pillow"
    ):
        load_image_folder(folder)
