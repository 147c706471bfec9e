from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from head_cases import FORMS, SIZES, HeadCase, make_head
from tolerances import assert_close
from torch import Tensor

from shapley_cuda.ops import masked_eval

each_metric = pytest.mark.parametrize("metric", reference.METRICS)


def evaluate(head: HeadCase, masks: Tensor, **options: Tensor | None) -> Tensor:
    return masked_eval(head.features, masks, head.weight, head.bias, head.targets, metric=head.metric, **options)


def expected(head: HeadCase, masks: Tensor, **options: Tensor | None) -> Tensor:
    return reference.masked_eval(
        head.features, masks, head.weight, head.bias, head.targets, metric=head.metric, **options
    )


@pytest.mark.parametrize("indexed", [False, True])
@each_metric
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n_players", "n_outputs"), SIZES)
def test_masked_eval_agrees_with_the_reference(
    n_players: int, n_outputs: int, form: str, metric: str, indexed: bool, device: str, generator: torch.Generator
) -> None:
    head = make_head(
        5, n_players, n_outputs, form, metric, device, generator, with_bias=(n_players + n_outputs) % 2 == 0
    )
    masks = head.masks(33)
    options = {"sample_index": head.samples(33) if indexed else None, "baseline": head.baseline() if indexed else None}
    actual = evaluate(head, masks, **options)
    assert actual.dtype == torch.float32
    assert actual.shape == (33,)
    assert_close("masked_eval", actual, expected(head, masks, **options))


