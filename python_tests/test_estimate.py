"""Estimates to JSON and back, and files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from shapley_cuda import Estimate
from shapley_cuda.files import write_whole


def an_estimate(**changes: Any) -> Estimate:
    fields: dict[str, Any] = {
        "group": "conv1",
        "method": "permutation",
        "values": torch.tensor([0.1, -1 / 3, 1e-300, 2.0**60 + 1, 0.0], dtype=torch.float64),
        "standard_error": torch.tensor([math.pi, 0.0, 5e-324, 1.0, 1e300], dtype=torch.float64),
        "n_evaluations": 2**40 + 1,
        "seconds": 0.1 + 0.2,
        "seed": -(2**63),
        "stopped": "tolerance",
        "options": {"tolerance": 0.025, "antithetic": True, "budget": None},
        "population_standard_error": torch.tensor([math.e, 0.1, 2e-308, 1.0, 2e300], dtype=torch.float64),
    }
    return Estimate(**fields | changes)


@pytest.mark.parametrize(
    "changes", [{}, {"population_standard_error": None}, {"standard_error": None, "seed": None, "options": {}}]
)
def test_estimate_json_round_trip_keeps_every_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    estimate = an_estimate(**changes)
    estimate.save(tmp_path / "deep" / "estimate.json")
    for again in (Estimate.from_json(estimate.to_json()), Estimate.load(tmp_path / "deep" / "estimate.json")):
        assert again.values.dtype == torch.float64
        assert torch.equal(again.values, estimate.values)
        for name in ("standard_error", "population_standard_error"):
            error, error_again = getattr(estimate, name), getattr(again, name)
            assert (error is None) == (error_again is None)
            assert error is None or torch.equal(error_again, error)
        for name in ("group", "method", "n_evaluations", "seconds", "seed", "stopped", "options"):
            assert getattr(again, name) == getattr(estimate, name)


def test_estimate_ranking_is_ascending_and_stable() -> None:
    values = torch.tensor([0.5, -1.0, 0.5, 0.0, -1.0], dtype=torch.float64)
    ranking = an_estimate(values=values, standard_error=None).ranking()
    assert ranking.tolist() == [1, 4, 3, 0, 2]
    assert ranking.dtype == torch.int64


def record(**changes: Any) -> str:
    fields = json.loads(an_estimate().to_json()) | changes
    return json.dumps({name: value for name, value in fields.items() if value != "drop"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "an estimate must be JSON, got: "),
        ("", "an estimate must be JSON, got: "),
        ("[]", "an estimate must be a JSON object of format shapley_cuda.estimate/2 with fields ["),
        (record(format="shapley_cuda.plan/1"), "an estimate must be a JSON object of format shapley_cuda.estimate/2"),
        ("[" * 100_000, "an estimate must be JSON, got: "),
        ("9" * 5000, "an estimate must be JSON, got: "),
        (
            record(options={"a": [[]] * 3} | {"b": json.loads("[" * 40 + "]" * 40)}),
            "an estimate must be JSON of at most 32",
        ),
        (
            record(n_evaluations=1 << 63),
            "an estimate must be JSON of at most 32 levels and integers of 64 bits, got more",
        ),
        (record(values="drop"), "an estimate must be a JSON object of format shapley_cuda.estimate/2"),
        (
            record(format="shapley_cuda.estimate/1"),
            "an estimate must be a JSON object of format shapley_cuda.estimate/2",
        ),
        (record(surprise=1), "an estimate must be a JSON object of format shapley_cuda.estimate/2"),
        (record(values=None), "values of an estimate must be a list of numbers, got None"),
        (record(values=["a"]), "values of an estimate must be a list of numbers, got ['a']"),
        (record(values=[[1.0]]), "values of an estimate must be a list of numbers, got [[1.0]]"),
        (record(values=[True] * 5), "values of an estimate must be a list of numbers, got [True"),
        (record(standard_error=3), "standard_error of an estimate must be a list of numbers, got 3"),
        (
            record(standard_error=[1.0]),
            "an estimate must have a standard_error for each of its 5 values, got 1",
        ),
        (record(values=[]), "values of an estimate must be one or more finite numbers, got []"),
        (record(values=[0.5, math.nan]), "values of an estimate must be one or more finite numbers, got [0.5, nan]"),
        (record(standard_error=[0, 0, 0, 0, -1]), "standard_error of an estimate must be at least 0, got [0, 0, 0, 0"),
        (
            record(population_standard_error=[math.nan] * 5),
            "population_standard_error of an estimate must be at least 0, got [nan, ",
        ),
        (record(group=3), "group of an estimate must be of kind str, got 3"),
        (record(method=None), "method of an estimate must be of kind str, got None"),
        (record(stopped=["budget"]), "stopped of an estimate must be of kind str, got ['budget']"),
        (record(n_evaluations=1.5), "n_evaluations of an estimate must be of kind int, got 1.5"),
        (record(n_evaluations=True), "n_evaluations of an estimate must be of kind int, got True"),
        (record(n_evaluations=-1), "n_evaluations of an estimate must be at least 0, got -1"),
        (record(seconds="fast"), "seconds of an estimate must be of kind float, got 'fast'"),
        (record(seconds=math.inf), "seconds of an estimate must be of kind float, got inf"),
        (record(seconds=-0.5), "seconds of an estimate must be at least 0, got -0.5"),
        (record(seed="7"), "seed of an estimate must be of kind int | None, got '7'"),
        (record(options=[]), "options of an estimate must be of kind "),
    ],
)
def test_estimate_malformed_json_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Estimate.from_json(text)


def test_estimate_whose_errors_are_not_known_yet_comes_back() -> None:
    unknown = torch.full((5,), math.inf, dtype=torch.float64)
    again = Estimate.from_json(an_estimate(standard_error=unknown).to_json())
    assert again.standard_error is not None
    assert torch.equal(again.standard_error, unknown)


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_estimate_file_that_is_damaged_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "conv1.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"conv1\.json cannot be read: "):
        Estimate.load(tmp_path / "conv1.json")


def test_write_whole_makes_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_write_whole_gives_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_write_whole_interrupted_leaves_the_old_file_and_no_other(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    write_whole(path, b"old")

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_whole(path, b"new and much longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
