"""Linear heads of every form for the tests of the ops that evaluate them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# (C, K): one of everything, below and above a vector, a warp and a tile, and many outputs
SIZES = [(1, 1), (2, 2), (31, 33), (33, 31), (129, 10), (40, 129), (7, 1000)]
FORMS = [
    "plain",
    "flat 1",
    "flat 4",
    "mean 4",
    "flat 49",
]  # features [N, C], or [N, C, S] and how the weight reads them


@dataclass
class HeadCase:
    """Arguments that the ops share. Where `exact`, sums are the same in any order, and ties happen."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    metric: str
    generator: torch.Generator

    @property
    def n_samples(self) -> int:
        return self.features.shape[0]

    @property
    def n_players(self) -> int:
        return self.features.shape[1]

    @property
    def device(self) -> torch.device:
        return self.features.device

    def masks(self, count: int) -> Tensor:
        """Random masks; the first keeps nobody, the second everybody."""
        kept = torch.rand(count, self.n_players, generator=self.generator) > 0.5
        kept[:1] = False
        kept[1:2] = True
        return kept.to(self.device)

    def walks(self, count: int) -> Tensor:
        return torch.rand(count, self.n_players, generator=self.generator).argsort(1).int().to(self.device)

    def samples(self, count: int) -> Tensor:
        return torch.randint(0, self.n_samples, (count,), generator=self.generator).to(self.device)

    def baseline(self) -> Tensor:
        return torch.rand(self.n_samples, generator=self.generator).to(self.device)

    def with_dtype(self, dtype: torch.dtype) -> HeadCase:
        """The same case with every float argument rounded to a dtype."""
        return replace(
            self,
            features=self.features.to(dtype),
            weight=self.weight.to(dtype),
            bias=None if self.bias is None else self.bias.to(dtype),
            targets=self.targets.to(dtype) if self.targets.is_floating_point() else self.targets,
        )


def make_head(
    n_samples: int,
    n_players: int,
    n_outputs: int,
    form: str,
    metric: str,
    device: str,
    generator: torch.Generator,
    *,
    with_bias: bool = True,
) -> HeadCase:
    """Draw a head. For accuracy the numbers are multiples of 1/8, which float32 adds without rounding."""
    kind, n_positions = form.split()[0], int(form.split()[-1]) if form != "plain" else 1
    columns = n_players * n_positions if kind == "flat" else n_players
    shape = (n_players,) if kind == "plain" else (n_players, n_positions)
    features = torch.randn(n_samples, *shape, generator=generator)
    weight = torch.randn(n_outputs, columns, generator=generator)
    bias = torch.randn(n_outputs, generator=generator) if with_bias else None
    if metric == "accuracy":
        features, weight = (torch.round(8 * t.clamp(-1, 1)) / 8 for t in (features, weight))
        bias = None if bias is None else torch.round(8 * bias) / 8
    else:
        weight /= columns**0.5
    if metric == "squared_error":
        targets = torch.randn(n_samples, n_outputs, generator=generator)
    else:
        targets = torch.randint(0, n_outputs, (n_samples,), generator=generator)
    moved = [None if t is None else t.to(device) for t in (bias, targets)]
    assert moved[1] is not None
    return HeadCase(features.to(device), weight.to(device), moved[0], moved[1], metric, generator)
