"""What a report is about: the parts of a run that could be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..estimate import Estimate
from ..plans import PruningPlan
from ..run_record import RunRecord

__all__ = ["Cut", "Run"]

_MOST = 1e100  # a value beyond is damage, and too large to make an axis of


@dataclass(frozen=True)
class Cut:
    """Values, and the plan that was made of them.

    Attributes:
        plan: what was removed.
        estimates: by the names of the plan's groups; those that are not there were not ranked.

    Raises:
        ValueError: an estimate has not one value for each channel of its group, or one that cannot be drawn.
    """

    plan: PruningPlan
    estimates: Mapping[str, Estimate]

    def __post_init__(self) -> None:
        for name, estimate in self.estimates.items():
            if name not in self.plan.n_players:
                raise ValueError(f"values must be of a group that the plan cuts, got {name!r}")
            n_players = self.plan.n_players[name]
            if len(estimate.values) != n_players:
                raise ValueError(
                    f"values of {name!r} must be one for each of the plan's {n_players} channels, "
                    f"got {len(estimate.values)}"
                )
            if not bool((estimate.values.abs() < _MOST).all()):
                raise ValueError(f"values of {name!r} must be finite numbers below {_MOST:.0e}, got others")

    @property
    def n_channels(self) -> tuple[int, int]:
        """Channels of all groups, before and after."""
        before = sum(self.plan.n_players.values())
        return before, before - sum(map(len, self.plan.removed.values()))


@dataclass(frozen=True)
class Run:
    """A run of ``shapley-cuda prune``.

    Attributes:
        name: of its folder.
        whole: what was removed in all, by values of the original network; without estimates where it went in rounds.
        rounds: what each round did; empty where the network was pruned at once.
        record: the measurements; None where there are none.
        ranked: the network and the data that the values are of, as they were named.
        left_out: groups that turned out not to be prunable while they were ranked, and why.
        ranking_command: the words of the command that made the values, where that was another one.
    """

    name: str
    whole: Cut
    rounds: tuple[Cut, ...] = ()
    record: RunRecord | None = None
    ranked: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    ranking_command: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        """What the network is called."""
        named = self.record.named if self.record is not None else self.ranked
        return str(named.get("model") or self.name)

    @property
    def metric(self) -> str | None:
        """What payoffs are; None for the default."""
        named = self.ranked or (self.record.named if self.record is not None else {})
        return named.get("metric")
