"""Planning: from rankings to the channels that go.

The networks that a plan may lead to form a line: the first has of each group as few channels as may be, and each
further one a channel more, up to the whole network. Which group's turn it is depends on how channels compete; within a
group the more valuable always comes first. A budget takes the last network on the line that fits it, found by
bisection.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .counting import count_macs, count_parameters, measure_latencies
from .estimate import Estimate
from .groups import ChannelCutter, Group, GroupError
from .kept import ROUNDING, as_recorded, default_least, kept_channels, least_kept
from .plans import MeasuredLatency, PruningPlan
from .surgery import prunable_groups

__all__ = ["measured_latency", "plan_of_removed", "plan_pruning"]

_ACROSS = ("uniform", "global")
_NORMALISE = ("none", "mean")
_LATENCY_REPEATS = 9


def plan_pruning(
    model: nn.Module,
    rankings: Mapping[str, Estimate | Tensor],
    keep: float | Mapping[str, int | float] | None = None,
    example_input: Tensor | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency: float | None = None,
    across: str = "uniform",
    normalise: str = "none",
    multiple_of: int = 1,
    keep_at_least: float | Mapping[str, int | float] | None = None,
) -> PruningPlan:
    """Decide which channels go: in each group, those of the least value.

    How many is said by exactly one of ``keep``, ``macs``, ``parameters`` and ``latency``. The last three are budgets:
    shares of what the original network costs, floats in (0, 1]; the plan leaves the largest network within them.

    Args:
        model: the network that was ranked; unchanged.
        rankings: for each group, by name, an estimate or a tensor of values ``[C]``, higher is more valuable. Groups
            that are not ranked stay whole.
        keep: the share of channels to keep, a float in (0, 1]: of every group, or with ``across="global"`` of all
            groups together, at most. Or for each group, by the name that it has in ``rankings``, a share (float) or a
            number of channels (int), as :func:`~shapley_cuda.networks.preset` gives them. At least one channel of each
            group stays.
        example_input: a batch that the model accepts, on its device. MACs are counted on its first sample; a latency
            is that of the batch as it is, so its size matters.
        macs: budget of multiply-accumulates, see :func:`~shapley_cuda.count_macs`.
        parameters: budget of parameters.
        latency: budget of time. Original and cut network take turns, and of each the shortest of nine times counts.
        across: how channels of different groups compete. ``"uniform"``: all groups keep the same share, to one channel.
            ``"global"``: by value over cost, so that groups of little value for what they cost lose more. A channel
            costs what cutting its group to one channel would save of the budget, divided by the channels cut; for
            ``latency``, of MACs, since times of such small differences are mostly noise; for ``keep``, all cost the
            same.
        normalise: what makes values of different groups comparable, for ``"global"``. ``"none"``: they are, as Shapley
            values are: all in units of one payoff, summing to what the group is worth. (Within 15 % of its parameters
            the shipped LeNet-5 classifies 77 % of the test images rightly this way, 71 % with ``"mean"`` and 73 % with
            ``"uniform"``; within 15 % of its MACs 58, 52 and 65 %.)
            ``"mean"``: values are divided by the mean of their group's absolute values, as other scores need: weights
            of different layers differ in scale whatever they are good for.
        multiple_of: kept numbers of channels are rounded up to a multiple of this, such as 8 or 16 for tensor cores; a
            group that the multiple exceeds stays whole. Heads are rounded so that their channels are such a multiple.
        keep_at_least: what a group keeps however little it is worth, where a budget or the channels of other groups
            decide how many: a share of every group, a float in [0, 1], rounded up to whole channels (1 less
            ``torch_pruning``'s ``max_pruning_ratio``); or for some groups, by their names, a share or a number (int).
            Default: 0.1 with ``across="global"``, since values are those of channels in the whole network and tell
            little of a group that is all but gone; else one channel, which always stays.

    Returns:
        A :class:`PruningPlan`. Channels of equal value go in the order of their numbers. The same arguments give the
        same plan, but for ``latency``, which is measured; the plan records what was measured.

    Raises:
        GroupError: a group does not exist or cannot be pruned, as far as its layers tell or the cut network runs;
            :func:`prune` also compares outputs.
        ValueError: not exactly one of the four is given, one is out of range or less than the smallest network needs
            (the message says how much that is); ``keep`` or ``keep_at_least`` names a group that is not ranked; both
            say what each group keeps; a ranking is another group's or has not one value per channel; or two rankings
            name the same group by different layers.

    Example:
        >>> plan = sc.plan_pruning(model, {"conv2": estimate}, keep=0.5, example_input=images)
        >>> plan = sc.plan_pruning(model, estimates, macs=0.4, example_input=images, across="global")
        >>> print(plan)
    """
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"plan_pruning: example_input must be a batch that the model accepts, got {type(example_input).__name__}"
        )
    goal, wanted = _only_goal(keep=keep, macs=macs, parameters=parameters, latency=latency)
    _check_choices(goal, wanted, across, normalise, multiple_of, keep_at_least)
    keep_at_least = default_least(across) if keep_at_least is None else keep_at_least
    ranked = _ranked_groups(model, rankings, keep, example_input[:1])
    sizes = {group.name: group.n_players for group in ranked}
    costs = _Costs(goal, model, ranked, example_input)
    if goal == "keep" and across == "uniform":
        kept = {group.name: group.rounded(group.n_kept(wanted), multiple_of) for group in ranked}
    else:
        floors = least_kept({group.alias: (group.name, group.n_players) for group in ranked}, keep_at_least)
        if across == "global":
            # Of the least that there can be, so that a floor changes nothing but where the line begins.
            least = {group.name: group.rounded(1, multiple_of) for group in ranked}
            prices = {name: costs.price({**sizes, name: least[name]}) for name in sizes}
            turns = _by_worth(ranked, prices, normalise)
        else:
            turns = _by_share(sizes)
        kept = _largest_within(_Line(ranked, turns, multiple_of, floors), costs, goal, wanted)
    options = {goal: as_recorded(wanted), "across": across, "normalise": normalise, "multiple_of": multiple_of}
    options |= {"keep_at_least": as_recorded(keep_at_least)}
    return plan_of_removed(
        model, costs.cut(kept), costs.removed(kept), sizes, example_input[:1], costs.latency(kept), options
    )


def plan_of_removed(
    model: nn.Module,
    pruned: nn.Module,
    removed: dict[str, list[int]],
    n_players: dict[str, int],
    sample: Tensor,
    latency: MeasuredLatency | None,
    options: dict[str, Any],
) -> PruningPlan:
    """Count what a network costs before and after, and write the plan down."""
    macs_before = count_macs(model, sample)
    with _cut_network_runs(removed):
        macs_after = count_macs(pruned, sample)
    return PruningPlan(
        removed=removed,
        n_players=n_players,
        parameters=(count_parameters(model), count_parameters(pruned)),
        macs=(macs_before, macs_after),
        input_shape=tuple(sample.shape),
        latency=latency,
        options=options,
    )


def measured_latency(model: nn.Module, pruned: nn.Module, batch: Tensor) -> MeasuredLatency:
    """Time a network and what is left of it, in turns."""
    before, after = measure_latencies([model, pruned], batch, _LATENCY_REPEATS)
    return MeasuredLatency(before, after, tuple(batch.shape), str(batch.device))


@dataclass(frozen=True)
class _RankedGroup:
    """A group, the name it has among the rankings, its players' values, float64 ``[C]``, and the channels of each."""

    name: str
    alias: str
    values: Tensor
    channels_per_player: int

    @property
    def n_players(self) -> int:
        return self.values.shape[0]

    def n_kept(self, keep: float | Mapping[str, int | float]) -> int:
        is_mapping = isinstance(keep, Mapping)
        wanted = keep[self.alias] if isinstance(keep, Mapping) else keep
        return kept_channels(self.alias, self.n_players, wanted, is_number_allowed=is_mapping)

    def rounded(self, n_kept: int, multiple_of: int) -> int:
        """The least number of players, no smaller, whose channels are a multiple; all where there are not so many."""
        step = multiple_of // math.gcd(multiple_of, self.channels_per_player)
        return min(self.n_players, -(-n_kept // step) * step)

    def removed(self, n_kept: int) -> list[int]:
        order = torch.argsort(self.values, stable=True)
        return sorted(order[: self.n_players - n_kept].tolist())


class _Line:
    """Networks of growing size, by how many channels of each group they keep.

    Args:
        ranked: the groups.
        turns: the group that each next channel belongs to, beyond the first channel of each.
        multiple_of: what kept numbers are rounded up to.
        floors: how many channels each group has in all of them.
    """

    def __init__(self, ranked: list[_RankedGroup], turns: list[str], multiple_of: int, floors: Mapping[str, int]):
        self._ranked, self._turns, self._multiple_of, self._floors = ranked, turns, multiple_of, floors

    def __len__(self) -> int:
        return len(self._turns) + 1

    def __getitem__(self, place: int) -> dict[str, int]:
        joined = Counter(self._turns[:place])
        reached = {name: max(1 + joined[name], floor) for name, floor in self._floors.items()}
        return {group.name: group.rounded(reached[group.name], self._multiple_of) for group in self._ranked}


class _Costs:
    """What networks that keep so many channels of each group cost, as a share of the original, in a budget's unit."""

    def __init__(self, goal: str, model: nn.Module, ranked: list[_RankedGroup], batch: Tensor):
        self._goal, self._model, self._batch = goal, model, batch
        self._groups = {group.name: group for group in ranked}
        self._n_players = sum(group.n_players for group in ranked)
        self._cutter = ChannelCutter(model, self._groups, batch[:1])
        self._latencies: dict[tuple[int, ...], MeasuredLatency] = {}

    def removed(self, kept: Mapping[str, int]) -> dict[str, list[int]]:
        return {name: group.removed(kept[name]) for name, group in self._groups.items()}

    def cut(self, kept: Mapping[str, int]) -> nn.Module:
        return self._cutter.cut(self.removed(kept))

    def share(self, kept: Mapping[str, int]) -> float:
        if self._goal == "keep":
            return sum(kept.values()) / self._n_players
        with _cut_network_runs(self._groups):
            measured = self.latency(kept)
            if measured is not None:
                return measured.after_ms / measured.before_ms
            return self._count(self.cut(kept)) / self._whole

    def price(self, kept: Mapping[str, int]) -> float:
        """What each channel costs that these numbers leave out: a share of the original, in MACs if that is time."""
        n_removed = self._n_players - sum(kept.values())
        if self._goal == "keep" or not n_removed:
            return 1 / self._n_players
        with _cut_network_runs(self._groups):
            return (1 - self._count(self.cut(kept)) / self._whole) / n_removed

    def latency(self, kept: Mapping[str, int]) -> MeasuredLatency | None:
        """Measured once for each network; None where the budget is not one of time."""
        if self._goal != "latency":
            return None
        key = tuple(kept.values())
        if key not in self._latencies:
            self._latencies[key] = measured_latency(self._model, self.cut(kept), self._batch)
        return self._latencies[key]

    @cached_property
    def _whole(self) -> int:
        return self._count(self._model)

    def _count(self, model: nn.Module) -> int:
        return count_parameters(model) if self._goal == "parameters" else count_macs(model, self._batch[:1])


def _largest_within(line: _Line, costs: _Costs, goal: str, budget: float) -> dict[str, int]:
    """The last network on the line that costs no more than the budget; costs grow along the line."""
    if budget == 1:
        return line[len(line) - 1]
    smallest = costs.share(line[0])
    if smallest > budget * ROUNDING:
        raise ValueError(
            f"plan_pruning: {goal} must be at least {math.ceil(smallest * 1e4) / 1e4:.4f}, what is left with "
            f"{sum(line[0].values())} channels in the {len(line[0])} groups, the fewest that keep_at_least and "
            f"multiple_of allow, got {budget}"
        )
    fits, exceeds = 0, len(line) - 1
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        if costs.share(line[middle]) <= budget * ROUNDING:
            fits = middle
        else:
            exceeds = middle
    return line[fits]


@contextmanager
def _cut_network_runs(groups: Iterable[str]) -> Iterator[None]:
    """Say what is wrong where it does not: layers alone do not tell that the code between them counts channels."""
    try:
        yield
    except RuntimeError as error:
        raise GroupError(f"groups {', '.join(groups)} cannot be pruned: the cut network fails with: {error}") from error


def _by_share(sizes: Mapping[str, int]) -> list[str]:
    """Turns that give all groups the same share, rounded to whole channels."""
    joining = [((n - 0.5) / size, name) for name, size in sizes.items() for n in range(2, size + 1)]
    return [name for _, name in sorted(joining, key=lambda turn: turn[0])]


def _by_worth(ranked: list[_RankedGroup], prices: Mapping[str, float], normalise: str) -> list[str]:
    """Turns by value over price, the greatest first."""
    joining = []
    for group in ranked:
        values, price = group.values.sort(descending=True).values, prices[group.name]
        if normalise == "mean":
            values = values / values.abs().mean().clamp_min(torch.finfo(torch.float64).tiny)
        # What does harm comes last, and of equal harm what also costs more.
        worths = torch.where(values > 0, values / price, values * price)
        joining += [(worth, group.name) for worth in worths[1:].tolist()]
    return [name for _, name in sorted(joining, key=lambda turn: -turn[0])]


def _ranked_groups(
    model: nn.Module, rankings: Mapping[str, Estimate | Tensor], keep: Any, sample: Tensor
) -> list[_RankedGroup]:
    if not isinstance(rankings, Mapping):
        raise TypeError(f"rankings must map groups to estimates, got {type(rankings).__name__}")
    if not rankings:
        raise ValueError("rankings must hold at least one group, got none")
    if isinstance(keep, Mapping) and set(keep) != set(rankings):
        raise ValueError(f"keep must name the groups that are ranked, {sorted(rankings)}, got {sorted(keep)}")
    ranked: dict[str, _RankedGroup] = {}
    for (alias, ranking), group in zip(rankings.items(), prunable_groups(model, rankings, sample), strict=True):
        if group.name in ranked:
            raise ValueError(f"rankings must name each group once, got {alias!r} and another layer of {group.name!r}")
        ranked[group.name] = _RankedGroup(group.name, alias, _values(alias, ranking, group), group.channels_per_player)
    return list(ranked.values())


def _values(alias: str, ranking: Estimate | Tensor, group: Group) -> Tensor:
    if isinstance(ranking, Estimate) and ranking.group != group.name:
        raise ValueError(f"ranking of {alias!r} must be of group {group.name!r}, got one of {ranking.group!r}")
    values = ranking.values if isinstance(ranking, Estimate) else torch.as_tensor(ranking)
    if values.shape != (group.n_players,):
        raise ValueError(f"ranking of {alias!r} must have {group.n_players} values, got shape {list(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"ranking of {alias!r} must be finite, got NaN or infinite values")
    return values.detach().double().cpu()


def _only_goal(**goals: Any) -> tuple[str, Any]:
    given = [name for name, value in goals.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"plan_pruning: exactly one of {', '.join(goals)} must be given, got {' and '.join(given) or 'none'}"
        )
    return given[0], goals[given[0]]


def _check_choices(goal: str, wanted: Any, across: str, normalise: str, multiple_of: int, keep_at_least: Any) -> None:
    for name, choice, choices in (("across", across, _ACROSS), ("normalise", normalise, _NORMALISE)):
        if choice not in choices:
            raise ValueError(f"plan_pruning: {name} must be one of {', '.join(choices)}, got {choice!r}")
    if type(multiple_of) is not int or multiple_of < 1:
        raise ValueError(f"plan_pruning: multiple_of must be a positive integer, got {multiple_of!r}")
    if goal == "keep" and across == "uniform" and keep_at_least is not None:
        raise ValueError(
            "plan_pruning: keep_at_least must be None where keep says what each group keeps, "
            f"got {keep_at_least!r}; give a budget, or across='global'"
        )
    if goal != "keep" or across == "global":
        if goal == "keep" and isinstance(wanted, Mapping):
            raise ValueError("plan_pruning: across must be 'uniform' where keep says it for each group, got 'global'")
        if not (isinstance(wanted, float) and 0 < wanted <= 1):
            raise ValueError(f"plan_pruning: {goal} must be a share, a float in (0, 1], got {wanted!r}")
