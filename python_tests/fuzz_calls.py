"""Calls of every op, drawn at random, and what makes one valid: one table says both.

A tensor's shape is written in letters: what has the same letter has the same size. `forms` are the alternatives that
an op's tensors may come in. Drawn calls are valid or nearly so; `problem` tells, from the table alone, whether an op
must refuse one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from op_samples import ACTIVATIONS
from reference import METRICS
from torch import Tensor

Call = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

HALVES = (torch.bfloat16, torch.float16)
KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "real": (torch.float32, *HALVES),
    "any float": (torch.float32, torch.float64, *HALVES),
    "float32": (torch.float32,),
    "float": (torch.float32, torch.float64),
    "masks": (torch.bool,),
    "walks": (torch.int32,),
    "any walks": (torch.int32, torch.int64),
    "index": (torch.int64,),
}
DTYPES = (*KINDS["any float"], torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
          torch.complex64)  # fmt: skip
LAYOUTS = ("plain", "plain", "offset", "spread", "turned", "expanded", "channels last")


@dataclass(frozen=True)
class Argument:
    """A tensor: what its numbers are; its shape, "..." being any more axes; for indices the letter they stay below."""

    kind: str
    shape: str
    limit: str = ""
    optional: bool = False


Form = dict[str, Argument]


@dataclass(frozen=True)
class Contract:
    """What an op takes.

    Attributes:
        forms: given the call's options and which optional tensors it has, the forms its tensors may have.
        sizes: what each letter is drawn from.
        options: what each option is drawn from, bad values included.
        least: letters that must be at least 1, given the call.
        letters: further sizes that follow from the options, or None where options and sizes do not fit.
        fixed: sizes that are given.
    """

    forms: Callable[[Call], list[Form]]
    sizes: dict[str, tuple[int, ...]]
    options: dict[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    least: Callable[[Call], str] = lambda call: "C K S P"
    letters: Callable[[Call, dict[str, int]], dict[str, int] | None] = lambda call, sizes: {}
    fixed: dict[str, int] = field(default_factory=dict)


def mostly(good: st.SearchStrategy[Any], *bad: Any) -> st.SearchStrategy[Any]:
    """Draw a bad value in about one of 40 draws; hypothesis draws what is in the middle of a range least often."""
    return st.integers(0, 40).flatmap(lambda lot: st.sampled_from(bad) if lot == 23 else good)


PLAYERS = (1, 1, 2, 3, 5, 8, 9, 16, 17, 33, 0)
COUNTS = (1, 2, 3, 4, 7, 0)
METRIC = mostly(st.sampled_from(METRICS), "", "hinge", "Accuracy", 3)
ACTIVATION = mostly(st.sampled_from(ACTIVATIONS), "", "elu", "ReLU", None)
SLOPE = mostly(st.sampled_from((0.01, 0.2, 0.0, -0.5, 1.5, 2)), "0.1", None)


def targets(call: Call, samples: str = "N") -> Argument:
    if call["metric"] == "squared_error":
        return Argument("real", f"{samples} K")
    return Argument("index", samples, limit="K")


def heads(call: Call) -> list[Form]:
    """Features, weight and bias of a linear head: plain, on flattened positions, on their mean."""
    bias = Argument("real", "K", optional=True)
    return [
        {"features": Argument("real", features), "weight": Argument("real", weight), "bias": bias}
        for features, weight in (("N C", "K C"), ("N C S", "K C*S"), ("N C P", "K C"))
    ]


def with_head(rest: Callable[[Call], Form]) -> Callable[[Call], list[Form]]:
    return lambda call: [head | rest(call) for head in heads(call)]


# Accuracy is compared exactly, so sums must be exact: means over powers of two.
HEAD_SIZES = {"N": COUNTS, "C": PLAYERS, "S": (1, 2, 3, 5, 7, 0), "P": (2, 4, 8), "K": (1, 2, 3, 10, 17, 33, 0)}
WALKS = Argument("walks", "R C")
OWN = Argument("index", "R", limit="N")


def conv_letters(call: Call, sizes: dict[str, int]) -> dict[str, int] | None:
    """The convolution's output size, or None where it has none."""
    out, padded = [], 1
    for axis, (size, kernel) in enumerate((("H", "k"), ("W", "l"))):
        values = [call[name] for name in ("stride", "padding", "dilation")]
        pairs = [value if isinstance(value, list) else [value, value] for value in values]
        if any(len(pair) != 2 or any(type(v) is not int or v >= 1 << 31 for v in pair) for pair in pairs):
            return None
        stride, padding, dilation = (pair[axis] for pair in pairs)
        if stride < 1 or padding < 0 or dilation < 1 or call["pool"] not in (1, 2) or sizes[kernel] < 1:
            return None
        padded *= sizes[size] + 2 * padding
        out.append((sizes[size] + 2 * padding - dilation * (sizes[kernel] - 1) - 1) // stride + 1)
    return {"X": out[0], "Y": out[1]} if padded <= 1 << 30 and min(out) >= call["pool"] else None


def pairs(*values: int) -> st.SearchStrategy[Any]:
    each = st.sampled_from(values)
    return each | st.lists(each, min_size=2, max_size=2)


CONTRACTS: dict[str, Contract] = {
    "apply_masks": Contract(
        lambda call: [
            {
                "x": Argument("any float", "N C ..."),
                "masks": Argument("masks", "M C"),
                "sample_index": Argument("index", "M", limit="N", optional=True),
            }
        ],
        {"N": COUNTS, "C": PLAYERS, "M": COUNTS},
    ),
    "loss_difference": Contract(
        lambda call: [
            {
                "outputs": Argument("real", "R K"),
                "targets": targets(call, "R" if call["sample_index"] is None else "N"),
                "sample_index": Argument("index", "R", limit="N", optional=True),
                "baseline": Argument("float32", "R" if call["sample_index"] is None else "N", optional=True),
            }
        ],
        {"N": COUNTS, "R": (1, 2, 5, 17, 40, 0), "K": (1, 2, 3, 10, 33, 100, 0)},
        {"metric": METRIC},
    ),
    "marginals": Contract(
        lambda call: [{"values": Argument("float", "R C+1"), "permutations": WALKS}],
        {"R": (1, 2, 4, 6, 12, 0), "C": PLAYERS},
        {"block": mostly(st.sampled_from((1, 1, 2, 3)), 0, -1, 5, 1 << 62, "2", 1.5)},
        letters=lambda call, sizes: (
            {} if type(call["block"]) is int and call["block"] >= 1 and sizes["R"] % call["block"] == 0 else None
        ),
    ),
    "masked_eval": Contract(
        with_head(
            lambda call: {
                "masks": Argument("masks", "M C"),
                "targets": targets(call),
                "sample_index": Argument("index", "M", limit="N", optional=True),
                "baseline": Argument("float32", "N", optional=True),
            }
        ),
        HEAD_SIZES | {"M": (1, 2, 5, 70, 140, 0)},
        {"metric": METRIC},
        least=lambda call: "C K S P" + (" N" if call["sample_index"] is None else ""),
    ),
    "permutation_eval": Contract(
        with_head(lambda call: {"permutations": WALKS, "targets": targets(call), "sample_index": OWN}),
        HEAD_SIZES | {"R": COUNTS},
        {"metric": METRIC},
    ),
    "permutation_linear": Contract(
        with_head(
            lambda call: {
                "permutations": WALKS,
                "sample_index": OWN,
                "residual": Argument("real", "N K", optional=True),
            }
        ),
        HEAD_SIZES | {"R": COUNTS},
        {"activation": ACTIVATION, "negative_slope": SLOPE},
    ),
    "exhaustive_eval": Contract(
        with_head(lambda call: {"targets": targets(call)}),
        HEAD_SIZES | {"C": (1, 2, 3, 4, 6, 9, 25, 0)},
        {"metric": METRIC},
        least=lambda call: "N C K S P",
        letters=lambda call, sizes: {} if sizes["C"] <= 24 else None,
    ),
    "permutation_conv2d": Contract(
        lambda call: [
            {
                "x": Argument("real", "N C H W"),
                "weight": Argument("real", "K C k l"),
                "bias": Argument("real", "K", optional=True),
                "permutations": WALKS,
                "sample_index": OWN,
                "residual": Argument("real", "N K X Y", optional=True),
            }
        ],
        {"N": COUNTS, "C": (1, 2, 3, 5, 9, 0), "H": (1, 2, 4, 5, 8, 0), "W": (1, 3, 4, 7, 9), "K": (1, 2, 7, 17, 33, 0),
         "k": (1, 1, 2, 3, 0), "l": (1, 1, 3), "R": COUNTS},
        {
            "stride": mostly(pairs(1, 1, 2, 3), 0, -1, [1], [1, 2, 3], [2, 0], (1 << 31) - 1, 1 << 31, 1 << 70, 1.5),
            "padding": mostly(pairs(0, 1, 2), -1, [0, -1], [0], 1 << 20, 1 << 31, None),
            "dilation": mostly(pairs(1, 1, 2), 0, [1, -2], (1 << 31) - 1, "1"),
            "pool": mostly(st.sampled_from((1, 1, 2)), 0, 3, -1, None),
            "activation": ACTIVATION,
            "negative_slope": SLOPE,
            "channels_last": mostly(st.booleans(), "yes"),
        },
        least=lambda call: "C K k l H W",
        letters=conv_letters,
    ),
    "sample_permutations": Contract(
        lambda call: [{}],
        {},
        {
            "seed": mostly(st.integers(-(1 << 63), (1 << 63) - 1), 1 << 64, -(1 << 63) - 1, 0.5, None),
            "first": mostly(
                st.integers(0, 9) | st.sampled_from(((1 << 32) - 2, (1 << 63) - 9)), -1, -(1 << 63), 1 << 63
            ),
            "count": mostly(st.integers(0, 8), -1, -(1 << 63), (1 << 63) - 1, 1 << 60, "8"),
            "n_players": mostly(st.integers(1, 40), 0, -3, 1 << 24, 1 << 62),
            "antithetic": mostly(st.booleans(), "no"),
        },
    ),
}  # fmt: skip

OPTION_FITS: dict[str, Callable[[Any], bool]] = {
    "metric": lambda value: value in METRICS,
    "activation": lambda value: value in ACTIVATIONS,
    "negative_slope": lambda value: type(value) in (int, float),
    "channels_last": lambda value: type(value) is bool,
    "antithetic": lambda value: type(value) is bool,
    "seed": lambda value: type(value) is int and -(1 << 63) <= value < 1 << 63,
    "first": lambda value: type(value) is int and 0 <= value < 1 << 63,
    "count": lambda value: type(value) is int and 0 <= value < 1 << 50,  # more is more than any memory
    "n_players": lambda value: type(value) is int and 1 <= value <= 65535 * 256,
}
WALK_KINDS = ("walks", "any walks")
OPTIONAL = ("sample_index", "bias", "baseline", "residual", "needed")
DAMAGES = (*[None] * 12, "dtype", "rank", "size", "size", "value", "value", "missing", "number", "device")
MORE_AXES: tuple[list[int], ...] = ([], [1], [5], [2, 3], [4, 1], [3, 4], [2, 1, 3], [0])
SPECIAL = (*[None] * 5, float("nan"), float("inf"), -float("inf"), -0.0)
DERIVED: dict[str, Callable[[dict[str, int]], int]] = {"C+1": lambda s: s["C"] + 1, "C*S": lambda s: s["C"] * s["S"]}


def problem(contract: Contract, call: Call) -> str | None:
    """Why a call must be refused, or None if it must be answered."""
    for name in contract.options:
        if name in OPTION_FITS and not OPTION_FITS[name](call[name]):
            return f"{name} {call[name]!r}"
    misfits = [_misfit(contract, form, call) for form in contract.forms(call)]
    return None if None in misfits else " or ".join(map(str, misfits))


def _misfit(contract: Contract, form: Form, call: Call) -> str | None:
    present = {name: call[name] for name, argument in form.items() if not (argument.optional and call[name] is None)}
    for name, tensor in present.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in KINDS[form[name].kind] or not tensor.is_cpu:
            return name
        letters = form[name].shape.split()
        if tensor.dim() != len(letters) and (letters[-1] != "..." or tensor.dim() < len(letters) - 1):
            return name
    tokens = [(t, s) for name, x in present.items() for t, s in zip(form[name].shape.split(), x.shape, strict=False)]
    sizes = dict(contract.fixed)
    if any(sizes.setdefault(token, size) != size for token, size in tokens if len(token) == 1):
        return "sizes"
    more = contract.letters(call, sizes)
    if more is None or any(sizes.get(letter, size) != size for letter, size in more.items()):
        return "options for these sizes"
    if any(DERIVED[token](sizes) != size for token, size in tokens if token in DERIVED):
        return "sizes"
    if any(sizes.get(letter, 1) < 1 for letter in contract.least(call).split()):
        return "a size of 0"
    wrong = (name for name, x in present.items() if not _values_fit(form[name], x, sizes))
    return next(wrong, None)


def _values_fit(argument: Argument, tensor: Tensor, sizes: dict[str, int]) -> bool:
    if tensor.numel() == 0:
        return True
    if argument.kind in WALK_KINDS:
        return torch.equal(tensor.sort(1).values, torch.arange(tensor.shape[1]).to(tensor.dtype).expand_as(tensor))
    return argument.kind != "index" or bool(tensor.min() >= 0 and tensor.max() < sizes[argument.limit])


@st.composite
def calls(draw: Draw, contract: Contract) -> Call:
    """Calls by keywords, about half of them valid."""
    lots = random.Random(draw(st.integers(0, (1 << 32) - 1)))
    call: Call = {name: draw(strategy) for name, strategy in contract.options.items()}
    call |= {name: () if lots.random() < 0.6 else None for name in OPTIONAL}  # () is filled in below
    form = draw(st.sampled_from(contract.forms(call)))
    call = {name: value for name, value in call.items() if name in form or name in contract.options}
    letters = sorted({letter for a in form.values() for letter in a.shape if letter in contract.sizes})
    sizes = contract.fixed | {letter: draw(st.sampled_from(contract.sizes[letter])) for letter in letters}
    sizes |= (contract.letters(call, sizes) if sizes else None) or {"X": 1, "Y": 1}
    generator = torch.Generator().manual_seed(lots.getrandbits(32))
    for name, argument in form.items():
        if not (argument.optional and call[name] is None):
            call[name] = _numbers(name, argument, sizes, generator, lots, exact=call.get("metric") == "accuracy")
    drawn = sorted(name for name in form if isinstance(call[name], Tensor))
    if drawn:
        special, damage = draw(st.sampled_from(SPECIAL)), draw(st.sampled_from(DAMAGES))
        floats = [n for n in drawn if call[n].is_floating_point() and call[n].numel() and n != "weight"]
        if special is not None and floats:
            _put(call[lots.choice(floats)], special, lots)
        name = lots.choice(drawn)
        call[name] = damaged(call[name], damage, lots)
        call |= {name: _laid_out(call[name], lots.choice(LAYOUTS)) for name in drawn}
    return call


def _numbers(
    name: str, argument: Argument, sizes: dict[str, int], generator: torch.Generator, lots: random.Random, exact: bool
) -> Tensor:
    letters = argument.shape.removesuffix(" ...").split()
    shape = [DERIVED[token](sizes) if token in DERIVED else sizes[token] for token in letters]
    if argument.shape.endswith("..."):
        shape += lots.choice(MORE_AXES)
    if argument.kind == "masks":
        return torch.rand(shape, generator=generator) < lots.choice((0.1, 0.5, 0.9))
    if argument.kind in WALK_KINDS:
        return torch.rand(shape, generator=generator).argsort(1).to(lots.choice(KINDS[argument.kind]))
    if argument.kind == "index":
        return torch.randint(0, max(1, sizes[argument.limit]), shape, generator=generator)
    numbers = torch.randn(shape, generator=generator)
    if exact:  # multiples of 1/8 are added without rounding, so that ties are ties
        numbers = torch.round(8 * numbers.clamp(-1, 1)) / 8
    elif name == "weight" and numbers.numel():
        numbers /= (numbers.numel() / shape[0]) ** 0.5
    return numbers.to(lots.choice(KINDS[argument.kind]))


def _put(tensor: Tensor, value: float, lots: random.Random) -> None:
    tensor.view(-1)[lots.randrange(tensor.numel())] = value


def damaged(tensor: Tensor, damage: str | None, lots: random.Random) -> Any:
    """The argument with something wrong about it, or with another size that may fit as well."""
    if damage == "missing":
        return None
    if damage == "number":
        return lots.choice((3, 0.5, "x", [1, 2]))
    if damage == "device":
        return tensor.to("meta")
    if damage == "dtype":
        return tensor.to(lots.choice(DTYPES))
    if damage == "rank":
        return (
            tensor.unsqueeze(lots.randint(0, tensor.dim())) if lots.random() < 0.5 else tensor.sum(0).to(tensor.dtype)
        )
    if damage == "size":
        axis = lots.randrange(tensor.dim())
        size = lots.choice((0, 1, 2 * tensor.shape[axis], tensor.shape[axis] + 1, max(0, tensor.shape[axis] - 1)))
        if tensor.shape[axis]:
            return tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    if damage == "value" and tensor.numel() and tensor.dtype in (torch.int32, torch.int64):
        limits = torch.iinfo(tensor.dtype)
        _put(tensor, lots.choice((-1, 0, int(tensor.max()) + 1, limits.min, limits.max)), lots)
    return tensor


def _laid_out(tensor: Any, layout: str) -> Any:
    """The same numbers in another place: not aligned, with gaps, with axes turned around; or the first row for all."""
    if not isinstance(tensor, Tensor) or tensor.is_meta:
        return tensor
    if layout == "offset":
        return tensor.new_zeros(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)
    if layout == "spread":
        return torch.stack([tensor, torch.zeros_like(tensor)], -1)[..., 0]
    if layout == "turned" and tensor.dim():
        return tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))
    if layout == "expanded" and tensor.dim() and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    if layout == "channels last" and tensor.dim() == 4:
        return tensor.to(memory_format=torch.channels_last)
    return tensor