@each_metric
@pytest.mark.parametrize(("n_samples", "n_masks"), [(1, 700), (70, 3), (70, 2100)])
def test_masked_eval_many_samples_or_masks_agree_with_the_reference(
    n_samples: int, n_masks: int, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(n_samples, 20, 10, "plain", metric, device, generator)
    masks, baseline = head.masks(n_masks), head.baseline()
    assert_close("masked_eval", evaluate(head, masks, baseline=baseline), expected(head, masks, baseline=baseline))


def test_masked_eval_many_players_stay_accurate(device: str, generator: torch.Generator) -> None:
    head = make_head(2, 4096, 10, "plain", "cross_entropy", device, generator)
    masks = head.masks(20)
    assert_close("masked_eval", evaluate(head, masks), expected(head, masks))


@each_metric
@pytest.mark.parametrize("form", ["plain", "flat 4"])
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("piece", [1, 11, 12, 64])
def test_masked_eval_rows_do_not_depend_on_the_split(
    piece: int, indexed: bool, form: str, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(40, 33, 20, form, metric, device, generator)
    masks = head.masks(200)
    samples = head.samples(200) if indexed else None
    whole = evaluate(head, masks, sample_index=samples)
    parts = [
        evaluate(head, masks[i : i + piece], sample_index=None if samples is None else samples[i : i + piece])
        for i in range(0, 200, piece)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("n_masks", [3, 63, 100, 200])
def test_masked_eval_dealing_masks_or_samples_to_threads_gives_the_same_bits(
    n_masks: int, set_threads: Callable[[int], None], generator: torch.Generator
) -> None:
    head = make_head(300, 33, 10, "plain", "cross_entropy", "cpu", generator)
    masks = head.masks(n_masks)
    set_threads(1)
    alone = evaluate(head, masks)
    set_threads(2)
    assert torch.equal(evaluate(head, masks), alone)


@each_metric
def test_masked_eval_one_position_is_as_none(metric: str, device: str, generator: torch.Generator) -> None:
    head = make_head(9, 33, 10, "flat 1", metric, device, generator)
    masks = head.masks(50)
    with_positions = evaluate(head, masks)
    head.features = head.features[:, :, 0]
    assert torch.equal(evaluate(head, masks), with_positions)


@pytest.mark.parametrize("n_masks", [5, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["plain", "flat 4", "mean 4"])
@each_metric
def test_masked_eval_removed_nan_is_absent_and_a_kept_one_gives_nan(
    metric: str, form: str, value: float, n_masks: int, device: str, generator: torch.Generator
) -> None:
    head = make_head(6, 33, 20, form, metric, device, generator)
    masks, samples = head.masks(n_masks), head.samples(n_masks)
    samples[1] = 2
    clean = evaluate(head, masks, sample_index=samples)
    mean_without_player = evaluate(head, masks[~masks[:, 7]])
    head.features[2, 7] = value
    hit = masks[:, 7] & (samples == 2)
    assert hit.any()
    dirty = evaluate(head, masks, sample_index=samples)
    assert torch.equal(dirty[~hit], clean[~hit])
    assert torch.equal(evaluate(head, masks[~masks[:, 7]]), mean_without_player)
    if value != value or metric == "cross_entropy":
        assert dirty[hit].isnan().all()
        assert evaluate(head, masks[masks[:, 7]]).isnan().all()
    else:
        assert_close("masked_eval", dirty[hit], expected(head, masks, sample_index=samples)[hit])


@each_metric
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masked_eval_short_floats_equal_their_float32_values(
    dtype: torch.dtype, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(9, 33, 10, "flat 4", metric, device, generator).with_dtype(dtype)
    masks = head.masks(30)
    assert torch.equal(evaluate(head, masks), evaluate(head.with_dtype(torch.float32), masks))


def test_masked_eval_empty_batches_give_empty_tensors(device: str, generator: torch.Generator) -> None:
    head = make_head(4, 3, 2, "plain", "cross_entropy", device, generator)
    assert evaluate(head, head.masks(0)).shape == (0,)
    assert evaluate(head, head.masks(0), sample_index=head.samples(0)).shape == (0,)
    head.features, head.targets = head.features[:0], head.targets[:0]
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    assert evaluate(head, head.masks(0), sample_index=nothing).shape == (0,)


X, W, B = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2)
Y, M, OWN = torch.zeros(4, dtype=torch.int64), torch.ones(5, 3, dtype=torch.bool), torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": X.long()}, "features must be float32, bfloat16 or float16 [N, C], got int64 [4, 3]"),
        ({"features": X[0]}, "features must be float32, bfloat16 or float16 [N, C] or [N, C, S], got float32 [3]"),
        ({"features": X[:, :0]}, "features must be of at least one player, got float32 [4, 0]"),
        ({"features": torch.zeros(4, 3, 0)}, "features must be of at least one position, got float32 [4, 3, 0]"),
        (
            {"features": X[:0], "targets": Y[:0]},
            "features must be of at least one sample without sample_index, got float32 [0, 3]",
        ),
        ({"weight": W.double()}, "weight must be float32, bfloat16 or float16 [K, columns], got float64 [2, 3]"),
        ({"weight": W[:, :2]}, "weight must be [K, C = 3], got float32 [2, 2]"),
        (
            {"features": torch.zeros(4, 3, 2), "weight": torch.zeros(2, 4)},
            "weight must be [K, C = 3] or [K, C * S = 6], got float32 [2, 4]",
        ),
        ({"weight": W[:0]}, "weight must be of at least one row, got float32 [0, 3]"),
        ({"bias": torch.zeros(3)}, "bias must be float32, bfloat16 or float16 [K = 2], got float32 [3]"),
        ({"targets": Y[:3]}, "targets must be int64 [N = 4], got int64 [3]"),
        ({"targets": X}, "targets must be int64 [N = 4], got float32 [4, 3]"),
        (
            {"metric": "squared_error"},
            "targets must be float32, bfloat16 or float16 [N = 4, K = 2], got int64 [4]",
        ),
        ({"metric": "loss"}, "metric must be cross_entropy, accuracy or squared_error, got 'loss'"),
        ({"masks": M.int()}, "masks must be bool [M, C = 3], got int32 [5, 3]"),
        ({"masks": M[:, :2]}, "masks must be bool [M, C = 3], got bool [5, 2]"),
        ({"sample_index": OWN[:4]}, "sample_index must be int64 [M = 5], got int64 [4]"),
        ({"sample_index": OWN.int()}, "sample_index must be int64 [M = 5], got int32 [5]"),
        ({"baseline": torch.zeros(5)}, "baseline must be float32 [N = 4], got float32 [5]"),
    ],
)
def test_masked_eval_bad_argument_raises(changes: dict[str, Any], message: str, device: str) -> None:
    call: dict[str, Any] = {"features": X, "masks": M, "weight": W, "bias": B, "targets": Y, **changes}
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in call.items()}
    with pytest.raises(RuntimeError) as error:
        masked_eval(**moved)
    assert str(error.value) == "shapley::masked_eval: " + message


@pytest.mark.parametrize(
    ("argument", "bad", "limit"),
    [("targets", -1, 2), ("targets", 2, 2), ("sample_index", -1, 4), ("sample_index", 4, 4)],
)
def test_masked_eval_value_out_of_range_raises_or_gives_nan(argument: str, bad: int, limit: int, device: str) -> None:
    call = {"targets": Y.clone(), "sample_index": torch.tensor([0, 1, 2, 3, 0])}
    call[argument][2] = bad
    moved = {key: value.to(device) for key, value in call.items()}
    head = (X.to(device), M.to(device), W.to(device), B.to(device))
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            masked_eval(*head, **moved)
        place = f"must be in [0, {limit}), got {bad} at position 2"
        assert str(error.value) == f"shapley::masked_eval: {argument} {place}"
    else:
        assert masked_eval(*head, **moved).isnan().tolist() == [False, False, True, False, False]
        if argument == "targets":
            assert masked_eval(*head, moved["targets"]).isnan().all()
