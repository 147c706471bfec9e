"""Surgery: from rankings to a plan, from a plan to a smaller network, and to disk and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .estimate import Estimate
from .files import read_record, write_whole
from .groups import Group, GroupError, cut_channels, find_groups, pick_group
from .masking import masked_outputs, relative_deviation

__all__ = [
    "PruningError",
    "PruningPlan",
    "count_macs",
    "count_parameters",
    "load_pruned",
    "plan_pruning",
    "prune",
    "save_pruned",
]

_FORMAT = "shapley_cuda.plan/1"
_EXACT_TOLERANCE = 1e-4  # float32 rounding through a deep network, reduced-precision convolutions included


class PruningError(RuntimeError):
    """The pruned network is not what the plan promises. The original has not been changed."""


@dataclass(frozen=True)
class PruningPlan:
    """Which channels to remove, and what the network will cost then.

    Attributes:
        removed: for each group, by name, the channels to remove in the numbering of the original network, ascending.
        n_players: for each group, how many channels it has before.
        parameters: number of parameters, before and after.
        macs: multiply-accumulates of convolutions, linear layers and matrix products for one sample, before and
            after.
        input_shape: shape of the one sample that macs were counted on.
    """

    removed: dict[str, list[int]]
    n_players: dict[str, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    input_shape: tuple[int, ...]

    def kept(self, group: str) -> list[int]:
        """The channels of a group that stay, ascending."""
        gone = set(self.removed[group])
        return [c for c in range(self.n_players[group]) if c not in gone]

    def __str__(self) -> str:
        groups = ", ".join(f"{g}: {n} -> {n - len(self.removed[g])}" for g, n in self.n_players.items())
        (p0, p1), (m0, m1) = self.parameters, self.macs
        return f"{groups}; parameters {p0:,} -> {p1:,} ({p1 / p0:.1%}); MACs {m0:,} -> {m1:,} ({m1 / m0:.1%})"

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
            if not _are_counts(record[name]) or length not in (None, len(record[name])):
                raise ValueError(f"{name} of a plan must be a list of {length or 'the'} sizes, got {record[name]!r}")
            record[name] = tuple(record[name])
        removed, n_players = record["removed"], record["n_players"]
        if not isinstance(n_players, dict) or not _are_counts(list(n_players.values())):
            raise ValueError(f"n_players of a plan must map groups to numbers of channels, got {n_players!r}")
        if not isinstance(removed, dict) or set(removed) != set(n_players):
            raise ValueError(f"removed of a plan must list the channels of {sorted(n_players)}, got {removed!r}")
        for group, channels in removed.items():
            _check_channels(group, channels, n_players[group])
        return cls(**record)


def plan_pruning(
    model: nn.Module,
    rankings: Mapping[str, Estimate | Tensor],
    keep: float | Mapping[str, int | float],
    example_input: Tensor,
) -> PruningPlan:
    """Decide which channels go: in each group, those of the least value.

    Args:
        model: the network that was ranked; unchanged.
        rankings: for each group, by name, an estimate or a tensor of values ``[C]``, higher is more valuable.
        keep: the share of channels to keep in every group, a float in (0, 1]; or for each group, by the name that it
            has in ``rankings``, a share (float) or a number of channels (int). At least one channel of each group
            stays.
        example_input: a batch that the model accepts; its first sample is what MACs are counted on.

    Returns:
        A :class:`PruningPlan`. Channels of equal value go in the order of their numbers.

    Raises:
        GroupError: a group does not exist or cannot be pruned, as far as its layers tell; :func:`prune` also compares
            outputs.
        ValueError: ``keep`` is out of range or names a group that is not ranked, a ranking is another group's or has
            not one value per channel, or two rankings name the same group by different layers.

    Example:
        >>> plan = sc.plan_pruning(model, {"conv2": estimate}, keep=0.5, example_input=images)
        >>> print(plan)
    """
    if not isinstance(rankings, Mapping):
        raise TypeError(f"rankings must map groups to estimates, got {type(rankings).__name__}")
    if isinstance(keep, Mapping) and set(keep) != set(rankings):
        raise ValueError(f"keep must name the groups that are ranked, {sorted(rankings)}, got {sorted(keep)}")
    sample = example_input[:1]
    removed: dict[str, list[int]] = {}
    n_players: dict[str, int] = {}
    for (name, ranking), group in zip(rankings.items(), _prunable_groups(model, rankings, sample), strict=True):
        if group.name in removed:
            raise ValueError(f"rankings must name each group once, got {name!r} and another layer of {group.name!r}")
        if isinstance(ranking, Estimate) and ranking.group != group.name:
            raise ValueError(f"ranking of {name!r} must be of group {group.name!r}, got one of {ranking.group!r}")
        values = ranking.values if isinstance(ranking, Estimate) else torch.as_tensor(ranking)
        if values.shape != (group.n_players,):
            raise ValueError(f"ranking of {name!r} must have {group.n_players} values, got shape {list(values.shape)}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"ranking of {name!r} must be finite, got NaN or infinite values")
        n_kept = _number_kept(group, name, keep)
        order = torch.argsort(values, stable=True)
        removed[group.name] = sorted(order[: group.n_players - n_kept].tolist())
        n_players[group.name] = group.n_players
    pruned = cut_channels(model, removed, sample)
    return PruningPlan(
        removed=removed,
        n_players=n_players,
        parameters=(count_parameters(model), count_parameters(pruned)),
        macs=(count_macs(model, sample), count_macs(pruned, sample)),
        input_shape=tuple(sample.shape),
    )


def prune(model: nn.Module, plan: PruningPlan, example_input: Tensor, *, verify: bool = True) -> nn.Module:
    """Build the smaller network.

    Args:
        model: the network that the plan was made for; unchanged.
        plan: what to remove.
        example_input: a batch that the model accepts.
        verify: compare outputs on ``example_input`` with those of the original under the plan's masks.

    Returns:
        A new network in evaluation mode, on the model's device.

    Raises:
        GroupError: the plan's groups do not fit this network.
        PruningError: the pruned and the masked network differ by more than rounding.
    """
    found = _prunable_groups(model, plan.removed, example_input[:1])
    groups = dict(zip(plan.removed, found, strict=True))
    for name, group in groups.items():
        if group.n_players != plan.n_players[name]:
            raise GroupError(f"group {name!r} has {group.n_players} channels, the plan is for {plan.n_players[name]}")
    pruned = cut_channels(model, plan.removed, example_input[:1])
    if verify:
        deviation = _deviation_from_mask(model, pruned, plan, groups, example_input)
        if not deviation <= _EXACT_TOLERANCE:
            raise PruningError(
                f"pruned and masked network differ by {deviation:.1e} of the largest output "
                f"(at most {_EXACT_TOLERANCE:.0e} is rounding); groups {', '.join(groups)} cannot be pruned exactly"
            )
    return pruned


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, sample: Tensor) -> int:
    """Multiply-accumulates of convolutions, linear layers and matrix products on one input, by torch's own counter.

    The network runs in evaluation mode, so that its batch statistics stay what they are."""
    with _evaluation_mode(model), FlopCounterMode(display=False) as counter:
        model(sample)
    return counter.get_total_flops() // 2


def save_pruned(pruned: nn.Module, plan: PruningPlan, folder: str | Path) -> None:
    """Write ``plan.json`` and ``model.safetensors``. Nothing is pickled; each file appears whole or not at all.

    Raises:
        ValueError: the network has not as many parameters as the plan leaves; nothing is written.
    """
    if count_parameters(pruned) != plan.parameters[1]:
        raise ValueError(
            f"pruned must be the network that the plan leaves, of {plan.parameters[1]:,} parameters, "
            f"got one of {count_parameters(pruned):,}"
        )
    folder = Path(folder)
    # Copies: safetensors refuses tensors that share memory, as tied parameters do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in pruned.state_dict().items()}
    write_whole(folder / "model.safetensors", save_tensors(tensors))
    write_whole(folder / "plan.json", plan.to_json().encode())


def load_pruned(model: nn.Module, folder: str | Path) -> nn.Module:
    """Rebuild a network that :func:`save_pruned` wrote.

    Args:
        model: a freshly built original; unchanged, its weights do not matter.
        folder: where plan.json and model.safetensors are.

    Returns:
        The pruned network with the saved weights, in evaluation mode, on the model's device.

    Raises:
        ValueError: the files are not such a plan, or the weights do not fit the network; names what differs.
    """
    folder = Path(folder)
    plan = PruningPlan.from_json((folder / "plan.json").read_text())
    parameter = next(model.parameters())
    sample = torch.zeros(plan.input_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        pruned = prune(model, plan, sample, verify=False)
    except RuntimeError as error:  # the network cannot even take the plan's input
        raise ValueError(f"{folder / 'plan.json'} does not fit the network: {error}") from error
    try:
        pruned.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder / 'model.safetensors'} does not fit the network: {error}") from error
    return pruned


@torch.no_grad()
def _deviation_from_mask(
    model: nn.Module, pruned: nn.Module, plan: PruningPlan, groups: Mapping[str, Group], inputs: Tensor
) -> float:
    coalitions = []
    for name, group in groups.items():
        mask = torch.zeros(group.n_players, dtype=torch.bool)
        mask[plan.kept(name)] = True
        coalitions.append((group, mask))
    with _evaluation_mode(model):
        reference = masked_outputs(model, coalitions, inputs)
    return relative_deviation(pruned(inputs), reference)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while this is open; then the mode of each module is put back, since they may differ."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _prunable_groups(model: nn.Module, names: Iterable[str], sample: Tensor) -> list[Group]:
    found = find_groups(model, sample)
    groups = [pick_group(found, name) for name in names]
    for group in groups:
        if not group.prunable:
            raise GroupError(f"group {group.name!r} cannot be pruned exactly: {group.reason}")
    return groups


def _number_kept(group: Group, name: str, keep: float | Mapping[str, int | float]) -> int:
    wanted = keep[name] if isinstance(keep, Mapping) else keep
    if isinstance(wanted, float) and 0 < wanted <= 1:
        return max(1, round(wanted * group.n_players))
    if isinstance(keep, Mapping) and type(wanted) is int and 1 <= wanted <= group.n_players:
        return wanted
    raise ValueError(
        f"keep of {name!r} must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
        f"as an int from 1 to {group.n_players}, got {wanted!r}"
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_channels(group: str, channels: Any, n_players: int) -> None:
    if not _are_counts(channels) or sorted(set(channels)) != channels or (channels and channels[-1] >= n_players):
        raise ValueError(
            f"a plan must remove ascending channels of {group!r} from 0 to {n_players - 1}, got {channels}"
        )
    if len(channels) >= n_players:
        raise ValueError(f"a plan must keep a channel of {group!r}, got all {n_players} removed")
