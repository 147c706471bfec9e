"""Tables and curves say what was measured, in the unit that they name."""

from __future__ import annotations

import pytest
import torch
from architectures import build
from rich.console import Console

import shapley_cuda as sc
from shapley_cuda.report import ResultRow, accuracy_curve, results_table


def test_accuracy_curve_is_the_accuracy_of_the_pruned_network() -> None:
    model, inputs, targets = build("chain")
    values = {"conv1": torch.arange(6.0), "fc1": torch.arange(9.0).flip(0)}
    estimates = {
        name: sc.Estimate(name, "mine", v.double(), None, 0, 0.0, None, "complete") for name, v in values.items()
    }
    shares = [0.0, 1 / 3, 2 / 3, 0.99]
    curve = accuracy_curve(model, estimates, (inputs, targets), shares)
    expected = []
    for kept in ((6, 9), (4, 6), (2, 3), (1, 1)):
        keep = dict(zip(values, kept, strict=True))
        pruned = sc.prune(model, sc.plan_pruning(model, estimates, keep, inputs), inputs)
        expected.append((pruned(inputs).argmax(1) == targets).float().mean().item())
    assert curve.accuracy == pytest.approx(expected)
    assert curve.removed == shares
    assert curve.method == "mine"


def test_results_table_shows_every_figure() -> None:
    rows = [
        ResultRow("unpruned", (70, 70), 431080, 2_293_000, 12.345, 0.909, None, None),
        ResultRow("permutation", (21, 70), 7607, 235_944, 1.5, 0.25, 0.875, 3.21),
    ]
    console = Console(width=140)
    with console.capture() as captured:
        console.print(results_table(rows, 64, "a title"))
    text = captured.get()
    for figure in (
        "a title",
        "batch 64",
        "70/70",
        "21/70",
        "431,080",
        "7,607",
        "12.3",
        "1.50",
        "90.9%",
        "25.0%",
        "87.5%",
    ):
        assert figure in text
    assert "3.21 s" in text
    assert "Shapley" in text
