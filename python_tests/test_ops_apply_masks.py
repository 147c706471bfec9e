from __future__ import annotations

import pytest
import reference
import torch

from shapley_cuda.ops import apply_masks

SHAPES = [(1, 1), (3, 33), (4, 6, 5), (2, 8, 4, 4), (3, 5, 1, 7), (2, 3, 2, 2, 2), (2, 16, 1)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("own_samples", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_apply_masks_equals_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, own_samples: bool, device: str, generator: torch.Generator
) -> None:
    x = torch.randn(shape, generator=generator).to(device, dtype)
    masks = (torch.rand(9, shape[1], generator=generator) > 0.4).to(device)
    samples = torch.randint(0, shape[0], (9,), generator=generator).to(device) if own_samples else None
    actual = apply_masks(x, masks, samples)
    assert actual.dtype == dtype
    assert torch.equal(actual, reference.apply_masks(x, masks, samples))


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_masks_channels_last_keeps_format_and_values(
    dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    x = torch.randn(3, 6, 5, 4, generator=generator).to(device, dtype)
    masks = (torch.rand(7, 6, generator=generator) > 0.4).to(device)
    actual = apply_masks(x.to(memory_format=torch.channels_last), masks)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(actual, apply_masks(x, masks))


@pytest.mark.parametrize("shape", [(1, 2, 1, 3), (2, 3, 1, 1), (1, 1, 4, 5), (3, 1, 1, 2)])
def test_apply_masks_axes_of_one_leave_the_format_to_the_others(shape: tuple[int, ...], device: str) -> None:
    gaps = torch.zeros(*shape, 2, device=device)[..., 0]
    masks = torch.ones(2, shape[1], dtype=torch.bool, device=device)
    for x in (gaps, gaps.contiguous(), gaps.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
        fake = torch.empty_strided(x.shape, x.stride(), device="meta")
        assert apply_masks(x, masks).stride() == apply_masks(fake, masks.to("meta")).stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0])
def test_apply_masks_removed_values_leave_no_trace(value: float, dtype: torch.dtype, device: str) -> None:
    x = torch.full((2, 33, 3), value, dtype=dtype, device=device)
    nothing = torch.zeros(4, 33, dtype=torch.bool, device=device)
    out = apply_masks(x, nothing)
    assert not out.contiguous().view(torch.uint8).any()
    kept = apply_masks(x, ~nothing)
    assert torch.equal(kept.view(torch.uint8), x.repeat(4, 1, 1).view(torch.uint8))


def test_apply_masks_views_at_odd_addresses_equal_their_copies(device: str, generator: torch.Generator) -> None:
    flat = torch.randn(1 + 3 * 4 * 8, generator=generator).to(device)
    x = flat[1:].view(3, 4, 8)
    masks = (torch.rand(5, 4, generator=generator) > 0.4).to(device)
    assert torch.equal(apply_masks(x, masks), apply_masks(x.clone(), masks))


@pytest.mark.parametrize("shapes", [((0, 3), (4, 3), (0, 3)), ((2, 3), (0, 3), (0, 3)), ((2, 3, 0), (4, 3), (8, 3, 0))])
def test_apply_masks_empty_batch_gives_empty_rows(shapes: tuple[tuple[int, ...], ...], device: str) -> None:
    x, masks = torch.zeros(shapes[0], device=device), torch.ones(shapes[1], dtype=torch.bool, device=device)
    assert apply_masks(x, masks).shape == shapes[2]


def test_apply_masks_rows_do_not_depend_on_the_split(device: str, generator: torch.Generator) -> None:
    x = torch.randn(4, 6, 9, generator=generator).to(device)
    masks = (torch.rand(20, 6, generator=generator) > 0.4).to(device)
    samples = torch.randint(0, 4, (20,), generator=generator).to(device)
    parts = [apply_masks(x, masks[i : i + 3], samples[i : i + 3]) for i in range(0, 20, 3)]
    assert torch.equal(torch.cat(parts), apply_masks(x, masks, samples))


X = torch.zeros(2, 3)
MASKS = torch.ones(4, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "masks", "samples", "message"),
    [
        (X.int(), MASKS, None, "x must be float32, float64, bfloat16 or float16 [N, C, ...], got int32 [2, 3]"),
        (X[0], MASKS, None, "x must be float32, float64, bfloat16 or float16 [N, C, ...], got float32 [3]"),
        (X[:, :0], MASKS, None, "x must be of at least one player, [N, C, ...] with C >= 1, got float32 [2, 0]"),
        (X, MASKS.int(), None, "masks must be bool [M, C = 3], got int32 [4, 3]"),
        (X, MASKS[:, :2], None, "masks must be bool [M, C = 3], got bool [4, 2]"),
        (X, MASKS[0], None, "masks must be bool [M, C = 3], got bool [3]"),
        (X, MASKS, torch.zeros(3, dtype=torch.int64), "sample_index must be int64 [M = 4], got int64 [3]"),
        (X, MASKS, torch.zeros(4, dtype=torch.int32), "sample_index must be int64 [M = 4], got int32 [4]"),
        (
            torch.zeros(1).expand(1, 2**16, 2**15),
            MASKS,
            None,
            "x must be of fewer than 2^31 elements per sample, got float32 [1, 65536, 32768]",
        ),
    ],
)
def test_apply_masks_bad_argument_raises(
    x: torch.Tensor, masks: torch.Tensor, samples: torch.Tensor | None, message: str, device: str
) -> None:
    if x.numel() > 2**30:
        masks = torch.ones(1, x.shape[1], dtype=torch.bool)
    with pytest.raises(RuntimeError) as error:
        apply_masks(x.to(device), masks.to(device), None if samples is None else samples.to(device))
    assert str(error.value) == "shapley::apply_masks: " + message


@pytest.mark.parametrize("bad", [-1, 2])
def test_apply_masks_sample_out_of_range_raises_or_gives_nan(bad: int, device: str) -> None:
    x, samples = torch.ones(2, 3, device=device), torch.tensor([0, 1, bad, 0], device=device)
    masks = MASKS.to(device)
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            apply_masks(x, masks, samples)
        assert str(error.value) == f"shapley::apply_masks: sample_index must be in [0, 2), got {bad} at position 2"
    else:
        for dtype in DTYPES:
            out = apply_masks(x.to(dtype), masks, samples)
            assert out.isnan().any(1).tolist() == [False, False, True, False]
            assert out[2].isnan().all()
