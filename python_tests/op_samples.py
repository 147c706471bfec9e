"""One set of arguments per op, which feeds opcheck and the tests that hold for every op (test_ops_common.py).

No pytest here: other_torch.py runs the samples where only torch is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "silu", "hardswish", "gelu", "sigmoid", "tanh")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
SAMPLES: dict[str, Callable[[torch.Generator], Arguments]] = {}  # by "op: what is special"


def sample(name: str) -> Callable[[Callable[[torch.Generator], Arguments]], Callable[[torch.Generator], Arguments]]:
    """Register the decorated function as the maker of the sample of that name."""

    def register(make: Callable[[torch.Generator], Arguments]) -> Callable[[torch.Generator], Arguments]:
        SAMPLES[name] = make
        return make

    return register


def op_of(name: str) -> str:
    """Return the op that a sample is for."""
    return name.split(":")[0]


def arguments(name: str, device: str = "cpu", seed: int = 1) -> Arguments:
    """Make a sample's arguments, the same numbers on every device."""
    args, kwargs = SAMPLES[name](torch.Generator().manual_seed(seed))
    return map_tensors((args, kwargs), lambda tensor: tensor.to(device))


def map_tensors(call: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """Apply a function to every tensor among the arguments."""
    args, kwargs = call
    return (
        tuple(change(a) if isinstance(a, Tensor) else a for a in args),
        {key: change(a) if isinstance(a, Tensor) else a for key, a in kwargs.items()},
    )


def tensors(call: Arguments) -> Iterator[Tensor]:
    """List the tensors among the arguments."""
    args, kwargs = call
    return (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))


def results(name: str, call: Arguments) -> tuple[Tensor, ...]:
    """Call the op itself, not its wrapper, and return its outputs as a tuple."""
    out = getattr(torch.ops.shapley, op_of(name))(*call[0], **call[1])
    return out if isinstance(out, tuple) else (out,)


def random_permutations(count: int, n_players: int, generator: torch.Generator) -> Tensor:
    """Draw permutations int32 [count, n_players] without the op."""
    return torch.rand(count, n_players, generator=generator).argsort(1).int()


@sample("sample_permutations: antithetic")
def _(generator: torch.Generator) -> Arguments:
    return (11, 3, 40, 33), {"antithetic": True}


@sample("apply_masks: all pairs")
def _(generator: torch.Generator) -> Arguments:
    return (torch.randn(5, 33, generator=generator), torch.rand(40, 33, generator=generator) > 0.5), {}


@sample("apply_masks: own samples, images")
def _(generator: torch.Generator) -> Arguments:
    x = torch.randn(5, 6, 4, 3, generator=generator)
    return (x, torch.rand(9, 6, generator=generator) > 0.5, torch.randint(0, 5, (9,), generator=generator)), {}


@sample("apply_masks: channels last")
def _(generator: torch.Generator) -> Arguments:
    x = torch.randn(5, 6, 4, 3, generator=generator).to(memory_format=torch.channels_last)
    return (x, torch.rand(9, 6, generator=generator) > 0.5), {}


@sample("loss_difference: own rows")
def _(generator: torch.Generator) -> Arguments:
    outputs = torch.randn(4099, 10, generator=generator)
    return (outputs, torch.randint(0, 10, (4099,), generator=generator)), {}


@sample("loss_difference: shared samples, baseline")
def _(generator: torch.Generator) -> Arguments:
    outputs, targets = torch.randn(50, 33, generator=generator), torch.randint(0, 33, (7,), generator=generator)
    samples, baseline = torch.randint(0, 7, (50,), generator=generator), torch.rand(7, generator=generator)
    return (outputs, targets), {"sample_index": samples, "baseline": baseline, "metric": "accuracy"}


@sample("loss_difference: squared error")
def _(generator: torch.Generator) -> Arguments:
    return (torch.randn(50, 33, generator=generator), torch.randn(50, 33, generator=generator)), {
        "metric": "squared_error"
    }


@sample("marginals: many tiles")
def _(generator: torch.Generator) -> Arguments:
    return (torch.randn(500, 34, generator=generator), random_permutations(500, 33, generator)), {}


@sample("marginals: pairs, float64")
def _(generator: torch.Generator) -> Arguments:
    values = torch.randn(130, 8, generator=generator, dtype=torch.float64)
    return (values, random_permutations(130, 7, generator)), {"block": 2}


