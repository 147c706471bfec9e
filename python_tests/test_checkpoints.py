"""An estimate goes on from its checkpoint to the same bits, whatever interrupted it; and from nothing else's."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from small_runs import assert_same_bits, data, make_game, run
from torch import Tensor

import shapley_cuda as sc
from shapley_cuda.rankers.state import State

OF_GAME = ("group", "metric", "path", "data", "execution")


class Stop(Exception):
    """Ends a run from within."""


def stop_after(n_chunks: int, act: Callable[[], None]) -> Callable[[sc.RankingProgress], None]:
    told: list[sc.RankingProgress] = []

    def tell(progress: sc.RankingProgress) -> None:
        told.append(progress)
        if len(told) == n_chunks:
            act()

    return tell


def fail() -> None:
    raise Stop


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"settle": 2, "racing": True, "confidence": 0.5, "budget": 4500},
        {"guided": True, "budget": 8000, "seed": 0},
    ],
    ids=str,
)
def test_checkpoint_interrupted_at_random_chunks_goes_on_to_the_same_bits(
    options: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(make_game(), **options)
    assert whole.options.get("guide_strength", 1) > 0
    draw = random.Random(0)
    for trial in range(2):
        saved = sc.Checkpoint(tmp_path / f"{trial}.state", interval=(0.0, 100.0)[trial])
        n_sessions = 0
        estimate = None
        while estimate is None:
            n_sessions += 1
            tell = stop_after(draw.randint(1, 6), fail)
            try:
                estimate = run(make_game(), checkpoint=saved, on_progress=tell, **options)
            except Stop:
                assert Path(saved.path).exists()
        assert n_sessions > 2
        assert_same_bits(estimate, whole)


def test_checkpoint_that_nothing_interrupts_changes_nothing(tmp_path: Path) -> None:
    plain, saved = run(make_game()), run(make_game(), checkpoint=tmp_path / "a" / "state")
    assert_same_bits(saved, plain)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["state"]
    game = make_game()
    again = run(game, checkpoint=tmp_path / "a" / "state")
    assert_same_bits(again, plain)
    assert game.n_evaluations < 100 * 6  # the last, short chunk alone
    assert again.n_evaluations == plain.n_evaluations
    assert again.seconds >= saved.seconds / 2  # of all sessions


@pytest.mark.parametrize("smaller", [{"budget": 700}, {"tolerance": 0.3}, {"max_seconds": 1e-9}, {"settle": 5}])
def test_checkpoint_of_a_finished_estimate_is_extended_as_if_by_one_run(
    smaller: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "state"
    first = run(make_game(), checkpoint=path, **smaller)
    whole = run(make_game())
    assert first.n_evaluations < whole.n_evaluations
    extended = run(make_game(), checkpoint=path)
    extended.options.update({name: whole.options[name] for name in smaller})
    assert_same_bits(extended, whole)


def test_checkpoint_resume_keeps_the_size_of_chunks(tmp_path: Path) -> None:
    whole = run(make_game(visits=7))
    with pytest.raises(Stop):
        run(make_game(visits=7), checkpoint=tmp_path / "state", on_progress=stop_after(4, fail))
    game = make_game(visits=40)
    budget = game.memory_budget
    resumed = run(game, checkpoint=tmp_path / "state")
    assert_same_bits(resumed, whole)
    assert (
        resumed.options["chunk_visits"]
        == whole.options["chunk_visits"]
        != run(make_game(visits=40)).options["chunk_visits"]
    )
    assert game.memory_budget == budget


def test_checkpoint_without_resume_starts_anew(tmp_path: Path) -> None:
    run(make_game(), checkpoint=tmp_path / "state", seed=1)
    game = make_game()
    estimate = run(game, checkpoint=sc.Checkpoint(tmp_path / "state", resume=False))
    assert game.n_evaluations == estimate.n_evaluations
    assert_same_bits(run(make_game(), checkpoint=tmp_path / "state"), estimate)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 4}, "seed is 3 there, 4 here$"),
        ({"antithetic": False}, "antithetic is True there, False here"),
        ({"shared": True}, "shared is False there, True here"),
        ({"repeats": False}, "repeats is True there, False here"),
        ({"racing": True, "settle": 2}, "settle is None there, 2 here; confidence is None there, 0.95 here"),
        ({"guided": True, "budget": 8000}, "guide_walks is None there, 120 here"),
        ({"group": "2"}, "group is '0' there, '2' here; players is 5 there, 4 here"),
        ({"metric": "accuracy"}, "metric is 'cross_entropy' there, 'accuracy' here"),
        ({"path": "suffix"}, "path is 'walk' there, 'suffix' here"),
        ({"execution": sc.Execution(dtype=torch.bfloat16)}, r"execution is 'Execution\(.*dtype=None.*' there"),
        ({"data": data(1)}, "the data differs$"),
        ({"model": "bias"}, "the model differs$"),
    ],
)
def test_checkpoint_of_another_ranking_is_refused_with_what_differs(
    change: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    run(make_game(), checkpoint=path, budget=700)
    before = path.read_bytes()
    of_game = {name: value for name, value in change.items() if name in OF_GAME}
    game = make_game(**of_game)
    if "model" in change:
        with torch.no_grad():
            game.model[-1].bias[0] += 1e-7
    options = {name: value for name, value in change.items() if name not in (*OF_GAME, "model")}
    if "shared" in change:
        options["budget"] = 10**5
    wanted = f"^checkpoint {re.escape(str(path))} must be of the same ranking, got another: .*{text}"
    with pytest.raises(ValueError, match=wanted):
        run(game, checkpoint=path, **options)
    assert game.n_evaluations == 0
    assert path.read_bytes() == before


def altered(content: bytes, **changes: Any) -> bytes:
    """The file with other tensors, or other fields in its record."""
    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    record = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["state"])
    for name, value in changes.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            record[name] = value
    return save(tensors, {"state": json.dumps(record)})


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: b"", "must be a safetensors file, got"),
        (lambda content: content[:-1], "must be a safetensors file, got"),
        (lambda content: b"\x80\x04K\x01." + content, "must be a safetensors file, got"),
        (lambda content: save({"total": torch.zeros(5)}), "must be JSON, got"),
        (lambda content: save({}, {"state": "[]"}), "must be a JSON object of format shapley_cuda.state/1"),
        (lambda content: altered(content, format="shapley_cuda.state/0"), "must be a JSON object of format"),
        (lambda content: altered(content, surprise=1), "must be a JSON object of format"),
        (lambda content: altered(content, next_chunk=-1), "must hold the numbers of a state, got"),
        (lambda content: altered(content, next_chunk=1.0), "must hold the numbers of a state, got"),
        (lambda content: altered(content, chunk=0), "must hold the numbers of a state, got"),
        (lambda content: altered(content, memory_budget=0), "must hold the numbers of a state, got"),
        (lambda content: altered(content, seconds=float("nan")), "must hold the numbers of a state, got"),
        (lambda content: altered(content, about=[]), "must hold the numbers of a state, got"),
        (lambda content: altered(content, about={}), "must be of the same ranking, got another: ranker is None there"),
        (lambda content: altered(content, total=torch.zeros(4)), "must hold the sums {"),
        (lambda content: altered(content, extra=torch.zeros(4)), "must hold the sums {"),
        (lambda content: altered(content, total=torch.full((5,), torch.nan).double()), "must hold finite sums"),
    ],
)
def test_checkpoint_malformed_file_is_refused(damage: Callable[[bytes], bytes], text: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    run(make_game(), checkpoint=path, budget=700)
    content = damage(path.read_bytes())
    path.write_bytes(content)
    game = make_game()
    with pytest.raises(ValueError, match="^" + re.escape(f"checkpoint {path} {text}")):
        run(game, checkpoint=path)
    assert game.n_evaluations == 0
    assert path.read_bytes() == content


def test_checkpoint_file_is_safetensors_with_a_record(tmp_path: Path) -> None:
    estimate = run(make_game(), checkpoint=tmp_path / "state", budget=700)
    content = (tmp_path / "state").read_bytes()
    assert altered(content) == save(load_file(tmp_path / "state"), load_metadata(content))
    record = json.loads(load_metadata(content)["state"])
    assert record["about"]["seed"] == 3
    assert record["made_by"] == {"torch": torch.__version__, "device": "cpu"}
    assert record["chunk"] == estimate.options["chunk_visits"]
    visits = load_file(tmp_path / "state")["visits"]
    assert set(visits.tolist()) == {record["next_chunk"] * record["chunk"]}


def load_metadata(content: bytes) -> dict[str, str]:
    metadata: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return metadata


def test_state_keeps_every_bit() -> None:
    sums = {"a": torch.tensor([0.1, -1e-300, 2.0**60 + 1], dtype=torch.float64), "b": torch.zeros(1).double()}
    fresh = State({"seed": -(2**63)}, {}, 5, 2**40, {name: torch.zeros_like(t) for name, t in sums.items()})
    later = State({"seed": -(2**63)}, {}, 7, 2**41, sums, 2**50, 0.1 + 0.2)
    again = fresh.read(later.to_bytes(), "it")
    assert (again.chunk, again.memory_budget, again.next_chunk, again.seconds) == (7, 2**41, 2**50, 0.1 + 0.2)
    assert list(again.sums) == ["a", "b"]
    assert all(torch.equal(again.sums[name], sums[name]) for name in sums)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_checkpoint_signal_waits_until_the_state_is_saved(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "state"
    existed: list[bool] = []

    def act(*_: object) -> None:
        existed.append(path.exists())
        raise Stop

    before = signal.signal(number, act)
    try:
        checkpoint = sc.Checkpoint(path, interval=1000.0)
        with pytest.raises(Stop):
            run(make_game(), checkpoint=checkpoint, on_progress=stop_after(3, lambda: os.kill(os.getpid(), number)))
        assert existed == [True]
        assert signal.getsignal(number) is act
    finally:
        signal.signal(number, before)
    record = json.loads(load_metadata(path.read_bytes())["state"])
    assert record["next_chunk"] == 3
    assert_same_bits(run(make_game(), checkpoint=path), run(make_game()))


def test_checkpoint_handler_that_returns_lets_the_run_go_on(tmp_path: Path) -> None:
    arrived: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    try:
        act = stop_after(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        estimate = run(make_game(), checkpoint=tmp_path / "state", on_progress=act)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert arrived == [signal.SIGTERM]
    assert_same_bits(estimate, run(make_game()))


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C acts, as it does in a terminal: shells have what they run in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_checkpoint_keyboard_interrupt_is_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(
            make_game(),
            checkpoint=tmp_path / "state",
            on_progress=stop_after(2, lambda: os.kill(os.getpid(), signal.SIGINT)),
        )
    assert (tmp_path / "state").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoint_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    found: list[sc.Estimate] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=lambda: found.append(run(make_game(), checkpoint=tmp_path / "state")))
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert (tmp_path / "state").exists()
    assert_same_bits(found[0], run(make_game()))


def test_checkpoint_payoff_that_is_not_finite_ends_every_resumed_run_too(tmp_path: Path) -> None:
    # A loss that overflows for one sample only, which the first chunks do not visit.
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets == 7, torch.inf, outputs.square().mean(1))

    order = sc.SampleOrder(40, seed=3).samples(0, 40)
    targets = torch.zeros(40, dtype=torch.int64)
    targets[order[15]] = 7
    told: list[sc.RankingProgress] = []
    for _ in range(2):
        game = make_game(visits=2, data=(data()[0], targets), metric=loss)
        with pytest.raises(sc.NonFinitePayoff, match=r"of the last \d+ walks met a payoff that is NaN or infinite"):
            run(game, checkpoint=tmp_path / "state", on_progress=told.append)
    assert len(told) >= 5
    assert all(told[i].n_evaluations > told[i - 1].n_evaluations for i in range(1, len(told)))


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_checkpoint_ranker_in_one_piece_takes_none(method: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"^{method} ranking is done in one piece: it takes neither checkpoint nor"):
        sc.rank(make_game(), method, checkpoint=tmp_path / "state")


def test_checkpoint_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^interval of a checkpoint must be at least 0 seconds, got -1"):
        sc.Checkpoint("state", interval=-1)
