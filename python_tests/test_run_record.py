"""The record of a run: read as it was written, or refused by what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import report_runs
import torch
from architectures import build
from own_network import Net, data, inputs

import shapley_cuda as sc
from shapley_cuda.environment import describe_environment
from shapley_cuda.run_record import RoundAccuracies, RunRecord
from shapley_cuda.size_curve import size_curve
from shapley_cuda.storage import count_weight_bytes


def test_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rounds = (RoundAccuracies(0.5, None, 0.75), RoundAccuracies(0.25, 0.5, None))
    for record in (report_runs.record(), report_runs.record(rounds=rounds, n_select=7, select_before=0.5)):
        record.save(tmp_path / "results.json")
        assert RunRecord.load(tmp_path / "results.json") == record


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(report_runs.record().to_json()) | fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format": "shapley_cuda.plan/2"}, "must be a JSON object of format shapley_cuda.results/1"),
        ({"extra": 1}, "with fields"),
        ({"stages": []}, "must have a stage before and one after, got 0"),
        ({"stages": [asdict(report_runs.record().stages[0])]}, "must have a stage before and one after, got 1"),
        ({"stages": [{"name": "original"}] * 2}, "stages of results of a run must be of kind"),
        ({"stages": [asdict(s) | {"macs": 0} for s in report_runs.record().stages]}, "must have positive sizes"),
        ({"stages": [asdict(s) | {"accuracy": 1.5} for s in report_runs.record().stages]}, "accuracies from 0 to 1"),
        ({"curve": [{"parameters": 1, "macs": 1, "accuracy": -0.1}]}, "accuracies from 0 to 1"),
        ({"n_test": -1}, "must have positive sizes"),
        ({"seconds": -1}, "must have positive times"),
        ({"latencies": [asdict(one) | {"speed_up": 0} for one in report_runs.record().latencies]}, "positive times"),
        ({"latencies": [{"batch_size": 1}]}, "latencies of results of a run must be of kind"),
        ({"environment": {"threads": 2}}, "environment of results of a run must be of kind"),
        ({"command": "shapley-cuda"}, "command of results of a run must be of kind"),
    ],
)  # fmt: skip
def test_record_that_is_none_is_refused(fields: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(changed(**fields))
    with pytest.raises(ValueError, match=r"results\.json cannot be read: ") as refused:
        RunRecord.load(path)
    assert text in str(refused.value)


def test_environment_tells_what_numbers_depend_on() -> None:
    environment = describe_environment("cpu")
    assert environment["device"] == "cpu"
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == str(torch.get_num_threads())
    assert environment["shapley_cuda"] == sc.__version__
    assert all(isinstance(value, str) and value for value in environment.values())


def test_weight_bytes_are_those_of_the_file_but_for_the_names(tmp_path: Path) -> None:
    model, example, _ = build("chain")
    values = {"conv1": torch.arange(6.0)}
    plan = sc.plan_pruning(model, values, keep=0.5, example_input=example)
    pruned = sc.prune(model, plan, example)
    sc.save_pruned(pruned, plan, tmp_path)
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    names = json.dumps({name: {"dtype": "F32", "shape": [], "data_offsets": []} for name in pruned.state_dict()})
    assert 0 < on_disk - count_weight_bytes(pruned) < 3 * len(names)
    assert count_weight_bytes(pruned) < count_weight_bytes(model)


VALUES = {"conv1": torch.arange(4.0), "conv2": torch.arange(6.0), "fc1": torch.arange(5.0)}


@pytest.mark.parametrize(
    ("goal", "how"),
    [({"keep": 0.5}, {}), ({"macs": 0.5}, {"across": "global"}), ({"parameters": 0.6}, {}), ({"latency": 1.0}, {})],
)
def test_size_curve_is_what_other_budgets_give(goal: dict[str, float], how: dict[str, str]) -> None:
    model, test = Net().eval(), data()["test"]
    plan = sc.plan_pruning(model, VALUES, example_input=inputs(), **goal, **how)
    points = size_curve(model, VALUES, plan, inputs(), test)
    assert len(points) >= 4
    assert [p.parameters for p in points] == sorted({p.parameters for p in points}, reverse=True)
    assert plan.parameters[1] not in [p.parameters for p in points]
    name = "macs" if "latency" in goal else next(iter(goal))
    plans = {}
    for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
        other = sc.plan_pruning(model, VALUES, example_input=inputs(), **{name: share}, **how)
        plans[other.parameters[1]] = other
    compared = [p for p in points if p.parameters in plans]
    assert compared
    for point in compared:
        other = plans[point.parameters]
        assert point.macs == other.macs[1]
        assert point.accuracy == sc.evaluate(sc.prune(model, other, inputs()), *test).accuracy


def test_size_curve_of_named_numbers_removes_more_and_less_of_each() -> None:
    model, test = Net().eval(), data()["test"]
    values = {name: VALUES[name] for name in ("conv2", "fc1")}
    plan = sc.plan_pruning(model, values, {"conv2": 2, "fc1": 3}, inputs())
    points = size_curve(model, values, plan, inputs(), test)
    expected = []
    for kept in ({"conv2": 5, "fc1": 5}, {"conv2": 4, "fc1": 4}, {"conv2": 3, "fc1": 3}, {"conv2": 1, "fc1": 3},
                 {"conv2": 1, "fc1": 2}):  # fmt: skip
        expected.append(sc.plan_pruning(model, values, kept, inputs()).parameters[1])
    assert {p.parameters for p in points} <= set(expected)
    assert min(p.parameters for p in points) < plan.parameters[1] < max(p.parameters for p in points)
