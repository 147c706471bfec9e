"""What cases are made with: the run's setting, random inputs, and baselines in their best variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .baselines import in_chunks
from .harness import Baseline, Case, fastest
from .machine import Call


@dataclass(frozen=True)
class Setting:
    """What the run was asked for."""

    device: torch.device
    quick: bool = False
    compile: bool = False

    def pick(self, full: int, quick: int) -> int:
        """A number of rows or walks: small in a quick run, enough to fill the chip on a GPU."""
        return quick if self.quick else full * 16 if self.device.type == "cuda" else full

    @property
    def generator(self) -> torch.Generator:
        """Random numbers for a case, the same in every run on one kind of device."""
        return torch.Generator(self.device).manual_seed(1)


Cases = Callable[[Setting], Iterator[Case]]
"""Makes an op's cases one after the other, so that only one's tensors are there at a time."""


def best_of(setting: Setting, variants: Mapping[str, Call]) -> Baseline:
    """The variant of a baseline that is fastest here, so that no chunk size or layout is held against it."""
    return Baseline(*fastest(variants, setting.device))


def best_chunk(
    setting: Setting, name: str, variants: Mapping[str, Callable[..., Tensor]], rows: tuple[Tensor, ...]
) -> Baseline:
    """The best of a baseline's variants with the chunk size that suits it best."""
    sizes = sorted({max(1, rows[0].shape[0] // divisor) for divisor in (1, 4, 16, 64)})
    calls = {
        ", ".join(filter(None, (name, variant, f"chunks of {n}"))): partial(in_chunks, function, n, *rows)
        for variant, function in variants.items()
        for n in sizes
    }
    return best_of(setting, calls)


def with_compiled(setting: Setting, contenders: list[Baseline]) -> list[Baseline]:
    """Add the fastest baseline under torch.compile, where the run asks for it."""
    if not setting.compile:
        return contenders
    name, call = fastest({b.name: b.call for b in contenders}, setting.device)
    torch.compiler.reset()  # what earlier cases compiled counts towards a limit, beyond which nothing is compiled
    return [*contenders, Baseline(f"torch.compile: {name}", torch.compile(call))]


def bytes_of(*tensors: Tensor) -> int:
    """Bytes that the tensors hold together."""
    return sum(t.numel() * t.element_size() for t in tensors)


def random_walks(setting: Setting, count: int, n_players: int, n_samples: int) -> tuple[Tensor, Tensor]:
    """Permutations int64 [count, C] and the sample of each."""
    g, device = setting.generator, setting.device
    permutations = torch.rand(count, n_players, generator=g, device=device).argsort(1)
    return permutations, torch.randint(n_samples, (count,), generator=g, device=device)
