from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from head_cases import FORMS, HeadCase, make_head
from tolerances import assert_close
from torch import Tensor

from shapley_cuda.ops import exhaustive_eval, masked_eval

each_metric = pytest.mark.parametrize("metric", reference.METRICS)


def evaluate(head: HeadCase) -> Tensor:
    return exhaustive_eval(head.features, head.weight, head.bias, head.targets, metric=head.metric)


def expected(head: HeadCase) -> Tensor:
    return reference.exhaustive_eval(head.features, head.weight, head.bias, head.targets, metric=head.metric)


@each_metric
@pytest.mark.parametrize("n_outputs", [1, 2, 10, 33, 1000])
@pytest.mark.parametrize("n_players", [1, 2, 3, 4, 5, 8, 9, 10])
def test_exhaustive_eval_agrees_with_the_reference(
    n_players: int, n_outputs: int, metric: str, device: str, generator: torch.Generator
) -> None:
    with_bias = (n_players + n_outputs) % 2 == 0
    head = make_head(3, n_players, n_outputs, "plain", metric, device, generator, with_bias=with_bias)
    actual = evaluate(head)
    assert actual.dtype == torch.float32
    assert actual.shape == (2**n_players,)
    assert_close("exhaustive_eval", actual, expected(head))


@each_metric
@pytest.mark.parametrize("form", FORMS)
def test_exhaustive_eval_every_form_agrees_with_the_reference(
    form: str, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(5, 6, 10, form, metric, device, generator)
    assert_close("exhaustive_eval", evaluate(head), expected(head))


@each_metric
@pytest.mark.parametrize("n_players", [12, 15, 17])
def test_exhaustive_eval_many_players_agree_with_masked_eval(
    n_players: int, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(4, n_players, 10, "plain", metric, device, generator)
    masks = reference.every_mask(n_players, head.device)
    one_by_one = masked_eval(head.features, masks, head.weight, head.bias, head.targets, metric=metric)
    assert_close("exhaustive_eval", evaluate(head), one_by_one)


@pytest.mark.parametrize("scale", [1e-3, 10.0, 100.0, 1e4])
def test_exhaustive_eval_cross_entropy_holds_where_players_favour_other_classes(
    scale: float, device: str, generator: torch.Generator
) -> None:
    head = make_head(5, 12, 10, "plain", "cross_entropy", device, generator)
    head.weight *= scale
    assert_close("exhaustive_eval", evaluate(head), expected(head))


@each_metric
@pytest.mark.parametrize("player", [0, 8, 11])
@pytest.mark.parametrize("n_outputs", [10, 40])
def test_exhaustive_eval_nan_reaches_the_coalitions_that_keep_it(
    n_outputs: int, player: int, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(3, 12, n_outputs, "plain", metric, device, generator)
    clean = evaluate(head)
    head.features[1, player] = float("nan")
    dirty, kept = evaluate(head), reference.every_mask(12, head.device)[:, player]
    assert torch.equal(dirty.isnan(), kept)
    assert torch.equal(dirty[~kept], clean[~kept])


@each_metric
@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_exhaustive_eval_infinities_are_as_in_masked_eval(
    value: float, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(3, 10, 5, "plain", metric, device, generator)
    head.weight.abs_()
    head.features[1, 9] = value
    head.features[2, 3] = value
    masks = reference.every_mask(10, head.device)
    one_by_one = masked_eval(head.features, masks, head.weight, head.bias, head.targets, metric=metric)
    assert_close("exhaustive_eval", evaluate(head), one_by_one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exhaustive_eval_short_floats_equal_their_float32_values(
    dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    head = make_head(9, 9, 10, "flat 4", "squared_error", device, generator).with_dtype(dtype)
    assert torch.equal(evaluate(head), evaluate(head.with_dtype(torch.float32)))


X, W, B, Y = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": torch.zeros(4, 25)},
            "features must be of at most 24 players (25 have 2^25 coalitions, to be evaluated on 4 samples each), "
            "got float32 [4, 25]",
        ),
        ({"features": X.long()}, "features must be float32, bfloat16 or float16 [N, C], got int64 [4, 3]"),
        ({"features": X[:, :0]}, "features must be of at least one player, got float32 [4, 0]"),
        ({"features": X[:0], "targets": Y[:0]}, "features must be of at least one sample, got float32 [0, 3]"),
        ({"weight": W[:, :2]}, "weight must be [K, C = 3], got float32 [2, 2]"),
        ({"bias": torch.zeros(3)}, "bias must be float32, bfloat16 or float16 [K = 2], got float32 [3]"),
        ({"targets": Y[:3]}, "targets must be int64 [N = 4], got int64 [3]"),
        ({"metric": "loss"}, "metric must be cross_entropy, accuracy or squared_error, got 'loss'"),
    ],
)
def test_exhaustive_eval_bad_argument_raises(changes: dict[str, Any], message: str, device: str) -> None:
    call: dict[str, Any] = {"features": X, "weight": W, "bias": B, "targets": Y, **changes}
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in call.items()}
    with pytest.raises(RuntimeError) as error:
        exhaustive_eval(**moved)
    assert str(error.value) == "shapley::exhaustive_eval: " + message


@pytest.mark.parametrize("bad", [-1, 2])
def test_exhaustive_eval_class_out_of_range_raises_or_gives_nan(bad: int, device: str) -> None:
    targets = Y.clone()
    targets[2] = bad
    call = [tensor.to(device) for tensor in (X, W, B, targets)]
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            exhaustive_eval(*call)
        assert str(error.value) == f"shapley::exhaustive_eval: targets must be in [0, 2), got {bad} at position 2"
    else:
        assert exhaustive_eval(*call).isnan().all()
