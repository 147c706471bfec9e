"""``shapley-cuda rank`` and ``groups`` on a network of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_run import OWN, Run, refuse, succeed
from own_network import Net
from safetensors.torch import save_file

import shapley_cuda as sc
from shapley_cuda.cli.display import ProgressDisplay
from shapley_cuda.loading import draw_samples, load_model, open_data

QUICK = ("--tolerance", "0.2")


def values_of(folder: Path) -> dict[str, sc.Estimate]:
    files = json.loads((folder / "index.json").read_text())["files"]
    return {group: sc.Estimate.load(folder / file) for group, file in files.items()}


def test_rank_writes_what_rank_in_python_gives(tmp_path: Path) -> None:
    run = succeed("rank", *OWN, *QUICK, "--samples", "30", "--seed", "4", "--out", tmp_path)
    samples = open_data("own_network:data")("rank", None)
    assert samples is not None
    drawn = draw_samples(samples, 30, seed=4)
    model = load_model("own_network:Net")
    found = values_of(tmp_path)
    assert list(found) == ["conv1", "conv2", "fc1"]
    for name, estimate in found.items():
        expected = sc.rank(sc.ChannelGame(model, name, drawn), tolerance=0.2, seed=4)
        assert torch.equal(estimate.values, expected.values)
        assert estimate.n_evaluations == expected.n_evaluations
        assert f"{name} {len(estimate.values)} " in run.words
        assert f" {estimate.n_evaluations:,} " in run.words
    assert "error reached" in run.words
    assert f"next: shapley-cuda prune --values {tmp_path} --keep 0.5" in run.words


def test_rank_of_some_groups_by_the_names_of_any_of_their_layers(tmp_path: Path) -> None:
    succeed("rank", *OWN, "--method", "l1", "-g", "fc1", "--group", "bn1", "-g", "conv1", "--out", tmp_path)
    assert list(values_of(tmp_path)) == ["fc1", "conv1"]


def test_rank_without_a_checkpoint_or_with_one(tmp_path: Path) -> None:
    net = Net()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    checkpoint = ("--checkpoint", tmp_path / "net.safetensors")
    succeed("rank", *OWN, *checkpoint, "--method", "l1", "-g", "conv2", "--out", tmp_path / "values")
    expected = net.conv2.weight.detach().abs().flatten(1).sum(1)
    torch.testing.assert_close(values_of(tmp_path / "values")["conv2"].values, expected.double())


def test_rank_without_labels(tmp_path: Path) -> None:
    inputs_only = ("--model", "own_network:Net", "--data", "own_network:inputs")
    refuse("--metric: cross_entropy needs targets, got inputs alone; kl and cosine need none", "rank", *inputs_only)
    succeed("rank", *inputs_only, *QUICK, "--metric", "kl", "-g", "conv2", "--out", tmp_path)
    model, inputs = load_model("own_network:Net"), open_data("own_network:inputs")("rank", None)
    assert inputs is not None
    data, metric = sc.payoffs.agreement(model, inputs[0], "kl")
    expected = sc.rank(sc.ChannelGame(model, "conv2", data, metric=metric), tolerance=0.2)
    assert torch.equal(values_of(tmp_path)["conv2"].values, expected.values)


def test_rank_options_of_the_method_are_read_by_their_types(tmp_path: Path) -> None:
    options = ("-o", "shared=yes", "--option", "confidence=0.9", "-o", "antithetic=False", "-o", "tolerance=0")
    succeed("rank", *OWN, *options, "--budget", "5000", "--settle", "3", "-g", "conv2", "--out", tmp_path)
    estimate = values_of(tmp_path)["conv2"]
    settings = {"shared": True, "confidence": 0.9, "antithetic": False, "tolerance": 0, "settle": 3, "budget": 5000}
    assert estimate.options.items() >= settings.items()
    assert type(estimate.options["settle"]) is int
    succeed("rank", *OWN, "-o", "budget=5e3", "--settle", "0.5", "-g", "conv2", "--out", tmp_path)
    assert values_of(tmp_path)["conv2"].options.items() >= {"budget": 5000, "settle": 0.5}.items()
    succeed("rank", *OWN, "--method", "partial", "-o", "order=1", "-o", "direction=adding", "--out", tmp_path)
    assert values_of(tmp_path)["fc1"].options.items() >= {"order": 1, "direction": "adding"}.items()


def test_rank_leaves_out_what_turns_out_not_to_be_prunable(tmp_path: Path) -> None:
    mixing = ("--model", "own_network:Mixing", "--data", "own_network:data", "--method", "l1", "--out", tmp_path)
    run = succeed("rank", *mixing)
    assert list(values_of(tmp_path)) == ["plain"]
    assert "left out: mixed: group 'mixed' cannot be pruned exactly" in run.words
    only = ("--model", "own_network:OnlyMixing", "--data", "own_network:data")
    refuse("Error: no group can be pruned: group 'mixed' cannot", "rank", *only, "--out", tmp_path, code=1)


def interrupt_at(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C pressed when a group is shown for the second time, which is in the middle of ranking it."""
    shown: list[str] = []

    def show(display: ProgressDisplay, doing: str, progress: object) -> None:
        shown.append(doing.split(",")[0])
        if shown.count(group) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressDisplay, "show", show)


