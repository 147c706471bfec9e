from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from head_cases import FORMS, SIZES, HeadCase, make_head
from op_samples import ACTIVATIONS
from tolerances import assert_close
from torch import Tensor

from shapley_cuda.ops import loss_difference, permutation_eval, permutation_linear


def evaluate(head: HeadCase, walks: Tensor, samples: Tensor, **options: Any) -> Tensor:
    return permutation_linear(head.features, walks, head.weight, head.bias, samples, **options)


def expected(head: HeadCase, walks: Tensor, samples: Tensor, **options: Any) -> Tensor:
    return reference.permutation_linear(head.features, walks, head.weight, head.bias, samples, **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n_players", "n_outputs"), SIZES)
def test_permutation_linear_agrees_with_the_reference(
    n_players: int, n_outputs: int, form: str, device: str, generator: torch.Generator
) -> None:
    with_bias = (n_players + n_outputs) % 2 == 0
    head = make_head(5, n_players, n_outputs, form, "squared_error", device, generator, with_bias=with_bias)
    walks, samples = head.walks(9), head.samples(9)
    actual = evaluate(head, walks, samples)
    assert actual.dtype == torch.float32
    assert actual.shape == (9, n_players + 1, n_outputs)
    assert_close("permutation_linear", actual, expected(head, walks, samples))


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("form", "n_outputs"), [("plain", 1), ("plain", 33), ("flat 4", 20), ("mean 4", 129)])
def test_permutation_linear_what_follows_agrees_with_the_reference(
    form: str, n_outputs: int, activation: str, with_residual: bool, device: str, generator: torch.Generator
) -> None:
    head = make_head(5, 19, n_outputs, form, "squared_error", device, generator, with_bias=n_outputs != 20)
    walks, samples = head.walks(9), head.samples(9)
    options: dict[str, Any] = {"activation": activation, "negative_slope": 0.3}
    if with_residual:
        options["residual"] = 3 * torch.randn(5, n_outputs, generator=generator).to(device)
    actual = evaluate(head, walks, samples, **options)
    assert_close("permutation_linear", actual, expected(head, walks, samples, **options))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_permutation_linear_activations_hold_for_numbers_of_any_size(activation: str, size: float, device: str) -> None:
    features, weight = torch.ones(1, 1, device=device), (size * torch.linspace(-1, 1, 2049, device=device))[:, None]
    walk, own = torch.zeros(1, 1, dtype=torch.int32, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    actual = permutation_linear(features, walk, weight, None, own, activation=activation)
    wanted = reference.permutation_linear(features, walk, weight, None, own, activation=activation)
    assert_close("permutation_linear", actual, wanted)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_permutation_linear_extreme_outputs_are_activated_as_torch_does(activation: str, device: str) -> None:
    extreme = torch.tensor([[-float("inf"), float("inf"), -1e30, 1e30, -200.0, -88.5, -87.0, 200.0]], device=device)
    alone = torch.zeros(1, 1, device=device), torch.zeros(1, 1, dtype=torch.int32, device=device)
    call = (*alone, torch.zeros(8, 1, device=device), None, torch.zeros(1, dtype=torch.int64, device=device))
    options: dict[str, Any] = {"residual": extreme, "activation": activation}
    assert_close(
        "permutation_linear", permutation_linear(*call, **options), reference.permutation_linear(*call, **options)
    )


def test_permutation_linear_exact_numbers_are_exact(device: str, generator: torch.Generator) -> None:
    head = make_head(5, 129, 33, "flat 4", "accuracy", device, generator)
    walks, samples = head.walks(9), head.samples(9)
    assert torch.equal(evaluate(head, walks, samples).double(), expected(head, walks, samples))


def test_permutation_linear_long_walks_stay_accurate(device: str, generator: torch.Generator) -> None:
    head = make_head(2, 4096, 10, "plain", "squared_error", device, generator)
    walks, samples = head.walks(3), head.samples(3)
    assert_close("permutation_linear", evaluate(head, walks, samples), expected(head, walks, samples))


@pytest.mark.parametrize("form", ["plain", "flat 4"])
@pytest.mark.parametrize("metric", reference.METRICS)
def test_permutation_linear_outputs_are_those_of_permutation_eval(
    metric: str, form: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(5, 40, 33, form, metric, device, generator)
    walks, samples = head.walks(7), head.samples(7)
    rows = evaluate(head, walks, samples).flatten(0, 1)
    values = loss_difference(rows, head.targets, sample_index=samples.repeat_interleave(41), metric=metric)
    fused = permutation_eval(head.features, walks, head.weight, head.bias, head.targets, samples, metric=metric)
    assert_close("loss_difference", fused.flatten(), values)


@pytest.mark.parametrize("form", ["plain", "flat 4", "mean 4"])
@pytest.mark.parametrize("n_outputs", [1, 20, 40])
@pytest.mark.parametrize("piece", [1, 7])
def test_permutation_linear_walks_do_not_depend_on_the_split(
    piece: int, n_outputs: int, form: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(6, 40, n_outputs, form, "squared_error", device, generator)
    walks, samples = head.walks(50), head.samples(50)
    whole = evaluate(head, walks, samples)
    parts = [evaluate(head, walks[i : i + piece], samples[i : i + piece]) for i in range(0, 50, piece)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("form", ["plain", "flat 4", "mean 4"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_permutation_linear_nan_counts_from_the_step_that_brings_it(
    activation: str, form: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(6, 40, 20, form, "squared_error", device, generator)
    walks, samples = head.walks(30), head.samples(30)
    clean = evaluate(head, walks, samples, activation=activation)
    head.features[2, 7] = float("nan")
    step = (walks == 7).int().argmax(1) + 1
    hit = (samples == 2)[:, None] & (torch.arange(41, device=device)[None] >= step[:, None])
    assert hit.any()
    dirty = evaluate(head, walks, samples, activation=activation)
    assert torch.equal(dirty.isnan(), hit[:, :, None].expand_as(dirty))
    assert torch.equal(dirty[~hit], clean[~hit])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_permutation_linear_short_floats_equal_their_float32_values(
    dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    head = make_head(9, 33, 10, "flat 4", "squared_error", device, generator).with_dtype(dtype)
    walks, samples = head.walks(30), head.samples(30)
    residual = torch.randn(9, 10, generator=generator).to(device, dtype)
    wanted = evaluate(head.with_dtype(torch.float32), walks, samples, residual=residual.float())
    assert torch.equal(evaluate(head, walks, samples, residual=residual), wanted)


def test_permutation_linear_no_walks_give_an_empty_tensor(device: str, generator: torch.Generator) -> None:
    head = make_head(4, 3, 2, "flat 4", "squared_error", device, generator)
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    assert evaluate(head, head.walks(0), nothing).shape == (0, 4, 2)


X, W, B = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2)
OWN, P = torch.zeros(5, dtype=torch.int64), torch.arange(3, dtype=torch.int32).expand(5, 3).contiguous()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": X.int()}, "features must be float32, bfloat16 or float16 [N, C], got int32 [4, 3]"),
        ({"features": X[:, :0]}, "features must be of at least one player, got float32 [4, 0]"),
        ({"weight": W[:, :2]}, "weight must be [K, C = 3], got float32 [2, 2]"),
        ({"weight": W[:0]}, "weight must be of at least one row, got float32 [0, 3]"),
        ({"bias": torch.zeros(3)}, "bias must be float32, bfloat16 or float16 [K = 2], got float32 [3]"),
        ({"permutations": P.long()}, "permutations must be int32 [R, C = 3], got int64 [5, 3]"),
        ({"sample_index": OWN[:4]}, "sample_index must be int64 [R = 5], got int64 [4]"),
        (
            {"residual": torch.zeros(5, 2)},
            "residual must be float32, bfloat16 or float16 [N = 4, K = 2], got float32 [5, 2]",
        ),
        (
            {"activation": "softmax"},
            "activation must be none, relu, relu6, leaky_relu, silu, hardswish, gelu, sigmoid or tanh, got 'softmax'",
        ),
    ],
)
def test_permutation_linear_bad_argument_raises(changes: dict[str, Any], message: str, device: str) -> None:
    call: dict[str, Any] = {"features": X, "permutations": P, "weight": W, "bias": B, "sample_index": OWN, **changes}
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in call.items()}
    with pytest.raises(RuntimeError) as error:
        permutation_linear(**moved)
    assert str(error.value) == "shapley::permutation_linear: " + message


@pytest.mark.parametrize(
    ("argument", "bad", "message"),
    [
        ("sample_index", -1, "sample_index must be in [0, 4), got -1 at position 2"),
        ("sample_index", 4, "sample_index must be in [0, 4), got 4 at position 2"),
        ("permutations", -1, "permutations must be rows that hold each of 0 .. 2 once, got another at row 2"),
        ("permutations", 3, "permutations must be rows that hold each of 0 .. 2 once, got another at row 2"),
    ],
)
def test_permutation_linear_value_out_of_range_raises_or_gives_nan(
    argument: str, bad: int, message: str, device: str
) -> None:
    call = {"sample_index": torch.tensor([0, 1, 2, 3, 0]), "permutations": P.clone()}
    call[argument][2] = bad
    moved = {key: value.to(device) for key, value in call.items()}
    head = {"features": X.to(device), "weight": W.to(device), "bias": B.to(device)}
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            permutation_linear(**head, **moved)
        assert str(error.value) == "shapley::permutation_linear: " + message
    else:
        nan_rows = permutation_linear(**head, **moved, activation="relu").isnan().flatten(1).all(1).tolist()
        assert nan_rows == [False, False, True, False, False]
