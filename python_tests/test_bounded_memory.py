"""A game keeps to its memory budget, and goes on where memory runs out all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import prepared
from high_water import extra_bytes, needs_high_water  # noqa: F401
from tolerances import CHUNKS_AGREE
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.memory import PeakMemory

N_SAMPLES, N_PLAYERS, SIZE = 12, 24, 10
ROW = 4 * 24 * SIZE * SIZE  # bytes of the consumer's output for one row
WALK = (N_PLAYERS + 1) * ROW
PATHS = ("walk", "suffix", "hook")


def network() -> nn.Sequential:
    return prepared(
        nn.Sequential(
            nn.Conv2d(3, N_PLAYERS, 3, padding=1), nn.ReLU(), nn.Conv2d(N_PLAYERS, 24, 3, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
        )
    )  # fmt: skip


def data(count: int = N_SAMPLES, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator).to(device), (torch.arange(count) % 5).to(device)


def assert_agree(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=CHUNKS_AGREE[0], atol=CHUNKS_AGREE[1])


@pytest.mark.parametrize("prefix", ["memory", "disk", "recompute"])
@pytest.mark.parametrize(("path", "budget"), [("walk", 5 * WALK), ("auto", WALK), ("suffix", WALK), ("hook", WALK)])
def test_peak_of_walks_whose_output_is_20_budgets_is_within_one(
    path: str, budget: int, prefix: str, device: str
) -> None:
    game = sc.ChannelGame(
        network().to(device), "0", data(device=device), path=path, memory_budget=budget, prefix=prefix
    )
    n_walks = 20 * budget // WALK
    walks = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, n_walks, device)
    with PeakMemory() as memory:
        values = game.walk_values(*walks)
    assert values.shape == (n_walks, N_PLAYERS + 1)
    assert n_walks * WALK >= 20 * budget
    assert budget / 4 < memory.peak <= budget  # and it makes use of what it may take
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        game.walk_values(*walks)
        assert torch.cuda.max_memory_allocated() - before <= 2 * budget  # with the workspace of libraries


@pytest.mark.parametrize(("path", "budget"), [("walk", 6 * WALK), ("suffix", WALK)])
def test_peak_of_walks_of_which_some_steps_are_needed_is_within_the_budget(path: str, budget: int) -> None:
    game = sc.ChannelGame(network(), "0", data(), path=path, memory_budget=budget)
    permutations, samples = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 24)
    needed = torch.ones(24, N_PLAYERS + 1, dtype=torch.bool)
    with PeakMemory() as memory:
        values = game.walk_values(permutations, samples, needed)
    assert memory.peak <= budget
    assert_agree(values, game.walk_values(permutations, samples))


def test_peak_of_a_pair_of_walks_whose_output_is_20_budgets_is_within_one() -> None:
    budget = WALK // 10
    game = sc.ChannelGame(network(), "0", data(), memory_budget=budget)
    walks = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 2)
    with PeakMemory() as memory:
        values = game.walk_values(*walks)
    assert memory.peak <= budget
    assert_agree(values, sc.ChannelGame(network(), "0", data()).walk_values(*walks))


@pytest.mark.parametrize("path", PATHS)
def test_peak_of_coalitions_shared_by_all_samples_is_within_the_budget(path: str) -> None:
    budget = 3 * WALK
    game = sc.ChannelGame(network(), "0", data(), path=path, memory_budget=budget)
    masks = torch.rand(40, N_PLAYERS, generator=torch.Generator().manual_seed(0)) < 0.5
    with PeakMemory() as memory:
        game(masks)
    assert 5 * budget < 40 * N_SAMPLES * ROW
    assert memory.peak <= budget


def run_apart(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program after the imports of this file, in a process of its own."""
    program = "import torch; torch.set_num_threads(1); from test_bounded_memory import *\n" + code
    # In this folder, not in the source tree, whose package without its native module would come first.
    return subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, env=os.environ | environment,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@needs_high_water
def test_process_keeps_to_the_budget() -> None:
    code = """
budget = 32 << 20
game = sc.ChannelGame(network(), "0", data(), path="walk", memory_budget=budget)
walks = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 20 * budget // WALK)
print(extra_bytes(lambda: game.walk_values(*walks)), budget)
"""
    # What is freed goes back to the system, instead of into a store of the C library's that differs from run to run.
    outcome = run_apart(code, MALLOC_MMAP_THRESHOLD_="65536")
    assert outcome.returncode == 0, outcome.stderr
    taken, budget = map(int, outcome.stdout.split())
    assert budget / 2 < taken <= budget


