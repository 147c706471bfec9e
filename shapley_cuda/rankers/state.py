"""The state of a long estimate in a file, from which it goes on to the same bits."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..files import read_record, write_whole
from ..game import ChannelGame
from .processes import Statistics

__all__ = ["Checkpoint", "Keeper", "State", "fingerprint"]

_FORMAT = "shapley_cuda.state/1"
_NUMBERS = ("chunk", "memory_budget", "next_chunk", "seconds")


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often the state of a ranking is saved.

    The file is one safetensors file, written whole or not at all: a run that is killed loses at most what it did since
    the last writing. SIGINT and SIGTERM wait for the end of the chunk, and then take effect after the state is saved
    (in the main thread; elsewhere Python gives no signals). The last state stays, so that a finished estimate can be
    extended by a smaller tolerance or a larger budget. Reading a file executes nothing that is in it.

    Attributes:
        path: the file.
        interval: seconds between two writings; 0 writes after every chunk.
        resume: go on from the file where there is one. It must be of the same model, data, group, metric and options,
            but for those that say when to stop. False starts anew and overwrites it.

    Raises:
        ValueError: interval is negative.
    """

    path: str | Path
    interval: float = 30.0
    resume: bool = True

    def __post_init__(self) -> None:
        if not self.interval >= 0:
            raise ValueError(f"interval of a checkpoint must be at least 0 seconds, got {self.interval}")


@dataclass(frozen=True)
class State:
    """What an estimate knows after some whole chunks.

    Attributes:
        about: what the sums are sums of: everything that decides them.
        made_by: versions and device, for the reader; on others the same bits are not promised.
        chunk: units of work in a chunk.
        memory_budget: the game's, which decides how rows are batched.
        sums: of the chunks so far, added in their order.
        next_chunk: how many chunks those are.
        seconds: time they took.
    """

    about: Mapping[str, Any]
    made_by: Mapping[str, str]
    chunk: int
    memory_budget: int
    sums: Statistics
    next_chunk: int = 0
    seconds: float = 0.0

    def to_bytes(self) -> bytes:
        """Write the state as a safetensors file."""
        record = {"format": _FORMAT, "about": self.about, "made_by": self.made_by}
        record |= {name: getattr(self, name) for name in _NUMBERS}
        return save_tensors({n: t.contiguous() for n, t in self.sums.items()}, {"state": json.dumps(record)})

    def read(self, content: bytes, what: str) -> State:
        """Read a state that this one, which has just begun, could have become.

        Args:
            content: what :meth:`to_bytes` gave.
            what: names it in errors.

        Raises:
            ValueError: it is no such state, or the state of something else; the message says what differs.
        """
        try:
            sums = load_tensors(content)
            size = int.from_bytes(content[:8], "little")
            text = json.loads(content[8 : 8 + size]).get("__metadata__", {}).get("state", "")
        except (SafetensorError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{what} must be a safetensors file, got: {error}") from error
        record = read_record(text, what, _FORMAT, ("about", "made_by", *_NUMBERS))
        about = record["about"]
        if not isinstance(about, dict) or not _are_numbers(record):
            raise ValueError(f"{what} must hold the numbers of a state, got {text}")
        mine = json.loads(json.dumps(self.about))
        differing = [name for name in mine | about if mine.get(name) != about.get(name)]
        if differing:
            differences = "; ".join(_difference(n, about.get(n), mine.get(n)) for n in differing)
            raise ValueError(f"{what} must be of the same ranking, got another: {differences}")
        shapes = {n: (t.dtype, tuple(t.shape)) for n, t in sums.items()}
        wanted = {n: (t.dtype, tuple(t.shape)) for n, t in self.sums.items()}
        if shapes != wanted:
            raise ValueError(f"{what} must hold the sums {wanted}, got {shapes}")
        if not all(bool(t.isfinite().all()) for t in sums.values()):
            raise ValueError(f"{what} must hold finite sums, got others")
        ordered = {name: sums[name] for name in self.sums}
        return replace(self, sums=ordered, **{name: record[name] for name in _NUMBERS})


class Keeper:
    """Saves states in time, and holds signals back until they are saved."""

    def __init__(self, checkpoint: Checkpoint | None):
        self._checkpoint = checkpoint
        self._latest: State | None = None
        self._saved: State | None = None
        self._due = time.monotonic()
        self._handlers: dict[int, Any] = {}
        self._arrived: list[int] = []

    def __enter__(self) -> Keeper:
        if self._checkpoint is not None:
            self._due += self._checkpoint.interval
            _remove_leftovers(Path(self._checkpoint.path))
            self._hold_signals()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._save()  # of a run that failed, too: it may go on elsewhere
        finally:
            self._release_signals()
        self._let_signals_act()

    def keep(self, state: State) -> None:
        """Save the state if it is time to or a signal has arrived, which then acts."""
        self._latest = state
        if self._arrived or time.monotonic() >= self._due:
            self._save()
        if self._arrived:
            self._release_signals()
            self._let_signals_act()
            self._hold_signals()

    def _save(self) -> None:
        if self._checkpoint is None or self._latest is None or self._latest is self._saved:
            return
        write_whole(self._checkpoint.path, self._latest.to_bytes())
        self._saved = self._latest
        self._due = time.monotonic() + self._checkpoint.interval

    def _let_signals_act(self) -> None:
        while self._arrived:
            signal.raise_signal(self._arrived.pop(0))  # which mostly does not return

    def _hold_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._handlers[number] = signal.signal(number, self._note)

    def _release_signals(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in self._arrived:  # asked for twice: at once
            self._release_signals()
            signal.raise_signal(number)
        self._arrived.append(number)


def _remove_leftovers(path: Path) -> None:
    """Remove what a run that was killed while it wrote has left beside the file."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        leftover.unlink(missing_ok=True)


def fingerprint(game: ChannelGame) -> dict[str, Any]:
    """What decides a game's payoffs, by digests where it is large."""
    metric = game.metric if isinstance(game.metric, str) else _name(game.metric)
    modules = [f"{name} {_name(type(module))}" for name, module in game.model.named_modules()]
    tensors = {**dict(game.model.named_parameters()), **dict(game.model.named_buffers())}
    return {
        "model": _digest(tensors, "\n".join(modules)),
        "data": _digest({"inputs": game.data.inputs, "targets": game.data.targets}),
        "group": game.group.name,
        "players": game.n_players,
        "metric": metric,
        "path": game.path,
        "prefix": game.prefix,
        "execution": repr(game.execution),
    }


def _digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else _name(type(thing))


def _are_numbers(record: Mapping[str, Any]) -> bool:
    if any(type(record[name]) is not int for name in ("chunk", "memory_budget", "next_chunk")):
        return False
    in_range = record["chunk"] > 0 and record["memory_budget"] > 0 and record["next_chunk"] >= 0
    return in_range and type(record["seconds"]) is float and 0 <= record["seconds"] < math.inf


def _difference(name: str, there: Any, here: Any) -> str:
    is_digest = all(isinstance(value, str) and len(value) == 64 for value in (there, here))
    return f"the {name} differs" if is_digest else f"{name} is {there!r} there, {here!r} here"
