"""Calls of a game, drawn at random, against a table of all its payoffs; and games on data that may not do."""

from __future__ import annotations

import copy
import functools
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fuzz_calls
import fuzzing
import pytest
import reference
import torch
from fuzz_calls import Argument, Call, Contract
from hypothesis import strategies as st
from test_fuzz_ops import bits
from tolerances import PATHS_AGREE
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc

N_SAMPLES = 5
METHODS = ("__call__", "row_values", "walk_values")


class Net(nn.Module):
    """Two convolutions, of which the first may also be added to the second, and two linear layers."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(16, 6), nn.Linear(6, 3)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        z = F.relu(self.conv2(y))
        return self.fc2(F.relu(self.fc1(torch.flatten(z + y if self.skip else z, 1))))


def loudness(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.abs().sum(1)


@dataclass(frozen=True)
class Case:
    """A game; its consumers, each with the inputs that a player has there."""

    group: str
    consumers: tuple[tuple[str, int], ...]
    metric: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    path: str = "auto"
    memory_budget: int | None = None
    skip: bool = False
    with_nan: bool = False


CASES = {
    "conv walk": Case("conv1", (("conv2", 1),)),
    "conv walk, small chunks": Case("conv1", (("conv2", 1),), memory_budget=20_000, with_nan=True),
    "conv suffix": Case("conv1", (("conv2", 1),), "accuracy", "suffix"),
    "conv hook": Case("conv1", (("conv2", 1),), "squared_error", "hook", 5_000),
    "flattened walk": Case("conv2", (("fc1", 4),), loudness),
    "skip": Case("conv1", (("conv2", 1), ("fc1", 4)), skip=True),
    "head": Case("fc1", (("fc2", 1),), with_nan=True),
    "head accuracy": Case("fc1", (("fc2", 1),), "accuracy"),
    "head suffix": Case("fc1", (("fc2", 1),), "squared_error", "suffix"),
}


@functools.cache
def played(name: str) -> tuple[sc.ChannelGame, Tensor]:
    """A game and its payoffs by coalition and sample, float64 [2^C, N], from a masked network in float64."""
    case = CASES[name]
    model, (inputs, targets) = prepared(case.skip), data(case.metric)
    if case.with_nan:
        inputs[1] = torch.nan
    game = sc.ChannelGame(
        model, case.group, (inputs, targets), metric=case.metric, path=case.path, memory_budget=case.memory_budget
    )
    masks = reference.every_mask(game.n_players, torch.device("cpu"))
    return game, torch.stack([payoffs_of(case, model, inputs, targets, mask) for mask in masks])


def prepared(skip: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net(skip).eval()


def data(metric: object = "cross_entropy") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(N_SAMPLES, 1, 4, 4, generator=generator)
    if metric == "squared_error":
        return inputs, torch.randn(N_SAMPLES, 3, generator=generator)
    return inputs, torch.arange(N_SAMPLES) % 3


@torch.no_grad()
def payoffs_of(case: Case, model: nn.Module, inputs: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    exact = copy.deepcopy(model).double()
    for consumer, width in case.consumers:
        kept = mask.repeat_interleave(width)

        def remove(_: nn.Module, args: tuple[Tensor], kept: Tensor = kept) -> Tensor:
            return torch.where(kept.view(1, -1, *[1] * (args[0].dim() - 2)), args[0], 0.0)

        exact.get_submodule(consumer).register_forward_pre_hook(remove)
    outputs = exact(inputs.double())
    if callable(case.metric):
        return -case.metric(outputs, targets)
    values = reference.row_metric(outputs, targets, case.metric)
    return values if case.metric == "accuracy" else -values


def contract(method: str, game: sc.ChannelGame) -> Contract:
    own = Argument("index", "R", limit="N")
    forms: dict[str, fuzz_calls.Form] = {
        "__call__": {"masks": Argument("masks", "R C")},
        "row_values": {"masks": Argument("masks", "R C"), "sample_index": own},
        "walk_values": {
            "permutations": Argument("any walks", "R C"),
            "sample_index": own,
            "needed": Argument("masks", "R C+1", optional=True),
        },
    }
    fixed = {"C": game.n_players, "N": game.n_samples}
    return Contract(lambda call: [forms[method]], {"R": (1, 2, 3, 8, 0)}, fixed=fixed)


def expected(method: str, table: Tensor, call: Call) -> Tensor:
    powers = 2 ** torch.arange(len(table).bit_length() - 1)
    if method == "__call__":
        return table[(call["masks"] * powers).sum(1)].mean(1)
    if method == "row_values":
        return table[(call["masks"] * powers).sum(1), call["sample_index"]]
    joined = powers[call["permutations"].long()].cumsum(1)
    values = table[F.pad(joined, (1, 0)), call["sample_index"][:, None]]
    return values if call["needed"] is None else values.where(call["needed"], 0.0)


def check_call(method: str, game: sc.ChannelGame, table: Tensor, call: Call) -> str:
    problem, before = fuzz_calls.problem(contract(method, game), call), bits(call)
    already, values, refusal = game.n_evaluations, None, ""
    try:
        values = getattr(game, method)(**call)
    except ValueError as error:
        refusal = str(error)
    after = bits(call)
    assert all(torch.equal(before[name], after[name]) for name in before)
    if values is not None:
        assert problem is None, f"a call was answered that must be refused: {problem}"
        relative, absolute = PATHS_AGREE
        wanted = expected(method, table, call)
        torch.testing.assert_close(values.double(), wanted, rtol=relative, atol=absolute, equal_nan=True)
        assert values.dtype == (torch.float64 if method == "__call__" else torch.float32)
        rows = wanted.numel() * (game.n_samples if method == "__call__" else 1)
        assert game.n_evaluations - already == rows or call.get("needed") is not None
        return "answered"
    assert problem is not None, f"a valid call was refused: {refusal}"
    assert re.match(rf"({'|'.join(call)}) must ", refusal), refusal
    assert game.n_evaluations == already
    return "refused"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_game_random_call_is_right_or_refused_by_name(name: str, method: str) -> None:
    game, table = played(name)
    share = fuzzing.SHARES["games"] / len(CASES) / len(METHODS)
    calls = fuzz_calls.calls(contract(method, game))
    outcomes = fuzzing.run(share, calls, lambda call: check_call(method, game, table, call))
    assert outcomes["answered"] > 0
    assert outcomes["refused"] > 0


@pytest.mark.parametrize("name", CASES)
def test_game_all_payoffs_are_those_of_the_table(name: str) -> None:
    game, table = played(name)
    relative, absolute = PATHS_AGREE
    torch.testing.assert_close(game.all_payoffs(), table.mean(1), rtol=relative, atol=absolute, equal_nan=True)


def damaged_games() -> st.SearchStrategy[Call]:
    """Arguments of a game, most of them with one or two that may not do."""
    some = fuzz_calls.mostly
    group, path = st.sampled_from(("conv1", "fc1")), st.sampled_from(("auto", "walk", "suffix", "hook"))
    return st.fixed_dictionaries(
        {
            "group": some(group, "fc2", "nowhere", "", 3, None),
            "metric": some(st.sampled_from((*reference.METRICS, loudness)), "hinge", 3, None),
            "path": some(path, "fast", 3, None),
            "memory_budget": some(st.sampled_from((None, 1, 1 << 20)), 0, -1, "1", 0.5),
            "damage": st.sampled_from(fuzz_calls.DAMAGES),
            "which": st.integers(0, 1),
            "lots": st.integers(0, 1 << 32),
        }
    )


def check_game(drawn: Call) -> str:
    arguments = {name: drawn[name] for name in ("group", "metric", "path", "memory_budget")}
    given: list[Any] = list(data(drawn["metric"]))
    given[drawn["which"]] = fuzz_calls.damaged(given[drawn["which"]], drawn["damage"], random.Random(drawn["lots"]))
    game, refusal = None, ""
    try:
        game = sc.ChannelGame(prepared(), data=tuple(given), **arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        refusal = str(error)
    if game is None:
        names = "group|metric|path|memory_budget|data|inputs|targets|model|shapley::"
        assert re.match(names, refusal) or refusal == refusal_of_network(given[0])
        return "refused"
    everyone = torch.ones(1, game.n_players, dtype=torch.bool)
    whole = game.walk_values(torch.arange(game.n_players)[None], torch.zeros(1, dtype=torch.int64))
    assert game(everyone).shape == (1,)
    assert whole.shape == (1, game.n_players + 1)
    return "answered"


def refusal_of_network(inputs: Tensor) -> str:
    try:
        prepared()(inputs[:1])
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def test_game_on_random_arguments_is_made_or_refused_by_name() -> None:
    outcomes = fuzzing.run(fuzzing.SHARES["construction of games"], damaged_games(), check_game)
    assert outcomes["answered"] > 0
    assert outcomes["refused"] > 0


def test_generated_calls_are_ten_thousand_unless_asked_otherwise() -> None:
    assert "SHAPLEY_FUZZ_CALLS" in os.environ or fuzzing.CALLS >= 10_000
    assert sum(fuzzing.SHARES.values()) == pytest.approx(1)
