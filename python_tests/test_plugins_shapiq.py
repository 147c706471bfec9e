"""Channel games in shapiq."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from architectures import build
from test_plugins_importance import example

import shapley_cuda as sc
from shapley_cuda.plugins import as_shapiq_game

shapiq = pytest.importorskip("shapiq")


@pytest.fixture
def game() -> sc.ChannelGame:
    model, inputs, targets = build("chain")
    return sc.ChannelGame(model, "conv1", (inputs, targets))


def by_definition(game: sc.ChannelGame, coalition: tuple[int, ...]) -> float:
    """The Shapley interaction index of a set of players; of one player alone, the Shapley value (Grabisch and Roubens,
    1999), from all payoffs."""
    payoffs, n, size = game.all_payoffs().tolist(), game.n_players, len(coalition)
    others = [player for player in range(n) if player not in coalition]
    total = 0.0
    for count in range(len(others) + 1):
        weight = math.factorial(n - count - size) * math.factorial(count) / math.factorial(n - size + 1)
        for chosen in itertools.combinations(others, count):
            for joining in itertools.chain.from_iterable(itertools.combinations(coalition, k) for k in range(size + 1)):
                code = sum(1 << player for player in (*chosen, *joining))
                total += weight * (-1) ** (size - len(joining)) * payoffs[code]
    return total


def test_values_are_payoffs_minus_that_of_nobody(game: sc.ChannelGame) -> None:
    theirs = as_shapiq_game(game)
    masks = torch.rand(5, game.n_players, generator=torch.Generator().manual_seed(0)) < 0.5
    nobody = game(torch.zeros(1, game.n_players, dtype=torch.bool)).item()
    before = game.n_evaluations
    for coalitions in (masks.numpy(), masks.numpy().astype(int)):
        np.testing.assert_allclose(theirs(coalitions), game(masks).numpy() - nobody, rtol=1e-6, atol=1e-6)
    assert game.n_evaluations == before + 4 * 5 * game.n_samples
    assert theirs.normalization_value == nobody
    assert theirs.is_normalized
    assert isinstance(theirs, shapiq.Game)


def test_exact_computer_agrees_with_all_payoffs(game: sc.ChannelGame) -> None:
    exact = shapiq.ExactComputer(as_shapiq_game(game), n_players=game.n_players)
    values, interactions = exact("SV", order=1), exact("SII", order=2)
    for player in range(game.n_players):
        assert values[(player,)] == pytest.approx(by_definition(game, (player,)), abs=1e-6)
    for pair in itertools.combinations(range(game.n_players), 2):
        assert interactions[pair] == pytest.approx(by_definition(game, pair), abs=1e-6)
    assert max(abs(interactions[pair]) for pair in itertools.combinations(range(game.n_players), 2)) > 1e-3


def test_approximators_agree_with_our_values(game: sc.ChannelGame) -> None:
    theirs, n = as_shapiq_game(game), game.n_players
    phi = np.array([by_definition(game, (player,)) for player in range(n)])
    spread = phi.max() - phi.min()
    kernel = shapiq.KernelSHAP(n=n, random_state=0).approximate(budget=2**n, game=theirs)  # has seen everything
    np.testing.assert_allclose([kernel[(player,)] for player in range(n)], phi, atol=1e-6)
    sampled = shapiq.PermutationSamplingSV(n=n, random_state=0).approximate(budget=2000, game=theirs)
    np.testing.assert_allclose([sampled[(player,)] for player in range(n)], phi, atol=0.1 * spread)
    ours = sc.rank(game, tolerance=0.01, seed=0)
    assert ours.standard_error is not None
    np.testing.assert_allclose(ours.values.numpy(), phi, atol=5 * ours.standard_error.max().item())


def test_example_finds_interactions(capsys: pytest.CaptureFixture[str]) -> None:
    estimated, exact = example("shapiq_game").explain(n_channels=5, n_images=10, budget=32)
    torch.testing.assert_close(estimated, exact, rtol=0, atol=1e-5)
    assert "pairs of channels of conv1" in capsys.readouterr().out
