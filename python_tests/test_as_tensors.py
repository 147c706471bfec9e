"""as_tensors: any loader becomes a pair of tensors, in order, limited, named, and without a trace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from shapley_cuda.datasets import Split, as_tensors

INPUTS, TARGETS = torch.arange(20.0).reshape(10, 2), torch.arange(10)


def batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(INPUTS.split(4), TARGETS.split(4), strict=True))


class _Samples(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return INPUTS[index], int(TARGETS[index])


class _Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((INPUTS[index], index) for index in range(10))


SOURCES: dict[str, Any] = {
    "pair": lambda: (INPUTS, TARGETS),
    "list": lambda: [INPUTS, TARGETS],
    "split": lambda: Split(INPUTS, TARGETS, "rank"),
    "loader": lambda: DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=3),
    "dataset": _Samples,
    "stream": _Stream,
    "batches": batches,
    "generator": lambda: iter(batches()),
    "list batches": lambda: [list(batch) for batch in batches()],
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("limit", [None, 1, 4, 7, 10, 99])
def test_first_samples_come_in_order_from_any_source(source: str, limit: int | None) -> None:
    inputs, targets = as_tensors(SOURCES[source](), limit)
    assert torch.equal(inputs, INPUTS[:limit])
    assert torch.equal(targets, TARGETS[:limit])
    assert targets.dtype == torch.int64


def test_no_batch_is_read_beyond_the_limit() -> None:
    left = iter(batches())
    as_tensors(left, limit=8)
    assert len(list(left)) == 1


def test_result_is_a_split_where_it_has_a_name() -> None:
    assert type(as_tensors((INPUTS, TARGETS))) is tuple
    named = as_tensors(batches(), split="train")
    assert isinstance(named, Split)
    assert named.name == "train"
    kept = as_tensors(Split(INPUTS, TARGETS, "test"), limit=3)
    assert isinstance(kept, Split)
    assert kept.name == "test"
    renamed = as_tensors(Split(INPUTS, TARGETS, "train"), split="rank")
    assert isinstance(renamed, Split)
    assert renamed.name == "rank"


def test_pair_is_not_copied() -> None:
    inputs, _ = as_tensors((INPUTS, TARGETS), limit=5)
    assert inputs.data_ptr() == INPUTS.data_ptr()


def test_global_random_state_is_left_by_a_loader_that_shuffles() -> None:
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=3, shuffle=True)
    before = torch.get_rng_state()
    _, targets = as_tensors(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(targets.tolist()) == list(range(10))


def test_soft_targets_keep_their_shape() -> None:
    soft = torch.rand(10, 5)
    _, targets = as_tensors(DataLoader(TensorDataset(INPUTS, soft), batch_size=4), limit=6)
    assert torch.equal(targets, soft[:6])


@pytest.mark.parametrize("empty", [[], (INPUTS[:0], TARGETS[:0]), iter([]), [(INPUTS[:0], TARGETS[:0])]])
def test_no_samples_are_refused(empty: Any) -> None:
    with pytest.raises(ValueError, match=r"^as_tensors: data must hold at least one sample, got none$"):
        as_tensors(empty)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, TypeError, "data must be a pair of tensors or give batches, got int"),
        ([INPUTS], TypeError, "batch 0 of data must be a pair of tensors (inputs, targets), got Tensor"),
        (
            [batches()[0], (INPUTS, [1, 2])],
            TypeError,
            "batch 1 of data must be a pair of tensors (inputs, targets), got ['Tensor', 'list']",
        ),
        ((INPUTS, TARGETS[:3]), ValueError, "data must have one target per input, got shapes [10, 2] and [3]"),
        (
            [batches()[0], (torch.zeros(4, 3), TARGETS[:4])],
            ValueError,
            "batch 1 of data must have samples of [2] and targets of [] as batch 0, got [3] and []",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'as_tensors: {message}')}$"):
        as_tensors(data)


@pytest.mark.parametrize("limit", [0, -1, 2.0])
def test_bad_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match=f"^as_tensors: limit must be a positive integer or None, got {limit}$"):
        as_tensors((INPUTS, TARGETS), limit)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Split: name must be one of train, rank, select, test, got 'val'$"):
        as_tensors((INPUTS, TARGETS), split="val")
