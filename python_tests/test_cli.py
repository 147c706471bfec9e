"""The command line, end to end: what it prints, what it writes, and that what it wrote can be used."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import shapley_cuda as sc
from shapley_cuda.cli import app
from shapley_cuda.networks import pretrained_meta
from shapley_cuda.run_record import RunRecord

METHODS = ("permutation", "magnitude", "random")
LABELS = {"unpruned": "unpruned", "permutation": "Shapley", "magnitude": "magnitude (L1)", "random": "random"}


@dataclass
class Demo:
    """One run of the demo, as brief as it can be."""

    folder: Path
    printed: str
    record: dict[str, Any]

    def row(self, method: str) -> dict[str, Any]:
        return next(row for row in self.record["rows"] if row["method"] == method)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "not" / "there" / "yet"
    options = {"--network": "lenet5", "--keep": "0.2", "--tolerance": "5", "--epochs": "1", "--out": str(folder)}
    result = CliRunner().invoke(app, ["demo", *(part for option in options.items() for part in option)])
    assert result.exit_code == 0, result.output
    return Demo(folder, result.stdout, json.loads((folder / "results.json").read_text()))


def test_info_tells_every_field_of_the_build() -> None:
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    info = sc.build_info()
    lines = {line[:22].strip(): line[22:].strip() for line in result.stdout.splitlines()}
    assert set(lines) == {field.name.replace("_", " ") for field in dataclasses.fields(info)}
    assert lines["version"] == sc.__version__
    assert lines["torch running"] == torch.__version__
    assert lines["devices"].startswith("cpu")


def test_info_json_is_the_build_info() -> None:
    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert record == json.loads(json.dumps(dataclasses.asdict(sc.build_info())))


def test_no_command_lists_the_commands() -> None:
    result = CliRunner().invoke(app, [])
    assert "info" in result.output
    assert "demo" in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--network", "lenet6"], "must be one of lenet5, lenet5_bn, vgg_bn, vit, got 'lenet6'; did you mean 'lenet5'"),
        (["--device", "cuda:99"], "must be one of cpu"),
        (["--keep", "0"], "0.01"),
        (["--epochs", "-1"], "0"),
        (["--tolerance", "-1"], "0"),
    ],
)
def test_demo_bad_option_is_refused_before_anything_is_done(arguments: list[str], text: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    said = plain(result.output)
    assert f"Invalid value for {plain(arguments[0])}" in said
    assert plain(text) in said
    assert not (tmp_path / "out").exists()


def plain(text: str) -> str:
    """The words of a text, without quotes and the box that the terminal puts around errors."""
    return " ".join(re.sub(r"[│╭╮╰╯─']", " ", text).split())


def test_demo_prints_the_comparison(demo: Demo) -> None:
    assert "lenet5 on Fashion-MNIST: 1,000 test images, 1 epoch of retraining on 4,000" in demo.printed
    for method, label in LABELS.items():
        line = next(line for line in demo.printed.splitlines() if line.startswith(f"│ {label}"))
        row = demo.row(method)
        assert f"{row['kept'][0]}/{row['kept'][1]}" in line
        assert f"{row['parameters']:,}" in line
        assert f"{row['accuracy_before']:.1%}" in line
        if method != "unpruned":
            assert f"{row['accuracy_after']:.1%}" in line
    assert "pruned by Shapley value: conv1: 20 -> 4, conv2: 50 -> 10, fc1: 500 -> 100; parameters" in demo.printed
    assert f"plot: {demo.folder / 'plot.png'}" in demo.printed


def test_demo_writes_all_files_and_no_others(demo: Demo) -> None:
    found = {str(path.relative_to(demo.folder)) for path in demo.folder.rglob("*") if path.is_file()}
    expected = {"results.json", "plot.png"}
    for method in METHODS:
        files = (
            "plan.json",
            "model.safetensors",
            "results.json",
            *(f"values-{name}.json" for name in ("conv1", "conv2", "fc1")),
        )
        expected |= {f"{method}/{name}" for name in files}
    assert found == expected


def test_demo_plot_is_a_png_of_some_size(demo: Demo) -> None:
    content = (demo.folder / "plot.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 1200
    assert height >= 400
    assert len(content) > 20_000


@pytest.mark.parametrize("method", METHODS)
def test_demo_records_are_what_the_table_says(method: str, demo: Demo) -> None:
    record, row = RunRecord.load(demo.folder / method / "results.json"), demo.row(method)
    assert record.command[:2] == ("shapley-cuda", "demo")
    accuracies = [demo.row("unpruned")["accuracy_before"], row["accuracy_before"], row["accuracy_after"]]
    assert [stage.accuracy for stage in record.stages] == accuracies
    assert (record.stages[1].parameters, record.stages[1].macs) == (row["parameters"], row["macs"])
    assert [one.batch_size for one in record.latencies] == [1, 64]
    assert len(record.curve) >= 6


def test_report_of_the_demo_has_everything(demo: Demo) -> None:
    result = CliRunner().invoke(
        app, ["report", str(demo.folder / "permutation"), "--out", str(demo.folder.parent / "page")]
    )
    assert result.exit_code == 0, result.output
    page = (demo.folder.parent / "page").read_text(encoding="utf-8")
    assert page.count('class="plot"') == 4
    assert "What this report lacks" not in page


def test_demo_results_are_consistent(demo: Demo) -> None:
    assert [row["method"] for row in demo.record["rows"]] == list(LABELS)
    unpruned = demo.row("unpruned")
    assert unpruned["parameters"] == 431_080
    assert unpruned["macs"] == 2_293_000
    assert unpruned["accuracy_before"] == pytest.approx(pretrained_meta("lenet5")["test"]["accuracy"], abs=0.005)
    assert unpruned["accuracy_after"] is unpruned["ranking_seconds"] is None
    sizes = {(tuple(demo.row(m)["kept"]), demo.row(m)["parameters"], demo.row(m)["macs"]) for m in METHODS}
    assert len(sizes) == 1  # the same size by each method, else the comparison would not be fair
    for method in METHODS:
        row = demo.row(method)
        assert row["kept"] == [114, 570]
        assert row["ranking_seconds"] >= 0
        assert row["latency_ms"] > 0
        assert 0 <= row["accuracy_before"] <= 1
    curves = {curve["method"]: curve for curve in demo.record["curves"]}
    assert set(curves) == set(METHODS)
    for method, curve in curves.items():
        assert curve["removed"][0] == 0
        assert curve["accuracy"][0] == pytest.approx(unpruned["accuracy_before"], abs=0.0011)
        at_80_percent = curve["accuracy"][curve["removed"].index(0.8)]
        assert at_80_percent == pytest.approx(demo.row(method)["accuracy_before"], abs=0.0011)


@pytest.mark.parametrize("method", METHODS)
def test_demo_plan_removes_what_its_values_rank_last(method: str, demo: Demo) -> None:
    plan = sc.PruningPlan.from_json((demo.folder / method / "plan.json").read_text())
    for name, n_kept in (("conv1", 4), ("conv2", 10), ("fc1", 100)):
        estimate = sc.Estimate.load(demo.folder / method / f"values-{name}.json")
        assert estimate.method == method
        assert plan.kept(name) == sorted(estimate.ranking()[-n_kept:].tolist())


@pytest.mark.parametrize("method", METHODS)
def test_demo_saved_network_loads_and_has_the_accuracy_in_the_table(method: str, demo: Demo) -> None:
    model = sc.load_pruned(sc.network("lenet5"), demo.folder / method)
    row = demo.row(method)
    accuracy = sc.evaluate(model, *sc.fashion_mnist_subset("test")).accuracy
    assert accuracy == pytest.approx(row["accuracy_after"], abs=0.0011)
    assert sc.count_parameters(model) == row["parameters"]
    assert accuracy > row["accuracy_before"]


def test_demo_without_retraining_saves_the_network_as_it_was_pruned(tmp_path: Path) -> None:
    arguments = ["demo", "--tolerance", "5", "--epochs", "0", "--keep", "0.5", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "no retraining" in result.stdout
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(row["accuracy_after"] is None for row in rows)
    model = sc.load_pruned(sc.network("lenet5"), tmp_path / "permutation")
    accuracy = sc.evaluate(model, *sc.fashion_mnist_subset("test")).accuracy
    assert accuracy == pytest.approx(rows[1]["accuracy_before"], abs=0.0011)
