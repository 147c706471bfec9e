"""Accuracy against size: what the same values would have given at other sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .estimate import Estimate
from .planning import plan_pruning
from .plans import PruningPlan
from .run_record import SizePoint
from .surgery import prune
from .training import evaluate

__all__ = ["size_curve"]

_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_STEPS = (0.25, 0.5, 0.75, 1.25, 1.5)  # of what a plan removes that names numbers for each group
_GOALS = ("keep", "macs", "parameters", "latency")


def size_curve(
    model: nn.Module,
    rankings: Mapping[str, Estimate | Tensor],
    plan: PruningPlan,
    example_input: Tensor,
    data: tuple[Tensor, Tensor],
    report: Callable[[str, None], None] = lambda doing, progress: None,
) -> tuple[SizePoint, ...]:
    """Cut a network to other sizes the way that a plan did, and measure each without retraining.

    A plan to a share or a budget is made again for other ones, nine at most; for a latency, of MACs, which need no
    measuring. One to numbers of channels is made for more and less of what it removes.

    Args:
        model: the network that the plan was made for; unchanged.
        rankings: what it was made from, by the groups' own names.
        plan: tells how to plan.
        example_input: a batch that the model accepts.
        data: inputs and classes to measure on.
        report: is told what is being done.

    Returns:
        The points, the largest network first. Those that are out of a budget's reach are left out.
    """
    points: dict[int, SizePoint] = {}
    for number, goal in enumerate(_goals(plan), start=1):
        report(f"measuring accuracy at other sizes, {number}", None)
        how = {name: option for name, option in plan.options.items() if name not in _GOALS}
        try:
            other = plan_pruning(model, rankings, example_input=example_input[:1], **goal, **how)
        except ValueError:  # less than the smallest network needs, as what follows would be
            break
        if other.parameters[1] not in (*points, *plan.parameters):
            pruned = prune(model, other, example_input, verify=False)
            accuracy = evaluate(pruned, *data).accuracy
            points[other.parameters[1]] = SizePoint(other.parameters[1], other.macs[1], accuracy)
    return tuple(points.values())


def _goals(plan: PruningPlan) -> Iterator[dict[str, Any]]:
    goal, wanted = next((name, value) for name, value in plan.options.items() if name in _GOALS)
    if isinstance(wanted, Mapping):
        for step in _STEPS:
            yield {"keep": {g: max(1, n - round(step * len(plan.removed[g]))) for g, n in plan.n_players.items()}}
    else:
        for share in _SHARES:
            yield {"macs" if goal == "latency" else goal: share}
