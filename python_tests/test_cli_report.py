"""``shapley-cuda report``, and what ``prune`` records for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_run import OWN, refuse, succeed

import shapley_cuda as sc
from shapley_cuda.run_record import RunRecord

GROUPS = ("conv1", "conv2", "fc1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Values, a run by them, and one in rounds."""
    folder = tmp_path_factory.mktemp("runs")
    succeed("rank", *OWN, "--tolerance", "0.2", "--seed", "1", "--out", folder / "values")
    succeed("prune", "--values", folder / "values", "--keep", "0.5", "--recalibrate", "--epochs", "1",
            "--out", folder / "pruned")  # fmt: skip
    succeed("prune", *OWN, "--method", "l1", "--keep", "0.5", "--rounds", "2", "--recalibrate",
            "--out", folder / "rounds")  # fmt: skip
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """A run to be damaged."""
    shutil.copytree(runs / "pruned", tmp_path / "pruned", ignore=shutil.ignore_patterns("report.html"))
    return tmp_path / "pruned"


def test_prune_records_what_the_report_needs(runs: Path) -> None:
    record = RunRecord.load(runs / "pruned" / "results.json")
    assert record.command[:4] == ("shapley-cuda", "prune", "--values", str(runs / "values"))
    assert record.command[-2:] == ("--out", str(runs / "pruned"))
    assert [stage.name for stage in record.stages] == ["original", "pruned", "recalibrated", "retrained"]
    assert record.named["model"] == "own_network:Net"
    assert record.retraining is not None
    assert record.retraining["epochs"] == 1
    assert record.environment["device"] == "cpu"
    assert set(record.refused) == {"fc2"}
    assert record.seconds > 0
    assert record.stages[0].weight_bytes > record.stages[1].weight_bytes
    assert len(record.curve) >= 3
    for name in GROUPS:  # the values that it went by are beside it
        there, here = (sc.Estimate.load(runs / f / f"values-{name}.json") for f in ("values", "pruned/values"))
        assert torch.equal(there.values, here.values)


def test_prune_into_the_same_folder_removes_the_report_of_what_was_there(runs: Path, tmp_path: Path) -> None:
    arguments = ("prune", "--values", runs / "values", "--no-curve", "--out", tmp_path, "--keep")
    succeed(*arguments, "0.5")
    succeed("report", tmp_path)
    assert (tmp_path / "report.html").exists()
    succeed(*arguments, "0.4")
    assert not (tmp_path / "report.html").exists()


def test_prune_without_a_curve_records_none(runs: Path, tmp_path: Path) -> None:
    succeed("prune", "--values", runs / "values", "--keep", "0.5", "--no-curve", "--out", tmp_path)
    assert RunRecord.load(tmp_path / "results.json").curve == ()


def test_prune_copies_the_values_that_it_used_alone(runs: Path, tmp_path: Path) -> None:
    succeed("prune", "--values", runs / "values", "--keep", "conv2=3", "--no-curve", "--out", tmp_path)
    assert {path.name for path in (tmp_path / "values").iterdir()} == {"index.json", "values-conv2.json"}
    assert "conv2 6 \u2192 3" in page(tmp_path)


def test_prune_by_values_in_its_own_folder_leaves_them_alone(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "values", tmp_path / "values")
    before = (tmp_path / "values" / "index.json").read_bytes()
    succeed("prune", "--values", tmp_path / "values", "--keep", "conv2=3", "--no-curve", "--out", tmp_path)
    assert (tmp_path / "values" / "index.json").read_bytes() == before


def page(folder: Path) -> str:
    """The words of a run's report."""
    succeed("report", folder)
    from test_html_report import Page

    return " ".join(" ".join(Page((folder / "report.html").read_text(encoding="utf-8")).texts).split())


