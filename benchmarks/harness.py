"""How a case is measured: agree first, then warm up, then time all contenders in turn.

Contenders take turns within one run, in an order that moves on each round, so that what else the machine does meets
them alike. Figures are medians over the rounds with their quartiles; the speed-up is the median of each round's ratio.

On CUDA a kernel's time is that between two events on the device, with the L2 cache overwritten before and the queue
kept busy while the host launches: what the device needs, not what the host needs to ask for it. Whole layers are
timed by the wall clock around a synchronisation, launches included. On the CPU caches are as warm as the contenders
leave them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .machine import Call, best_seconds, peak_memory, synchronize

_SHORT = 2e-3  # seconds; shorter calls on the CPU are repeated until they take this long
_HEAD_START = 400_000  # GPU clock cycles, about 0.2 ms, for the host to queue a call's launches in


def deviation(ours: Any, baseline: Any) -> float:
    """Greatest absolute difference over the greatest absolute value of the baseline; infinite where NaNs differ."""
    if not isinstance(ours, Tensor):
        return max(deviation(a, b) for a, b in zip(ours, baseline, strict=True))
    if ours.shape != baseline.shape:
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    difference = (ours.double() - baseline.double()).abs().max()
    scale = baseline.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    relative = float(difference / scale)
    return relative if relative == relative else float("inf")


@dataclass(frozen=True)
class Baseline:
    """A contender in plain PyTorch. `compare` tells how far its result is from ours."""

    name: str
    call: Call
    compare: Callable[[Any, Any], float] = deviation


@dataclass(frozen=True)
class Case:
    """One piece of work, ours and theirs.

    Attributes:
        op, shape, dtype: what the row says.
        ours: our call.
        baselines: the same work in plain PyTorch.
        tolerance: the greatest deviation that still counts as agreement.
        bytes_moved: the least that must go through memory: every input read once, every output written once.
        operations: float additions and multiplications that our algorithm needs; exponentials count as one.
        rows: data rows that the case evaluates, for rates.
        wall_clock: time whole calls as the user waits for them, also on CUDA.
    """

    op: str
    shape: str
    ours: Call
    baselines: list[Baseline]
    tolerance: float
    dtype: str = "float32"
    bytes_moved: float | None = None
    operations: float | None = None
    rows: int | None = None
    wall_clock: bool = False


@dataclass(frozen=True)
class Row:
    """What was measured of a case against one baseline. Times in ms: quartiles 1, 2 (the median) and 3."""

    op: str
    shape: str
    dtype: str
    baseline: str
    agreed: bool
    max_error: float
    tolerance: float
    baseline_ms: tuple[float, float, float] | None = None
    ours_ms: tuple[float, float, float] | None = None
    speed_up: tuple[float, float, float] | None = None
    gb_per_s: float | None = None
    percent_of_peak: float | None = None
    bound_by: str | None = None
    ours_peak_mib: float | None = None
    baseline_peak_mib: float | None = None
    rounds: int = 0
    rows_per_s: float | None = None


@dataclass
class Stopwatch:
    """Times calls on a device."""

    device: torch.device
    wall_clock: bool = False
    _cache_filler: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.device.type == "cuda" and not self.wall_clock:
            l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
            self._cache_filler = torch.empty(2 * l2_bytes, dtype=torch.uint8, device=self.device)

    def seconds(self, call: Call, repeats: int) -> float:
        """Time of one call; short ones are the mean over some repeats (on the CPU only)."""
        if self._cache_filler is not None:
            return self._between_events(call)
        synchronize(self.device)
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize(self.device)
        return (time.perf_counter() - start) / repeats

    def _between_events(self, call: Call) -> float:
        assert self._cache_filler is not None
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._cache_filler.zero_()
        torch.cuda._sleep(_HEAD_START)
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def time_in_turn(calls: list[Call], stopwatch: Stopwatch, budget_s: float, least: int = 3) -> list[list[float]]:
    """Seconds of every call in every round, ``[calls][rounds]``, after one more call each that tells how many fit."""
    estimates = [stopwatch.seconds(call, 1) for call in calls]
    can_repeat = stopwatch.device.type == "cpu"
    repeats = [max(1, min(1000, int(_SHORT / max(s, 1e-7)))) if can_repeat else 1 for s in estimates]
    round_s = sum(s * n for s, n in zip(estimates, repeats, strict=True))
    rounds = max(least, min(50, int(budget_s / round_s)))
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for place in range(len(calls)):
            which = (turn + place) % len(calls)
            times[which].append(stopwatch.seconds(calls[which], repeats[which]))
    return times


def quartiles(values: list[float], scale: float = 1.0) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    q1, q2, q3 = statistics.quantiles((scale * v for v in values), n=4, method="inclusive")
    return q1, q2, q3


@torch.inference_mode()
def measure(case: Case, device: torch.device, ceilings: Mapping[str, float], budget_s: float) -> Iterator[Row]:
    """Measure a case against each of its baselines. One that disagrees is reported and never timed."""
    result = case.ours()  # these first calls also bring in what is loaded or compiled on first use
    errors = [b.compare(result, b.call()) for b in case.baselines]
    del result
    agreeing = [b for b, e in zip(case.baselines, errors, strict=True) if e <= case.tolerance]
    times: list[list[float]] = []
    peaks: list[float] = []
    if agreeing:
        calls = [case.ours, *(b.call for b in agreeing)]
        times = time_in_turn(calls, Stopwatch(device, case.wall_clock), budget_s)
        peaks = [peak_memory(call, device) for call in calls]
    for baseline, error in zip(case.baselines, errors, strict=True):
        common = (case.op, case.shape, case.dtype, baseline.name)
        if baseline not in agreeing:
            yield Row(*common, False, error, case.tolerance)
            continue
        place = 1 + agreeing.index(baseline)
        ours, theirs = times[0], times[place]
        ours_s = statistics.median(ours)
        bound_by, percent = _share_of_peak(case, ceilings, ours_s)
        yield Row(
            *common,
            agreed=True,
            max_error=error,
            tolerance=case.tolerance,
            baseline_ms=quartiles(theirs, 1e3),
            ours_ms=quartiles(ours, 1e3),
            speed_up=quartiles([b / a for a, b in zip(ours, theirs, strict=True)]),
            gb_per_s=None if case.bytes_moved is None else case.bytes_moved / ours_s / 1e9,
            percent_of_peak=percent,
            bound_by=bound_by,
            ours_peak_mib=peaks[0],
            baseline_peak_mib=peaks[place],
            rounds=len(ours),
            rows_per_s=None if case.rows is None else case.rows / ours_s,
        )


def _share_of_peak(case: Case, ceilings: Mapping[str, float], seconds: float) -> tuple[str | None, float | None]:
    """The shortest time that the measured ceilings allow, as a percentage of the time taken, and which one binds."""
    if case.bytes_moved is None or case.operations is None:
        return None, None
    memory_s = case.bytes_moved / ceilings["copy_gb_per_s"] / 1e9
    arithmetic_s = case.operations / ceilings["matmul_gflop_per_s"] / 1e9
    bound_by = "memory" if memory_s >= arithmetic_s else "arithmetic"
    return bound_by, 100 * max(memory_s, arithmetic_s) / seconds


@torch.inference_mode()
def fastest(variants: Mapping[str, Call], device: torch.device) -> tuple[str, Call]:
    """The variant of a baseline that is fastest here, so that a chunk size or layout is never held against it."""
    if len(variants) == 1:
        return next(iter(variants.items()))
    times = {name: best_seconds(call, device, 3) for name, call in variants.items()}
    best = min(times, key=times.__getitem__)
    return best, variants[best]
