"""What a study finds, and its JSON."""

from __future__ import annotations

import json
import reprlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from ..files import is_of_kind, read_file, read_record, write_whole
from .config import StudyConfig

__all__ = ["LayerResult", "MaskedAccuracy", "Measurement", "Oracle", "Reference", "Retrained", "StudyResult"]

_FORMAT = "shapley_cuda.study/1"


@dataclass(frozen=True)
class Reference:
    """The Shapley values that a layer's rankings are compared with.

    Attributes:
        method: ``"exact"``, or ``"permutation"`` for a long run in two halves.
        n_evaluations: rows it took.
        seconds: time it took.
        error: relative RMSE that the reference itself has: half of that between its halves; 0 if exact.
        tau_of_halves: Kendall's tau between the halves; 1 if exact.
    """

    method: str
    n_evaluations: int
    seconds: float
    error: float
    tau_of_halves: float


@dataclass(frozen=True)
class Oracle:
    """The oracle's sets that a layer's rankings are compared with.

    Attributes:
        method: ``"exhaustive"`` or ``"greedy"``.
        max_size: size of the largest sets.
        n_evaluations: rows it took.
        seconds: time it took.
    """

    method: str
    max_size: int
    n_evaluations: int
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """One ranking of one layer, compared.

    Attributes:
        method: its name in :data:`~shapley_cuda.study.METHODS`.
        passes: its budget, in walks for each sample; None where it takes what it takes.
        seed: None where nothing is random.
        n_evaluations: rows it took.
        seconds: time it took.
        tau: Kendall's tau to the reference; None where all values are equal.
        error: relative RMSE to the reference; None where the method does not estimate Shapley values.
        removed: share of its lowest-ranked players in the oracle's sets to remove, all sizes pooled.
        kept: share of its highest-ranked players in the oracle's sets to keep, all sizes pooled.
    """

    method: str
    passes: int | None
    seed: int | None
    n_evaluations: int
    seconds: float
    tau: float | None
    error: float | None
    removed: float
    kept: float


@dataclass(frozen=True)
class LayerResult:
    """What was found of one layer.

    Attributes:
        layer: name of its group.
        n_players: its channels.
        n_samples: images that values are estimated on.
        reference: what values are compared with.
        oracle: what sets are compared with.
        measurements: of all methods, budgets and seeds.
        skipped: why a method or a budget of it is missing, by method.
        taus: Kendall's tau between the rankings of two methods, by their names in alphabetical order joined by "/";
            each with its largest budget and first seed. None where one has all values equal.
    """

    layer: str
    n_players: int
    n_samples: int
    reference: Reference
    oracle: Oracle
    measurements: tuple[Measurement, ...]
    skipped: dict[str, str]
    taus: dict[str, float | None]


@dataclass(frozen=True)
class MaskedAccuracy:
    """Accuracy on the test split with a share of the channels of every layer removed, before any retraining."""

    method: str
    seed: int | None
    share: float
    accuracy: float


@dataclass(frozen=True)
class Retrained:
    """Accuracies on the test split of a pruned network.

    Attributes:
        method: what ranked its channels.
        seed: of the ranking and the retraining.
        share: of the channels of every layer that were removed.
        parameters: that it has left.
        before: accuracy as it was cut.
        recalibrated: with BatchNorm's statistics measured anew and no weight changed; None without BatchNorm.
        after: retrained.
    """

    method: str
    seed: int
    share: float
    parameters: int
    before: float
    recalibrated: float | None
    after: float


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        config: what was asked for.
        layers: each layer's comparison.
        unpruned: accuracy of the network as it was, on the test split.
        parameters: of the network as it was.
        n_test: images that accuracies are measured on.
        accuracies: against the share of channels removed.
        retrained: accuracies before and after retraining.
        seconds: time that all of it took.
        environment: device, threads, versions and use of memory that the times are those of.
    """

    config: StudyConfig
    layers: tuple[LayerResult, ...]
    unpruned: float
    parameters: int
    n_test: int
    accuracies: tuple[MaskedAccuracy, ...]
    retrained: tuple[Retrained, ...]
    seconds: float
    environment: dict[str, str]

    def to_json(self) -> str:
        """Write all fields as JSON; numbers keep every bit."""
        return json.dumps({"format": _FORMAT} | asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> StudyResult:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not JSON or not such a record; the message says what was expected.
        """
        record = read_record(text, "a study", _FORMAT, [item.name for item in fields(cls)])
        try:
            for name, kind in get_type_hints(cls).items():
                if not is_of_kind(record[name], kind):
                    raise TypeError(f"{name} {reprlib.repr(record[name])}")
            record["config"] = _with_tuples(StudyConfig, record["config"])
            record["layers"] = tuple(_layer_of_record(layer) for layer in record["layers"])
            record["accuracies"] = tuple(MaskedAccuracy(**point) for point in record["accuracies"])
            record["retrained"] = tuple(Retrained(**point) for point in record["retrained"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"a study must hold the records that it was written with, got: {error}") from error
        return cls(**record)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file, whole or not at all."""
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> StudyResult:
        """Read a file that :meth:`save` wrote."""
        return read_file(path, cls.from_json)


def _with_tuples(kind: type[Any], record: dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})


def _layer_of_record(record: dict[str, Any]) -> LayerResult:
    return LayerResult(
        **record
        | {
            "reference": Reference(**record["reference"]),
            "oracle": Oracle(**record["oracle"]),
            "measurements": tuple(Measurement(**measurement) for measurement in record["measurements"]),
        }
    )
