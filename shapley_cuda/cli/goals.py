"""How much of a network is to be left, as options say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from ..groups import Group, pick_group
from ..networks import preset
from .errors import blame

__all__ = ["Goal", "read_goal"]


@dataclass(frozen=True)
class Goal:
    """What a plan is to reach.

    Attributes:
        option: the option that says it.
        name: ``"keep"``, ``"macs"``, ``"parameters"`` or ``"latency"``.
        value: a share; or, by the names of groups, shares and numbers of channels.
    """

    option: str
    name: str
    value: float | dict[str, int | float]

    @property
    def groups(self) -> list[str] | None:
        """The layers that it names; None where it is about all groups."""
        return list(self.value) if isinstance(self.value, Mapping) else None

    def for_groups(self, found: Sequence[Group]) -> dict[str, Any]:
        """The argument that says it, groups by their own names instead of those of any of their layers."""
        if not isinstance(self.value, Mapping):
            return {self.name: self.value}
        with blame(self.option):
            named: dict[str, int | float] = {}
            for layer, kept in self.value.items():
                group = pick_group(found, layer).name
                if group in named:
                    raise ValueError(f"each group must be named once, got {layer} and another layer of {group}")
                named[group] = kept
        return {self.name: named}


def read_goal(keep: Sequence[str] | None, preset_name: str | None, **budgets: float | None) -> Goal:
    """Read the one option among those of a plan that is given.

    Args:
        keep: a share, or for each of several layers ``"LAYER=SHARE"`` or ``"LAYER=CHANNELS"``.
        preset_name: see :func:`~shapley_cuda.preset`.
        budgets: shares of what the network costs, by what is counted.
    """
    options = {"keep": keep or None, "preset": preset_name, **budgets}
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter(
            f"exactly one of {', '.join(f'--{name}' for name in options)} must say how much is left, "
            f"got {' and '.join(given) or 'none'}",
            param_hint=given[-1] if given else "--keep",
        )
    if preset_name is not None:
        with blame("--preset"):
            return Goal("--preset", "keep", dict(preset(preset_name)))
    if keep:
        with blame("--keep"):
            return Goal("--keep", "keep", _read_keep(keep))
    name, share = next((name, value) for name, value in budgets.items() if value is not None)
    return Goal(f"--{name}", name, share)


def _read_keep(texts: Sequence[str]) -> float | dict[str, int | float]:
    if len(texts) == 1 and "=" not in texts[0]:
        share = _number(texts[0])
        if not 0 < share <= 1:
            raise ValueError(f"must be a share in (0, 1], or LAYER=CHANNELS for each layer, got {texts[0]!r}")
        return float(share)
    kept: dict[str, int | float] = {}
    for text in texts:
        layer, equals, number = text.partition("=")
        if not equals or layer in kept:
            raise ValueError(f"must be one share, or LAYER=NUMBER once for each layer, got {' '.join(texts)}")
        kept[layer] = _number(number)
    return kept


def _number(text: str) -> int | float:
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"must be a share such as 0.5, or a number of channels such as 24, got {text!r}") from None
