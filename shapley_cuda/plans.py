"""Pruning plans: which channels go, and what the network will cost then."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .files import read_record

__all__ = ["MeasuredLatency", "PruningPlan"]

_FORMAT = "shapley_cuda.plan/2"


@dataclass(frozen=True)
class MeasuredLatency:
    """How long a batch took before and after.

    Attributes:
        before_ms: shortest of several times of the original network, in milliseconds.
        after_ms: the same of the pruned network.
        input_shape: shape of the batch.
        device: what it ran on.
    """

    before_ms: float
    after_ms: float
    input_shape: tuple[int, ...]
    device: str

    def __str__(self) -> str:
        share = self.after_ms / self.before_ms
        return f"latency of {list(self.input_shape)} {self.before_ms:.3g} ms -> {self.after_ms:.3g} ms ({share:.1%})"


@dataclass(frozen=True)
class PruningPlan:
    """Which channels to remove, and what the network will cost then.

    Attributes:
        removed: for each group, by name, the channels (or heads) to remove in the numbering of the original network,
            ascending.
        n_players: for each group, how many it has before.
        parameters: number of parameters, before and after.
        macs: multiply-accumulates of convolutions, linear layers and matrix products for one sample, before and
            after.
        input_shape: shape of the one sample that macs were counted on.
        latency: what was measured, where the plan was made for a latency.
        options: the settings that the plan was made with.
    """

    removed: dict[str, list[int]]
    n_players: dict[str, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    input_shape: tuple[int, ...]
    latency: MeasuredLatency | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def kept(self, group: str) -> list[int]:
        """The channels of a group that stay, ascending."""
        gone = set(self.removed[group])
        return [c for c in range(self.n_players[group]) if c not in gone]

    def __str__(self) -> str:
        groups = ", ".join(f"{g}: {n} -> {n - len(self.removed[g])}" for g, n in self.n_players.items())
        (p0, p1), (m0, m1) = self.parameters, self.macs
        latency = f"; {self.latency}" if self.latency else ""
        sizes = f"parameters {p0:,} -> {p1:,} ({p1 / p0:.1%}); MACs {m0:,} -> {m1:,} ({m1 / m0:.1%})"
        return f"{groups}; {sizes}{latency}"

    def to_json(self) -> str:
        """Write the plan as JSON."""
        return json.dumps(asdict(self) | {"format": _FORMAT}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not JSON or not such a plan; the message says what was expected.
        """
        record = read_record(text, "a plan", _FORMAT, [f.name for f in fields(cls)])
        for name, length in (("parameters", 2), ("macs", 2), ("input_shape", None)):
            sizes = record[name]
            if not _are_counts(sizes) or not sizes or 0 in sizes or length not in (None, len(sizes)):
                raise ValueError(f"{name} of a plan must be a list of {length or 'the'} sizes, got {record[name]!r}")
            record[name] = tuple(record[name])
        removed, n_players = record["removed"], record["n_players"]
        if not isinstance(n_players, dict) or not _are_counts(list(n_players.values())):
            raise ValueError(f"n_players of a plan must map groups to numbers of channels, got {n_players!r}")
        if not isinstance(removed, dict) or set(removed) != set(n_players):
            raise ValueError(f"removed of a plan must list the channels of {sorted(n_players)}, got {removed!r}")
        for group, channels in removed.items():
            _check_channels(group, channels, n_players[group])
        if not isinstance(record["options"], dict):
            raise ValueError(f"options of a plan must map names to settings, got {record['options']!r}")
        return cls(**record | {"latency": _read_latency(record["latency"])})


def _read_latency(record: Any) -> MeasuredLatency | None:
    if record is None:
        return None
    names = {f.name for f in fields(MeasuredLatency)}
    if (
        not isinstance(record, dict)
        or set(record) != names
        or not all(_is_time(record[name]) for name in ("before_ms", "after_ms"))
        or not _are_counts(record["input_shape"])
        or not isinstance(record["device"], str)
    ):
        raise ValueError(f"latency of a plan must be null or have the fields {sorted(names)}, got {record!r}")
    return MeasuredLatency(**record | {"input_shape": tuple(record["input_shape"])})


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_channels(group: str, channels: Any, n_players: int) -> None:
    if not _are_counts(channels) or sorted(set(channels)) != channels or (channels and channels[-1] >= n_players):
        raise ValueError(
            f"a plan must remove ascending channels of {group!r} from 0 to {n_players - 1}, got {channels}"
        )
    if len(channels) >= n_players:
        raise ValueError(f"a plan must keep a channel of {group!r}, got all {n_players} removed")
