"""Label-free payoffs: zero for the whole network, the textbook's numbers for any other, on every path."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from architectures import N_CLASSES, build
from tolerances import PATHS_AGREE
from torch import Tensor, nn
from walk_masks import all_masks_of_walks

import shapley_cuda as sc
from shapley_cuda.masking import masked_outputs

KINDS = ("kl", "cosine")
RELATIVE, ABSOLUTE = PATHS_AGREE


def by_hand(kind: str, dense: Tensor, masked: Tensor) -> float:
    """The mean distance over rows, from its definition, one number at a time."""
    total = 0.0
    for p, q in zip(dense.tolist(), masked.tolist(), strict=True):
        if kind == "kl":
            sum_p, sum_q = (sum(math.exp(x) for x in row) for row in (p, q))
            total += sum(
                math.exp(a) / sum_p * ((a - math.log(sum_p)) - (b - math.log(sum_q))) for a, b in zip(p, q, strict=True)
            )
        else:
            dot = sum(a * b for a, b in zip(p, q, strict=True))
            total += 1 - dot / math.sqrt(sum(a * a for a in p) * sum(b * b for b in q))
    return total / len(dense)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["walk", "suffix", "hook"])
@pytest.mark.parametrize("group", ["conv1", "fc1"])  # in the middle, and in front of the classifier
def test_agreement_equals_hand_computation_and_is_zero_for_all(kind: str, path: str, group: str) -> None:
    model, inputs, _ = build("chain")
    data, metric = sc.payoffs.agreement(model, inputs, kind)
    game = sc.ChannelGame(model, group, data, metric=metric, path=path)
    masks = torch.rand(4, game.n_players, generator=torch.Generator().manual_seed(0)) < 0.5
    exact = copy.deepcopy(model).double()
    dense = exact(inputs.double())
    for mask, value in zip(masks, game(masks).tolist(), strict=True):
        expected = by_hand(kind, dense, masked_outputs(exact, [(game.group, mask)], inputs.double()))
        assert expected > 1e-3
        assert -value == pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE)
    everyone = torch.ones(1, game.n_players, dtype=torch.bool)
    assert game(everyone).item() == pytest.approx(0, abs=1e-6)
    permutations, samples = sc.WalkSampler(game.n_players, game.n_samples).walks(0, 4)
    rows = game.row_values(
        all_masks_of_walks(permutations).flatten(0, 1), samples.repeat_interleave(game.n_players + 1)
    )
    walks = game.walk_values(permutations, samples)
    torch.testing.assert_close(walks.flatten(), rows, rtol=RELATIVE, atol=ABSOLUTE)
    torch.testing.assert_close(walks[:, -1], torch.zeros(4), rtol=0, atol=1e-6)
    assert game.path == path


def test_agreement_does_not_depend_on_batches_and_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, _ = build("vgg")
    before = copy.deepcopy(model.state_dict())
    (same, targets), _ = sc.payoffs.agreement(model, inputs)
    monkeypatch.setattr(sc.payoffs, "_BATCH", 4)
    (_, in_batches), _ = sc.payoffs.agreement(model, inputs)
    assert same is inputs
    assert targets.shape == (len(inputs), N_CLASSES)
    assert not targets.requires_grad
    torch.testing.assert_close(in_batches, targets)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_agreement_images_average_over_positions() -> None:
    outputs, targets = (torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    rows = sc.payoffs.kl_divergence(outputs, targets)
    by_position = sc.payoffs.kl_divergence(outputs.movedim(1, -1).flatten(0, -2), targets.movedim(1, -1).flatten(0, -2))
    torch.testing.assert_close(rows, by_position.view(3, 10).mean(1))
    model, inputs, _ = build("decoder")
    data, metric = sc.payoffs.agreement(model, inputs, "cosine")
    game = sc.ChannelGame(model, "up1", data, metric=metric)
    assert game(torch.ones(1, 7, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)
    assert game(torch.zeros(1, 7, dtype=torch.bool)).item() < -1e-3


def test_agreement_half_precision_outputs_are_compared_in_float32() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.bfloat16()

    (_, targets), metric = sc.payoffs.agreement(Half().eval(), torch.ones(2, 3))
    assert targets.dtype == torch.float32
    assert metric(torch.ones(2, 3, dtype=torch.bfloat16), targets).dtype == torch.float32


def test_cosine_distance_of_a_row_of_zeros_is_one() -> None:
    assert sc.payoffs.cosine_distance(torch.zeros(1, 3), torch.ones(1, 3)).item() == 1


def test_agreement_refuses_what_it_cannot_compare() -> None:
    model, inputs, _ = build("chain")
    constant = nn.Flatten()
    for arguments, error, message in (
        ((model, inputs, "mse"), ValueError, "agreement: kind must be one of kl, cosine, got 'mse'"),
        ((copy.deepcopy(model).train(), inputs), ValueError, "agreement: model must be in evaluation mode"),
        ((model, inputs[:0]), ValueError, "agreement: inputs must hold at least one sample, got shape [0, 3, 12, 12]"),
        ((constant.eval(), torch.ones(2, 1)), ValueError, "[N, K, ...], for kind 'kl', got [2, 1]"),
        ((constant, torch.tensor([[1.0, math.inf]])), ValueError, "finite outputs, got others for 1 samples"),
        ((constant, torch.eye(3)[:, :2], "cosine"), ValueError, "all zeros for kind 'cosine', got such for 1 samples"),
        ((nn.LSTM(4, 3).eval(), torch.ones(2, 1, 4)), TypeError, "model must return one tensor, got tuple"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            sc.payoffs.agreement(*arguments)
