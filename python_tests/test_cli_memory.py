"""``--memory-budget`` and ``--prefix``: read, given to the games, recorded, and used again by later commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_run import OWN, refuse, succeed
from tolerances import CHUNKS_AGREE

import shapley_cuda as sc
from shapley_cuda.cli import pruner, subject
from shapley_cuda.cli.options import Prefix
from shapley_cuda.cli.sizes import read_memory_budget
from shapley_cuda.prefix import KEPT
from shapley_cuda.study import run as study_run

QUICK = ("--tolerance", "0.3", "-g", "conv2")


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch) -> list[sc.ChannelGame]:
    """The games that commands make."""
    made: list[sc.ChannelGame] = []

    class Noted(sc.ChannelGame):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            made.append(self)

    for module in (subject, pruner, study_run):
        monkeypatch.setattr(module, "ChannelGame", Noted)
    return made


def memory_of(games: list[sc.ChannelGame]) -> set[tuple[str, int]]:
    return {(game.prefix, game.memory_budget) for game in games}


def named_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text())["named"]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("65536", 65536),
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("2kB", 2000),
        ("1TB", 10**12),
        ("7B", 7),
        ("0.25", 0.25),
        ("1.0", 1.0),
        ("1", 1),
    ],
)
def test_memory_budget_is_bytes_or_a_share(text: str, budget: int | float) -> None:
    found = read_memory_budget(text)
    assert found == budget
    assert type(found) is type(budget)


@pytest.mark.parametrize("text", ["", "lots", "64M", "-1", "64MiB/2", "1e6", "25%", "inf"])
def test_memory_budget_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^must be an amount of memory, such as 64MiB, or a share of what is free, such"
    ):
        read_memory_budget(text)


@pytest.mark.parametrize(("text", "shown"), [("0", "0"), ("0.0", "0.0"), ("1.5", "1.5"), ("0.4B", "0")])
def test_memory_budget_out_of_range_is_refused(text: str, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"^memory_budget must be at least 1 byte, .* got {shown}$"):
        read_memory_budget(text)


def test_prefix_has_the_names_that_games_take() -> None:
    assert tuple(prefix.value for prefix in Prefix) == KEPT


def test_rank_keeps_to_memory_and_records_how(games: list[sc.ChannelGame], tmp_path: Path) -> None:
    rank = ("rank", *OWN, "--tolerance", "0", "--budget", "5000", "-g", "conv2")
    succeed(*rank, "--memory-budget", "48KiB", "--prefix", "disk", "--out", tmp_path / "small")
    assert memory_of(games) == {("disk", 48 << 10)}
    assert named_in(tmp_path / "small").items() >= {"prefix": "disk", "memory_budget": 48 << 10}.items()
    succeed(*rank, "--out", tmp_path / "usual")
    assert memory_of(games[1:]) == {("memory", 32 << 20)}
    small, usual = (sc.Estimate.load(tmp_path / name / "values-conv2.json") for name in ("small", "usual"))
    assert small.options["memory_budget"] == 48 << 10
    assert small.n_evaluations == usual.n_evaluations
    torch.testing.assert_close(small.values, usual.values, rtol=CHUNKS_AGREE[0], atol=CHUNKS_AGREE[1])


def test_rank_resumed_keeps_to_memory_as_before(games: list[sc.ChannelGame], tmp_path: Path) -> None:
    rank = ("rank", *OWN, "--tolerance", "0.3", "--out", tmp_path)
    succeed(*rank, "-g", "conv2", "--memory-budget", "0.001", "--prefix", "recompute")
    succeed(*rank, "-g", "conv1", "--resume")
    assert [game.prefix for game in games] == ["recompute", "recompute"]
    assert named_in(tmp_path).items() >= {"prefix": "recompute", "memory_budget": 0.001}.items()
    refuse("is another: prefix was recompute, is disk", *rank, "--resume", "--prefix", "disk")
    refuse("is another: memory_budget was 0.001, is 4096", *rank, "--resume", "--memory-budget", "4KiB")


def test_values_without_word_of_memory_are_gone_on_with(games: list[sc.ChannelGame], tmp_path: Path) -> None:
    rank = ("rank", *OWN, "--tolerance", "0.3", "--out", tmp_path)
    succeed(*rank, "-g", "conv2")
    index = json.loads((tmp_path / "index.json").read_text())
    for name in ("prefix", "memory_budget"):
        del index["named"][name]
    (tmp_path / "index.json").write_text(json.dumps(index))
    succeed(*rank, "-g", "conv1", "--resume")
    assert memory_of(games) == {("memory", 32 << 20)}


def test_oracle_keeps_to_memory_as_the_ranking_did_or_as_it_is_told(
    games: list[sc.ChannelGame], tmp_path: Path
) -> None:
    memory = ("--memory-budget", "64KiB", "--prefix", "bfloat16")
    succeed("rank", *OWN, *QUICK, *memory, "--out", tmp_path / "values")
    oracle = ("oracle", "-g", "conv2", "--max-size", "1", "--values", tmp_path / "values", "--out", tmp_path)
    succeed(*oracle)
    succeed(*oracle, "--prefix", "disk", "--memory-budget", "96KiB")
    assert [(game.prefix, game.memory_budget) for game in games[1:]] == [("bfloat16", 64 << 10), ("disk", 96 << 10)]


def test_prune_that_ranks_keeps_to_memory(games: list[sc.ChannelGame], tmp_path: Path) -> None:
    memory = ("--memory-budget", "80KiB", "--prefix", "recompute")
    prune = ("prune", *OWN, *QUICK, *memory, "--keep", "0.5")
    succeed(*prune, "--out", tmp_path / "once")
    assert memory_of(games) == {("recompute", 80 << 10)}
    assert named_in(tmp_path / "once" / "values")["prefix"] == "recompute"
    games.clear()
    succeed(*prune, "--rounds", "2", "--out", tmp_path / "rounds")
    assert memory_of(games) == {("recompute", 80 << 10)}
    assert len(games) == 2


def test_study_keeps_to_memory_and_records_how(games: list[sc.ChannelGame], tmp_path: Path) -> None:
    study = ("study", *OWN, "--quick", "-g", "conv1", "--method", "l1", "--epochs", "0", "--out", tmp_path)
    succeed(*study, "--memory-budget", "1MiB", "--prefix", "disk")
    assert memory_of(games) == {("disk", 1 << 20)}
    environment = json.loads((tmp_path / "study-quick.json").read_text())["environment"]
    assert environment.items() >= {"prefix": "disk", "memory_budget": "1048576"}.items()


@pytest.mark.parametrize("command", [("rank",), ("prune", "--keep", "0.5"), ("oracle", "-g", "conv1"), ("study",)])
def test_memory_that_cannot_be_is_refused_before_anything_is_written(command: tuple[str, ...], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refuse("--memory-budget: must be an amount of memory, such as", *command, *OWN, "--memory-budget", "lots", *out)
    refuse("--memory-budget: memory_budget must be at least 1 byte", *command, *OWN, "--memory-budget", "2.5", *out)
    refuse("--prefix", *command, *OWN, "--prefix", "attic", *out)
    assert not (tmp_path / "out").exists()


def test_memory_below_a_row_says_what_a_row_takes(tmp_path: Path) -> None:
    text = "Error: memory_budget must hold at least a row, which takes"
    refuse(text, "rank", *OWN, *QUICK, "--memory-budget", "100", "--out", tmp_path, code=1)
