"""Plans as records: they come back as they were written, and what is malformed is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import build

import shapley_cuda as sc
from shapley_cuda.plans import MeasuredLatency


def test_plan_json_round_trip_is_the_same_plan() -> None:
    model, inputs, _ = build("chain")
    plan = sc.plan_pruning(model, {"conv1": torch.arange(6.0), "fc1": torch.arange(9.0)}, 0.5, inputs)
    assert sc.PruningPlan.from_json(plan.to_json()) == plan
    timed = replace(plan, latency=MeasuredLatency(3.0, 1.5, (64, 3, 12, 12), "cpu"))
    assert sc.PruningPlan.from_json(timed.to_json()) == timed


def test_plan_in_words_says_what_was_measured() -> None:
    timed = sc.PruningPlan(
        {"conv1": [0]}, {"conv1": 6}, (100, 60), (1000, 500), (1, 3), MeasuredLatency(3.14159, 1.25, (64, 3), "cpu")
    )
    assert str(timed) == (
        "conv1: 6 -> 5; parameters 100 -> 60 (60.0%); MACs 1,000 -> 500 (50.0%); "
        "latency of [64, 3] 3.14 ms -> 1.25 ms (39.8%)"
    )


EXPECTED = (
    "a plan must be a JSON object of format shapley_cuda.plan/2 with fields "
    "['input_shape', 'latency', 'macs', 'n_players', 'options', 'parameters', 'removed']"
)
LATENCY = {"before_ms": 2.0, "after_ms": 1.0, "input_shape": [64, 3, 12, 12], "device": "cpu"}


def record(**changes: Any) -> str:
    plan = sc.PruningPlan({"conv1": [0, 3]}, {"conv1": 6}, (100, 60), (1000, 500), (1, 3, 12, 12))
    fields = json.loads(plan.to_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value != "drop"})


def test_plan_with_a_latency_is_read() -> None:
    assert sc.PruningPlan.from_json(record(latency=LATENCY)).latency == MeasuredLatency(
        2.0, 1.0, (64, 3, 12, 12), "cpu"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a plan must be JSON, got: "),
        ("3", f"{EXPECTED}, got int"),
        (record(format="shapley_cuda.plan/1"), f"{EXPECTED}, got format 'shapley_cuda.plan/1'"),
        (record(format="drop"), f"{EXPECTED}, got format None"),
        (record(removed="drop"), f"{EXPECTED}, got fields ['input_shape', 'latency', 'macs', 'n_players', 'options', "),
        (record(surprise=1), f"{EXPECTED}, got fields ['input_shape', 'latency', "),
        (record(options=[]), "options of a plan must map names to settings, got []"),
        (record(latency=3.0), "latency of a plan must be null or have the fields ['after_ms', 'before_ms', 'device', "),
        *(
            (record(latency=LATENCY | changes), "latency of a plan must be null or have the fields ['after_ms', ")
            for changes in (
                {"before_ms": 0}, {"after_ms": "1"}, {"after_ms": float("nan")}, {"input_shape": [-1]}, {"device": 0},
                {"surprise": 1},
            )
        ),
        (record(removed=[1]), "removed of a plan must list the channels of ['conv1'], got [1]"),
        (record(removed={"conv2": [1]}), "removed of a plan must list the channels of ['conv1'], got {'conv2': [1]}"),
        (record(n_players=[6]), "n_players of a plan must map groups to numbers of channels, got [6]"),
        (record(n_players={"conv1": "6"}), "n_players of a plan must map groups to numbers of channels"),
        (record(parameters=[1]), "parameters of a plan must be a list of 2 sizes, got [1]"),
        (record(macs=["1", "2"]), "macs of a plan must be a list of 2 sizes, got ['1', '2']"),
        *((record(input_shape=shape), "input_shape of a plan must be a list of") for shape in (None, [], [1, 0], [-1])),
        (record(parameters=[0, 0]), "parameters of a plan must be a list of 2 sizes, got [0, 0]"),
        *(
            (
                record(removed={"conv1": channels}),
                f"a plan must remove ascending channels of 'conv1' from 0 to 5, got {channels}",
            )
            for channels in ([3, 0], [0, 0], [6], [-1], [0.5], ["a"], 3)
        ),
        (record(removed={"conv1": [0, 1, 2, 3, 4, 5]}), "a plan must keep a channel of 'conv1', got all 6 removed"),
    ],
)  # fmt: skip
def test_plan_malformed_json_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        sc.PruningPlan.from_json(text)
