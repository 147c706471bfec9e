from __future__ import annotations

import doctest
from typing import Any

import pytest
import reference
import torch
from op_samples import ACTIVATIONS, convolution
from tolerances import assert_close
from torch import Tensor
from torch.nn import functional

from shapley_cuda import convolution as module
from shapley_cuda.ops import permutation_conv2d

# C, K, image, kernel, stride, padding, dilation
Geometry = tuple[int, int, tuple[int, int], tuple[int, int], Any, Any, Any]
GEOMETRIES: list[Geometry] = [
    (1, 1, (1, 1), (1, 1), 1, 0, 1),
    (2, 1, (1, 1), (3, 3), 1, 1, 1),
    (31, 33, (2, 2), (3, 3), 1, 1, 1),
    (33, 31, (4, 4), (3, 3), 1, 1, 1),
    (129, 64, (2, 2), (3, 3), 1, 1, 1),
    (2, 129, (4, 4), (3, 3), 1, 1, 1),
    (33, 129, (7, 7), (1, 1), 1, 0, 1),
    (3, 300, (1, 2), (1, 2), 1, 0, 1),
    (4, 64, (8, 8), (3, 3), 1, 1, 1),
    (3, 20, (16, 16), (3, 3), 1, 1, 1),
    (6, 16, (14, 14), (5, 5), 1, 0, 1),
    (3, 5, (33, 17), (3, 3), 2, 1, 1),
    (2, 33, (17, 33), (7, 7), 2, 3, 1),
    (2, 17, (9, 10), (2, 2), 1, 0, 1),
    (3, 5, (9, 10), (1, 3), 1, (0, 1), (1, 3)),
    (3, 5, (10, 9), (5, 2), (2, 1), (0, 2), (1, 2)),
    (2, 3, (12, 11), (3, 3), 1, 2, 2),
    (2, 16, (3, 130), (3, 3), 1, 1, 1),
    (2, 2, (3, 3), (2, 2), 3, 1, 1),
]


def make(geometry: Geometry, generator: torch.Generator, n_walks: int = 4) -> tuple[Any, ...]:
    n_players, n_outputs, size, kernel, stride, padding, dilation = geometry
    call = convolution((3, n_players, *size), (n_outputs, n_players, *kernel), n_walks, generator)
    return (*call, stride, padding, dilation)


