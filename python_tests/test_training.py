"""Training and evaluation: they learn, they repeat bit for bit, and they leave everything else alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shapley_cuda.datasets import fashion_mnist_subset
from shapley_cuda.networks import lenet5, pretrained
from shapley_cuda.training import RECIPES, SCHEDULES, Progress, Recipe, evaluate, find_recipe, train


@pytest.fixture(autouse=True)
def seeded_without_trace() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def small_data(n_samples: int = 200) -> tuple[Tensor, Tensor]:
    data = fashion_mnist_subset("train").first(n_samples)
    return data.images, data.labels


def small_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
    )


def states_equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_train_on_a_tiny_set_improves_loss_and_accuracy() -> None:
    images, labels = small_data()
    model = lenet5((6, 12, 60))
    before = evaluate(model, images, labels)
    history = train(model, images, labels, epochs=15, batch_size=20, lr=0.03)
    after = evaluate(model, images, labels)
    assert after.loss < 0.5 * before.loss
    assert after.accuracy > 0.7 > before.accuracy
    assert history.losses[-1] < history.losses[0]
    assert history.accuracies[-1] > history.accuracies[0]
    assert len(history.losses) == len(history.accuracies) == len(history.learning_rates) == 15
    assert history.n_steps == 150


def test_train_recovers_a_damaged_pretrained_network() -> None:
    model = pretrained("lenet5")
    test = fashion_mnist_subset("test").first(500)
    with torch.no_grad():
        model.get_parameter("conv2.weight")[::2] = 0.0
        model.get_parameter("conv2.bias")[::2] = 0.0
    damaged = evaluate(model, *test).accuracy
    train(model, *fashion_mnist_subset("train").first(2000), epochs=1, lr=0.01)
    assert evaluate(model, *test).accuracy > damaged


def test_train_same_seed_same_bits_and_global_random_state_untouched() -> None:
    images, labels = small_data()
    runs = []
    for outer_seed in (1, 2):
        model = small_model()
        torch.manual_seed(outer_seed)
        state = torch.get_rng_state()
        history = train(model, images, labels, epochs=2, batch_size=32, seed=5)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((model, history.losses))
    assert states_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_train_other_seed_other_bits() -> None:
    images, labels = small_data()
    first, second = small_model(), small_model()
    train(first, images, labels, seed=0)
    train(second, images, labels, seed=1)
    assert not states_equal(first, second)


def test_train_leaves_data_alone_and_model_in_eval_mode() -> None:
    images, labels = small_data()
    copies = images.clone(), labels.clone()
    model = small_model()
    modes: list[bool] = []
    model[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    train(model, images, labels, batch_size=50)
    assert torch.equal(images, copies[0])
    assert torch.equal(labels, copies[1])
    assert modes == [True] * 4
    assert not any(module.training for module in model.modules())


def test_train_keeps_frozen_parameters() -> None:
    model = small_model()
    model[0].requires_grad_(False)
    before = model[0].get_parameter("weight").clone()
    train(model, *small_data(), lr=0.1)
    assert torch.equal(model[0].get_parameter("weight"), before)


@pytest.mark.parametrize(
    ("n_samples", "batch_size", "sizes"), [(65, 32, [22, 22, 21]), (33, 64, [33]), (4, 1, [1] * 4)]
)
def test_train_batches_are_of_nearly_equal_size(n_samples: int, batch_size: int, sizes: list[int]) -> None:
    seen: list[int] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    train(model, *small_data(n_samples), batch_size=batch_size)
    assert seen == sizes


def test_train_sees_every_sample_once_an_epoch_in_a_new_order() -> None:
    images = torch.arange(20.0).unsqueeze(1)
    labels = torch.arange(20) % 2
    seen: list[list[float]] = []
    model = nn.Linear(1, 2)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten().tolist()))
    train(model, images, labels, epochs=2, batch_size=20, lr=1e-6)
    assert sorted(seen[0]) == sorted(seen[1]) == images.flatten().tolist()
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [0.1 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]),
        ("step", [0.1] * 4 + [0.01] * 2 + [0.001] * 2),
        ("constant", [0.1] * 8),
    ],
)
def test_train_schedule_sets_the_rate_of_each_step(schedule: str, rates: list[float]) -> None:
    reports: list[Progress] = []
    images, labels = small_data(40)
    history = train(
        small_model(), images, labels, epochs=4, batch_size=20, lr=0.1, schedule=schedule, progress=reports.append
    )
    assert [report.learning_rate for report in reports] == pytest.approx(rates)
    assert history.learning_rates == pytest.approx(rates[1::2])
    assert [(report.step, report.epoch) for report in reports] == [(step, (step + 1) // 2) for step in range(1, 9)]
    assert all(report.n_steps == 8 for report in reports)
    assert reports[1].loss == pytest.approx(history.losses[0])


def test_train_one_step_is_gradient_descent_with_decay() -> None:
    images, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    train(model, images, labels, lr=0.5, momentum=0.0, weight_decay=0.0)
    # Logits are equal, so the gradient is (1/2, -1/2) times the input.
    assert torch.allclose(model.weight, torch.tensor([[-0.25, -0.5], [0.25, 0.5]]))
    train(model, torch.zeros(1, 2), labels, lr=0.5, momentum=0.0, weight_decay=0.2)
    assert torch.allclose(model.weight, 0.9 * torch.tensor([[-0.25, -0.5], [0.25, 0.5]]))


def test_train_diverging_run_is_reported_and_ends_in_eval_mode() -> None:
    images, labels = small_data(40)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(FloatingPointError, match=r"^train: loss must stay finite, got (nan|inf) in epoch \d+ of 30"):
        train(model, images * 1e20, labels, epochs=30, lr=1e20)
    assert not model.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "Recipe: epochs must be a positive integer, got 0"),
        ({"epochs": 1.5}, "Recipe: epochs must be a positive integer, got 1.5"),
        ({"batch_size": 0}, "Recipe: batch_size must be a positive integer, got 0"),
        ({"lr": 0.0}, "Recipe: lr must be finite and above 0, got 0.0"),
        ({"lr": math.nan}, "Recipe: lr must be finite and above 0, got nan"),
        ({"momentum": 1.0}, "Recipe: momentum must be at least 0 and below 1, got 1.0"),
        ({"weight_decay": -1.0}, "Recipe: weight_decay must be finite and at least 0, got -1.0"),
        ({"schedule": "linear"}, f"Recipe: schedule must be one of {', '.join(SCHEDULES)}, got 'linear'"),
    ],
)
def test_train_bad_setting_is_refused_before_anything_changes(settings: dict[str, Any], message: str) -> None:
    model = small_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(model, *small_data(20), **settings)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images must be floating point"),
        (torch.zeros(2, 3), torch.zeros(2), r"labels must be int64 \[N\], got torch.float32 \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64), r"labels must be int64 \[N\], got torch.int64"),
        (
            torch.zeros(3, 3),
            torch.zeros(2, dtype=torch.int64),
            r"images must be \[N, ...\] with N = 2 as labels, got \[3, 3\]",
        ),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), r"images must be \[N, ...\] with N = 2"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "images must hold at least one sample, got none"),
    ],
)
def test_bad_data_is_refused(images: Tensor, labels: Tensor, message: str) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=f"^train: {message}"):
        train(model, images, labels)
    with pytest.raises(ValueError, match=f"^evaluate: {message}"):
        evaluate(model, images, labels)


def test_train_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^train: model must have parameters that require grad, got none$"):
        train(nn.Flatten(), *small_data(20))


def test_train_by_a_recipe_is_training_with_its_settings() -> None:
    images, labels = small_data(40)
    models = [small_model() for _ in range(3)]
    train(models[0], images, labels, recipe="finetune", epochs=2, batch_size=20)
    train(models[1], images, labels, recipe=Recipe(epochs=2, batch_size=20, nesterov=False, schedule="step"))
    train(models[2], images, labels, epochs=2, batch_size=20, schedule="step")
    assert states_equal(models[0], models[1])
    assert not states_equal(models[0], models[2])


def test_train_one_step_with_and_without_nesterov() -> None:
    images, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    weights = []
    for nesterov in (False, True):
        model = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            model.weight.zero_()
        train(model, images, labels, lr=0.5, momentum=0.5, nesterov=nesterov, weight_decay=0.0)
        weights.append(model.weight)
    # Nesterov's first step is 1 + momentum times the gradient.
    assert torch.allclose(weights[0], torch.tensor([[-0.25, -0.5], [0.25, 0.5]]))
    assert torch.allclose(weights[1], 1.5 * weights[0])


def test_recipes_are_found_by_name_and_changed() -> None:
    assert find_recipe("brief") == Recipe() == RECIPES["brief"]
    assert find_recipe(Recipe(epochs=7), lr=0.5) == Recipe(epochs=7, lr=0.5)


@pytest.mark.parametrize(
    ("recipe", "changes", "error", "message"),
    [
        (
            "fine-tune",
            {},
            ValueError,
            "recipe must be one of brief, finetune, got 'fine-tune'; did you mean 'finetune'?",
        ),
        ("xyz", {}, ValueError, "recipe must be one of brief, finetune, got 'xyz'"),
        (3, {}, TypeError, "recipe must be a Recipe or one of brief, finetune, got int"),
        (
            "brief",
            {"epoch": 3},
            TypeError,
            "a recipe has the settings epochs, batch_size, lr, momentum, nesterov, weight_decay, schedule, "
            "got 'epoch'; did you mean 'epochs'?",
        ),
    ],
)
def test_train_unknown_recipe_or_setting_is_refused_with_near_names(
    recipe: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        train(small_model(), *small_data(20), recipe=recipe, **changes)


def accuracies_by_epoch(epochs: int, select: tuple[Tensor, Tensor]) -> tuple[list[float], list[dict[str, Tensor]]]:
    """What the selection split says after each epoch, from trainings at a constant rate that stop there."""
    accuracies, states = [], []
    for n in range(1, epochs + 1):
        model = small_model()
        train(model, *small_data(40), epochs=n, lr=0.15, schedule="constant")
        accuracies.append(evaluate(model, *select).accuracy)
        states.append(model.state_dict())
    return accuracies, states


def test_train_ends_with_the_epoch_that_did_best_on_the_selection_split() -> None:
    select = fashion_mnist_subset("rank").first(50)
    accuracies, states = accuracies_by_epoch(6, select)
    best = accuracies.index(max(accuracies))
    assert best < 5  # else the last epoch's weights would do
    model = small_model()
    history = train(model, *small_data(40), epochs=6, lr=0.15, schedule="constant", select=select)
    assert history.select_accuracies == tuple(accuracies)
    assert history.best_epoch == best + 1
    assert all(torch.equal(tensor, states[best][name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert len(history.losses) == 6


def test_train_of_equally_good_epochs_takes_the_earliest() -> None:
    select = torch.zeros(3, 1, 28, 28), torch.tensor([0, 1, 2])  # a model has one answer: always a third is right
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    with torch.no_grad():
        model[1].weight.zero_()
    alone = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    alone.load_state_dict(model.state_dict())
    images, labels = small_data(30)
    history = train(model, images, labels % 3, epochs=3, schedule="constant", select=select)
    train(alone, images, labels % 3, epochs=1, schedule="constant")
    assert history.select_accuracies == pytest.approx([1 / 3] * 3)
    assert history.best_epoch == 1
    assert states_equal(model, alone)


def test_train_without_selection_ends_with_the_last_epoch() -> None:
    history = train(small_model(), *small_data(20), epochs=2)
    assert history.select_accuracies == ()
    assert history.best_epoch == 2


def test_train_selection_on_the_test_split_is_refused() -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r'^train: select must not be the split "test": its accuracies would be too'):
        train(model, *small_data(20), select=fashion_mnist_subset("test"))
    with pytest.raises(ValueError, match=r"^train: select: images must be floating point, got torch.uint8$"):
        train(model, *small_data(20), select=(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2).long()))
    assert model.training


def test_evaluate_hand_worked_values() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    accuracy, loss = evaluate(nn.Identity(), logits, torch.tensor([0, 0, 0]), batch_size=2)
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx((math.log(2.0) + math.log(4 / 3) + math.log(4.0)) / 3, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluate_batch_size_does_not_matter(batch_size: int) -> None:
    images, labels = small_data(50)
    model = small_model()
    assert evaluate(model, images, labels, batch_size) == pytest.approx(evaluate(model, images, labels), rel=1e-5)


def test_evaluate_restores_the_mode_of_each_module_and_changes_nothing() -> None:
    model = small_model()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    evaluate(model, *small_data(20))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_evaluate_bad_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^evaluate: batch_size must be a positive integer, got 0$"):
        evaluate(small_model(), *small_data(20), batch_size=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_train_on_cuda_learns_and_restores_its_random_state() -> None:
    images, labels = small_data()
    model = small_model()
    state = torch.cuda.get_rng_state()
    history = train(model, images, labels, epochs=8, batch_size=20, lr=0.05, device="cuda")
    assert next(model.parameters()).is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert history.losses[-1] < history.losses[0]
    assert evaluate(model, images, labels).accuracy > 0.5
