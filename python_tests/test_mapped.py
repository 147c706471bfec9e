"""Tensors in memory-mapped files hold what was written, and leave nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import shapley_cuda as sc
from shapley_cuda.mapped import TensorFile


def samples(count: int = 11) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 4, generator=generator), torch.arange(count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_tensor_file_holds_what_was_written(dtype: torch.dtype) -> None:
    values = (10 * samples()[0]).to(dtype)
    file = TensorFile()
    for batch in values.split(4):
        file.append(batch)
    mapped = file.tensor()
    assert mapped.dtype == dtype
    assert torch.equal(mapped, values)


def test_tensor_file_has_no_name_once_it_is_mapped(tmp_path: Path) -> None:
    file = TensorFile(tmp_path)
    file.append(torch.ones(5, 2))
    assert len(list(tmp_path.iterdir())) == 1
    mapped = file.tensor()
    assert list(tmp_path.iterdir()) == []
    del file
    gc.collect()
    assert mapped.sum() == 10


@pytest.mark.parametrize("other", [torch.ones(5, 3), torch.ones(5, 2, dtype=torch.float64)])
def test_tensor_file_batch_unlike_the_first_is_refused(other: Tensor) -> None:
    file = TensorFile()
    file.append(torch.ones(5, 2))
    with pytest.raises(ValueError, match=r"^batches must all be torch.float32 with samples of \[2\], got torch.float"):
        file.append(other)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A data set whose length nobody knows."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*samples(), strict=True)


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(TensorDataset(*samples()), batch_size=4),
        DataLoader(TensorDataset(*samples()), batch_size=4, num_workers=1),
        DataLoader(Stream(), batch_size=3),
        TensorDataset(*samples()),
        [samples(), samples(0)],
    ],
    ids=["loader", "worker", "stream", "data set", "batches"],
)
def test_stream_data_gives_what_was_loaded_and_keeps_it_out_of_memory(data: Dataset[object]) -> None:
    inputs, targets = sc.stream_data(data)
    assert torch.equal(inputs, samples()[0])
    assert torch.equal(targets, samples()[1])
    assert inputs.untyped_storage().filename
    assert not targets.untyped_storage().filename


def test_stream_data_leaves_the_global_random_state_and_the_folder_as_they_were(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    inputs, targets = sc.stream_data(DataLoader(TensorDataset(*samples()), batch_size=4, shuffle=True), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inputs, samples()[0][targets])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ([], ValueError, "^stream_data: data must hold at least one sample, got none$"),
        (3, TypeError, "^stream_data: data must be a pair of tensors or give batches, got int$"),
        ([torch.ones(3)], TypeError, r"^stream_data: batch 0 of data must be a pair of tensors .*, got Tensor$"),
        ([(torch.ones(3, 2), torch.ones(2))], ValueError, r"^stream_data: batch 0 of data must have one target per in"),
        ([samples(), (torch.ones(2, 3), torch.ones(2))], ValueError, r"^stream_data: batch 1 of data must have sampl"),
    ],
)
def test_stream_data_bad_data_are_refused(data: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sc.stream_data(data)


def test_stream_data_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sc.stream_data([samples()], tmp_path / "nowhere")
