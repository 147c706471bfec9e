"""Estimates as pandas frames, and what the plugins say where their packages are missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from architectures import build

import shapley_cuda as sc
from shapley_cuda.plugins import as_shapiq_game, frame


@pytest.fixture
def estimates() -> dict[str, sc.Estimate]:
    model, inputs, targets = build("chain")
    games = {name: sc.ChannelGame(model, name, (inputs, targets)) for name in ("conv1", "conv2")}
    return {
        "conv1": sc.rank(games["conv1"], budget=1000, seed=0),
        "conv2": sc.rank(games["conv2"], method="magnitude"),
    }


def test_frame_has_a_row_for_each_player(estimates: dict[str, sc.Estimate]) -> None:
    pytest.importorskip("pandas")
    first = estimates["conv1"]
    table = frame(first)
    assert list(table.columns[:4]) == ["group", "method", "player", "value"]
    assert table.shape[0] == 6
    assert table["player"].tolist() == list(range(6))
    assert np.array_equal(table["value"].to_numpy(), first.values.numpy())
    assert first.standard_error is not None
    assert np.array_equal(table["standard_error"].to_numpy(), first.standard_error.numpy())
    assert table.sort_values("rank")["player"].tolist() == first.ranking().tolist()
    assert table.sort_values("rank")["value"].is_monotonic_increasing
    table.loc[0, "value"] = 7.0
    assert first.values[0] != 7


def test_frame_of_several_groups_tells_what_a_plan_keeps(estimates: dict[str, sc.Estimate]) -> None:
    pytest.importorskip("pandas")
    model, inputs, _ = build("chain")
    plan = sc.plan_pruning(model, estimates, 0.5, example_input=inputs)
    table = frame(estimates.values(), plan)
    assert table.groupby("group", sort=False).size().to_dict() == {"conv1": 6, "conv2": 7}
    for name in estimates:
        of_group = table[table["group"] == name]
        assert of_group.loc[of_group["kept"], "player"].tolist() == plan.kept(name)
        assert of_group.loc[~of_group["kept"], "rank"].max() < of_group.loc[of_group["kept"], "rank"].min()
    assert table.loc[table["method"] == "magnitude", "standard_error"].isna().all()
    assert table.loc[table["method"] == "permutation", "standard_error"].notna().all()
    assert "standard_error" not in frame(estimates["conv2"])
    assert len(frame([])) == 0


def test_frame_refuses_a_plan_of_other_groups(estimates: dict[str, sc.Estimate]) -> None:
    pytest.importorskip("pandas")
    model, inputs, _ = build("chain")
    plan = sc.plan_pruning(model, {"conv1": torch.arange(6.0)}, 0.5, example_input=inputs)
    with pytest.raises(ValueError, match=r"frame: plan must have the 7 channels of group 'conv2', got a plan for .*6"):
        frame(estimates["conv2"], plan)


def test_plugins_say_how_to_get_what_they_need(
    estimates: dict[str, sc.Estimate], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("shapiq", "pandas"):
        monkeypatch.setitem(sys.modules, package, None)
    model, inputs, targets = build("chain")
    with pytest.raises(ImportError, match=r"frame needs pandas.* pip install '\.\[ecosystem\]'"):
        frame(estimates["conv1"])
    with pytest.raises(ImportError, match=r"as_shapiq_game needs shapiq.* pip install '\.\[ecosystem\]'"):
        as_shapiq_game(sc.ChannelGame(model, "conv1", (inputs, targets)))