def to(device: str, call: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.to(device) if isinstance(a, Tensor) else a for a in call)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_permutation_conv2d_agrees_with_the_reference(
    geometry: Geometry, channels_last: bool, device: str, generator: torch.Generator
) -> None:
    call = to(device, make(geometry, generator))
    actual = permutation_conv2d(*call, channels_last=channels_last)
    expected = reference.permutation_conv2d(*call)
    assert actual.dtype == torch.float32
    assert actual.flatten(0, 1).is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    assert_close("permutation_conv2d", actual, expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("image", [(4, 4), (7, 5)])
def test_permutation_conv2d_what_follows_agrees_with_the_reference(
    image: tuple[int, int],
    activation: str,
    with_residual: bool,
    pool: int,
    channels_last: bool,
    device: str,
    generator: torch.Generator,
) -> None:
    call = to(device, make((5, 18, image, (3, 3), 1, 1, 1), generator))
    options: dict[str, Any] = {"activation": activation, "pool": pool, "negative_slope": 0.3}
    if with_residual:
        options["residual"] = 3 * torch.randn(3, 18, *image, generator=generator).to(device)
    actual = permutation_conv2d(*call, **options, channels_last=channels_last)
    assert_close("permutation_conv2d", actual, reference.permutation_conv2d(*call, **options))


@pytest.mark.parametrize("image", [(2, 2), (3, 5), (4, 8), (8, 8), (9, 70)])
def test_permutation_conv2d_pools_whole_windows_of_any_image(
    image: tuple[int, int], device: str, generator: torch.Generator
) -> None:
    call = to(device, make((3, 33, image, (3, 3), 1, 1, 1), generator))
    plain = permutation_conv2d(*call, activation="silu")
    pooled = permutation_conv2d(*call, activation="silu", pool=2)
    assert torch.equal(pooled.flatten(0, 1), functional.max_pool2d(plain.flatten(0, 1), 2))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_permutation_conv2d_activations_hold_for_numbers_of_any_size(activation: str, size: float, device: str) -> None:
    x = (size * torch.linspace(-1, 1, 2049, device=device))[None, None, None]
    walk, own = torch.zeros(1, 1, dtype=torch.int32, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    call = (x, torch.ones(1, 1, 1, 1, device=device), None, walk, own)
    actual = permutation_conv2d(*call, activation=activation)
    assert_close("permutation_conv2d", actual, reference.permutation_conv2d(*call, activation=activation))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "geometry", [(64, 64, (16, 16), (3, 3), 1, 1, 1), (160, 160, (2, 2), (3, 3), 1, 1, 1)], ids=["large", "small"]
)
def test_permutation_conv2d_walks_do_not_depend_on_the_split(
    geometry: Geometry, channels_last: bool, device: str, generator: torch.Generator
) -> None:
    x, weight, bias, walks, samples, *rest = to(device, make(geometry, generator, n_walks=5))
    whole = permutation_conv2d(x, weight, bias, walks, samples, *rest, channels_last=channels_last)
    parts = [
        permutation_conv2d(
            x, weight, bias, walks[i : i + 2], samples[i : i + 2], *rest, channels_last=not channels_last
        )
        for i in range(0, 5, 2)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("layout", ["channels_last", "expanded", "cropped"])
def test_permutation_conv2d_inputs_of_any_strides_give_the_same_bits(
    layout: str, device: str, generator: torch.Generator
) -> None:
    x, *call = to(device, make((6, 20, (9, 8), (3, 3), 1, 1, 1), generator))
    residual = torch.randn(3, 20, 9, 8, generator=generator).to(device)
    if layout == "channels_last":
        other_x, other_residual = (t.to(memory_format=torch.channels_last) for t in (x, residual))
    elif layout == "expanded":
        x, residual = (t[:1].repeat(3, 1, 1, 1) for t in (x, residual))
        other_x, other_residual = (t[:1].expand_as(t) for t in (x, residual))
    else:
        other_x, other_residual = (functional.pad(t, (2, 1, 3, 2))[:, :, 3:-2, 2:-1] for t in (x, residual))
    assert not other_x.is_contiguous()
    expected = permutation_conv2d(x, *call, residual=residual)
    assert torch.equal(permutation_conv2d(other_x, *call, residual=other_residual), expected)


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "leaky_relu", "silu", "gelu"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_permutation_conv2d_nan_counts_from_the_step_that_brings_it(
    bad: float, activation: str, pool: int, device: str, generator: torch.Generator
) -> None:
    x, *call = to(device, make((7, 20, (6, 6), (3, 3), 1, 1, 1), generator, n_walks=12))
    walks, samples = call[2], call[3]
    clean = permutation_conv2d(x, *call, activation=activation, pool=pool)
    x[1, 4, 0, 5] = bad
    dirty = permutation_conv2d(x, *call, activation=activation, pool=pool)
    joined = (walks == 4).int().cumsum(1).bool() & (samples == 1)[:, None]
    with_it = functional.pad(joined, (1, 0))
    assert with_it.any()
    assert torch.equal(dirty[~with_it], clean[~with_it])
    window = torch.zeros_like(dirty, dtype=torch.bool)
    window[..., : 2 // pool, 4 // pool :] = True
    assert torch.equal(dirty[~window], clean[~window])
    if bad != bad:
        assert torch.equal(dirty.isnan(), window & with_it[:, :, None, None, None])
    else:
        assert not torch.equal(dirty[with_it], clean[with_it])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_permutation_conv2d_short_floats_equal_their_float32_values(
    dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    x, weight, bias, *call = to(device, make((6, 20, (5, 4), (3, 3), 1, 1, 1), generator))
    short = x.to(dtype).to(memory_format=torch.channels_last), weight.to(dtype), bias.to(dtype)
    residual = torch.randn(3, 20, 5, 4, generator=generator).to(device, dtype)
    expected = permutation_conv2d(*(t.float() for t in short), *call, residual=residual.float())
    actual = permutation_conv2d(*short, *call, residual=residual)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


def test_permutation_conv2d_last_row_is_the_convolution(device: str, generator: torch.Generator) -> None:
    x, weight, bias, walks, samples, *rest = to(device, make((129, 33, (4, 4), (3, 3), 1, 1, 1), generator))
    rows = permutation_conv2d(x, weight, bias, walks, samples, *rest)
    whole = functional.conv2d(x.double(), weight.double(), bias.double(), *rest)
    assert_close("permutation_conv2d", rows[:, -1], whole[samples])
    assert torch.equal(rows[:, 0], bias[None, :, None, None].expand_as(rows[:, 0]))


def test_permutation_conv2d_no_walks_give_an_empty_tensor(device: str, generator: torch.Generator) -> None:
    call = to(device, make((3, 2, (5, 4), (3, 3), 1, 1, 1), generator, n_walks=0))
    assert permutation_conv2d(*call, pool=2).shape == (0, 4, 2, 2, 2)
    assert permutation_conv2d(*call, channels_last=True).shape == (0, 4, 2, 5, 4)


def test_permutation_conv2d_example_prints_what_it_says() -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


X, W, B = torch.zeros(4, 3, 5, 6), torch.zeros(2, 3, 3, 3), torch.zeros(2)
OWN, P = torch.zeros(5, dtype=torch.int64), torch.arange(3, dtype=torch.int32).expand(5, 3).contiguous()
FLOAT = "float32, bfloat16 or float16"
NAMES = "none, relu, relu6, leaky_relu, silu, hardswish, gelu, sigmoid or tanh"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X.int()}, f"x must be {FLOAT} [N, C, H, W], got int32 [4, 3, 5, 6]"),
        ({"x": X[0]}, f"x must be {FLOAT} [N, C, H, W], got float32 [3, 5, 6]"),
        ({"x": X[:, :0]}, "x must be of at least one player, [N, C, H, W] with C >= 1, got float32 [4, 0, 5, 6]"),
        (
            {"x": X[:, :, :2]},
            "x must be at least as large, with padding, as the dilated kernel (3 x 3), got float32 [4, 3, 2, 6]",
        ),
        (
            {"dilation": (1, 3)},
            "x must be at least as large, with padding, as the dilated kernel (3 x 7), got float32 [4, 3, 5, 6]",
        ),
        (
            {"x": X[:, :, :0], "padding": 3},
            "x must be at least as large, with padding, as the dilated kernel (3 x 3), got float32 [4, 3, 0, 6]",
        ),
        ({"padding": 1 << 20}, "x must be of at most 2^30 positions with padding, got float32 [4, 3, 5, 6]"),
        ({"weight": W[:, :2]}, f"weight must be {FLOAT} [K, C = 3, kh, kw], got float32 [2, 2, 3, 3]"),
        ({"weight": W[:0]}, "weight must be of at least one output and one tap, got float32 [0, 3, 3, 3]"),
        ({"weight": W[..., :0]}, "weight must be of at least one output and one tap, got float32 [2, 3, 3, 0]"),
        ({"bias": torch.zeros(3)}, f"bias must be {FLOAT} [K = 2], got float32 [3]"),
        ({"permutations": P.long()}, "permutations must be int32 [R, C = 3], got int64 [5, 3]"),
        ({"sample_index": OWN[:4]}, "sample_index must be int64 [R = 5], got int64 [4]"),
        ({"stride": (0, 1)}, "stride must be two numbers in [1, 2^31), got [0, 1]"),
        ({"padding": (0, -1)}, "padding must be two numbers in [0, 2^31), got [0, -1]"),
        ({"dilation": 0}, "dilation must be two numbers in [1, 2^31), got [0, 0]"),
        ({"stride": (1, 1, 1)}, "stride must be two numbers in [1, 2^31), got [1, 1, 1]"),
        ({"activation": "softmax"}, f"activation must be {NAMES}, got 'softmax'"),
        ({"pool": 3}, "pool must be 1 or 2, got 3"),
        ({"pool": 2, "stride": (1, 4)}, "pool must be no larger than the convolution's output, got 2 for 3 x 1"),
        (
            {"residual": torch.zeros(4, 2, 5, 6)},
            f"residual must be {FLOAT} [N = 4, K = 2, H' = 3, W' = 4], got float32 [4, 2, 5, 6]",
        ),
    ],
)
def test_permutation_conv2d_bad_argument_raises(changes: dict[str, Any], message: str, device: str) -> None:
    call = {"x": X, "weight": W, "bias": B, "permutations": P, "sample_index": OWN, **changes}
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in call.items()}
    with pytest.raises(RuntimeError) as error:
        permutation_conv2d(**moved)
    assert str(error.value) == "shapley::permutation_conv2d: " + message


