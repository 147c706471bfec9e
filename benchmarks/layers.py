"""Cases for whole layers: walks through a real network, from permutations to payoffs, as the rankers run them.

Two contenders each. The *folded batch* is what one would write without this package: the prefix's result kept, all
steps of some walks masked and folded into the batch, the rest of the network run on it. The *plain forward* runs the
rest of the network on as many rows without any mask: nothing that makes rows can beat it, only what shares work between
a walk's rows or, where the rest is one linear layer, takes masks instead of rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc

from .baselines import masks_along
from .cases import Cases, Setting
from .harness import Baseline, Case, deviation, fastest

_SAMPLES = 256
_TOLERANCE = 1e-4  # float32 through a deep network; a convolution rounds differently in other batches and layouts
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def stages(model: nn.Module) -> dict[str, nn.Module]:
    """The network as stages that end where the next layer reads. Masking a layer's channels is masking that end."""
    if isinstance(model, sc.networks.LeNet5):
        return {
            "conv1": nn.Sequential(model.conv1, nn.ReLU(), nn.MaxPool2d(2)),
            "conv2": nn.Sequential(model.conv2, nn.ReLU(), nn.MaxPool2d(2)),
            "fc1": nn.Sequential(nn.Flatten(), model.fc1, nn.ReLU()),
            "fc2": model.fc2,
        }
    found: dict[str, nn.Module] = {}
    for i in range(1, 7):
        layers = [model.get_submodule(f"conv{i}"), model.get_submodule(f"bn{i}"), nn.ReLU()]
        if i % 2 == 0:
            layers.append(nn.MaxPool2d(2))
        if i == 6:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        found[f"conv{i}"] = nn.Sequential(*layers)
    return {**found, "fc1": model.get_submodule("fc1")}


