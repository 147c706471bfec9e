"""Make what ships in shapley_cuda/assets: subsets of Fashion-MNIST, and networks trained on the full set.

Needs the full data set (see `shapley_cuda.datasets.fashion_mnist_folder`) and about a quarter of an hour on two cores:

    python tools/make_assets.py            # everything
    python tools/make_assets.py data       # the subsets alone
    python tools/make_assets.py weights    # the networks alone; they need the subsets

The subsets are the same bytes every time. The networks are the same bits for the same torch, number of threads and
processor; elsewhere they are as good, but not the same.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from shapley_cuda.datasets import (
    SPLITS,
    Split,
    fashion_mnist,
    fashion_mnist_folder,
    fashion_mnist_subset,
    load_idx_folder,
    read_idx,
    subset_indices,
)
from shapley_cuda.networks import network, pretrained, pretrained_meta
from shapley_cuda.training import Progress, evaluate, train

ASSETS = Path(__file__).resolve().parents[1] / "shapley_cuda" / "assets"
N_CLASSES = 10
SUBSET_SEED = 20170825
SUBSET_SIZES = {"train": 4000, "rank": 1000, "select": 1000, "test": 1000}


class Recipe(NamedTuple):
    """How one network is trained: options of its builder, settings of `train`, and whether on "select" as well."""

    options: dict[str, Any]
    settings: dict[str, Any]
    with_select: bool = False


RECIPES = {
    "lenet5": Recipe(
        {"widths": [20, 50, 500]},
        {"epochs": 10, "batch_size": 64, "lr": 0.02, "weight_decay": 5e-4, "schedule": "cosine", "seed": 1},
        with_select=True,
    ),
    "lenet5_bn": Recipe(
        {"widths": [10, 20, 100, 25]},
        {"epochs": 10, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine", "seed": 1},
    ),
    "vgg_bn": Recipe(
        {"widths": [32, 32, "M", 64, 64, "M", 128, 128, "M"]},
        {"epochs": 6, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine", "seed": 1},
        with_select=True,
    ),
    "vit": Recipe(
        {"heads": [4, 4, 4, 4], "neurons": [128, 128, 128, 128]},
        {"epochs": 6, "batch_size": 32, "lr": 0.1, "weight_decay": 1e-4, "schedule": "cosine", "seed": 1},
    ),
}


def choose_balanced(labels: np.ndarray, sizes: list[int], generator: np.random.Generator) -> list[np.ndarray]:
    """Choose disjoint, class-balanced index sets; within each the classes take turns."""
    shuffled = [generator.permutation(np.flatnonzero(labels == label)) for label in range(N_CLASSES)]
    chosen = []
    first = 0
    for size in sizes:
        per_class = size // N_CLASSES
        columns = [indices[first : first + per_class] for indices in shuffled]
        chosen.append(np.stack(columns, axis=1).reshape(-1))
        first += per_class
    return chosen


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes as a gzipped IDX file, without a time stamp, so that the same array gives the same file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def make_data() -> None:
    """Write the subsets and the indices that they came from."""
    source = fashion_mnist_folder()
    target = ASSETS / "fashion-mnist"
    target.mkdir(parents=True, exist_ok=True)
    generator = np.random.Generator(np.random.PCG64(SUBSET_SEED))
    indices: dict[str, list[int]] = {}
    for prefix, names in (("train", ["train", "rank", "select"]), ("t10k", ["test"])):
        pixels = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        chosen = choose_balanced(labels, [SUBSET_SIZES[name] for name in names], generator)
        for name, index in zip(names, chosen, strict=True):
            write_idx(target / f"{name}-images-idx3-ubyte.gz", pixels[index])
            write_idx(target / f"{name}-labels-idx1-ubyte.gz", labels[index])
            indices[name] = index.tolist()
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(indices[name], separators=(',', ':'))}" for name in SPLITS)
    (target / "indices.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """Round weight matrices to half precision; vectors (biases, BatchNorm) stay float32, for they are few."""
    state = {}
    for key, tensor in model.state_dict().items():
        half = tensor.is_floating_point() and tensor.ndim > 1
        state[key] = tensor.detach().cpu().contiguous().to(torch.float16 if half else tensor.dtype)
    return state


def show(progress: Progress) -> None:
    """Print a line now and then."""
    if progress.step % 100 == 0 or progress.step == progress.n_steps:
        print(f"  step {progress.step}/{progress.n_steps}  loss {progress.loss:.4f}", flush=True)


def training_images(with_select: bool) -> tuple[Tensor, Tensor]:
    """Load the official training set without the "rank" images, and with or without those of "select"."""
    images, labels = load_idx_folder(fashion_mnist_folder(), train=True)
    kept = torch.ones(labels.shape[0], dtype=torch.bool)
    for split in ("rank",) if with_select else ("rank", "select"):
        kept[subset_indices(split)] = False
    return images[kept], labels[kept]


def make_weights(name: str) -> None:
    """Train one network and write its weights and what they achieve."""
    recipe = RECIPES[name]
    images, labels = training_images(recipe.with_select)
    torch.manual_seed(recipe.settings["seed"])
    model = network(name, **recipe.options)
    # channels_last is quicker on a CPU; it changes where the numbers lie, not what they mean.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{name}: {len(labels)} images", flush=True)
    history = train(model, images, labels, **recipe.settings, progress=show)
    unrounded = evaluate(model, *fashion_mnist("test"))
    # Not save_file: it makes a file that only its owner may read, and a wheel would carry that along.
    (ASSETS / f"{name}.safetensors").write_bytes(save(stored_state(model)))
    meta: dict[str, Any] = {
        "network": name,
        "options": recipe.options,
        "weights": f"{name}.safetensors",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dataset": "fashion-mnist",
        "training_images": len(labels),
        "training": {"momentum": 0.9, **recipe.settings},
        "torch": torch.__version__.split("+")[0],
        "threads": torch.get_num_threads(),
        "training_losses": [round(loss, 5) for loss in history.losses],
        "unrounded_test_full_accuracy": unrounded.accuracy,
    }
    write_meta(name, meta)
    measure(name)


def measure(name: str) -> None:
    """Write down what a network achieves."""
    # The figures that count are those of the stored, rounded weights, read back as a user will.
    shipped, meta = pretrained(name), pretrained_meta(name)
    measured: dict[str, Split] = {
        "test_full": fashion_mnist("test"),
        "test": fashion_mnist_subset("test"),
        "rank": fashion_mnist_subset("rank"),
    }
    for split, data in measured.items():
        accuracy, loss = evaluate(shipped, *data)
        meta[split] = {"images": len(data.labels), "accuracy": accuracy, "loss": round(loss, 5)}
        print(f"  {split}: accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)
    write_meta(name, meta)


def write_meta(name: str, meta: dict[str, Any]) -> None:
    """Write what is known of a network beside its weights."""
    (ASSETS / f"{name}.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description="Make the data subsets and the networks that ship.")
    parser.add_argument("what", nargs="?", choices=["all", "data", "weights"], default="all")
    parser.add_argument("--network", choices=sorted(RECIPES), help="train this one only")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.what in ("all", "data"):
        make_data()
    if options.what in ("all", "weights"):
        for name in [options.network] if options.network else RECIPES:
            make_weights(name)


if __name__ == "__main__":
    main(sys.argv[1:])
