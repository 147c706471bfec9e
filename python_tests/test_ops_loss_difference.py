from __future__ import annotations

import pytest
import reference
import torch
from tolerances import assert_close
from torch import Tensor

from shapley_cuda.ops import loss_difference


def make(
    rows: int, n_outputs: int, metric: str, device: str, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs [R, K], targets of 5 samples, their rows' sample_index and a baseline."""
    outputs = 3 * torch.randn(rows, n_outputs, generator=generator)
    if metric == "squared_error":
        targets = torch.randn(5, n_outputs, generator=generator)
    else:
        targets = torch.randint(0, n_outputs, (5,), generator=generator)
    samples = torch.randint(0, 5, (rows,), generator=generator)
    baseline = torch.randn(5, generator=generator)
    return outputs.to(device), targets.to(device), samples.to(device), baseline.to(device)


@pytest.mark.parametrize("with_baseline", [False, True])
@pytest.mark.parametrize("metric", reference.METRICS)
@pytest.mark.parametrize(("rows", "n_outputs"), [(1, 1), (33, 2), (9, 10), (40, 33), (7, 129), (3, 1134)])
def test_loss_difference_agrees_with_the_reference(
    rows: int, n_outputs: int, metric: str, with_baseline: bool, device: str, generator: torch.Generator
) -> None:
    outputs, targets, samples, baseline = make(rows, n_outputs, metric, device, generator)
    reference_baseline = baseline if with_baseline else None
    actual = loss_difference(outputs, targets, sample_index=samples, baseline=reference_baseline, metric=metric)
    assert actual.dtype == torch.float32
    assert_close(
        "loss_difference", actual, reference.loss_difference(outputs, targets, samples, reference_baseline, metric)
    )


@pytest.mark.parametrize("metric", reference.METRICS)
def test_loss_difference_without_index_takes_each_rows_own_sample(
    metric: str, device: str, generator: torch.Generator
) -> None:
    outputs, targets, _, baseline = make(5, 10, metric, device, generator)
    own = torch.arange(5, device=device)
    expected = loss_difference(outputs, targets, sample_index=own, baseline=baseline, metric=metric)
    assert torch.equal(loss_difference(outputs, targets, baseline=baseline, metric=metric), expected)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 80.0, 1e4, 1e30])
def test_loss_difference_cross_entropy_holds_for_logits_of_any_size(
    scale: float, device: str, generator: torch.Generator
) -> None:
    outputs = (scale * torch.randn(200, 33, generator=generator)).to(device)
    targets = torch.randint(0, 33, (200,), generator=generator).to(device)
    assert_close(
        "loss_difference",
        loss_difference(outputs, targets),
        reference.row_metric(outputs, targets, "cross_entropy"),
    )


def test_loss_difference_accuracy_of_a_tie_goes_to_the_first(device: str) -> None:
    outputs = torch.tensor([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], device=device)
    targets = torch.tensor([1, 2, 0], device=device)
    assert loss_difference(outputs, targets, metric="accuracy").tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("metric", reference.METRICS)
@pytest.mark.parametrize("place", [0, 7, 32])
def test_loss_difference_nan_output_makes_its_row_alone_nan(
    metric: str, place: int, device: str, generator: torch.Generator
) -> None:
    outputs, targets, samples, baseline = make(20, 33, metric, device, generator)
    clean = loss_difference(outputs, targets, sample_index=samples, baseline=baseline, metric=metric)
    outputs[3, place] = float("nan")
    dirty = loss_difference(outputs, targets, sample_index=samples, baseline=baseline, metric=metric)
    assert dirty.isnan().nonzero().tolist() == [[3]]
    others = torch.arange(20, device=device) != 3
    assert torch.equal(dirty[others], clean[others])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", reference.METRICS)
