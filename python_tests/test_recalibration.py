"""Recalibration: statistics of the data at hand, and of nothing else."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shapley_cuda.recalibration import recalibrate_batchnorm


def data(n_samples: int = 30) -> Tensor:
    return 3 + 2 * torch.randn(n_samples, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def one_norm() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("batch_size", [2, 7, 30, 500])
def test_recalibrate_first_layer_has_the_mean_and_variance_of_all_data_whatever_the_batch_size(batch_size: int) -> None:
    model, images = one_norm(), data()
    assert recalibrate_batchnorm(model, images, batch_size) == 1
    with torch.no_grad():
        seen = F.conv2d(images, model[0].weight, model[0].bias).double().movedim(1, 0).flatten(1)
    assert torch.allclose(model[1].running_mean.double(), seen.mean(1), rtol=1e-6)
    assert torch.allclose(model[1].running_var.double(), seen.var(1), rtol=1e-5)
    assert model[1].num_batches_tracked == max(1, 30 // batch_size)


def test_recalibrate_on_one_batch_makes_evaluation_compute_what_training_mode_does() -> None:
    model = nn.Sequential(*one_norm()[:3], nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Tanh()).eval()
    images = data(300)
    in_training_mode = copy.deepcopy(model).train()(images)
    assert not torch.allclose(model(images), in_training_mode, atol=0.1)
    assert recalibrate_batchnorm(model, images) == 2
    # Training mode divides by the biased variance, of 1,200 values in the second layer.
    torch.testing.assert_close(model(images), in_training_mode, rtol=2e-3, atol=2e-3)


def test_recalibrate_is_the_average_that_torch_takes_where_batches_are_alike() -> None:
    model, images = one_norm(), data(10).repeat(3, 1, 1, 1)
    reference = copy.deepcopy(model).train()
    reference[1].momentum = None
    for batch in images.split(10):
        reference(batch)
    recalibrate_batchnorm(model, images, 10)
    assert torch.allclose(model[1].running_mean, reference[1].running_mean, rtol=1e-5)
    assert torch.allclose(model[1].running_var, reference[1].running_var, rtol=2e-2)  # n - 1 of one batch and of three


def test_recalibrate_forgets_what_was_before_and_repeats_bit_for_bit() -> None:
    model, other = one_norm(), one_norm()
    other[1].running_mean.fill_(1e6)
    other[1].running_var.fill_(1e-6)
    for network in (model, other):
        recalibrate_batchnorm(network, data(), 8)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


def test_recalibrate_leaves_everything_else_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.InstanceNorm2d(4, track_running_stats=True),
        nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
    ).train()  # fmt: skip
    model[1].eval()
    modes, images, random_state = [m.training for m in model.modules()], data(), torch.get_rng_state()
    parameters = copy.deepcopy(list(model.parameters()))
    before, images_before = statistics(model), images.clone()
    assert recalibrate_batchnorm(model, images) == 2
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    own = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{layer}.{statistic}" for layer in (1, 6) for statistic in own}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(images, images_before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_recalibrate_layer_that_is_called_twice_has_the_statistics_of_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(input=10 - x)

    model, images = Twice().eval(), data()
    assert recalibrate_batchnorm(model, images) == 1
    seen = torch.cat([images, 10 - images]).double().movedim(1, 0).flatten(1)
    assert torch.allclose(model.norm.running_mean.double(), seen.mean(1), rtol=1e-6)
    assert torch.allclose(model.norm.running_var.double(), seen.var(1), rtol=1e-5)
    assert torch.equal(model.unused.running_mean, torch.zeros(3))


def test_recalibrate_network_without_batchnorm_changes_nothing() -> None:
    assert recalibrate_batchnorm(nn.Conv2d(3, 4, 3), data()) == 0


@pytest.mark.parametrize(
    ("inputs", "batch_size", "message"),
    [
        (data(), 1, "batch_size must be an integer of at least 2, got 1"),
        (data(), 2.0, "batch_size must be an integer of at least 2, got 2.0"),
        (data(1), 2, "inputs must hold at least two samples, got [1, 3, 6, 6]"),
        (torch.zeros(()), 2, "inputs must hold at least two samples, got []"),
        (data() * float("inf"), 2, "inputs of 1 must be finite, got NaN or infinite values"),
    ],
)
def test_recalibrate_bad_argument_is_refused_and_statistics_are_as_before(
    inputs: Tensor, batch_size: Any, message: str
) -> None:
    model = one_norm()
    before = statistics(model)
    with pytest.raises(ValueError, match=f"^recalibrate_batchnorm: {re.escape(message)}$"):
        recalibrate_batchnorm(model, inputs, batch_size)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not any(module.training for module in model.modules())


def test_recalibrate_network_that_fails_has_its_statistics_as_before() -> None:
    model = one_norm()
    model[4] = nn.Linear(3, 2)
    before = statistics(model)
    with pytest.raises(RuntimeError, match="shapes"):
        recalibrate_batchnorm(model, data())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