@pytest.mark.parametrize(
    ("argument", "bad", "message"),
    [
        ("sample_index", -1, "sample_index must be in [0, 4), got -1 at position 2"),
        ("sample_index", 4, "sample_index must be in [0, 4), got 4 at position 2"),
        ("permutations", -1, "permutations must be rows that hold each of 0 .. 2 once, got another at row 2"),
        ("permutations", 3, "permutations must be rows that hold each of 0 .. 2 once, got another at row 2"),
    ],
)
def test_permutation_conv2d_value_out_of_range_raises_or_gives_nan(
    argument: str, bad: int, message: str, device: str
) -> None:
    call = {"permutations": P.clone(), "sample_index": torch.tensor([0, 1, 2, 3, 0])}
    call[argument][2] = bad
    moved = {key: value.to(device) for key, value in {"x": X, "weight": W, "bias": B, **call}.items()}
    if device == "cpu":
        with pytest.raises(RuntimeError) as error:
            permutation_conv2d(**moved)
        assert str(error.value) == "shapley::permutation_conv2d: " + message
    else:
        rows = permutation_conv2d(**moved, activation="relu", pool=2)
        assert rows.isnan().flatten(1).all(1).tolist() == [False, False, True, False, False]
        assert rows.isnan().flatten(1).any(1).tolist() == [False, False, True, False, False]