def test_loss_difference_short_floats_equal_their_float32_values(
    metric: str, dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    outputs, targets, samples, _ = make(20, 33, metric, device, generator)
    short = outputs.to(dtype)
    short_targets = targets.to(dtype) if metric == "squared_error" else targets
    expected = loss_difference(
        short.float(),
        short_targets.float() if metric == "squared_error" else targets,
        sample_index=samples,
        metric=metric,
    )
    assert torch.equal(loss_difference(short, short_targets, sample_index=samples, metric=metric), expected)


@pytest.mark.parametrize("metric", reference.METRICS)
def test_loss_difference_rows_do_not_depend_on_the_split(metric: str, device: str, generator: torch.Generator) -> None:
    outputs, targets, samples, _ = make(50, 33, metric, device, generator)
    whole = loss_difference(outputs, targets, sample_index=samples, metric=metric)
    parts = [
        loss_difference(outputs[i : i + 3], targets, sample_index=samples[i : i + 3], metric=metric)
        for i in range(0, 50, 3)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_loss_difference_no_rows_gives_an_empty_tensor(device: str) -> None:
    targets = torch.zeros(0, dtype=torch.int64, device=device)
    assert loss_difference(torch.zeros(0, 4, device=device), targets).shape == (0,)


OUTPUTS, TARGETS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
INDEX, BASELINE = torch.zeros(4, dtype=torch.int64), torch.zeros(4)


@pytest.mark.parametrize(
    ("outputs", "targets", "options", "message"),
    [
        (OUTPUTS.long(), TARGETS, {}, "outputs must be float32, bfloat16 or float16 [R, K], got int64 [4, 3]"),
        (OUTPUTS[0], TARGETS, {}, "outputs must be float32, bfloat16 or float16 [R, K], got float32 [3]"),
        (OUTPUTS[:, :0], TARGETS, {}, "outputs must be of at least one column, got float32 [4, 0]"),
        (OUTPUTS, TARGETS.int(), {}, "targets must be int64 [N = 4], got int32 [4]"),
        (OUTPUTS, TARGETS[:3], {}, "targets must be int64 [N = 4], got int64 [3]"),
        (OUTPUTS, OUTPUTS, {"sample_index": INDEX}, "targets must be int64 [N], got float32 [4, 3]"),
        (
            OUTPUTS,
            TARGETS,
            {"metric": "squared_error"},
            "targets must be float32, bfloat16 or float16 [N = 4, K = 3], got int64 [4]",
        ),
        (OUTPUTS, TARGETS, {"sample_index": INDEX[:2]}, "sample_index must be int64 [R = 4], got int64 [2]"),
        (OUTPUTS, TARGETS, {"baseline": BASELINE[:2]}, "baseline must be float32 [N = 4], got float32 [2]"),
        (OUTPUTS, TARGETS, {"baseline": BASELINE.half()}, "baseline must be float32 [N = 4], got float16 [4]"),
        (
            OUTPUTS,
            TARGETS,
            {"metric": "error"},
            "metric must be cross_entropy, accuracy or squared_error, got 'error'",
        ),
    ],
)
def test_loss_difference_bad_argument_raises(
    outputs: Tensor, targets: Tensor, options: dict[str, Tensor | str], message: str, device: str
) -> None:
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in options.items()}
    with pytest.raises(RuntimeError) as error:
        loss_difference(outputs.to(device), targets.to(device), **moved)  # type: ignore[arg-type]
    assert str(error.value) == "shapley::loss_difference: " + message


@pytest.mark.parametrize(
    ("argument", "bad", "limit"),
    [("targets", -1, 3), ("targets", 3, 3), ("sample_index", -1, 4), ("sample_index", 4, 4)],
)
def test_loss_difference_value_out_of_range_raises_or_gives_nan(
    argument: str, bad: int, limit: int, device: str
) -> None:
    outputs, targets, samples = OUTPUTS.to(device), TARGETS.to(device).clone(), torch.arange(4, device=device)
    (targets if argument == "targets" else samples)[2] = bad
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            loss_difference(outputs, targets, sample_index=samples)
        expected = f"shapley::loss_difference: {argument} must be in [0, {limit}), got {bad} at position 2"
        assert str(error.value) == expected
    else:
        rows = loss_difference(outputs, targets, sample_index=samples)
        assert rows.isnan().tolist() == [False, False, True, False]
