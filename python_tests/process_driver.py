"""Runs rankings in forked processes, and kills some. A program of its own, so that forking meets no threads.

``python process_driver.py FOLDER TASK...`` writes what each task found into FOLDER/TASK.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_runs import make_game, run

import shapley_cuda as sc

RUNS: dict[str, dict[str, Any]] = {
    "budget": {},
    "tolerance": {"tolerance": 0.3},
    "short": {"budget": 500},
    "guided": {"guided": True, "budget": 8000, "seed": 0},
    "racing": {"settle": 2, "racing": True, "confidence": 0.5, "budget": 4500},
}


def fork(work: Callable[[], None]) -> int:
    """Do some work in a child process, whose exit status is 0 if it raises nothing."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def together(size: int, work: Callable[[int], None]) -> list[int]:
    """Do some work in several processes that can join each other; returns how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    children = []
    for rank in range(size):
        os.environ["RANK"] = str(rank)
        children.append(fork(lambda rank=rank: work(rank)))
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def kill(folder: Path) -> None:
    """Kill a run at 20 random moments, starting it anew each time, and then let it end."""
    draw = random.Random(1)
    whole = run(make_game(), budget=10000)
    whole.save(folder / "whole.json")

    def work() -> None:
        estimate = run(make_game(), budget=10000, checkpoint=sc.Checkpoint(folder / "state", interval=0))
        estimate.save(folder / "killed.json")

    start = time.perf_counter()
    assert os.waitpid(fork(work), 0)[1] == 0
    seconds = time.perf_counter() - start
    (folder / "killed.json").unlink()
    (folder / "state").unlink()
    n_kills, sizes = 0, []
    while n_kills < 20:
        child = fork(work)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
            n_kills += 1
        else:  # it was done before: the next trial begins again
            (folder / "killed.json").rename(folder / f"killed-{len(sizes)}.json")
            sizes.append(n_kills)
            (folder / "state").unlink()
    assert os.waitpid(fork(work), 0)[1] == 0
    (folder / "kills").write_text(str(n_kills))


def share(folder: Path) -> None:
    """Share a run among 1 to 4 processes, and two groups among 2."""
    for size in range(1, 5):

        def work(rank: int, size: int = size) -> None:
            with sc.Processes.join(timeout_seconds=60) as processes:
                assert (processes.rank, processes.size) == (rank, size)
                for name, options in RUNS.items():
                    estimate = run(make_game(), processes=processes, **options)
                    estimate.save(folder / f"{name}-{size}-{rank}.json")

        assert together(size, work) == [0] * size

    def rank_groups(rank: int) -> None:
        with sc.Processes.join(timeout_seconds=60) as processes:
            made: list[str] = []

            def make(name: str) -> sc.ChannelGame:
                made.append(name)
                return make_game(name)

            estimates = sc.rank_groups(
                ["2", "0"], make, checkpoints=folder, processes=processes, tolerance=0, budget=1800, seed=3
            )
            assert made == [["2", "0"][rank]]
            assert list(estimates) == ["2", "0"]
            estimates["0"].save(folder / f"group-{rank}.json")

    assert together(2, rank_groups) == [0, 0]


def lose(folder: Path) -> None:
    """Lose one of three processes half-way; go on with two, and with one after another loss."""

    def dying(rank: int) -> None:
        told: list[sc.RankingProgress] = []

        def tell(progress: sc.RankingProgress) -> None:
            told.append(progress)
            if rank == 1 and len(told) == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        with sc.Processes.join(timeout_seconds=20) as processes:
            checkpoint = sc.Checkpoint(folder / "state", interval=1000)
            try:
                run(make_game(), checkpoint=checkpoint, processes=processes, on_progress=tell)
            except sc.ProcessError as error:
                (folder / f"error-{rank}").write_text(str(error))
                os._exit(7)

    assert together(3, dying) == [7, -signal.SIGKILL, 7]

    def go_on(rank: int) -> None:
        with sc.Processes.join(timeout_seconds=20) as processes:
            game = make_game()
            run(game, checkpoint=folder / "state", processes=processes).save(folder / f"resumed-{rank}.json")
            (folder / f"rows-{rank}").write_text(str(game.n_evaluations))

    assert together(2, go_on) == [0, 0]


def fail(folder: Path) -> None:
    """Fail in one process, in several ways: every process says so and ends."""

    def failing(rank: int) -> None:
        case = ""

        def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            if case == "raises" and rank == 1:
                raise ArithmeticError("the loss of process 1")
            return (
                torch.where(targets == 2, torch.nan, 1.0) if case == "nan" and rank == 1 else outputs.square().mean(1)
            )

        cases = {
            "raises": {},
            "nan": {},
            "seeds": {"seed": 3 + rank},
            "tolerances": {"tolerance": 0.1 * rank},
            "checkpoint": {"checkpoint": folder / "broken"},
            "models": {},
        }
        (folder / "broken").write_text("broken")
        with sc.Processes.join(timeout_seconds=20) as processes:
            for name, options in cases.items():
                case = ""
                game = make_game(metric=loss)
                case = name
                if case == "models":
                    with torch.no_grad():
                        game.model[0].weight *= 1 + rank
                try:
                    run(game, processes=processes, **options)
                except Exception as error:
                    (folder / f"{case}-{rank}").write_text(f"{type(error).__name__}: {error}")

    assert together(2, failing) == [0, 0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(make_game(), budget=500)  # what is imported only now would else be imported in every child
    for task in sys.argv[2:]:
        (Path(sys.argv[1]) / task).mkdir()
        {"kill": kill, "share": share, "lose": lose, "fail": fail}[task](Path(sys.argv[1]) / task)