def test_rank_interrupted_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    arguments = ("rank", *OWN, "--tolerance", "0.05", "--seed", "2")
    succeed(*arguments, "--out", tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at("conv2", patch)
        run = Run(*arguments, "--out", tmp_path / "torn")
    assert run.code in (1, 130)  # as the version of typer has it
    assert f"interrupted; the same command with --resume goes on with {tmp_path / 'torn'}" in run.words
    assert list(values_of(tmp_path / "torn")) == ["conv1"]
    prune = ("prune", "--values", tmp_path / "torn", "--keep", "0.5", "--out", tmp_path / "pruned")
    refuse("--values: ranking in", *prune)
    refuse("is not finished, conv2, fc1 to do: go on with rank --resume", *prune)
    succeed(*arguments, "--resume", "--out", tmp_path / "torn")
    torn, whole = values_of(tmp_path / "torn"), values_of(tmp_path / "whole")
    assert list(torn) == list(whole)
    assert all(torch.equal(torn[name].values, whole[name].values) for name in whole)


def test_rank_resumed_to_a_smaller_error_extends_what_is_there(tmp_path: Path) -> None:
    arguments = ("rank", *OWN, "-g", "conv2", "--out")
    succeed(*arguments, tmp_path / "extended", "--tolerance", "0.3", "-o", "budget=4000")
    succeed(*arguments, tmp_path / "extended", "--tolerance", "0.01", "-o", "budget=20000", "--resume")
    succeed(*arguments, tmp_path / "whole", "--tolerance", "0.01", "-o", "budget=20000")
    extended, whole = (values_of(tmp_path / name)["conv2"] for name in ("extended", "whole"))
    assert torch.equal(extended.values, whole.values)
    assert extended.n_evaluations == whole.n_evaluations


def test_rank_resumed_with_further_groups_keeps_the_others(tmp_path: Path) -> None:
    succeed("rank", *OWN, "--method", "l1", "-g", "conv2", "--out", tmp_path)
    before = (tmp_path / "values-conv2.json").read_bytes()
    succeed("rank", *OWN, "--method", "l1", "-g", "fc1", "--out", tmp_path, "--resume")
    assert list(values_of(tmp_path)) == ["conv2", "fc1"]
    assert (tmp_path / "values-conv2.json").read_bytes() == before
    anew = succeed("rank", *OWN, "--method", "l1", "-g", "conv1", "--out", tmp_path)
    assert f"{tmp_path} holds values of an earlier ranking, which are dropped; --resume goes on with them" in anew.words
    assert list(values_of(tmp_path)) == ["conv1"]


def test_rank_resumed_as_another_ranking_is_refused(tmp_path: Path) -> None:
    arguments = ("rank", *OWN, "--method", "l1", "--out", tmp_path)
    succeed(*arguments)
    text = "--resume: the ranking that it holds is another: "
    refuse(f"{text}samples was None, is 20", *arguments, "--samples", "20", "--resume")
    refuse(f"{text}metric was None, is accuracy", *arguments, "--metric", "accuracy", "--resume")
    (tmp_path / "index.json").write_text("{}")
    refuse("index.json must be a JSON object of format shapley_cuda.values/2", *arguments, "--resume")


FORKED = """
import sys
from contextlib import redirect_stdout
from process_driver import together
from shapley_cuda.cli import app

def rank(process):
    with open(f"{sys.argv[1]}/printed-{process}", "w") as printed, redirect_stdout(printed):
        app(sys.argv[2:], standalone_mode=False)

assert together(2, rank) == [0, 0]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_rank_by_two_processes_gives_the_bits_of_one(tmp_path: Path, set_threads: Callable[[int], None]) -> None:
    arguments = ["rank", *OWN, "--tolerance", "0.05", "-g", "conv2"]
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", FORKED, str(tmp_path), *arguments, "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    # Not in a source tree, whose package without its native module would come first.
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "values: " in (tmp_path / "printed-0").read_text()
    assert (tmp_path / "printed-1").read_text() == ""
    set_threads(1)
    succeed(*arguments, "--out", tmp_path / "one")
    two, one = (values_of(tmp_path / name)["conv2"] for name in ("two", "one"))
    assert torch.equal(two.values, one.values)
    assert two.n_evaluations == one.n_evaluations


@pytest.mark.parametrize("command", ["rank", "prune"])
def test_several_processes_are_refused_where_they_could_not_share(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    if command == "rank":
        refuse("--method: l1 ranking is done in one piece: run it without torchrun", "rank", *OWN, "--method", "l1")
    else:
        refuse("takes one process: run rank under torchrun, then prune --values", "prune", *OWN, "--keep", "0.5")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "own_network:Nett"], "--model: module own_network has no 'Nett'; did you mean 'Net'?"),
        (["--model", "vgg16"], "--model: vgg16 comes without weights"),
        (["--checkpoint", "nowhere.pt"], "--checkpoint: there is no file nowhere.pt"),
        (["--data", "mnist"], "--data: must be fashion-mnist, "),
        (["--data", "cifar10:nowhere"], "--data: cifar10: nowhere must hold data_batch_1 or data_batch_1.bin"),
        (["--data", "own_network:colour"], "--data: the network cannot take a batch [1, 3, 8, 8] of torch.float32:"),
        (["--data", "own_network:classes_too_many"], "--data: labels go up to 59, the network tells 3 classes apart"),
        (["--data", "own_network:nothing"], "--data: own_network:nothing() gave 'rank' data that cannot be used"),
        (["--samples", "61"], "--samples: must be 1 to 60, the samples that there are to rank on, got 61"),
        (["--group", "conv3"], "--group: group must name a layer that produces channels, got 'conv3'; did you mean"),
        (["--group", "fc2"], "--group: group 'fc2' cannot be pruned exactly: its channels are outputs of the network"),
        (["--device", "cuda:99"], "--device: must be one of cpu"),
        (["--method", "shaply"], "--method: must be one of l1, "),
        (["--method", "exat"], "got 'exat' (did you mean 'exact'?)"),
        (["--method", "l1", "--tolerance", "0.1"], "--tolerance: l1 ranking has no tolerance; its options"),
        (["-o", "toleranse=0.1"], "-o: permutation ranking has no 'toleranse' (did you mean 'tolerance'?)"),
        (["-o", "tolerance"], "-o: must be key=value, got 'tolerance'"),
        (["-o", "shared=maybe"], "-o: shared must be true or false, got 'maybe'"),
        (["-o", "budget=many"], "-o: budget must be a whole number, got 'many'"),
        (["--tolerance", "0.1", "-o", "tolerance=0.2"], "-o: tolerance is given twice, also as --tolerance"),
        (["--tolerance", "-1"], "--tolerance: tolerance must be at least 0, got -1.0"),
        (["--settle", "half"], "--settle: settle must be a number or a whole number, got 'half'"),
        (["--settle", "1.5"], "--settle: settle must be a share of the players to keep"),
        (["--seconds", "0"], "--seconds: max_seconds must be above 0, got 0.0"),
        (["--metric", "hinge"], "--metric"),
        (["--budget", "0"], "--budget"),
    ],
)
def test_rank_bad_option_is_refused_before_anything_is_written(arguments: list[str], text: str, tmp_path: Path) -> None:
    refuse(text, "rank", *OWN, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rank_network_of_ones_own_needs_data() -> None:
    refuse("--data: must be given for a network of your own", "rank", "--model", "own_network:Net")


def test_rank_error_while_ranking_is_one_line_and_with_debug_a_traceback(tmp_path: Path) -> None:
    arguments = ("rank", *OWN, "--budget", "10", "--out", tmp_path)
    text = "Error: budget must be at least 56 rows (two visits of samples), got 10"
    refuse(text, *arguments, "-g", "conv2", code=1)
    run = Run(*arguments, "-g", "conv2", "--debug")
    assert run.code == 1
    assert "Traceback (most recent call last)" in run.printed
    assert text in run.words
    wrong = Run("rank", *OWN, "--data", "own_network:failing", "--debug")
    assert wrong.code == 2
    assert "RuntimeError: out of luck" in wrong.printed
    assert "Traceback" in wrong.printed


def test_groups_lists_all_and_why_not() -> None:
    run = succeed("groups", "--model", "own_network:Net", "--input", "1x8x8")
    assert "own_network:Net: 3 of 4 groups can be pruned" in run.words
    assert "conv1 4 bn1 conv2 yes" in run.words
    assert "fc2 3 no: its channels are outputs of the network" in run.words
    assert "conv1 20 conv2 yes" in succeed("groups", "--model", "lenet5").words


def test_groups_as_json_and_by_data() -> None:
    run = succeed("groups", *OWN, "--json")
    record = json.loads(run.printed)
    assert [group["name"] for group in record] == ["conv1", "conv2", "fc1", "fc2"]
    assert record[0]["layers"] == ["conv1", "bn1"]
    assert record[0]["consumers"] == ["conv2"]
    assert record[3]["reason"] == "its channels are outputs of the network"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--input: must be given for a network of your own, or --data"),
        (["--input", "1x8xx"], "--input: must be sizes joined by x, such as 3x224x224, got '1x8xx'"),
        (["--input", "3x8x8"], "--input: the network cannot take a batch [1, 3, 8, 8]"),
    ],
)
def test_groups_refuses(arguments: list[str], text: str) -> None:
    refuse(text, "groups", "--model", "own_network:Net", *arguments)
