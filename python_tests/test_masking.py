"""A coalition is a select at the inputs of its consumers, however arranged; what is removed leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import FAMILIES, N_CLASSES, build, prepared
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.masking import InputMask, input_masks, masked, masked_outputs, relative_deviation

ARRANGEMENTS = {
    "own": list(range(6)),
    "flattened": [c for c in range(6) for _ in range(4)],
    "interleaved": [c for _ in range(4) for c in range(6)],
    "among others": [-1, -1, 3, 0, 1, 2, 4, 5, -1],
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(
    ("layer", "positions"),
    [(nn.Linear, ()), (nn.Linear, (5,)), (nn.Linear, (2, 3)), (nn.Conv1d, (5,)), (nn.Conv2d, (2, 3))],
    ids=["linear", "tokens", "linear on images", "conv1d", "conv2d"],
)
def test_input_mask_any_arrangement_is_a_select(
    layer: type[nn.Module], positions: tuple[int, ...], arrangement: str, device: str
) -> None:
    players = torch.tensor(ARRANGEMENTS[arrangement])
    consumer = nn.Linear(len(players), 2) if layer is nn.Linear else layer(len(players), 2, 1)
    g = torch.Generator().manual_seed(0)
    shape = (*positions, len(players)) if layer is nn.Linear else (len(players), *positions)
    x = torch.randn(3, *shape, generator=g).to(device)
    x[1] = float("nan")
    masks = torch.rand(8, 6, generator=g).to(device) < 0.5
    index = torch.arange(8, device=device) % 3
    kept = torch.cat([masks, masks.new_ones(8, 1)], 1)[:, players]
    kept = kept.view(8, *[1] * len(positions), -1) if layer is nn.Linear else kept.view(8, -1, *[1] * len(positions))
    expected = torch.where(kept, x[index], 0.0)
    assert 0 < int(expected.isnan().sum()) < int(x[index].isnan().sum())
    input_mask = InputMask(consumer, players, 6).to(device)
    inputs = [x, x.double(), x.transpose(0, -1).contiguous().transpose(0, -1)]
    if x.dim() == 4:
        inputs.append(x.to(memory_format=torch.channels_last))
    for values in inputs:
        rows = input_mask(values, masks, index)
        assert torch.equal(rows.nan_to_num(9.0), expected.to(rows.dtype).nan_to_num(9.0))


class Reciprocal(nn.Module):
    """Infinite where a channel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / x


READERS: dict[str, Callable[[], list[nn.Module]]] = {
    "head": lambda: [nn.Linear(6, N_CLASSES)],
    "linear": lambda: [nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, N_CLASSES)],
    "flattened": lambda: [nn.Flatten(), nn.Linear(54, 7), nn.ReLU(), nn.Linear(7, N_CLASSES)],
    "tokens": lambda: [nn.Linear(6, 7), nn.Flatten(), nn.Linear(21, N_CLASSES)],
    "image": lambda: [nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(5, N_CLASSES)],
}


@pytest.mark.parametrize("path", ["auto", "suffix", "hook"])
@pytest.mark.parametrize("reader", READERS)
def test_paths_removed_channel_that_is_not_finite_has_no_influence(reader: str, path: str) -> None:
    images = reader in ("flattened", "image")
    model = prepared(nn.Sequential(nn.Conv2d(4, 6, 1) if images else nn.Linear(4, 6), Reciprocal(), *READERS[reader]()))
    shape = (4, 3, 3) if images else (3, 4) if reader == "tokens" else (4,)
    inputs = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0)) + 1
    inputs.movedim(1 if images else -1, 0)[0, 1:] = 0
    masks = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.6
    masks[:, 2] = False
    samples = torch.arange(12) % 5

    def values() -> Tensor:
        return sc.ChannelGame(model, "0", (inputs, torch.arange(5)), path=path).row_values(masks, samples)

    expected = values()
    with torch.no_grad():  # channel 2 becomes the reciprocal of an input that is 0 for all samples but the first
        model[0].weight[2] = torch.tensor([1.0, 0, 0, 0]).view_as(model[0].weight[2])
        model[0].bias[2] = 0
        assert model(inputs).isfinite().all(1).tolist() == [True] + [False] * 4
    assert torch.equal(values(), expected)


def test_masked_hooks_are_gone_after_an_error() -> None:
    model, inputs, _ = build("chain")
    group = sc.find_group(model, "conv1", inputs[:1])
    expected = model(inputs)
    with pytest.raises(RuntimeError):
        masked_outputs(model, [(group, torch.ones(6, dtype=torch.bool))], inputs[:, :, :2])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(inputs), expected)


def test_masked_consumer_that_is_never_called_is_reported() -> None:
    model, inputs, _ = build("chain")
    masks = torch.ones(len(inputs), 6, dtype=torch.bool)
    consumers = input_masks(model, sc.find_group(model, "conv1", inputs[:1]), inputs.device)
    with pytest.raises(sc.PathError, match="never called as a module"), masked(model, consumers, masks):
        model.conv1(inputs)


def test_masked_outputs_full_coalition_is_the_network_itself() -> None:
    for family in FAMILIES:
        model, inputs, _ = build(family)
        everyone = [
            (group, torch.ones(group.n_players, dtype=torch.bool))
            for group in sc.find_groups(model, inputs[:1])
            if group.prunable
        ]
        assert torch.equal(masked_outputs(model, everyone, inputs), model(inputs)), family


def test_masked_outputs_removed_channel_that_is_not_finite_has_no_influence() -> None:
    model, inputs, _ = build("chain")
    group = sc.find_group(model, "conv1", inputs[:1])
    mask = torch.tensor([True, True, False, True, True, True])
    expected = masked_outputs(model, [(group, mask)], inputs)
    with torch.no_grad():
        model.conv1.bias[2] = float("inf")
    assert torch.equal(masked_outputs(model, [(group, mask)], inputs), expected)


def test_relative_deviation_is_measured_against_the_largest_reference() -> None:
    reference = torch.tensor([1.0, -4.0])
    assert relative_deviation(reference, reference) == 0.0
    assert relative_deviation(torch.tensor([1.0, -3.0]), reference) == 0.25
    assert relative_deviation(torch.zeros(3), reference) == float("inf")
    assert relative_deviation(torch.tensor([float("nan"), 1.0]), reference) == float("inf")
    assert relative_deviation(torch.zeros(2), torch.zeros(2)) == 0.0
