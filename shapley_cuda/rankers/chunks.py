"""Estimates made of numbered chunks of work: the same bits however they are interrupted or dealt to processes.

A chunk is decided by its number. What it finds are sums, which are added in the order of the numbers, and after each of
them the stopping rules are asked. So nothing depends on which process computed a chunk, or in which session. Only a
time limit does: process 0 decides it, between two rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..game import ChannelGame
from .processes import Processes, Statistics
from .state import Checkpoint, Keeper, State
from .stopping import Found, StoppingRules

__all__ = ["Outcome", "Sampling", "batched_as", "run_chunks", "starting_state"]


class Sampling(Protocol):
    """An estimate whose work comes in units that are numbered, and each decided by its number."""

    n_units: int
    """How many units to take at most."""

    def nothing(self) -> Statistics:
        """The sums of no work at all."""

    chunks_between_decisions: int
    """After every so many chunks the sums decide how the next ones are computed. No round goes beyond."""

    def decide(self, sums: Statistics) -> Statistics:
        """Sums that hold the decision."""

    def chunk(self, first: int, count: int, sums: Statistics) -> Statistics:
        """What units first .. first + count - 1 add to the sums; of those before, only the latest decision counts."""

    def check(self, statistics: Statistics) -> None:
        """Raise if a chunk's sums must not be added."""

    def found(self, sums: Statistics) -> Found:
        """What the sums say."""


@dataclass(frozen=True)
class Outcome:
    """How far an estimate has come.

    Attributes:
        sums: of all units taken.
        found: what they say.
        n_units: how many there are.
        seconds: time they took, in all sessions.
        stopped: why it ended; None while it runs.
    """

    sums: Statistics
    found: Found
    n_units: int
    seconds: float
    stopped: str | None = None


def starting_state(fresh: State, options: str, checkpoint: Checkpoint | None, processes: Processes) -> State:
    """The state to begin from: a fresh one, or that of a checkpoint; of process 0, for all.

    Args:
        fresh: a state of no chunks.
        options: all options of the ranking, those that say when to stop, too.
        checkpoint: where there may be a later state.
        processes: that take part.

    Raises:
        ValueError: the processes want different things, or the checkpoint is of something else.
    """
    processes.check_same("model, data and options", f"{options} {sorted(fresh.about.items())}".encode())
    if processes.size == 1 and checkpoint is None:
        return fresh

    def begin() -> bytes:
        if checkpoint is None or not checkpoint.resume or not Path(checkpoint.path).exists():
            return fresh.to_bytes()
        content = Path(checkpoint.path).read_bytes()
        fresh.read(content, f"checkpoint {checkpoint.path}")
        return content

    return fresh.read(processes.from_first(begin), "the state of process 0")


def run_chunks(
    sampling: Sampling,
    rules: StoppingRules,
    state: State,
    checkpoint: Checkpoint | None,
    processes: Processes,
    tell: Callable[[Outcome], None],
) -> Outcome:
    """Go on from a state until a rule holds, telling how far the estimate is after every chunk.

    A last chunk that the budget cuts short counts in the outcome and not in the state, so that a larger budget goes on
    as if it had been there from the start. Chunks of a round that come after the one that ended the estimate are
    dropped.
    """
    start = time.perf_counter() - state.seconds

    def look(sums: Statistics, n_units: int, seconds: float) -> Outcome:
        found = sampling.found(sums)
        reason = rules.reason(found) or ("budget" if n_units >= sampling.n_units else None)
        return Outcome(sums, found, n_units, seconds, reason)

    def compute(number: int) -> Statistics:
        first = number * state.chunk
        return sampling.chunk(first, min(state.chunk, sampling.n_units - first), outcome.sums)

    outcome = look(state.sums, state.next_chunk * state.chunk, state.seconds)
    with Keeper(checkpoint if processes.rank == 0 else None) as keeper:
        while outcome.stopped is None:
            n_left = math.ceil(sampling.n_units / state.chunk) - state.next_chunk
            until_decision = sampling.chunks_between_decisions - state.next_chunk % sampling.chunks_between_decisions
            n_chunks = min(n_left, processes.size, until_decision)
            numbers = range(state.next_chunk, state.next_chunk + n_chunks)
            results, seconds = processes.deal(numbers, compute, state.sums, lambda: time.perf_counter() - start)
            for number, statistics in zip(numbers, results, strict=True):
                sampling.check(statistics)
                sums: Statistics = {name: total + statistics[name] for name, total in outcome.sums.items()}
                if (number + 1) % sampling.chunks_between_decisions == 0:
                    sums = sampling.decide(sums)
                end = (number + 1) * state.chunk
                if end <= sampling.n_units:
                    state = replace(state, sums=sums, next_chunk=number + 1, seconds=seconds)
                outcome = look(sums, min(end, sampling.n_units), seconds)
                tell(outcome)
                if outcome.stopped is not None:
                    break
            else:
                if outcome.seconds >= rules.max_seconds:
                    outcome = replace(outcome, stopped="time")
            keeper.keep(state)
    return outcome


@contextmanager
def batched_as(game: ChannelGame, state: State) -> Iterator[None]:
    """Batch a game's rows as when the state began: libraries may round a batch of another size differently."""
    before = game.memory_budget
    game.memory_budget = state.memory_budget
    try:
        yield
    finally:
        game.memory_budget = before
