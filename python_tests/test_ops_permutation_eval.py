from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from head_cases import FORMS, SIZES, HeadCase, make_head
from tolerances import assert_close
from torch import Tensor

from shapley_cuda.ops import marginals, masked_eval, permutation_eval

each_metric = pytest.mark.parametrize("metric", reference.METRICS)


def evaluate(head: HeadCase, walks: Tensor, samples: Tensor) -> Tensor:
    return permutation_eval(head.features, walks, head.weight, head.bias, head.targets, samples, metric=head.metric)


def expected(head: HeadCase, walks: Tensor, samples: Tensor) -> Tensor:
    return reference.permutation_eval(
        head.features, walks, head.weight, head.bias, head.targets, samples, metric=head.metric
    )


@each_metric
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n_players", "n_outputs"), SIZES)
def test_permutation_eval_agrees_with_the_reference(
    n_players: int, n_outputs: int, form: str, metric: str, device: str, generator: torch.Generator
) -> None:
    with_bias = (n_players + n_outputs) % 2 == 0
    head = make_head(5, n_players, n_outputs, form, metric, device, generator, with_bias=with_bias)
    walks, samples = head.walks(9), head.samples(9)
    actual = evaluate(head, walks, samples)
    assert actual.dtype == torch.float32
    assert actual.shape == (9, n_players + 1)
    assert_close("permutation_eval", actual, expected(head, walks, samples))


@pytest.mark.parametrize("n_players", [1134, 4096])
def test_permutation_eval_long_walks_stay_accurate(n_players: int, device: str, generator: torch.Generator) -> None:
    head = make_head(3, n_players, 10, "plain", "cross_entropy", device, generator)
    head.features.abs_()
    head.weight[::2] += 1 / n_players  # outputs that drift apart, to about 1
    walks, samples = head.walks(4), head.samples(4)
    assert_close("permutation_eval", evaluate(head, walks, samples), expected(head, walks, samples))


