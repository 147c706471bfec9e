"""Budgets in bytes and shares, counting what is alive at once, and work that is halved where memory runs out."""

from __future__ import annotations

import re
import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shapley_cuda.mapped import TensorFile
from shapley_cuda.memory import PeakMemory, Portions, check_budget, free_memory, resolve_budget

KIBI = torch.zeros(256)  # 1024 bytes
CPU = torch.device("cpu")


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    with PeakMemory() as memory:
        first = KIBI + 1
        second = first * 2
        del first
        third = second + 1
        del second, third
        fourth = torch.cat([KIBI, KIBI])
    assert memory.peak == 2 * 1024
    assert memory.live == fourth.untyped_storage().nbytes() == 2 * 1024


def test_peak_memory_views_and_what_was_there_before_cost_nothing() -> None:
    weight = torch.zeros(64, 64)
    with PeakMemory() as memory:
        F.linear(torch.zeros(1, 64), weight.t().t())
        KIBI.view(16, 16).t()[3:].detach()
        KIBI.add_(0)
    assert memory.peak == 2 * 64 * 4  # the input and the output of the linear layer


def test_peak_memory_of_several_outputs_counts_each_once() -> None:
    with PeakMemory() as memory:
        halves = torch.arange(256.0).chunk(2)  # views of one kibibyte
        values, indices = halves[0].topk(4)
    assert memory.peak == 1024 + values.untyped_storage().nbytes() + indices.untyped_storage().nbytes()


def test_peak_memory_of_a_mapped_file_is_what_is_read_from_it() -> None:
    file = TensorFile()
    file.append(torch.zeros(1000, 256))
    with PeakMemory() as memory:
        mapped = file.tensor()
        rows = mapped[torch.tensor([3, 5, 7])]
    assert memory.peak == rows.untyped_storage().nbytes() == 3 * 1024


def test_default_budget_of_the_cpu_is_32_mib() -> None:
    assert resolve_budget(None, CPU) == 32 * 1024 * 1024


def test_budget_in_bytes_is_itself_and_a_float_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shapley_cuda.memory.free_memory", lambda device: 1000)
    assert [resolve_budget(budget, CPU) for budget in (1, 77, 0.5, 1.0, 1e-9)] == [1, 77, 500, 1000, 1]


def test_free_memory_of_the_cpu_is_no_more_than_there_is() -> None:
    with open("/proc/meminfo") as file:
        sizes = {name: int(size) << 10 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", file.read(), re.MULTILINE)}
    assert 0 < free_memory(CPU) <= sizes["MemTotal"]


@pytest.mark.parametrize("budget", [0, -1, 0.0, 1.5, -0.5, float("nan"), True, "1"])
def test_budget_that_is_neither_bytes_nor_a_share_is_refused(budget: object) -> None:
    text = "^memory_budget must be at least 1 byte, an int, or a share of the free memory, a float in .*, got "
    with pytest.raises(ValueError, match=text + re.escape(repr(budget))):
        check_budget(budget)  # type: ignore[arg-type]


def portions() -> Portions:
    return Portions("dish", lambda: "the table has 3 places")


def test_portions_are_as_large_as_asked_for_and_in_order() -> None:
    run = portions()
    assert list(run.run(7, 3, lambda first, last: (first, last))) == [(0, 3), (3, 6), (6, 7)]
    assert list(run.run(0, 3, lambda first, last: (first, last))) == []
    assert run.limit is None


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("no more"),
    RuntimeError("shapley::permutation_conv2d: CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_portions_are_halved_where_memory_runs_out_and_stay_so(error: RuntimeError) -> None:
    tried: list[int] = []

    def work(first: int, last: int) -> Tensor:
        tried.append(last - first)
        if last - first > 3:
            raise error
        return torch.arange(first, last)

    run = portions()
    assert torch.equal(run.fill(torch.empty(20, dtype=torch.int64), 16, work), torch.arange(20))
    assert tried == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert run.limit == 2
    tried.clear()
    run.fill(torch.empty(3, dtype=torch.int64), 16, work)
    assert tried == [2, 1]


def test_portions_that_failed_have_let_go_of_their_memory_before_the_next_try() -> None:
    taken: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def work(first: int, last: int) -> Tensor:
        alive.extend(ref() is not None for ref in taken)
        half_way = torch.zeros(last - first)
        taken.append(weakref.ref(half_way))
        if last - first > 1:
            raise torch.OutOfMemoryError("no more")
        return half_way + 1

    assert portions().fill(torch.empty(4), 4, work).tolist() == [1, 1, 1, 1]
    assert alive
    assert not any(alive)


def test_portions_of_one_that_do_not_fit_are_an_error_that_names_sizes() -> None:
    def work(first: int, last: int) -> Tensor:
        raise torch.OutOfMemoryError("tried to take 9 places")

    text = "^memory ran out on a single dish; the table has 3 places; torch says: tried to take 9 places$"
    with pytest.raises(torch.OutOfMemoryError, match=text):
        list(portions().run(8, 8, work))


def test_portions_leave_other_errors_alone() -> None:
    def work(first: int, last: int) -> Tensor:
        raise RuntimeError("shape mismatch")

    run = portions()
    with pytest.raises(RuntimeError, match=r"^shape mismatch$"):
        list(run.run(8, 8, work))
    assert run.limit is None
