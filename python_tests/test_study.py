"""The study on a network of a few channels: what it measures, writes down and keeps apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shapley_cuda as sc
from shapley_cuda.study import (
    METHODS,
    STUDIES,
    LayerResult,
    Measurement,
    StudyConfig,
    StudyResult,
    markdown,
    run_study,
    study_tables,
    write_study,
)
from shapley_cuda.study.summary import error_slope, largest_budgets, spread, summarise

DOCS = Path(__file__).parent.parent / "docs"
N_SAMPLES = 20
CONFIG = StudyConfig(
    name="tiny",
    passes=(2, 4, 8),
    seeds=(0, 1),
    n_samples=N_SAMPLES,
    exact_players=4,
    reference_passes=64,
    oracle_size=2,
    shares=(0.25, 0.5),
    n_test=30,
    retrained_shares=(0.5,),
    epochs=1,
    pruning_seeds=1,
)


def tiny_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(6 * 16, 3),
        ).eval()  # fmt: skip


def tiny_splits(test_seed: int = 3) -> dict[str, sc.Split]:
    splits = {}
    for seed, name in enumerate(("train", "rank", "select", "test")):
        draws = torch.Generator().manual_seed(test_seed if name == "test" else seed)
        labels = torch.arange(60) % 3
        splits[name] = sc.Split(torch.randn(60, 1, 8, 8, generator=draws) + labels.view(-1, 1, 1, 1), labels, name)
    return splits


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = tiny_network()
    train = tiny_splits()["train"]
    sc.train(model, *train, epochs=8)
    return model


@pytest.fixture(scope="module")
def result(model: nn.Module) -> StudyResult:
    return run_study(CONFIG, model=model, splits=tiny_splits())


def measured(layer: LayerResult, method: str, passes: int | None = None) -> list[Measurement]:
    found = [m for m in layer.measurements if m.method == method and passes in (None, m.passes)]
    assert found
    return found


def without_seconds(record: Any) -> Any:
    if isinstance(record, dict):
        return {name: without_seconds(value) for name, value in record.items() if name != "seconds"}
    return [without_seconds(value) for value in record] if isinstance(record, (list, tuple)) else record


def test_layers_are_all_groups_by_default(result: StudyResult) -> None:
    assert [(layer.layer, layer.n_players, layer.n_samples) for layer in result.layers] == [("0", 4, 20), ("3", 6, 20)]
    assert [layer.reference.method for layer in result.layers] == ["exact", "permutation"]


def test_exact_values_agree_with_themselves_and_with_a_regression_on_all_coalitions(result: StudyResult) -> None:
    first, second = result.layers
    (exact,) = measured(first, "exact")
    assert (exact.tau, exact.error) == (1.0, 0.0)
    assert exact.n_evaluations == first.reference.n_evaluations == 2**4 * N_SAMPLES
    for complete in measured(first, "regression", 8):  # its budget pays for them
        assert complete.tau == 1.0
        assert complete.error == pytest.approx(0, abs=1e-5)
    assert "exact values" in second.skipped
    assert not [m for m in second.measurements if m.method == "exact"]


def test_long_reference_is_as_near_the_exact_values_as_it_says(model: nn.Module) -> None:
    config = replace(CONFIG, methods=("permutation",), pruned_by=(), layers=("3",), epochs=0)
    (long,) = run_study(config, model=model, splits=tiny_splits()).layers
    (exact,) = run_study(replace(config, exact_players=6), model=model, splits=tiny_splits()).layers
    assert exact.reference.error == 0
    assert 0 < long.reference.error < 0.1
    for against_long, against_exact in zip(long.measurements, exact.measurements, strict=True):
        assert against_long.error == pytest.approx(against_exact.error, abs=6 * long.reference.error)


def test_evaluations_match_budgets(result: StudyResult) -> None:
    for layer in result.layers:
        rows_of_pass = N_SAMPLES * (layer.n_players + 1)
        for m in layer.measurements:
            if METHODS[m.method].cost == "budget":
                assert m.passes is not None
                least = min(0.7 * m.passes * rows_of_pass, 2**layer.n_players * N_SAMPLES)
                assert least <= m.n_evaluations <= m.passes * rows_of_pass
            elif METHODS[m.method].cost == "limit":
                assert m.n_evaluations <= CONFIG.passes[-1] * rows_of_pass
        for name in ("leave_one_out", "removing_1", "adding_1"):
            assert measured(layer, name)[0].n_evaluations == rows_of_pass
        for name in ("l1", "random"):
            assert measured(layer, name)[0].n_evaluations == 0
    assert result.layers[1].reference.n_evaluations == 64 * N_SAMPLES * 7


def test_every_method_budget_and_seed_is_measured_or_skipped_with_a_reason(result: StudyResult) -> None:
    for layer in result.layers:
        runs = [(m.method, m.passes, m.seed) for m in layer.measurements]
        assert len(set(runs)) == len(runs)
        for method, how in METHODS.items():
            for passes in CONFIG.passes if how.cost == "budget" else (None,):
                seeds = {seed for name, budget, seed in runs if (name, budget) == (method, passes)}
                named = how.label + (f", {passes} passes" if passes else "")
                assert {named, how.label} & set(layer.skipped) or seeds == (set(CONFIG.seeds) if how.seeded else {None})
                assert layer.skipped.get(named, "a reason")
    assert "needs a BatchNorm" in result.layers[1].skipped["BatchNorm scale"]


def test_methods_too_dear_for_many_channels_are_left_out_with_the_reason() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 129), nn.ReLU(), nn.Linear(129, 3)).eval()
    config = replace(CONFIG, methods=("exact", "regression", "l1"), pruned_by=(), n_samples=4, reference_passes=8)
    (layer,) = run_study(config, model=wide, splits=tiny_splits()).layers
    assert {m.method for m in layer.measurements} == {"l1"}
    assert layer.skipped == {
        "exact values": "it takes 2^129 coalitions",
        "regression, own coalitions": "it takes C^2 operations a row, too many with more than 128 channels",
    }


def test_oracle_agreement_is_that_of_the_oracle_module(model: nn.Module, result: StudyResult) -> None:
    game = sc.ChannelGame(model, "3", tiny_splits()["rank"].first(N_SAMPLES))
    sets = sc.oracle_sets(game, max_size=2)
    agreement = sc.oracle_agreement(torch.argsort(sc.oracle_rank(sets), stable=True), sets)
    (oracle,) = measured(result.layers[1], "oracle")
    assert (oracle.removed, oracle.kept) == (agreement.removed_pooled, agreement.kept_pooled)
    assert oracle.n_evaluations == sets.n_evaluations
    (one_out,) = measured(result.layers[1], "leave_one_out")
    expected = sc.oracle_agreement(sc.rank(game, "leave_one_out").ranking(), sets)
    assert (one_out.removed, one_out.kept) == (expected.removed_pooled, expected.kept_pooled)


def test_rankings_are_the_same_whatever_the_test_split_holds(model: nn.Module, result: StudyResult) -> None:
    other = run_study(CONFIG, model=model, splits=tiny_splits(test_seed=99))
    assert without_seconds(asdict(other)["layers"]) == without_seconds(asdict(result)["layers"])
    assert [r.parameters for r in other.retrained] == [r.parameters for r in result.retrained]
    assert other.accuracies != result.accuracies


def test_study_leaves_network_and_random_state_alone(model: nn.Module) -> None:
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    run_study(
        replace(CONFIG, methods=("permutation", "random"), pruned_by=("random",)), model=model, splits=tiny_splits()
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_splits_must_be_what_their_names_say(model: nn.Module) -> None:
    splits = tiny_splits()
    with pytest.raises(ValueError, match=r"^splits must hold one named 'rank' under that name, got Split.name='test'"):
        run_study(CONFIG, model=model, splits=splits | {"rank": splits["test"]})
    with pytest.raises(ValueError, match=r"^splits must hold one named 'select' under that name, got None$"):
        run_study(CONFIG, model=model, splits={n: s for n, s in splits.items() if n != "select"})


def test_pruned_networks_are_as_accurate_as_masked_ones(result: StudyResult) -> None:
    masked = {(point.method, point.share): point.accuracy for point in result.accuracies}
    assert {point.method for point in result.retrained} == {point.method for point in result.accuracies}
    for point in result.retrained:
        assert point.before == masked[point.method, point.share]
        assert point.parameters < result.parameters
        assert point.recalibrated is not None


def test_agreement_between_methods_is_symmetric_and_complete(result: StudyResult) -> None:
    for layer in result.layers:
        ranked = {m.method for m in layer.measurements}
        assert len(layer.taus) == len(ranked) * (len(ranked) - 1) // 2
        assert layer.taus["leave_one_out/removing_1"] == 1.0
        assert all(tau is None or -1 <= tau <= 1 for tau in layer.taus.values())


def test_progress_tells_what_is_done(model: nn.Module) -> None:
    told: list[str] = []
    config = replace(CONFIG, methods=("permutation",), pruned_by=("permutation",), layers=("0",))
    run_study(config, lambda doing, progress: told.append(doing), model=model, splits=tiny_splits())
    assert {
        "0: oracle sets",
        "0: own orders, antithetic, 2 passes",
        "accuracy, pruned by own orders, antithetic",
    } <= set(told)


def test_json_holds_everything(result: StudyResult) -> None:
    text = result.to_json()
    assert StudyResult.from_json(text) == result
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record.pop("format") == "shapley_cuda.study/1"
    assert set(record) == {
        "config", "layers", "unpruned", "parameters", "n_test", "accuracies", "retrained", "seconds", "environment",
    }  # fmt: skip
    assert set(record["layers"][0]["measurements"][0]) == {
        "method", "passes", "seed", "n_evaluations", "seconds", "tau", "error", "removed", "kept",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda record: record.pop("layers"), "^a study must be a JSON object of format shapley_cuda.study/1"),
        (lambda record: record["config"].update(passes=[]), "^passes must be one or more positive numbers"),
        (lambda record: record["layers"][0].pop("oracle"), "^a study must hold the records that it was written with"),
        (lambda record: record["accuracies"][0].pop("share"), "^a study must hold the records that it was written"),
    ],
)
def test_damaged_json_is_refused(result: StudyResult, spoil: Callable[[Any], Any], message: str) -> None:
    record = json.loads(result.to_json())
    spoil(record)
    with pytest.raises(ValueError, match=message):
        StudyResult.from_json(json.dumps(record))


def test_files_are_written_and_small(result: StudyResult, tmp_path: Path) -> None:
    paths = write_study(result, tmp_path)
    assert sorted(path.name for path in paths) == sorted(path.name for path in tmp_path.iterdir())
    assert StudyResult.load(tmp_path / "tiny.json") == result
    figures = [path for path in paths if path.suffix == ".png"]
    assert len(figures) == 4
    for figure in figures:
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert figure.stat().st_size < 150_000
    page = (tmp_path / "tiny.md").read_text()
    for method in {m.method for m in result.layers[0].measurements}:
        assert f"| {METHODS[method].label} |" in page


def test_study_of_a_few_methods_writes_what_it_has(model: nn.Module, tmp_path: Path) -> None:
    config = replace(CONFIG, methods=("l1", "random"), pruned_by=(), layers=("0",))
    few = run_study(config, model=model, splits=tiny_splits())
    assert {path.name for path in write_study(few, tmp_path)} == {
        "tiny.json", "tiny.md", "tiny-cost.png", "tiny-agreement.png",
    }  # fmt: skip
    assert len(study_tables(few)) == 2


def test_tables_have_a_cell_under_each_heading(result: StudyResult) -> None:
    tables = study_tables(result)
    assert all(len(row) == len(table.headings) for table in tables for row in table.rows)
    assert all(table.rows and table.for_terminal().row_count == len(table.rows) for table in tables)
    _, methods, errors, *_ = tables
    exact = next(row for row in methods.rows if row[0] == "exact values")
    assert exact[1] == f"{16 * N_SAMPLES:,}"
    assert exact[3:5] == ("1.00", "0.000")
    assert errors.headings == ("method", "2", "4", "8", "slope")


def test_summary_is_over_seeds(result: StudyResult) -> None:
    layer = result.layers[1]
    summary = next(s for s in summarise(layer) if (s.method, s.passes) == ("permutation", 8))
    taus = [m.tau for m in measured(layer, "permutation", 8)]
    assert summary.tau is not None
    assert summary.tau.mean == pytest.approx(sum(taus) / 2)
    assert summary.tau.deviation == pytest.approx(abs(taus[0] - taus[1]) / 2**0.5)
    assert largest_budgets(summarise(layer))["permutation"] == summary
    assert spread([0.25]).text(100, 1) == "25.0"
    assert spread([1.0, 3.0]).text() == "2.00 ± 1.41"


def test_slope_of_errors_that_fall_with_the_root_is_a_half(result: StudyResult) -> None:
    summaries = [s for s in summarise(result.layers[0]) if s.method == "permutation"]
    ideal = [replace(s, error=spread([3 * s.n_evaluations**-0.5])) for s in summaries]
    assert error_slope(ideal, "permutation") == pytest.approx(-0.5)
    assert error_slope(ideal[:1], "permutation") is None
    assert error_slope(ideal, "l1") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("shap",)}, "^methods must be some of permutation, .*, random, got shap$"),
        ({"methods": ("l1",), "pruned_by": ("l2",)}, "^pruned_by must be some of methods, l1, got .'l2',.$"),
        ({"passes": ()}, "^passes must be one or more positive numbers in ascending order, got ..$"),
        ({"passes": (4, 2)}, "^passes must be one or more positive numbers in ascending order, got .4, 2.$"),
        ({"shares": (0.5, 1.0)}, "^shares must be below 1 and those of retrained_shares among them"),
        ({"retrained_shares": (0.3,)}, "^shares must be below 1 and those of retrained_shares among them"),
        ({"seeds": (1, 1)}, "^seeds must be one or more different numbers, got .1, 1.$"),
        ({"reference_passes": 4}, "^reference_passes must be at least 8, got 4$"),
    ],
)
def test_bad_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_studies_that_ship_name_themselves_and_layers_that_exist() -> None:
    for name, config in STUDIES.items():
        assert config.name == name
        groups = sc.find_groups(sc.pretrained(config.network), torch.zeros(1, 1, 28, 28))
        assert set(config.layers) <= {group.name for group in groups if group.prunable}
        assert config.quick().passes[-1] <= 4


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_shows_the_results_beside_it(name: str) -> None:
    shown = StudyResult.load(DOCS / "figures" / f"{name}.json")
    assert shown.config == STUDIES[name]
    page = (DOCS / "study.md").read_text(encoding="utf-8")
    assert f"<!-- tables of {name} -->\n\n{markdown(shown)}\n<!-- end of {name} -->" in page
    figures = sorted(path.name for path in (DOCS / "figures").glob(f"{name}-[!s]*.png"))
    assert len(figures) == 4
    assert all(f"(figures/{figure})" in page for figure in figures)
