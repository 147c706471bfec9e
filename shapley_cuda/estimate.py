"""What a ranker returns: values of all players, how sure they are, and what they cost."""

from __future__ import annotations

import json
import reprlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from .files import read_file, read_record, write_whole

__all__ = ["Estimate"]

_FORMAT = "shapley_cuda.estimate/2"
_ERRORS = ("standard_error", "population_standard_error")


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values of the players of one group.

    Attributes:
        group: name of the group.
        method: the ranker that made it, e.g. ``"permutation"``.
        values: float64 ``[C]``; a player's Shapley value or other score, in units of the payoff, higher is more
            valuable.
        standard_error: float64 ``[C]``, how far each value may be off for the very samples it was estimated on: the
            standard deviation of its error over repetitions with other seeds. None where the method has none to give.
        n_evaluations: rows evaluated, one row being one sample under one coalition.
        seconds: wall-clock time it took.
        seed: the seed of the sampling; None where nothing is random.
        stopped: why it ended: ``"tolerance"``, ``"settled"``, ``"budget"``, ``"time"`` or ``"complete"``.
        options: the other settings that, with the seed, make the numbers reproducible.
        population_standard_error: float64 ``[C]``, how far each value may be off for the population that the samples
            were drawn from: over repetitions with other samples of the same number, too. None where the method has
            none to give. What further evaluations cannot reduce, but further samples can.
    """

    group: str
    method: str
    values: Tensor
    standard_error: Tensor | None
    n_evaluations: int
    seconds: float
    seed: int | None
    stopped: str
    options: dict[str, Any] = field(default_factory=dict)
    population_standard_error: Tensor | None = None

    def ranking(self) -> Tensor:
        """Players from the least to the most valuable, int64 ``[C]``. Equal values keep the players' order."""
        return torch.argsort(self.values, stable=True)

    def to_json(self) -> str:
        """Write all fields as JSON; numbers keep every bit."""
        record = asdict(self) | {"values": self.values.tolist(), "format": _FORMAT}
        for name in _ERRORS:
            record[name] = None if record[name] is None else record[name].tolist()
        return json.dumps(record, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Estimate:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not JSON or not such a record; the message says what was expected.
        """
        record = read_record(text, "an estimate", _FORMAT, get_type_hints(cls))
        for name in ("n_evaluations", "seconds"):
            if record[name] < 0:
                raise ValueError(f"{name} of an estimate must be at least 0, got {record[name]}")
        numbers = {"values": _numbers("values", record["values"])}
        n_players = len(numbers["values"])
        if not n_players or not bool(numbers["values"].isfinite().all()):
            raise ValueError(
                f"values of an estimate must be one or more finite numbers, got {reprlib.repr(record['values'])}"
            )
        for name in _ERRORS:
            if record[name] is None:
                continue
            numbers[name] = _numbers(name, record[name])
            if len(numbers[name]) != n_players:
                raise ValueError(
                    f"an estimate must have a {name} for each of its {n_players} values, got {len(numbers[name])}"
                )
            if not bool((numbers[name] >= 0).all()):  # infinite before there is enough to tell
                raise ValueError(f"{name} of an estimate must be at least 0, got {reprlib.repr(record[name])}")
        return cls(**record | numbers)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file, whole or not at all."""
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Estimate:
        """Read a file that :meth:`save` wrote."""
        return read_file(path, cls.from_json)


def _numbers(name: str, numbers: Any) -> Tensor:
    if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
        raise ValueError(f"{name} of an estimate must be a list of numbers, got {numbers!r}")
    return torch.tensor(numbers, dtype=torch.float64)
