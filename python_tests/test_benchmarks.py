"""The benchmarks run, agree with their baselines and write what they measured. How fast anything is, no test asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: the installed package comes before the source tree's

from benchmarks.harness import Baseline, Case, Row, deviation, measure  # noqa: E402
from benchmarks.machine import peak_memory  # noqa: E402

CPU = torch.device("cpu")


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--threads", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """One quick run, without the largest layers, and its JSON."""
    path = tmp_path_factory.mktemp("benchmarks") / "results" / "quick.json"
    layers = ["lenet5.conv1", "lenet5.conv2", "vgg_bn.conv6"]
    done = run_benchmarks("--only", "kernels", *layers, "error.lenet5.conv2", "--out", str(path))
    assert done.returncode == 0, done.stderr
    return done, json.loads(path.read_text())


def test_quick_run_rows_all_agree_and_are_timed(run: tuple[Any, dict[str, Any]]) -> None:
    rows = run[1]["rows"]
    assert run[1]["failures"] == []
    assert {row["op"] for row in rows} >= {"permutation_eval", "masked_eval", "marginals", "walk_values"}
    for row in rows:
        assert row["agreed"], row
        assert 0 <= row["max_error"] <= row["tolerance"], row
        assert row["rounds"] >= 3
        for times in (row["ours_ms"], row["baseline_ms"], row["speed_up"]):
            assert 0 < times[0] <= times[1] <= times[2]
        assert row["ours_peak_mib"] >= 0
        assert row["baseline_peak_mib"] >= 0


def test_quick_run_header_says_where_it_was_measured(run: tuple[Any, dict[str, Any]]) -> None:
    header, ceilings = run[1]["header"], run[1]["ceilings"]
    assert {"device", "torch", "cuda", "threads", "cpu_isa", "commit", "memory_by"} <= header.keys()
    assert header["threads"] == 1
    assert header["cpu_isa"] in ("baseline", "avx2", "avx512")
    assert ceilings["copy_gb_per_s"] > 0
    assert ceilings["matmul_gflop_per_s"] > 0


def test_quick_run_compares_estimators_at_equal_cost(run: tuple[Any, dict[str, Any]]) -> None:
    estimates = run[1]["estimators"]
    assert [e["scheme"] for e in estimates] == [
        "shared order", "own order", "own order, antithetic", "own order, antithetic, folded",
        "own order, antithetic, folded, guided",
    ]  # fmt: skip
    assert all(e["passes"] == 2 and e["rows"] >= 2 * e["samples"] * (e["players"] + 1) for e in estimates)
    assert estimates[2]["at_equal_rows"] == 1
    for estimate in estimates:
        assert estimate["relative_rmse"] > 0
        assert -1 <= estimate["kendall_tau"] <= 1


def test_quick_run_prints_a_table_with_every_row(run: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    lines = [line for line in run[0].stdout.splitlines() if line.startswith("| ")]
    for row in run[1]["rows"]:
        assert any(row["op"] in line and row["shape"] in line and row["baseline"] in line for line in lines), row


def test_unknown_name_is_refused_with_the_names_that_exist() -> None:
    done = run_benchmarks("--only", "permutation_evil")
    assert done.returncode == 2
    assert "permutation_eval" in done.stderr


def measured(*baselines: Baseline, **facts: float) -> list[Row]:
    """Rows of a case whose own result is 0, 1, 2, ... 9."""
    case = Case("op", "10", lambda: torch.arange(10.0), list(baselines), tolerance=1e-6, **facts)  # type: ignore[arg-type]
    return list(measure(case, CPU, {"copy_gb_per_s": 1.0, "matmul_gflop_per_s": 1.0}, budget_s=0.001))


def test_baseline_that_disagrees_is_reported_and_not_timed() -> None:
    calls: list[str] = []

    def wrong() -> torch.Tensor:
        calls.append("wrong")
        return torch.arange(10.0) + 1

    good, bad = measured(Baseline("good", lambda: torch.arange(10.0)), Baseline("bad", wrong))
    assert good.agreed
    assert good.ours_ms is not None
    assert not bad.agreed
    assert bad.max_error == pytest.approx(0.1)
    assert bad.ours_ms is None
    assert bad.speed_up is None
    assert calls == ["wrong"]


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_deviation_of_results_that_are_not_finite_is_no_agreement(spoilt: float) -> None:
    clean, dirty = torch.ones(3), torch.tensor([1.0, spoilt, 1.0])
    assert not deviation(dirty, clean) <= 1e300
    assert not deviation(clean, dirty) <= 1e300
    assert deviation(torch.ones(4), clean) == float("inf")


def test_share_of_peak_names_the_ceiling_that_binds() -> None:
    baseline = Baseline("good", lambda: torch.arange(10.0))
    (by_memory,) = measured(baseline, bytes_moved=2000.0, operations=1000.0)
    (by_arithmetic,) = measured(baseline, bytes_moved=1000.0, operations=2000.0)
    for row, bound_by in ((by_memory, "memory"), (by_arithmetic, "arithmetic")):
        assert row.bound_by == bound_by
        assert row.ours_ms is not None
        # 2000 bytes or operations at 1e9 a second take 2e-3 ms.
        assert row.percent_of_peak == pytest.approx(100 * 2e-3 / row.ours_ms[1], rel=1e-3)


def test_peak_memory_counts_what_a_call_takes_and_gives_back() -> None:
    def call() -> torch.Tensor:
        return torch.ones(8 << 20).sum()  # 32 MiB

    assert 31 <= peak_memory(call, CPU) <= 40