def linear_head(
    n_samples: int, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator, flat: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw features [N, *shape], weight of a flattened head or of one on the mean, bias and classes."""
    columns = math.prod(shape) if flat else shape[0]
    features = torch.randn(n_samples, *shape, generator=generator).relu()
    weight = torch.randn(n_outputs, columns, generator=generator) / columns**0.5
    bias = torch.randn(n_outputs, generator=generator)
    return features, weight, bias, torch.randint(0, n_outputs, (n_samples,), generator=generator)


@sample("masked_eval: many masks, mean")
def _(generator: torch.Generator) -> Arguments:
    features, weight, bias, targets = linear_head(70, (33,), 10, generator)
    masks = torch.rand(300, 33, generator=generator) > 0.5
    return (features, masks, weight, bias, targets), {"baseline": torch.rand(70, generator=generator)}


@sample("masked_eval: few masks, mean")
def _(generator: torch.Generator) -> Arguments:
    features, weight, _, _ = linear_head(900, (33, 4), 33, generator)
    masks, targets = torch.rand(5, 33, generator=generator) > 0.5, torch.randn(900, 33, generator=generator)
    return (features, masks, weight, None, targets), {"metric": "squared_error"}


@sample("masked_eval: own samples")
def _(generator: torch.Generator) -> Arguments:
    features, weight, bias, targets = linear_head(5, (33, 4), 10, generator, flat=False)
    masks, samples = torch.rand(300, 33, generator=generator) > 0.5, torch.randint(0, 5, (300,), generator=generator)
    return (features, masks, weight, bias, targets), {
        "sample_index": samples,
        "baseline": torch.rand(5, generator=generator),
    }


@sample("permutation_eval: one position")
def _(generator: torch.Generator) -> Arguments:
    features, weight, bias, targets = linear_head(7, (33,), 10, generator)
    samples = torch.randint(0, 7, (300,), generator=generator)
    return (features, random_permutations(300, 33, generator), weight, bias, targets, samples), {}


@sample("permutation_eval: several positions")
def _(generator: torch.Generator) -> Arguments:
    features, weight, _, targets = linear_head(7, (20, 4), 33, generator)
    samples = torch.randint(0, 7, (100,), generator=generator)
    return (features, random_permutations(100, 20, generator), weight, None, targets, samples), {"metric": "accuracy"}


@sample("permutation_linear: one position")
def _(generator: torch.Generator) -> Arguments:
    features, weight, bias, _ = linear_head(7, (33,), 10, generator)
    samples = torch.randint(0, 7, (300,), generator=generator)
    return (features, random_permutations(300, 33, generator), weight, bias, samples), {}


@sample("permutation_linear: several positions")
def _(generator: torch.Generator) -> Arguments:
    features, weight, _, _ = linear_head(7, (20, 4), 33, generator)
    samples = torch.randint(0, 7, (100,), generator=generator)
    return (features, random_permutations(100, 20, generator), weight, None, samples), {}


@sample("permutation_linear: with all that may follow")
def _(generator: torch.Generator) -> Arguments:
    features, weight, bias, _ = linear_head(7, (33,), 20, generator)
    samples = torch.randint(0, 7, (90,), generator=generator)
    return (features, random_permutations(90, 33, generator), weight, bias, samples), {
        "residual": torch.randn(7, 20, generator=generator),
        "activation": "leaky_relu",
        "negative_slope": 0.2,
    }


@sample("exhaustive_eval: one position")
def _(generator: torch.Generator) -> Arguments:
    return linear_head(7, (13,), 10, generator), {}


@sample("exhaustive_eval: several positions")
def _(generator: torch.Generator) -> Arguments:
    features, weight, _, _ = linear_head(5, (9, 4), 33, generator, flat=False)
    return (features, weight, None, torch.randn(5, 33, generator=generator)), {"metric": "squared_error"}


def convolution(
    x_shape: tuple[int, ...], weight_shape: tuple[int, ...], n_walks: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Draw x, weight, bias, permutations and sample_index."""
    weight = torch.randn(*weight_shape, generator=generator) / math.prod(weight_shape[1:]) ** 0.5
    return (
        torch.randn(*x_shape, generator=generator),
        weight,
        torch.randn(weight_shape[0], generator=generator),
        random_permutations(n_walks, x_shape[1], generator),
        torch.randint(0, x_shape[0], (n_walks,), generator=generator),
    )


@sample("permutation_conv2d: 3 x 3")
def _(generator: torch.Generator) -> Arguments:
    return (*convolution((3, 9, 8, 8), (20, 9, 3, 3), 7, generator), 1, 1), {"activation": "relu"}


@sample("permutation_conv2d: channels last, with all that may follow")
def _(generator: torch.Generator) -> Arguments:
    return (*convolution((3, 6, 9, 11), (33, 6, 5, 3), 9, generator), (2, 1), (0, 2), (1, 2)), {
        "residual": torch.randn(3, 33, 3, 11, generator=generator),
        "activation": "leaky_relu",
        "negative_slope": 0.2,
        "pool": 2,
        "channels_last": True,
    }


@sample("permutation_conv2d: no padding")
def _(generator: torch.Generator) -> Arguments:
    x, weight, _, walks, samples = convolution((2, 33, 2, 2), (129, 33, 1, 1), 5, generator)
    return (x, weight, None, walks, samples), {}
