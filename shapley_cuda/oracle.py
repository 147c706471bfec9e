"""Oracle sets: for each size the best players to remove and to keep, which is what rankings are judged by.

No ranking can do better than them at one size, but they need not be nested: the best three to remove may not hold the
best two. Searching them takes every coalition of the sizes asked for, or a greedy walk where those are too many.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from .files import is_of_kind, read_file, read_record, write_whole
from .game import ChannelGame
from .samplers import CoalitionsBySize, masks_of_codes

__all__ = ["OracleAgreement", "OracleSets", "oracle_agreement", "oracle_rank", "oracle_sets"]

_FORMAT = "shapley_cuda.oracle_sets/1"
_METHODS = ("auto", "exhaustive", "greedy")
_AUTO_SETS, _MOST_SETS = 1 << 16, 1 << 24  # searched by "auto" when no budget is given, and at all
_MASK_BYTES_AT_ONCE = 1 << 22
_MOST_PLAYERS = 65535 * 256 + 1  # more than permutations can have


@dataclass(frozen=True, eq=False)
class OracleSets:
    """The best sets of players of one group to remove and to keep, of each size 0 .. max_size.

    Attributes:
        group: name of the group.
        method: ``"exhaustive"``, these are the best; or ``"greedy"``, each set is the one before and one more player.
        removed: bool ``[max_size + 1, C]``; row o is the set of o players whose removal leaves the best payoff.
        removed_payoffs: float64 ``[max_size + 1]``, the payoff with all the others kept.
        kept: bool ``[max_size + 1, C]``; row s is the set of s players that has the best payoff by itself.
        kept_payoffs: float64 ``[max_size + 1]``, the payoff with only these kept.
        n_evaluations: rows evaluated.
        seconds: wall-clock time it took.
    """

    group: str
    method: str
    removed: Tensor
    removed_payoffs: Tensor
    kept: Tensor
    kept_payoffs: Tensor
    n_evaluations: int
    seconds: float

    @property
    def exhaustive(self) -> bool:
        """Whether all sets of each size were compared, and not only those on a greedy walk."""
        return self.method == "exhaustive"

    @property
    def n_players(self) -> int:
        """Number of players, C."""
        return self.removed.shape[1]

    @property
    def max_size(self) -> int:
        """Size of the largest sets."""
        return self.removed.shape[0] - 1

    def to_json(self) -> str:
        """Write all fields as JSON, sets as lists of players; numbers keep every bit."""
        record: dict[str, Any] = {"format": _FORMAT, "n_players": self.n_players}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                value = [_players_of(row) for row in value] if value.dtype == torch.bool else value.tolist()
            record[item.name] = value
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> OracleSets:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the text is not JSON or not such a record; the message says what was expected.
        """
        record = read_record(text, "oracle sets", _FORMAT, get_type_hints(cls) | {"n_players": int})
        n_players = record.pop("n_players")
        if not 1 <= n_players < _MOST_PLAYERS:
            raise ValueError(f"n_players of oracle sets must be in [1, {_MOST_PLAYERS}), got {n_players}")
        if record["method"] not in _METHODS[1:]:
            raise ValueError(f"method of oracle sets must be one of {_METHODS[1:]}, got {record['method']!r}")
        for name in ("removed", "kept"):
            record[name] = _masks_of_record(name, record[name], n_players)
            record[f"{name}_payoffs"] = _payoffs_of_record(f"{name}_payoffs", record[f"{name}_payoffs"])
        if len({len(value) for value in record.values() if isinstance(value, Tensor)}) != 1:
            raise ValueError("oracle sets must have as many sets to remove as to keep, and a payoff for each")
        return cls(**record)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file, whole or not at all."""
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> OracleSets:
        """Read a file that :meth:`save` wrote."""
        return read_file(path, cls.from_json)


@dataclass(frozen=True)
class OracleAgreement:
    """How far a ranking picks the players that the oracle picks.

    Attributes:
        sizes: how many players are picked.
        removed: for each size, the share of the lowest-ranked players that are in the oracle's set to remove.
        kept: for each size, the share of the highest-ranked players that are in the oracle's set to keep.
        removed_pooled: over all sizes, the players picked by both over the players picked.
        kept_pooled: the same of the sets to keep.
    """

    sizes: tuple[int, ...]
    removed: tuple[float, ...]
    kept: tuple[float, ...]
    removed_pooled: float
    kept_pooled: float


def oracle_sets(
    game: ChannelGame, max_size: int | None = None, method: str = "auto", budget: int | None = None
) -> OracleSets:
    """Find the best players to remove, and to keep, of each size up to a largest one.

    Among sets of equal payoff the lower-numbered players are removed: the removed set whose code (bit c = player c) is
    the smallest. A greedy walk removes the lower-numbered player, and adds the higher-numbered one. That is also the
    order in which :meth:`Estimate.ranking` puts equal values. A payoff that is NaN is worse than any other.

    Args:
        game: the game.
        max_size: size of the largest sets, in [1, C]; default C, all sizes.
        method: ``"exhaustive"`` compares all sets: 2^C coalitions for all sizes, else those of at most ``max_size``
            players removed or kept. ``"greedy"`` removes, at each step, the player whose removal leaves the best payoff
            (and for the sets to keep adds the one that brings it): about 2 C max_size - max_size^2 coalitions, and no
            promise. ``"auto"`` takes the exhaustive search where the budget pays for it (without one: up to 2^16
            coalitions), else the greedy one.
        budget: rows that may be evaluated, one row being one sample under one coalition.

    Returns:
        The sets, on the CPU; the method that found them is recorded.

    Raises:
        ValueError: an argument is out of range, the search takes more rows than the budget or more than 2^24
            coalitions, or no set of some size has a finite payoff. Costs are checked before anything is evaluated.

    Source: "oracle pruning" in Adamczewski et al., "Shapley Pruning for Neural Network Compression", 2024.

    Example:
        >>> sets = oracle_sets(game, max_size=4)
        >>> sets.removed[4].nonzero().flatten()  # the four channels that together are missed least
    """
    n_players = game.n_players
    max_size = n_players if max_size is None else max_size
    if not 1 <= max_size <= n_players:
        raise ValueError(f"max_size must be in [1, {n_players}], got {max_size}")
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    method = _affordable(game, max_size, method, budget)
    start, already = time.perf_counter(), game.n_evaluations
    if method == "exhaustive":
        removing, adding = _exhaustive(game, max_size)
    else:
        removing, adding = (_greedy(game, max_size, removing=way) for way in (True, False))
    for coalitions, payoffs in (removing, adding):
        if not bool(payoffs.isfinite().all()):
            size = int(coalitions[~payoffs.isfinite()][0].sum())
            raise ValueError(
                f"game must have a finite payoff for each size, got none for {size} kept players; look for non-finite "
                "inputs, weights or outputs of the network"
            )
    return OracleSets(
        group=game.group.name,
        method=method,
        removed=~removing[0].cpu(),
        removed_payoffs=removing[1].cpu(),
        kept=adding[0].cpu(),
        kept_payoffs=adding[1].cpu(),
        n_evaluations=game.n_evaluations - already,
        seconds=time.perf_counter() - start,
    )


def oracle_rank(sets: OracleSets) -> Tensor:
    """Count in how many of the best sets to keep each player is, over all sizes known.

    A set to keep of s players is known from ``sets.kept``, or as what removing C - s leaves; of two, as a greedy search
    has them, the one with the better payoff counts. The oracle's sets made into a ranking: higher is more valuable.

    Returns:
        int64 ``[C]``.
    """
    best: dict[int, tuple[float, Tensor]] = {}
    for sets_kept, payoffs in ((~sets.removed, sets.removed_payoffs), (sets.kept, sets.kept_payoffs)):
        for kept, payoff in zip(sets_kept, payoffs.tolist(), strict=True):
            size = int(kept.sum())
            if size not in best or payoff > best[size][0]:
                best[size] = (payoff, kept)
    return torch.stack([kept for _, kept in best.values()]).sum(0)


def oracle_agreement(ranking: Tensor, sets: OracleSets, sizes: Sequence[int] | None = None) -> OracleAgreement:
    """Compare a ranking's lowest players with the sets to remove, and its highest with the sets to keep.

    A ranking's picks are nested, the oracle's need not be, so that no ranking may reach 1 at all sizes; and where
    several sets have the same payoff only one of them is the oracle's.

    Args:
        ranking: int64 ``[C]``, players from the least to the most valuable, as :meth:`Estimate.ranking` gives them.
        sets: the oracle's sets.
        sizes: numbers of players picked, in [1, max_size]; default all of them, but for C, where nothing is chosen.

    Raises:
        ValueError: the ranking does not hold each player once, or there is no set of a size.
    """
    n_players = sets.n_players
    if ranking.shape != (n_players,) or sorted(ranking.tolist()) != list(range(n_players)):
        raise ValueError(f"ranking must hold each of the {n_players} players once, got {ranking.tolist()}")
    chosen = list(range(1, max(2, min(sets.max_size + 1, n_players)))) if sizes is None else list(sizes)
    if not chosen or not all(1 <= size <= sets.max_size for size in chosen):
        raise ValueError(f"sizes must be one or more numbers in [1, {sets.max_size}], got {chosen}")
    picked = torch.tensor(chosen)
    place = torch.argsort(ranking.cpu())
    lowest, highest = place < picked[:, None], place >= n_players - picked[:, None]
    removed, kept = (lowest & sets.removed[picked]).sum(1), (highest & sets.kept[picked]).sum(1)
    return OracleAgreement(
        sizes=tuple(chosen),
        removed=tuple((removed.double() / picked).tolist()),
        kept=tuple((kept.double() / picked).tolist()),
        removed_pooled=int(removed.sum()) / sum(chosen),
        kept_pooled=int(kept.sum()) / sum(chosen),
    )


def _players_of(mask: Tensor) -> list[int]:
    """Players that a mask ``[C]`` holds."""
    return [int(player) for player in mask.nonzero().flatten()]


def _sizes_to_search(n_players: int, max_size: int) -> tuple[int, ...]:
    """Numbers of kept players when up to max_size are kept, or removed."""
    return tuple(size for size in range(n_players + 1) if size <= max_size or size >= n_players - max_size)


def _affordable(game: ChannelGame, max_size: int, method: str, budget: int | None) -> str:
    """Choose the method, or refuse one that is too dear."""
    n_players, n_samples = game.n_players, game.n_samples
    every_size = 2 * max_size + 1 >= n_players
    n_sets = 1 << n_players if every_size else 2 * sum(math.comb(n_players, size) for size in range(max_size + 1))
    n_greedy = 2 + max_size * (2 * n_players - max_size + 1)
    rows = {"exhaustive": n_sets * n_samples, "greedy": n_greedy * n_samples}
    what = f"oracle sets of up to {max_size} of {n_players} players"
    exhaustive_cost = f"about 10^{math.log10(rows['exhaustive']):.1f} rows"  # it may have thousands of digits
    if method == "auto":
        affordable = n_sets <= _AUTO_SETS if budget is None else n_sets <= _MOST_SETS and rows["exhaustive"] <= budget
        method = "exhaustive" if affordable else "greedy"
    if method == "exhaustive" and n_sets > _MOST_SETS:
        raise ValueError(
            f"exhaustive {what} take {exhaustive_cost}, more than 2^24 coalitions of {n_samples} samples; "
            f'give a smaller max_size, or method="greedy" ({rows["greedy"]} rows)'
        )
    if budget is not None and rows[method] > budget:
        raise ValueError(
            f"budget must be at least {rows[method]} rows for {method} {what}, got {budget}; exhaustive ones take "
            f"{exhaustive_cost}, greedy ones {rows['greedy']}"
        )
    return method


def _worst_where_nan(payoffs: Tensor) -> Tensor:
    return torch.where(payoffs.isnan(), -math.inf, payoffs)


def _evaluated(game: ChannelGame, max_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Coalitions of the sizes to search with their payoffs; those of one size in the order of their codes."""
    n_players, sizes = game.n_players, _sizes_to_search(game.n_players, max_size)
    at_once = max(1, _MASK_BYTES_AT_ONCE // n_players)
    if len(sizes) == n_players + 1:
        for first, payoffs in enumerate(game.all_payoffs().split(at_once)):
            codes = torch.arange(first * at_once, first * at_once + len(payoffs), device=payoffs.device)
            yield masks_of_codes(codes, n_players), payoffs
        return
    coalitions = CoalitionsBySize(n_players, sizes)
    for first in range(0, coalitions.count, at_once):
        masks = coalitions.masks(first, min(at_once, coalitions.count - first), game.device)
        yield masks, game(masks)


_Found = tuple[Tensor, Tensor]
"""Coalitions that are kept, bool ``[max_size + 1, C]``, and their payoffs ``[max_size + 1]``."""


def _exhaustive(game: ChannelGame, max_size: int) -> tuple[_Found, _Found]:
    """The best coalition of each size, as what is left of removing and as what is kept.

    Of equal payoffs the last counts: the largest code kept is the smallest code removed.
    """
    n_sizes, device = game.n_players + 1, game.device
    best = torch.full((n_sizes,), -math.inf, dtype=torch.float64, device=device)
    chosen = torch.zeros(n_sizes, game.n_players, dtype=torch.bool, device=device)
    for masks, values in _evaluated(game, max_size):
        payoffs, sizes = _worst_where_nan(values), masks.sum(1)
        best = best.scatter_reduce(0, sizes, payoffs, "amax")
        winners = (payoffs == best[sizes]).nonzero().flatten()
        last = torch.full_like(best, -1, dtype=torch.int64).scatter_reduce(0, sizes[winners], winners, "amax")
        chosen = torch.where((last >= 0)[:, None], masks[last], chosen)
    n_rows = max_size + 1
    return (chosen.flip(0)[:n_rows], best.flip(0)[:n_rows]), (chosen[:n_rows], best[:n_rows])


def _greedy(game: ChannelGame, max_size: int, *, removing: bool) -> _Found:
    """From everyone (or no one), the player at each step whose removal (or addition) leaves the best payoff."""
    kept = torch.full((game.n_players,), removing, device=game.device)
    found = [(kept, _worst_where_nan(game(kept[None]))[0])]
    for _ in range(max_size):
        players = (kept == removing).nonzero().flatten()
        if not removing:
            players = players.flip(0)  # of equal payoffs the first counts: the highest-numbered player joins
        masks = kept.repeat(len(players), 1)
        masks[torch.arange(len(players), device=game.device), players] = not removing
        payoffs = _worst_where_nan(game(masks))
        best = payoffs.argmax()
        kept = masks[best]
        found.append((kept, payoffs[best]))
    return torch.stack([kept for kept, _ in found]), torch.stack([payoff for _, payoff in found])


def _masks_of_record(name: str, sets: Any, n_players: int) -> Tensor:
    fits = isinstance(sets, list) and all(
        isinstance(players, list)
        and all(type(player) is int and 0 <= player < n_players for player in players)
        and len(players) == len(set(players)) == size
        for size, players in enumerate(sets)
    )
    if not fits or not sets:
        raise ValueError(
            f"{name} of oracle sets must list 0, 1, 2 .. different players in [0, {n_players}), got {sets!r}"
        )
    masks = torch.zeros(len(sets), n_players, dtype=torch.bool)
    for mask, players in zip(masks, sets, strict=True):
        mask[players] = True
    return masks


def _payoffs_of_record(name: str, payoffs: Any) -> Tensor:
    if not is_of_kind(payoffs, list[float]):
        raise ValueError(f"{name} of oracle sets must be a list of numbers, got {payoffs!r}")
    return torch.tensor(payoffs, dtype=torch.float64)