@each_metric
@pytest.mark.parametrize("form", ["plain", "flat 4"])
def test_permutation_eval_ends_are_the_empty_and_the_full_coalition(
    form: str, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(5, 33, 10, form, metric, device, generator)
    walks, samples = head.walks(20), head.samples(20)
    values = evaluate(head, walks, samples)
    for column, kept in ((0, False), (33, True)):
        masks = torch.full((20, 33), kept, device=device)
        ends = masked_eval(
            head.features, masks, head.weight, head.bias, head.targets, sample_index=samples, metric=metric
        )
        assert_close("permutation_eval", values[:, column], ends)


def test_permutation_eval_marginals_add_up_to_the_whole(device: str, generator: torch.Generator) -> None:
    head = make_head(5, 33, 10, "plain", "cross_entropy", device, generator)
    walks, samples = head.walks(40), head.samples(40)
    values = evaluate(head, walks, samples)
    total, _ = marginals(values, walks)
    torch.testing.assert_close(total.sum(), (values[:, -1].double() - values[:, 0].double()).sum(), rtol=0, atol=1e-12)


@each_metric
@pytest.mark.parametrize("form", ["plain", "flat 4", "mean 4"])
@pytest.mark.parametrize("piece", [1, 7])
def test_permutation_eval_walks_do_not_depend_on_the_split(
    piece: int, form: str, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(6, 40, 20, form, metric, device, generator)
    walks, samples = head.walks(50), head.samples(50)
    whole = evaluate(head, walks, samples)
    parts = [evaluate(head, walks[i : i + piece], samples[i : i + piece]) for i in range(0, 50, piece)]
    assert torch.equal(torch.cat(parts), whole)


@each_metric
def test_permutation_eval_one_position_is_as_none(metric: str, device: str, generator: torch.Generator) -> None:
    head = make_head(9, 33, 10, "flat 1", metric, device, generator)
    walks, samples = head.walks(20), head.samples(20)
    with_positions = evaluate(head, walks, samples)
    head.features = head.features[:, :, 0]
    assert torch.equal(evaluate(head, walks, samples), with_positions)


@pytest.mark.parametrize("form", ["plain", "flat 4", "mean 4"])
@each_metric
def test_permutation_eval_nan_counts_from_the_step_that_brings_it(
    metric: str, form: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(6, 40, 20, form, metric, device, generator)
    walks, samples = head.walks(30), head.samples(30)
    clean = evaluate(head, walks, samples)
    head.features[2, 7] = float("nan")
    step = (walks == 7).int().argmax(1) + 1
    hit = (samples == 2)[:, None] & (torch.arange(41, device=device)[None] >= step[:, None])
    assert hit.any()
    dirty = evaluate(head, walks, samples)
    assert torch.equal(dirty.isnan(), hit)
    assert torch.equal(dirty[~hit], clean[~hit])


@each_metric
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_permutation_eval_short_floats_equal_their_float32_values(
    dtype: torch.dtype, metric: str, device: str, generator: torch.Generator
) -> None:
    head = make_head(9, 33, 10, "flat 4", metric, device, generator).with_dtype(dtype)
    walks, samples = head.walks(30), head.samples(30)
    assert torch.equal(evaluate(head, walks, samples), evaluate(head.with_dtype(torch.float32), walks, samples))


@pytest.mark.parametrize("n_samples", [0, 4])
@pytest.mark.parametrize("form", ["plain", "flat 4"])
def test_permutation_eval_no_walks_give_an_empty_tensor(
    form: str, n_samples: int, device: str, generator: torch.Generator
) -> None:
    head = make_head(n_samples, 3, 2, form, "cross_entropy", device, generator)
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    assert evaluate(head, head.walks(0), nothing).shape == (0, 4)


X, W, B = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2)
Y, OWN = torch.zeros(4, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
P = torch.arange(3, dtype=torch.int32).expand(5, 3).contiguous()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": X.int()}, "features must be float32, bfloat16 or float16 [N, C], got int32 [4, 3]"),
        ({"features": X[:, :0]}, "features must be of at least one player, got float32 [4, 0]"),
        ({"weight": W[:, :2]}, "weight must be [K, C = 3], got float32 [2, 2]"),
        ({"bias": torch.zeros(3)}, "bias must be float32, bfloat16 or float16 [K = 2], got float32 [3]"),
        ({"targets": Y[:3]}, "targets must be int64 [N = 4], got int64 [3]"),
        ({"metric": "loss"}, "metric must be cross_entropy, accuracy or squared_error, got 'loss'"),
        ({"permutations": P.long()}, "permutations must be int32 [R, C = 3], got int64 [5, 3]"),
        ({"permutations": P[:, :2]}, "permutations must be int32 [R, C = 3], got int32 [5, 2]"),
        ({"sample_index": OWN[:4]}, "sample_index must be int64 [R = 5], got int64 [4]"),
    ],
)
def test_permutation_eval_bad_argument_raises(changes: dict[str, Any], message: str, device: str) -> None:
    call: dict[str, Any] = {
        "features": X, "permutations": P, "weight": W, "bias": B, "targets": Y, "sample_index": OWN, **changes
    }  # fmt: skip
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in call.items()}
    with pytest.raises(RuntimeError) as error:
        permutation_eval(**moved)
    assert str(error.value) == "shapley::permutation_eval: " + message


@pytest.mark.parametrize(
    ("argument", "bad", "message"),
    [
        ("targets", -1, "targets must be in [0, 2), got -1 at position 2"),
        ("targets", 2, "targets must be in [0, 2), got 2 at position 2"),
        ("sample_index", -1, "sample_index must be in [0, 4), got -1 at position 2"),
        ("sample_index", 4, "sample_index must be in [0, 4), got 4 at position 2"),
        ("permutations", -1, "permutations must be rows that hold each of 0 .. 2 once, got another at row 2"),
        ("permutations", 3, "permutations must be rows that hold each of 0 .. 2 once, got another at row 2"),
    ],
)
def test_permutation_eval_value_out_of_range_raises_or_gives_nan(
    argument: str, bad: int, message: str, device: str
) -> None:
    call = {"targets": Y.clone(), "sample_index": torch.tensor([0, 1, 2, 3, 0]), "permutations": P.clone()}
    call[argument][2] = bad
    moved = {key: value.to(device) for key, value in call.items()}
    head = {"features": X.to(device), "weight": W.to(device), "bias": B.to(device)}
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            permutation_eval(**head, **moved)
        assert str(error.value) == "shapley::permutation_eval: " + message
    else:
        nan_rows = permutation_eval(**head, **moved).isnan().all(1).tolist()
        assert nan_rows == [False, False, True, False, False]


def test_permutation_eval_repeated_player_raises_on_the_cpu() -> None:
    walks = torch.tensor([[0, 1, 2], [0, 2, 2]], dtype=torch.int32)
    with pytest.raises(RuntimeError) as error:
        permutation_eval(X, walks, W, B, Y, OWN[:2])
    message = "permutations must be rows that hold each of 0 .. 2 once, got another at row 1"
    assert str(error.value) == "shapley::permutation_eval: " + message