def test_report_tells_of_the_run(runs: Path) -> None:
    said, record = page(runs / "pruned"), RunRecord.load(runs / "pruned" / "results.json")
    assert "own_network:Net, pruned" in said
    assert "What this report lacks" not in said
    assert f"rank --model own_network:Net --data own_network:data --tolerance 0.2 --seed 1 --out {runs}" in said
    assert f"prune --values {runs / 'values'} --keep 0.5 --recalibrate --epochs 1" in said
    for stage in record.stages:
        assert stage.accuracy is not None
        assert f"{100 * stage.accuracy:.1f} %" in said
    for name in GROUPS:
        estimate = sc.Estimate.load(runs / "values" / f"values-{name}.json")
        assert f"{estimate.n_evaluations:,}" in said


def test_report_of_rounds_shows_each(runs: Path) -> None:
    said, record = page(runs / "rounds"), RunRecord.load(runs / "rounds" / "results.json")
    assert len(record.rounds) == 2
    assert record.n_select == 60
    for number, done in enumerate(record.rounds, start=1):
        assert done.recalibrated is not None
        assert f"{100 * done.pruned:.1f} % {100 * done.recalibrated:.1f} %" in said
        assert f"Round {number}" in said
        plan = sc.PruningPlan.from_json((runs / "rounds" / f"round-{number}" / "plan.json").read_text())
        assert f"{sum(plan.n_players.values())} \u2192 " in said
    assert "conv2, round 2" in said
    assert record.select_before is not None
    assert f"original 100 % {100 * record.select_before:.1f} %" in said


def test_report_goes_where_it_is_told(runs: Path, tmp_path: Path) -> None:
    run = succeed("report", runs / "pruned", "--out", tmp_path / "somewhere" / "page.html")
    assert str(tmp_path / "somewhere" / "page.html") in run.printed
    assert (tmp_path / "somewhere" / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_of_a_plan_alone(copy: Path) -> None:
    shutil.rmtree(copy / "values")
    (copy / "results.json").unlink()
    said = page(copy)
    assert "there is no results.json" in said
    assert "Values of the channels: the folder holds none." in said
    assert "conv2 6 \u2192 3" in said


def test_report_of_something_else_is_refused(runs: Path, tmp_path: Path) -> None:
    refuse("RUN_DIR: nowhere must be a folder that prune wrote, got none with a plan.json", "report", "nowhere")
    refuse("must be a folder that prune wrote, got none with a plan.json", "report", runs / "values")


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("plan.json", "{", "plan.json cannot be read: a plan must be JSON"),
        ("results.json", "[]", "results.json cannot be read: results of a run must be a JSON object of format"),
        ("results.json", '{"stages": [], "latency_batch": 64, "n_test": 0}', "got format None"),
        ("values/index.json", "{}", "index.json cannot be read"),
        ("values/values-conv1.json", "null", "values-conv1.json cannot be read: an estimate must be a JSON object"),
    ],
)
def test_report_names_a_damaged_file(copy: Path, file: str, content: str, text: str) -> None:
    (copy / file).write_text(content)
    refuse(text, "report", copy)
    assert not (copy / "report.html").exists()


def test_report_refuses_values_of_another_network(copy: Path) -> None:
    path = copy / "values" / "values-conv1.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {name: record[name][:3] for name in
                                         ("values", "standard_error", "population_standard_error")}))  # fmt: skip
    refuse(f"{copy / 'values'} does not fit", "report", copy)
    refuse("values of 'conv1' must be one for each of the plan's 4 channels, got 3", "report", copy)
    path.write_text(json.dumps(record | {"seconds": "long"}))
    refuse("values-conv1.json cannot be read: seconds of an estimate must be of kind float, got 'long'", "report", copy)


def test_report_of_many_groups_left_out_names_them(copy: Path) -> None:
    index = json.loads((copy / "values" / "index.json").read_text())
    (copy / "values" / "index.json").write_text(json.dumps(index | {"left_out": {"mixed": "softmax over it"}}))
    assert "mixed : softmax over it" in page(copy)
