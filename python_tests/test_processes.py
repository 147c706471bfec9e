"""Rankings shared by processes, and rankings that are killed: the same bits as in one process that nothing disturbs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import assert_same_bits, make_game, run

import shapley_cuda as sc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")

ANOTHER = "ValueError: model, data and options must be the same in all processes, got another than process 0's in ['1']"


def drive(folder: Path, *tasks: str) -> Path:
    driver = Path(__file__).parent / "process_driver.py"
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(driver), str(folder), *tasks]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drive(tmp_path_factory.mktemp("shared"), "share", "lose", "fail")


@pytest.mark.parametrize("name", ["budget", "tolerance", "short", "guided", "racing"])
def test_processes_of_any_number_give_the_same_bits(name: str, shared: Path) -> None:
    alone = sc.Estimate.load(shared / "share" / f"{name}-1-0.json")
    assert alone.stopped == {"tolerance": "tolerance", "racing": "settled"}.get(name, "budget")
    assert alone.options.get("rows_saved", 1) > 0
    assert alone.options.get("guide_strength", 1) > 0
    paths = [shared / "share" / f"{name}-{size}-{rank}.json" for size in range(2, 5) for rank in range(size)]
    for path in paths:
        assert_same_bits(sc.Estimate.load(path), alone)


def test_processes_estimate_is_that_of_this_process_to_rounding(shared: Path) -> None:
    # Here two threads compute, there one.
    values = sc.Estimate.load(shared / "share" / "budget-4-0.json").values
    torch.testing.assert_close(values, run(make_game()).values, rtol=1e-6, atol=1e-7)


def test_rank_groups_gives_every_process_what_rank_gives(shared: Path) -> None:
    alone = sc.Estimate.load(shared / "share" / "budget-1-0.json")
    for rank in range(2):
        assert_same_bits(sc.Estimate.load(shared / "share" / f"group-{rank}.json"), alone)
    assert {path.name for path in (shared / "share").glob("*.state")} == {"0.state", "2.state"}


def test_processes_that_lose_one_say_so_and_go_on_with_another_number(shared: Path) -> None:
    alone = sc.Estimate.load(shared / "share" / "budget-1-0.json")
    for rank in (0, 2):
        text = (shared / "lose" / f"error-{rank}").read_text()
        assert text.startswith(f"process {rank} of 3 lost another: it ended, or did not answer in time. A ranking with")
    for rank in range(2):
        assert_same_bits(sc.Estimate.load(shared / "lose" / f"resumed-{rank}.json"), alone)
        # Six chunks had been done, though the interval had not passed.
        assert int((shared / "lose" / f"rows-{rank}").read_text()) < alone.n_evaluations / 3


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("raises", "ProcessError: process 1 of 2 failed; its own message", "ArithmeticError: the loss of process 1"),
        ("checkpoint", "ValueError: checkpoint ", "ProcessError: process 0 of 2 failed; its own message says why"),
        ("seeds", ANOTHER, ANOTHER),
        ("tolerances", ANOTHER, ANOTHER),
        ("models", ANOTHER, ANOTHER),
    ],
)
def test_processes_fail_together(case: str, first: str, second: str, shared: Path) -> None:
    for rank, text in enumerate((first, second)):
        assert (shared / "fail" / f"{case}-{rank}").read_text().startswith(text)


def test_processes_payoff_that_is_not_finite_in_one_is_refused_by_all_alike(shared: Path) -> None:
    texts = [(shared / "fail" / f"nan-{rank}").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("NonFinitePayoff: ")
    assert "walks met a payoff that is NaN or infinite" in texts[0]


def test_killed_at_any_moment_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    folder = drive(tmp_path, "kill") / "kill"
    whole = sc.Estimate.load(folder / "whole.json")
    done = list(folder.glob("killed*.json"))
    assert folder / "killed.json" in done
    for path in done:
        assert_same_bits(sc.Estimate.load(path), whole)
    assert (folder / "kills").read_text() == "20"
    assert not list(folder.glob(".state.*"))  # nothing is left of writings that were cut off


def test_rank_groups_alone_is_rank_group_by_group(tmp_path: Path) -> None:
    told: set[str] = set()
    estimates = sc.rank_groups(
        ["2", "0"],
        make_game,
        on_progress=lambda name, progress: told.add(name),
        checkpoints=sc.Checkpoint(tmp_path, interval=0),
        tolerance=0,
        budget=1800,
        seed=3,
    )
    assert list(estimates) == ["2", "0"]
    assert told == {"2", "0"}
    assert_same_bits(estimates["0"], run(make_game("0")))
    assert_same_bits(estimates["2"], run(make_game("2")))
    assert {path.name for path in tmp_path.iterdir()} == {"0.state", "2.state"}


def test_rank_groups_refuses_a_group_named_twice() -> None:
    with pytest.raises(ValueError, match=r"^groups must be different names, got \['0', '0'\]"):
        sc.rank_groups(["0", "0"], make_game)


def test_rank_groups_gives_each_group_its_own_option_where_it_is_a_dictionary() -> None:
    budget = {"0": 1800, "2": 900}
    estimates = sc.rank_groups(["2", "0"], make_game, tolerance=0, budget=budget, seed={"0": 3, "2": 5})
    assert_same_bits(estimates["0"], run(make_game("0")))
    assert_same_bits(estimates["2"], run(make_game("2"), budget=900, seed=5))


def test_rank_groups_refuses_a_dictionary_that_does_not_fit_the_groups() -> None:
    text = r"^budget must have a value for each of the groups \['2', '0'\], got \['2'\]$"
    with pytest.raises(ValueError, match=text):
        sc.rank_groups(["2", "0"], make_game, budget={"2": 900})


def test_processes_outside_of_torchrun_cannot_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"^Processes.join must be called under torchrun"):
        sc.Processes.join()


def test_processes_alone_are_the_default() -> None:
    assert_same_bits(run(make_game(), processes=sc.Processes()), run(make_game()))
    with pytest.raises(TypeError, match=r"^magnitude ranking is done in one piece"):
        sc.rank(make_game(), "magnitude", processes=sc.Processes())


def test_chunks_of_five_sizes_and_threads_of_two_numbers_agree(set_threads: object) -> None:
    assert callable(set_threads)
    reference, sizes = run(make_game()), set()
    for threads in (1, 2):
        set_threads(threads)
        for visits in (1, 3, 10, 33, 200):
            estimate = run(make_game(visits=visits))
            sizes.add(estimate.options["chunk_visits"])
            torch.testing.assert_close(estimate.values, reference.values, rtol=1e-6, atol=1e-7)
    assert len(sizes) == 5
