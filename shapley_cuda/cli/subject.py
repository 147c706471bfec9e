"""What is ranked: the network and the data that a command's options name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from ..datasets import Split
from ..game import ChannelGame, Loss
from ..groups import Group, GroupError, find_groups, pick_group
from ..loading import DataSource, Samples, draw_samples, fingerprint, load_checkpoint, load_model, open_data
from ..networks import SHIPPED
from ..payoffs import agreement
from .errors import blame
from .options import Metric, Prefix, check_device
from .sizes import read_memory_budget

__all__ = ["Named", "Subject", "load_named_model", "load_subject"]

_WITHOUT_LABELS = ("kl", "cosine")
_MEMORY = ("prefix", "memory_budget")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A network, samples of data and the memory for them, as users name them; None is what they left open."""

    model: str | None = None
    checkpoint: str | None = None
    data: str | None = None
    image_size: int | None = None
    samples: int | None = None
    metric: str | None = None
    seed: int | None = None
    prefix: str | None = None
    memory_budget: int | float | None = None

    @classmethod
    def given(
        cls,
        *,
        checkpoint: Path | None = None,
        metric: Metric | None = None,
        prefix: Prefix | None = None,
        memory_budget: str | None = None,
        **options: Any,
    ) -> Named:
        """What the options of a command say, blaming the one that is wrong."""
        with blame("--memory-budget"):
            budget = None if memory_budget is None else read_memory_budget(memory_budget)
        return cls(
            checkpoint=None if checkpoint is None else str(checkpoint),
            metric=None if metric is None else metric.value,
            prefix=None if prefix is None else prefix.value,
            memory_budget=budget,
            **options,
        )

    def completed(self, recorded: Mapping[str, Any]) -> Named:
        """Fill in what was left open from what another command was given."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        if self.model is not None:  # another network has weights of its own
            recorded = {name: value for name, value in recorded.items() if name != "checkpoint"}
        return replace(self, **{**recorded, **values})

    def with_memory_of(self, recorded: Mapping[str, Any]) -> Named:
        """Keep to memory as another command did, where nothing else is said."""
        return replace(self, **{name: recorded.get(name) for name in _MEMORY if getattr(self, name) is None})


class Subject:
    """A network, the samples that its channels are valued on, and where other splits are to be had.

    Attributes:
        named: what it was made from, and how its games keep to memory.
        model: the network.
        inputs: samples of the split "rank", on the network's device.
        data: the samples with what the metric compares outputs with.
        metric: as :class:`~shapley_cuda.ChannelGame` takes it.
        classes: the samples with their classes, or None where they have none.
        source: of all splits.
    """

    def __init__(self, named: Named, model: nn.Module, source: DataSource, device: str):
        self.named, self.model, self.source = named, model, source
        with blame("--data"):
            read = source("rank", named.samples)
        assert read is not None  # every source has this split
        with blame("--samples"):
            samples = draw_samples(read, named.samples, named.seed or 0)
        self.inputs: Tensor = samples[0].to(device)
        self.classes = _with_classes(samples)
        with blame("--data"):
            _check_fit(model, self.inputs, samples[1])
        self.metric: str | Loss = named.metric or "cross_entropy"
        self.data: tuple[Tensor, Tensor]
        if self.metric in _WITHOUT_LABELS:
            with blame("--metric"):
                self.data, self.metric = agreement(model, self.inputs, str(self.metric))
        elif samples[1] is None:
            raise typer.BadParameter(
                f"{self.metric} needs targets, got inputs alone; {' and '.join(_WITHOUT_LABELS)} need none",
                param_hint="--metric",
            )
        else:  # a split keeps its name, so that no game is played on the test set
            self.data = samples.to(device) if isinstance(samples, Split) else (self.inputs, samples[1].to(device))

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the network's weights."""
        return fingerprint(self.model)

    def labelled(self, split: str) -> tuple[Tensor, Tensor] | None:
        """The inputs and classes of a split; None where there is no such split, or it has no classes."""
        with blame("--data"):
            read = self.source(split, None)
        return _with_classes(read) if read is not None else None

    def groups(self, names: Sequence[str] | None, option: str = "--group") -> list[Group]:
        """The groups of these names, which an option gave; all that can be pruned where there are none."""
        found = find_groups(self.model, self.inputs[:1])
        if not names:
            prunable = [group for group in found if group.prunable]
            if not prunable:
                raise GroupError("the network has no group that can be pruned; shapley-cuda groups tells why")
            return prunable
        with blame(option):
            chosen = {group.name: group for group in (pick_group(found, name) for name in names)}
            for group in chosen.values():
                if not group.prunable:
                    raise GroupError(f"group {group.name!r} cannot be pruned exactly: {group.reason}")
        return list(chosen.values())

    def game(self, group: Group) -> ChannelGame:
        """The game of one group's channels."""
        return ChannelGame(self.model, group, self.data, **self.game_options)

    @property
    def game_options(self) -> dict[str, Any]:
        """Further arguments of games, also of what becomes of the network."""
        prefix, budget = self.named.prefix or "memory", self.named.memory_budget
        return {"metric": self.metric, "prefix": prefix, "memory_budget": budget}


def load_named_model(name: str | None, checkpoint: str | None, *, trained: bool = True) -> nn.Module:
    """Load a network, blaming the option that is wrong."""
    if name is None:
        raise typer.BadParameter("must be given, or --values that tells it", param_hint="--model")
    with blame("--model"):
        model = load_model(name, trained=trained and checkpoint is None)
    if checkpoint is not None:
        with blame("--checkpoint"):
            model = load_checkpoint(model, checkpoint)
    return model


def load_subject(named: Named, device: str, *, trained: bool = True) -> Subject:
    """Load what was named, blaming the option that is wrong."""
    check_device(device)
    model = load_named_model(named.model, named.checkpoint, trained=trained).to(device)
    if named.data is None:
        if named.model not in SHIPPED:
            raise typer.BadParameter("must be given for a network of your own", param_hint="--data")
        named = replace(named, data="fashion-mnist")
    with blame("--data"):
        source = open_data(named.data or "", named.image_size or 224)
    return Subject(named, model, source, device)


def _with_classes(samples: Samples) -> tuple[Tensor, Tensor] | None:
    inputs, targets = samples
    if targets is None or targets.dtype != torch.int64 or targets.dim() != 1:
        return None
    return samples if isinstance(samples, Split) else (inputs, targets)


@torch.no_grad()
def _check_fit(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> None:
    """Refuse samples that the network cannot take, and labels of classes that it does not know."""
    try:
        outputs = model(inputs[:1])
    except Exception as error:  # whatever the network's layers raise
        raise ValueError(
            f"the network cannot take a batch {list(inputs[:1].shape)} of {inputs.dtype}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if targets is None or not isinstance(outputs, Tensor) or outputs.dim() != 2:
        return
    if targets.dtype == torch.int64 and targets.dim() == 1 and int(targets.max()) >= outputs.shape[1]:
        raise ValueError(
            f"labels go up to {int(targets.max())}, the network tells {outputs.shape[1]} classes apart, from 0"
        )