@pytest.mark.parametrize("share", [1e-6, 0.5])
def test_budget_as_a_share_is_of_what_is_free(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shapley_cuda.memory.free_memory", lambda device: 10**12)
    game = sc.ChannelGame(network(), "0", data(), memory_budget=share)
    assert game.memory_budget == share * 10**12


def test_default_budget_holds_a_row_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shapley_cuda.memory._DEFAULT_CPU", 1000)
    game = sc.ChannelGame(network(), "0", data())
    assert game.memory_budget == game.bytes_per_row > ROW
    assert (game.chunk_rows, game.chunk_walks, game.path) == (1, 2, "suffix")
    insisted = sc.ChannelGame(network(), "0", data(), path="walk")
    assert insisted.memory_budget >= 2 * insisted.bytes_per_walk - 1 > WALK


def gpu_error() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def op_error() -> Exception:
    return RuntimeError("shapley::apply_masks: CUDA out of memory. Tried to allocate 2.00 GiB.")


def game_that_runs_out(path: str, most: int, error: Callable[[], Exception] = gpu_error) -> sc.ChannelGame:
    """A game whose last layer has no memory for more than so many rows, once it is built."""
    model = network()
    game = sc.ChannelGame(model, "0", data(), path=path)

    def run_out(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].shape[0] > most:
            raise error()

    model[6].register_forward_pre_hook(run_out)
    return game


@pytest.mark.parametrize("error", [gpu_error, op_error])
@pytest.mark.parametrize("path", PATHS)
def test_memory_that_runs_out_halves_the_evaluation_and_not_the_chunk(
    path: str, error: Callable[[], Exception]
) -> None:
    walks = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 24)
    masks = torch.rand(24, N_PLAYERS, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = sc.ChannelGame(network(), "0", data(), path=path)
    game = game_that_runs_out(path, 3 * (N_PLAYERS + 1), error)
    chunks = game.chunk_rows, game.chunk_walks, game.memory_budget
    for call in (
        lambda game: game.walk_values(*walks),
        lambda game: game.row_values(masks, walks[1]),
        lambda game: game(masks),
    ):
        assert_agree(call(game), call(whole))
    assert (game.chunk_rows, game.chunk_walks, game.memory_budget) == chunks
    assert "memory ran out" in game.describe()
    assert game.n_evaluations == whole.n_evaluations
    assert not game.model[2]._forward_pre_hooks


def test_memory_that_runs_out_leaves_a_ranking_the_same() -> None:
    options = {"budget": 60 * (N_PLAYERS + 1), "tolerance": 0, "seed": 1}
    whole = sc.rank(sc.ChannelGame(network(), "0", data()), **options)
    halved = sc.rank(game_that_runs_out("auto", 2 * (N_PLAYERS + 1)), **options)
    assert_agree(halved.values, whole.values)
    assert halved.options == whole.options
    assert halved.n_evaluations == whole.n_evaluations


@pytest.mark.parametrize("path", PATHS)
def test_memory_too_small_for_a_single_row_is_an_error_that_names_budget_and_sizes(path: str) -> None:
    game = game_that_runs_out(path, 0)
    what = "walk" if path == "walk" else "row"
    text = (
        f"^memory ran out on a single {what}; memory_budget is {game.memory_budget} bytes, a row was measured to take "
        f"{game.bytes_per_row}, a walk {game.bytes_per_walk} .*; torch says: CUDA out of memory. Tried to allocate"
    )
    with pytest.raises(torch.OutOfMemoryError, match=text):
        game.walk_values(*sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 8))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process, as Linux does")
def test_allocation_that_fails_within_an_op_halves_the_walks() -> None:
    code = """
walks = sc.WalkSampler(N_PLAYERS, N_SAMPLES).walks(0, 2000)
expected = sc.ChannelGame(network(), "0", data(), path="walk").walk_values(*walks)
game = sc.ChannelGame(network(), "0", data(), path="walk", memory_budget=1 << 40)
assert game.chunk_walks * WALK > 300 << 20
used = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20),) * 2)
assert_agree(game.walk_values(*walks), expected)
print(game.describe())
"""
    outcome = run_apart("import re, resource\n" + code)
    assert outcome.returncode == 0, outcome.stderr
    assert "memory ran out: walks by " in outcome.stdout
