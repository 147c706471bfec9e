"""How much of a network is to be left, as options say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import typer

from ..groups import Group, pick_group
from ..kept import least_kept
from ..networks import preset
from .errors import blame

__all__ = ["Goal", "read_goal"]

Kept: TypeAlias = float | dict[str, int | float]
"""A share; or, by the names of groups, shares and numbers of channels."""

_AT_LEAST = "--keep-at-least"


@dataclass(frozen=True)
class Goal:
    """What a plan is to reach.

    Attributes:
        option: the option that says it.
        name: ``"keep"``, ``"macs"``, ``"parameters"`` or ``"latency"``.
        value: how much.
        at_least: what groups keep whatever the value; None for the default.
    """

    option: str
    name: str
    value: Kept
    at_least: Kept | None

    @property
    def groups(self) -> list[str] | None:
        """The layers that it names; None where it is about all groups."""
        return list(self.value) if isinstance(self.value, Mapping) else None

    def for_groups(self, found: Sequence[Group]) -> dict[str, Any]:
        """The arguments that say it, groups by their own names instead of those of any of their layers."""
        with blame(self.option):
            value = _by_group(self.value, found)
        with blame(_AT_LEAST):
            at_least = None if self.at_least is None else _by_group(self.at_least, found)
            least_kept({group.name: (group.name, group.n_players) for group in found}, at_least)
        return {self.name: value, "keep_at_least": at_least}


def read_goal(
    keep: Sequence[str] | None, preset_name: str | None, at_least: Sequence[str] | None, **budgets: float | None
) -> Goal:
    """Read the one option among those of a plan that is given.

    Args:
        keep: a share, or for each of several layers ``"LAYER=SHARE"`` or ``"LAYER=CHANNELS"``.
        preset_name: see :func:`~shapley_cuda.preset`.
        at_least: what groups keep whatever happens, as in ``keep``.
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
    with blame(_AT_LEAST):
        least = _read_kept(at_least) if at_least else None
    if preset_name is not None:
        with blame("--preset"):
            return Goal("--preset", "keep", dict(preset(preset_name)), least)
    if keep:
        with blame("--keep"):
            return Goal("--keep", "keep", _read_keep(keep), least)
    name, share = next((name, value) for name, value in budgets.items() if value is not None)
    return Goal(f"--{name}", name, share, least)


def _by_group(kept: Kept, found: Sequence[Group]) -> Kept:
    if not isinstance(kept, Mapping):
        return kept
    named: dict[str, int | float] = {}
    for layer, number in kept.items():
        group = pick_group(found, layer).name
        if group in named:
            raise ValueError(f"each group must be named once, got {layer} and another layer of {group}")
        named[group] = number
    return named


def _read_keep(texts: Sequence[str]) -> Kept:
    kept = _read_kept(texts)
    if isinstance(kept, float) and not 0 < kept <= 1:
        raise ValueError(f"must be a share in (0, 1], or LAYER=CHANNELS for each layer, got {texts[0]!r}")
    return kept


def _read_kept(texts: Sequence[str]) -> Kept:
    if len(texts) == 1 and "=" not in texts[0]:
        return float(_number(texts[0]))
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
