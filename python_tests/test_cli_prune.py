"""``shapley-cuda prune``, ``oracle`` and ``study`` on a network of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_run import OWN, refuse, succeed
from own_network import SIZES, Net
from safetensors.torch import save_file

import shapley_cuda as sc
from shapley_cuda import latency
from shapley_cuda.loading import fingerprint, load_model, open_data

GROUPS = ("conv1", "conv2", "fc1")


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    succeed("rank", *OWN, "--tolerance", "0.2", "--seed", "1", "--out", folder)
    return folder


def estimates_in(folder: Path) -> dict[str, sc.Estimate]:
    return {name: sc.Estimate.load(folder / f"values-{name}.json") for name in GROUPS}


def plan_in(folder: Path) -> sc.PruningPlan:
    return sc.PruningPlan.from_json((folder / "plan.json").read_text())


def kept_in(folder: Path) -> dict[str, int]:
    plan = plan_in(folder)
    return {name: len(plan.kept(name)) for name in plan.n_players}


def stages_in(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())["stages"]


def latencies_in(folder: Path) -> list[sc.LatencyComparison]:
    return list(map(sc.LatencyComparison.from_record, json.loads((folder / "results.json").read_text())["latencies"]))


def split(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    samples = open_data("own_network:data")(name, None)
    assert samples is not None
    assert samples[1] is not None
    return samples[0], samples[1]


def test_prune_by_values_does_what_planning_and_cutting_in_python_do(values: Path, tmp_path: Path) -> None:
    run = succeed("prune", "--values", values, "--keep", "0.5", "--out", tmp_path)
    model, (inputs, _) = load_model("own_network:Net"), split("rank")
    plan = sc.plan_pruning(model, estimates_in(values), keep=0.5, example_input=inputs)
    assert plan_in(tmp_path).removed == plan.removed
    expected = sc.prune(model, plan, inputs)
    pruned = sc.load_pruned(Net(), tmp_path)
    assert fingerprint(pruned) == fingerprint(expected)
    original, cut = stages_in(tmp_path)
    assert (original["name"], cut["name"]) == ("original", "pruned")
    for stage, network in ((original, model), (cut, expected)):
        assert stage["parameters"] == sc.count_parameters(network)
        assert stage["macs"] == sc.count_macs(network, inputs[:1])
        assert stage["accuracy"] == sc.evaluate(network, *split("test")).accuracy
        assert f" {stage['accuracy']:.1%} " in run.words
    assert f"accuracy on {SIZES['test']} test samples" in run.words
    assert "conv1: 4 -> 2, conv2: 6 -> 3, fc1: 5 -> 2" in run.words


def test_prune_keeps_what_is_named_of_each_layer_and_others_whole(values: Path, tmp_path: Path) -> None:
    succeed("prune", "--values", values, "--keep", "bn1=3", "--keep", "fc1=0.4", "--out", tmp_path)
    assert kept_in(tmp_path) == {"conv1": 3, "fc1": 2}


@pytest.mark.parametrize(("budget", "unit"), [("--macs", "macs"), ("--parameters", "parameters")])
def test_prune_to_a_budget_stays_within_it(budget: str, unit: str, values: Path, tmp_path: Path) -> None:
    succeed("prune", "--values", values, budget, "0.6", "--across", "global", "--out", tmp_path)
    original, pruned = stages_in(tmp_path)
    assert 0.2 * original[unit] < pruned[unit] <= 0.6 * original[unit]
    assert plan_in(tmp_path).options.items() >= {unit: 0.6, "across": "global", "normalise": "none"}.items()


def test_prune_to_a_latency_records_what_was_measured(values: Path, tmp_path: Path) -> None:
    # Any latency is within a budget of all of it.
    succeed("prune", "--values", values, "--latency", "1", "--out", tmp_path)
    assert kept_in(tmp_path) == {"conv1": 4, "conv2": 6, "fc1": 5}
    assert plan_in(tmp_path).latency is not None


def test_prune_measures_latency_for_one_sample_and_for_a_large_batch(values: Path, tmp_path: Path) -> None:
    run = succeed("prune", "--values", values, "--keep", "0.5", "--latency-batch", "48", "--out", tmp_path)
    latencies = latencies_in(tmp_path)
    assert [latency.batch_size for latency in latencies] == [1, 48]
    assert "latency, batch 1 latency, batch 48 " in run.words
    for measured in latencies:
        assert f" {measured.before} " in run.words
        assert f" {measured.after} ({measured.speed_up:.2f}x) " in run.words
        assert f"At batch {measured.batch_size} pruning {str(measured).partition(' pruning ')[2]}." in run.words


def test_prune_that_did_not_speed_the_network_up_says_so(
    values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {1: [0.5] * 7, SIZES["rank"]: [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]}
    monkeypatch.setattr(latency, "time_in_turns", lambda models, batch, *_: [times[len(batch)], [5.0] * 7])
    run = succeed("prune", "--values", values, "--keep", "0.5", "--out", tmp_path / "odd")
    assert "At batch 1 pruning slowed the network down: 0.500 ± 0.000 ms before, 5.00 ± 0.00 ms after" in run.words
    assert "At batch 60 pruning did not speed the network up: 7.00 ± 1.50 ms before" in run.words
    hint = "Layers whose width is no multiple of 8 often run no faster for being cut: try --multiple-of 8."
    assert hint in run.words
    run = succeed("prune", "--values", values, "--keep", "0.5", "--multiple-of", "8", "--out", tmp_path / "even")
    assert "At batch 1 pruning slowed the network down" in run.words
    assert hint not in run.words
    times |= {1: [7.0] * 7, SIZES["rank"]: [7.0] * 7}
    run = succeed("prune", "--values", values, "--keep", "0.5", "--out", tmp_path / "faster")
    assert "At batch 1 pruning made the network 1.40 times as fast (95 % interval 1.40 to 1.40): 7.00" in run.words
    assert hint not in run.words


def test_prune_rounds_up_to_a_multiple_and_makes_groups_comparable(tmp_path: Path) -> None:
    how = ("--across", "global", "--normalise", "mean", "--multiple-of", "2", "--method", "l1")
    succeed("prune", *OWN, "--keep", "0.4", *how, "--out", tmp_path)
    assert {kept % 2 for name, kept in kept_in(tmp_path).items() if name != "fc1"} == {0}
    assert plan_in(tmp_path).options["normalise"] == "mean"


def test_prune_to_the_papers_widths(tmp_path: Path) -> None:
    run = succeed("prune", "--model", "lenet5_bn", "--method", "l1", "--preset", "lenet5_bn", "--out", tmp_path)
    assert kept_in(tmp_path) == sc.preset("lenet5_bn")
    assert "8,080 (20%)" in run.words


def test_prune_without_values_ranks_first_and_leaves_the_values(tmp_path: Path) -> None:
    arguments = ("--tolerance", "0.2", "--seed", "1", "--samples", "30")
    succeed("rank", *OWN, *arguments, "--out", tmp_path / "values")
    succeed("prune", *OWN, *arguments, "--keep", "0.5", "--out", tmp_path / "pruned")
    there, here = estimates_in(tmp_path / "values"), estimates_in(tmp_path / "pruned" / "values")
    assert all(torch.equal(there[name].values, here[name].values) for name in GROUPS)
    succeed("prune", "--values", tmp_path / "values", "--keep", "0.5", "--out", tmp_path / "again")
    assert plan_in(tmp_path / "pruned").removed == plan_in(tmp_path / "again").removed


def test_prune_recalibrates_and_retrains_after_the_cut(values: Path, tmp_path: Path) -> None:
    arguments = ("--keep", "0.5", "--recalibrate", "--epochs", "2", "--recipe", "finetune", "--seed", "3")
    succeed("prune", "--values", values, *arguments, "--out", tmp_path)
    stages = stages_in(tmp_path)
    assert [stage["name"] for stage in stages] == ["original", "pruned", "recalibrated", "retrained"]
    model, (inputs, _) = load_model("own_network:Net"), split("rank")
    expected = sc.prune(model, sc.plan_pruning(model, estimates_in(values), keep=0.5, example_input=inputs), inputs)
    sc.recalibrate_batchnorm(expected, split("train")[0])
    assert stages[2]["accuracy"] == sc.evaluate(expected, *split("test")).accuracy
    sc.train(expected, *split("train"), recipe="finetune", epochs=2, select=split("select"), seed=3)
    assert fingerprint(sc.load_pruned(Net(), tmp_path)) == fingerprint(expected)


def test_prune_in_rounds_ends_with_the_wanted_size(tmp_path: Path) -> None:
    arguments = ("--method", "taylor", "--keep", "0.5", "--rounds", "2", "--epochs", "1")
    run = succeed("prune", *OWN, *arguments, "--out", tmp_path)
    assert kept_in(tmp_path) == {"conv1": 2, "conv2": 3, "fc1": 2}
    assert "after 2 rounds" in run.words
    assert plan_in(tmp_path).options["rounds"] == 2
    accuracy = sc.evaluate(sc.load_pruned(Net(), tmp_path), *split("test")).accuracy
    assert stages_in(tmp_path)[1]["accuracy"] == accuracy


def test_prune_without_labels_has_no_accuracy(tmp_path: Path) -> None:
    data = ("--model", "own_network:Net", "--data", "own_network:inputs", "--metric", "cosine")
    run = succeed("prune", *data, "--tolerance", "0.3", "--keep", "0.5", "--recalibrate", "--out", tmp_path)
    assert "accuracy" not in run.words
    assert [stage["accuracy"] for stage in stages_in(tmp_path)] == [None] * 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--keep: exactly one of --keep, --preset, --macs, --parameters, --latency must say how much is"),
        (["--keep", "0.5", "--macs", "0.5"], "--macs: exactly one of --keep, --preset, --macs"),
        (["--keep", "12"], "--keep: must be a share in (0, 1], or LAYER=CHANNELS for each layer, got '12'"),
        (["--keep", "half"], "--keep: must be a share such as 0.5, or a number of channels such as 24, got 'half'"),
        (["--keep", "0.5", "--keep", "conv1=2"], "--keep: must be one share, or LAYER=NUMBER once for each layer"),
        (["--keep", "conv1=2", "--keep", "conv1=3"], "--keep: must be one share, or LAYER=NUMBER once for each layer"),
        (["--keep", "conv1=2", "--keep", "bn1=3"], "--keep: each group must be named once, got bn1 and another"),
        (["--keep", "conv1=5"], "--keep: keep of 'conv1' must be a share"),
        (["--keep", "conv3=5"], "--keep: group must name a layer that produces channels, got 'conv3'"),
        (["--keep", "0"], "--keep: must be a share in (0, 1], or LAYER=CHANNELS for each layer, got '0'"),
        (["--preset", "lenet"], "--preset: preset: name must be one of lenet5_bn, resnet50"),
        (["--macs", "0.001"], "--macs: plan_pruning: macs must be at least"),
        (["--macs", "1.5"], "--macs: plan_pruning: macs must be a share"),
        (["--keep", "0.5", "--across", "all"], "--across"),
        (["--keep", "0.5", "--recipe", "brif"], "--recipe: recipe must be one of brief, finetune, got 'brif'"),
        (["--keep", "0.5", "--rounds", "2"], "--rounds: each round ranks anew: leave --values out"),
        (["--keep", "0.5", "--group", "conv4"], "--group: group must name a layer that produces channels, got 'conv4'"),
        (["--keep", "0.5", "--data", "own_network:pair", "--epochs", "1"], "--epochs: the data have no split train"),
        (["--keep", "0.5", "--model", "own_network:Mixing"], "are those of other weights: model own_network:Net"),
    ],
)
def test_prune_bad_option_is_refused_before_anything_is_written(
    arguments: list[str], text: str, values: Path, tmp_path: Path
) -> None:
    refuse(text, "prune", "--values", values, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prune_goal_out_of_reach_is_told_before_anything_is_ranked(tmp_path: Path) -> None:
    refuse("--macs: plan_pruning: macs must be at least", "prune", *OWN, "--macs", "0.001", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prune_refuses_values_that_are_not_there(values: Path, tmp_path: Path) -> None:
    keep = ("--keep", "0.5", "--out", tmp_path / "out")
    refuse("--model: must be given, or --values that tells it", "prune", *keep)
    refuse("--values: nowhere must be a folder that rank wrote, got none", "prune", "--values", "nowhere", *keep)
    succeed("rank", *OWN, "--method", "l1", "-g", "conv1", "--out", tmp_path / "one")
    refuse("must hold values of conv2, got conv1", "prune", "--values", tmp_path / "one", "-g", "conv2", *keep)
    (tmp_path / "one" / "values-conv1.json").write_text("{}")
    refuse("values-conv1.json cannot be read: an estimate must be a JSON", "prune", "--values", tmp_path / "one", *keep)
    net = Net()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    other = ("--checkpoint", tmp_path / "net.safetensors")
    refuse("are those of other weights", "prune", "--values", values, *other, *keep)
    refuse("--rounds: the data have no classes", "prune", "--model", "own_network:Net", "--data", "own_network:inputs",
           "--metric", "kl", "--rounds", "2", *keep)  # fmt: skip


def test_oracle_writes_the_sets_and_how_far_rankings_agree(values: Path, tmp_path: Path) -> None:
    succeed("rank", *OWN, "--method", "l1", "--out", tmp_path / "l1")
    rankings = ("--values", values, "--values", tmp_path / "l1")
    run = succeed("oracle", "-g", "conv2", *rankings, "--max-size", "3", "--out", tmp_path)
    expected = sc.oracle_sets(sc.ChannelGame(load_model("own_network:Net"), "conv2", split("rank")), max_size=3)
    sets = sc.OracleSets.load(tmp_path / "oracle-conv2.json")
    assert torch.equal(sets.removed, expected.removed)
    assert torch.equal(sets.kept_payoffs, expected.kept_payoffs)
    agreements = json.loads((tmp_path / "agreement-conv2.json").read_text())
    for folder in (values, tmp_path / "l1"):
        agreement = sc.oracle_agreement(estimates_in(folder)["conv2"].ranking(), expected)
        assert agreements[str(folder)] == json.loads(json.dumps(asdict(agreement)))
        assert f"{folder} " in run.words
        assert f" {agreement.removed_pooled:.1%} {agreement.kept_pooled:.1%} " in run.words
    assert "oracle sets of conv2, the best of all sets" in run.words


def test_oracle_says_that_a_search_was_greedy(tmp_path: Path) -> None:
    run = succeed("oracle", *OWN, "-g", "fc1", "--search", "greedy", "--out", tmp_path)
    assert "oracle sets of fc1, by a greedy search, which may miss better ones" in run.words
    sets = sc.OracleSets.load(tmp_path / "oracle-fc1.json")
    assert (sets.method, sets.max_size) == ("greedy", 5)
    assert not (tmp_path / "agreement-fc1.json").exists()


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["-g", "conv9"], "--group: group must name a layer that produces channels, got 'conv9'", 2),
        (["-g", "conv1", "--search", "best"], "--search", 2),
        (["-g", "conv1", "--max-size", "0"], "--max-size", 2),
        (["-g", "conv1", "--values", "nowhere"], "--values: nowhere must be a folder that rank wrote", 2),
        (["-g", "conv1", "--budget", "5"], "Error: budget must be at least ", 1),
        ([], "--group", 2),
    ],
)
def test_oracle_refuses(arguments: list[str], text: str, code: int, tmp_path: Path) -> None:
    refuse(text, "oracle", *OWN, *arguments, "--out", tmp_path / "out", code=code)
    assert not (tmp_path / "out").exists()


def test_study_of_ones_own_network_writes_and_prints_what_it_found(tmp_path: Path) -> None:
    methods = ("--method", "permutation", "--method", "l1")
    run = succeed("study", *OWN, "--quick", "-g", "conv1", *methods, "--epochs", "0", "--out", tmp_path)
    record = json.loads((tmp_path / "study-quick.json").read_text())
    assert record["config"]["network"] == "own_network:Net"
    assert [layer["layer"] for layer in record["layers"]] == ["conv1"]
    assert {m["method"] for m in record["layers"][0]["measurements"]} == {"permutation", "l1"}
    assert "magnitude (L1)" in run.words
    assert str(tmp_path / "study-quick.md") in run.words
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["lenet7"], "STUDY: must be one of lenet5-small, lenet5, vgg_bn, got 'lenet7'"),
        (["--method", "shap"], "--method: methods must be some of permutation, "),
        (["--model", "own_network:Net", "--data", "own_network:pair"], "--data: must have the splits train, rank"),
        (["--device", "tpu"], "--device: must be one of cpu"),
    ],
)
def test_study_refuses(arguments: list[str], text: str, tmp_path: Path) -> None:
    refuse(text, "study", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
