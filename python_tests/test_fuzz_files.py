"""Damaged files: each is refused with a ValueError that names it, or read as the object that it still describes."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
import report_runs
import torch
from cifar_files import python2_batch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from torch import nn

import shapley_cuda as sc
from shapley_cuda.cli.values import ValuesIndex
from shapley_cuda.datasets import load_cifar_folder, load_image_folder, read_idx, read_python_batch
from shapley_cuda.files import read_file
from shapley_cuda.html_report import Cut, Run, report_page
from shapley_cuda.loading import load_checkpoint
from shapley_cuda.run_record import RoundAccuracies, RunRecord
from shapley_cuda.study import StudyConfig, StudyResult
from shapley_cuda.study.results import LayerResult, MaskedAccuracy, Measurement, Oracle, Reference, Retrained

SHARE = 0.02
"""Damaged files for each reader, as a share of all generated calls, which they come on top of."""


@dataclass(frozen=True)
class Reader:
    """A file as it should be, what reads it, what must be so of whatever is read; and what a refusal without the file's
    name says."""

    content: bytes
    read: Callable[[Path], Any]
    holds: Callable[[Any], bool]
    name: str = "file"
    says: str = "$^"


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()


PLAN = sc.plan_pruning(network(), {"0": torch.arange(3.0)}, {"0": 2}, torch.zeros(1, 1, 4, 4))
PRUNED = {
    name: tensor.clone() for name, tensor in sc.prune(network(), PLAN, torch.zeros(1, 1, 4, 4)).state_dict().items()
}
NUMBERS = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64)
ESTIMATE = sc.Estimate("conv1", "permutation", NUMBERS, NUMBERS.abs(), 90, 0.5, 7, "budget", {"tolerance": 0.1})
SETS = sc.OracleSets("conv1", "greedy", torch.ones(4, 3).tril(-1).bool(), torch.arange(4.0).double(),
                     torch.ones(4, 3).tril(-1).bool(), torch.arange(4.0).double(), 9, 0.1)  # fmt: skip
LAYER = LayerResult(
    "conv1", 3, 5, Reference("exact", 9, 0.1, 0.0, 1.0), Oracle("greedy", 3, 9, 0.1),
    (Measurement("permutation", 2, 0, 9, 0.1, 0.5, 0.1, 1.0, 0.5),), {"l1": "no weights"}, {"l1/l2": None},
)  # fmt: skip
STUDY = StudyResult(
    StudyConfig(), (LAYER,), 0.9, 100, 10, (MaskedAccuracy("l1", None, 0.5, 0.25),),
    (Retrained("l1", 0, 0.5, 60, 0.2, None, 0.8),), 1.5, {"device": "cpu"},
)  # fmt: skip
INDEX = ValuesIndex(
    {"model": "lenet5"}, "abc", "permutation", {"seed": 0}, ["conv1"], {"conv1": "values-conv1.json"}, {}
)
RECORD = report_runs.record(rounds=(RoundAccuracies(0.5, None, 0.75),), n_select=9, select_before=0.8)
IMAGES = b"\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x03" + bytes(range(12))
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)


def as_pt(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def into_network(path: Path) -> nn.Module:
    model = network()
    load_checkpoint(model, path)
    return model


def pruned(path: Path) -> nn.Module:
    for name, content in (("plan.json", PLAN.to_json().encode()), ("model.safetensors", save(PRUNED))):
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(content)
    return sc.load_pruned(network(), path.parent)


def cifar(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    (path.parent / "data_batch_1").touch()
    return load_cifar_folder(path.parent, train=False)


def gives_outputs(model: nn.Module) -> bool:
    return model(torch.zeros(1, 1, 4, 4)).shape == (1, 2)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[0, :60].reshape(5, 4, 3)).save(file, "PNG")
    return file.getvalue()


def comes_back(read: Callable[[str], Any]) -> Callable[[Any], bool]:
    return lambda found: read(found.to_json()).to_json() == found.to_json()


def is_ranking(estimate: sc.Estimate) -> bool:
    return sorted(estimate.ranking().tolist()) == list(range(len(estimate.values)))


def is_record(record: RunRecord) -> bool:
    run = Run("file", PAGE_CUT, (PAGE_CUT,), record)
    return comes_back(RunRecord.from_json)(record) and "<h1>" in report_page(run)


def page_of_values(path: Path) -> str:
    return report_page(Run("file", Cut(PAGE_CUT.plan, {"conv1": read_file(path, sc.Estimate.from_json)})))


def are_bytes(array: Any) -> bool:
    return array.dtype == np.uint8


def are_labelled(data: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return data[0].dim() == 4 and data[1].shape == data[0].shape[:1]


PAGE_CUT = report_runs.cut({"conv1": (3, 1)})
WEIGHTS = dict(network().state_dict())
NO_PATH = r"group '0' .* the plan"
READERS = {
    "Estimate": Reader(
        ESTIMATE.to_json().encode(), lambda path: read_file(path, sc.Estimate.from_json), is_ranking, "e.json"
    ),
    "OracleSets": Reader(SETS.to_json().encode(), sc.OracleSets.load, comes_back(sc.OracleSets.from_json)),
    "StudyResult": Reader(STUDY.to_json().encode(), StudyResult.load, comes_back(StudyResult.from_json)),
    "PruningPlan": Reader(
        PLAN.to_json().encode(),
        lambda path: read_file(path, sc.PruningPlan.from_json),
        lambda plan: len(str(plan)) > 0 and comes_back(sc.PruningPlan.from_json)(plan),
    ),
    "report_page, values": Reader(
        ESTIMATE.to_json().encode(), page_of_values, lambda page: "<h1>" in page, "e.json", "^values of 'conv1' must be"
    ),
    "RunRecord": Reader(RECORD.to_json().encode(), RunRecord.load, is_record),
    "ValuesIndex": Reader(
        INDEX.to_json().encode(),
        lambda path: ValuesIndex.read(path.parent),
        comes_back(lambda text: ValuesIndex.from_json(text, "the index")),
        "index.json",
    ),
    "load_pruned, plan": Reader(
        PLAN.to_json().encode(), pruned, gives_outputs, "plan.json", rf"{NO_PATH}|model\.safetensors"
    ),
    "load_pruned, weights": Reader(save(PRUNED), pruned, gives_outputs, "model.safetensors"),
    "load_checkpoint, safetensors": Reader(save(WEIGHTS), into_network, gives_outputs, "w.safetensors"),
    "load_checkpoint, pt": Reader(as_pt(WEIGHTS), into_network, gives_outputs, "w.pt"),
    "read_idx": Reader(IMAGES, read_idx, are_bytes),
    "read_idx, gzipped": Reader(gzip.compress(IMAGES, mtime=0), read_idx, are_bytes),
    "read_python_batch": Reader(
        python2_batch(PIXELS[:, :5], [3, 0]), read_python_batch, lambda found: all(type(key) is str for key in found)
    ),
    "load_cifar_folder, python": Reader(python2_batch(PIXELS, [3, 0]), cifar, are_labelled, "test_batch"),
    "load_cifar_folder, binary": Reader(bytes([3]) + PIXELS[0].tobytes(), cifar, are_labelled, "test_batch.bin"),
    "load_image_folder": Reader(
        png(), lambda path: load_image_folder(path.parents[1], size=4, resize=4), are_labelled, "cat/a.png"
    ),
}

DEEP, LONG = "deep", "long"
TEXTS = {f'"{DEEP}"': "[" * 100_000 + "]" * 100_000, f'"{LONG}"': "9" * 5000}  # that json does not write
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2.5, 1e308, 1 << 62, 1 << 63, 10**400, float("nan"), float("inf"), "", "x", "\ud800",
    DEEP, LONG, [], {}, [[]], [1, "a"], {"a": {}}, [0, 1, 2],
)  # fmt: skip


def damaged(content: bytes, lots: random.Random) -> bytes:
    """The file with something cut off, changed, left out, put in or repeated; of JSON, mostly a value or a name."""
    if content[:1] == b"{" and lots.random() < 0.7:
        return damaged_json(json.loads(content), lots)
    at, length = lots.randrange(len(content)), lots.randint(1, 9)
    piece = content[at : at + length]
    flipped = bytes(byte ^ (1 << lots.randrange(8)) for byte in piece)
    middle = lots.choice((b"", flipped, lots.randbytes(length), piece * 2, lots.randbytes(3) + piece))
    return content[:at] + middle + content[at + length :] if lots.random() < 0.8 else content[:at]


def damaged_json(record: dict[str, Any], lots: random.Random) -> bytes:
    places: list[tuple[Any, Any]] = []
    containers: list[Any] = [record]
    while containers:
        container = containers.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        places += [(container, key) for key in keys]
        containers += [container[key] for key in keys if isinstance(container[key], (dict, list))]
    container, key = lots.choice(places)
    how = lots.randrange(6)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, dict):
        container[lots.choice(("", "x", "format", "values"))] = container.pop(key)
    elif how == 2 and isinstance(container, list):
        container.insert(key, lots.choice(VALUES))
    else:
        container[key] = lots.choice(VALUES)
    text = json.dumps(record)
    for mark, longer in TEXTS.items():
        text = text.replace(mark, longer)
    return text.encode()


@pytest.mark.parametrize("name", READERS)
def test_damaged_file_is_refused_with_its_name_or_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    path = tmp_path / "files" / reader.name
    path.parent.mkdir(parents=True)
    path.write_bytes(reader.content)
    assert reader.holds(reader.read(path))

    def check(seed: int) -> str:
        path.write_bytes(damaged(reader.content, random.Random(seed)))
        refusal = None
        try:
            found = reader.read(path)
        except ValueError as error:
            refusal = str(error)
        if refusal is None:
            assert reader.holds(found)
            return "files read"
        assert path.name in refusal or re.search(reader.says, refusal), refusal
        return "files refused"

    outcomes = fuzzing.run(SHARE, st.integers(0, (1 << 32) - 1), check)
    assert outcomes["files refused"] > 0