@dataclass
class Work:
    """Some walks through one layer, with what plain PyTorch prepares once."""

    features: Tensor  # [N, C, ...], the cached prefix
    suffix: nn.Module
    permutations: Tensor  # int64 [R, C]
    samples: Tensor
    targets: Tensor

    @property
    def rows(self) -> int:
        return self.permutations.shape[0] * (self.permutations.shape[1] + 1)

    def first(self, walks: int) -> Work:
        """The first walks, to try a variant on."""
        return Work(self.features, self.suffix, self.permutations[:walks], self.samples[:walks], self.targets)

    def in_format(self, name: str) -> Work:
        """The same in another memory format."""
        if self.features.dim() != 4:
            return self
        layout = _FORMATS[name]
        suffix = copy.deepcopy(self.suffix).to(memory_format=layout)  # type: ignore[call-overload]
        features = self.features.contiguous(memory_format=layout)
        return Work(features, suffix, self.permutations, self.samples, self.targets)

    def folded(self, rows_at_a_time: int) -> Tensor:
        """Payoffs along all walks."""
        steps = self.permutations.shape[1] + 1
        walks = max(1, rows_at_a_time // steps)
        parts = []
        for permutations, samples in zip(self.permutations.split(walks), self.samples.split(walks), strict=True):
            masks = masks_along(permutations)
            x = self.features[samples][:, None]
            rows = (x * masks.view(*masks.shape, *[1] * (x.dim() - 3))).flatten(0, 1)
            wanted = self.targets[samples].repeat_interleave(steps)
            losses = F.cross_entropy(self.suffix(rows), wanted, reduction="none")
            parts.append(-losses.view(-1, steps))
        return torch.cat(parts)

    def forward(self, rows_at_a_time: int) -> Tensor:
        """Outputs of as many unmasked rows: row i of a batch is sample i modulo N."""
        size = min(rows_at_a_time, self.rows)
        copies = -(-size // self.features.shape[0])
        batch = self.features.repeat(copies, *[1] * (self.features.dim() - 1))[:size]
        full, rest = divmod(self.rows, size)
        outputs = [self.suffix(batch) for _ in range(full)]
        return torch.cat(outputs + ([self.suffix(batch[:rest])] if rest else []))


def _layer_cases(network: str, layer: str, walks: int, setting: Setting) -> Iterator[Case]:
    """The walk path and the suffix path, each with images in either memory format where the suffix has images."""
    device = setting.device
    n_walks = setting.pick(walks, 4)
    data = sc.fashion_mnist_subset("rank").first(20 if setting.quick else _SAMPLES).to(device)
    model = sc.pretrained(network).to(device)
    parts = stages(model)
    after = list(parts).index(layer) + 1
    prefix, suffix = nn.Sequential(*list(parts.values())[:after]), nn.Sequential(*list(parts.values())[after:])
    with torch.inference_mode():
        features = prefix(data.images)
    permutations, samples = sc.WalkSampler(features.shape[1], len(data.labels)).walks(0, n_walks, device)
    work = Work(features, suffix, permutations.long(), samples, data.labels)
    contenders = [
        _best(work, "folded batch", Work.folded, setting),
        _best(work, "plain forward", Work.forward, setting, partial(_full_coalition_deviation, samples, data.labels)),
    ]
    has_images = any(isinstance(module, nn.Conv2d) for module in suffix.modules())
    for path in ("walk", "suffix"):
        for layout in _FORMATS if has_images else ("contiguous",):
            execution = sc.Execution(channels_last=layout == "channels_last")
            game = sc.ChannelGame(model, layer, data, path=path, execution=execution)
            yield Case(
                op="walk_values",
                shape=f"{network}.{layer} C={game.n_players} R={n_walks}, {path} path, {layout}",
                ours=partial(game.walk_values, permutations, samples),
                baselines=contenders,
                tolerance=_TOLERANCE,
                rows=work.rows,
                wall_clock=True,
            )


def _best(
    work: Work,
    name: str,
    run: Callable[[Work, int], Tensor],
    setting: Setting,
    compare: Callable[[Tensor, Tensor], float] = deviation,
) -> Baseline:
    """A baseline with the chunk size and memory format that suit it best, told from half of the walks."""
    trial = work.first(-(-work.permutations.shape[0] // 2))
    usual = (4096, 32768) if setting.device.type == "cuda" else (256, 1024, 4096)
    sizes = [size for size in usual if size <= trial.rows] or [trial.rows]
    formats = list(_FORMATS) if work.features.dim() == 4 else ["contiguous"]
    ready = {f"{size} rows at a time, {f}": (f, size) for f in formats for size in sizes}
    trials = {label: partial(run, trial.in_format(f), size) for label, (f, size) in ready.items()}
    label, _ = fastest(trials, setting.device)
    chosen, size = ready[label]
    return Baseline(f"{name}, {label}", partial(run, work.in_format(chosen), size), compare)


def _full_coalition_deviation(samples: Tensor, labels: Tensor, values: Tensor, outputs: Tensor) -> float:
    """What a plain forward shares with walks is their last step, where everyone is kept."""
    known = min(labels.shape[0], outputs.shape[0])
    losses = F.cross_entropy(outputs[:known], labels[:known], reduction="none")
    comparable = samples < known
    return deviation(values[comparable, -1], -losses[samples[comparable]])


# Walks for each layer: a second or so of plain PyTorch on two cores.
_WALKS = {
    ("lenet5", "conv1"): 400,
    ("lenet5", "conv2"): 400,
    ("lenet5", "fc1"): 400,
    ("vgg_bn", "conv1"): 64,
    ("vgg_bn", "conv2"): 64,
    ("vgg_bn", "conv3"): 64,
    ("vgg_bn", "conv4"): 64,
    ("vgg_bn", "conv5"): 64,
    ("vgg_bn", "conv6"): 800,
}

CASES: dict[str, Cases] = {
    f"{network}.{layer}": partial(_layer_cases, network, layer, walks) for (network, layer), walks in _WALKS.items()
}
