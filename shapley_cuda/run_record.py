"""What ``shapley-cuda prune`` records of a run, beside the plan, the weights and the values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from .files import read_file, read_record, write_whole
from .latency import LatencyComparison

__all__ = ["RoundAccuracies", "RunRecord", "SizePoint", "Stage"]

_FORMAT = "shapley_cuda.results/1"


@dataclass(frozen=True)
class Stage:
    """The network at some stage.

    Attributes:
        name: of the stage.
        parameters: number of parameters.
        macs: multiply-accumulates for one sample.
        weight_bytes: of the weights on disk, the names beside them left out.
        accuracy: on the split test, as a share of 1; None where there is none.
    """

    name: str
    parameters: int
    macs: int
    weight_bytes: int
    accuracy: float | None


@dataclass(frozen=True)
class SizePoint:
    """The network cut to another size by the same values.

    Attributes:
        parameters: number of parameters.
        macs: multiply-accumulates for one sample.
        accuracy: on the split test, without any retraining, as a share of 1.
    """

    parameters: int
    macs: int
    accuracy: float


@dataclass(frozen=True)
class RoundAccuracies:
    """Accuracies of one round on the selection split, as shares of 1; None for what was not done.

    Attributes:
        pruned: right after the cut.
        recalibrated: after BatchNorm's statistics were taken anew.
        retrained: after retraining.
    """

    pruned: float
    recalibrated: float | None
    retrained: float | None


@dataclass(frozen=True)
class RunRecord:
    """A run of ``shapley-cuda prune``.

    Attributes:
        command: the words of the command, as they were typed.
        named: the network and the data, as they were named, see :class:`~shapley_cuda.cli.subject.Named`.
        stages: measurements, the original first.
        latencies: of the original and of the pruned network, the smallest batch first.
        n_test: samples of the split test; 0 where there is none.
        curve: the network cut to other sizes; empty where that was not wanted or could not be measured.
        rounds: what each round did; empty where the network was pruned at once.
        n_select: samples of the selection split, where there were rounds; else 0.
        select_before: accuracy of the original on that split; None where there were no rounds.
        retraining: the recipe; None where nothing was retrained.
        refused: groups that cannot be pruned, and why.
        environment: device, threads and versions.
        finished: when, as an ISO 8601 time with its zone.
        seconds: wall-clock time of the run.
    """

    command: tuple[str, ...]
    named: dict[str, Any]
    stages: tuple[Stage, ...]
    latencies: tuple[LatencyComparison, ...]
    n_test: int
    curve: tuple[SizePoint, ...]
    rounds: tuple[RoundAccuracies, ...]
    n_select: int
    select_before: float | None
    retraining: dict[str, Any] | None
    refused: dict[str, str]
    environment: dict[str, str]
    finished: str
    seconds: float

    def to_json(self) -> str:
        """Write all fields as JSON."""
        return json.dumps({"format": _FORMAT} | asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not JSON or not such a record; the message says what was expected.
        """
        record = read_record(text, "results of a run", _FORMAT, get_type_hints(cls))
        for name, kind in (("stages", Stage), ("curve", SizePoint), ("rounds", RoundAccuracies)):
            record[name] = tuple(kind(**fields) for fields in record[name])
        record["latencies"] = tuple(map(LatencyComparison.from_record, record["latencies"]))
        record["command"] = tuple(record["command"])
        found = cls(**record)
        if len(found.stages) < 2:
            raise ValueError(f"results of a run must have a stage before and one after, got {len(found.stages)}")
        measured: list[Stage | SizePoint] = [*found.stages, *found.curve]
        sizes = [size for one in measured for size in (one.parameters, one.macs)]
        sizes += [stage.weight_bytes for stage in found.stages]
        sizes += [count for one in found.latencies for count in (one.batch_size, one.turns, one.threads)]
        if min(sizes) < 1 or min(found.n_test, found.n_select) < 0:
            raise ValueError("results of a run must have positive sizes, got others")
        times = [time for one in found.latencies for time in (one.before.median_ms, one.after.median_ms, one.speed_up)]
        if min(times, default=1) <= 0 or found.seconds < 0:
            raise ValueError("results of a run must have positive times, got others")
        if not all(accuracy is None or 0 <= accuracy <= 1 for accuracy in found._accuracies()):
            raise ValueError("results of a run must have accuracies from 0 to 1, got others")
        return found

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file, whole or not at all."""
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read a file that :meth:`save` wrote; errors name it."""
        return read_file(path, cls.from_json)

    def _accuracies(self) -> Iterator[float | None]:
        yield from (stage.accuracy for stage in self.stages)
        yield from (point.accuracy for point in self.curve)
        yield self.select_before
        for done in self.rounds:
            yield from (done.pruned, done.recalibrated, done.retrained)
