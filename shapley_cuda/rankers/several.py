"""Several groups over several processes: each group is ranked by one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..estimate import Estimate
from ..game import ChannelGame
from .base import RankingProgress, rank
from .processes import Processes
from .state import Checkpoint

__all__ = ["rank_groups"]


def rank_groups(
    groups: Sequence[str],
    make_game: Callable[[str], ChannelGame],
    method: str = "permutation",
    *,
    on_progress: Callable[[str, RankingProgress], None] | None = None,
    checkpoints: Checkpoint | str | Path | None = None,
    processes: Processes | None = None,
    **options: Any,
) -> dict[str, Estimate]:
    """Rank several groups, dealt to the processes in turn: group i goes to process i mod their number.

    Use it for many groups of about the same cost; for one large group give the processes to
    :func:`~shapley_cuda.rank`. The estimates are the same bits that rank gives in one process.

    Args:
        groups: names of the groups.
        make_game: makes the game of a group, from its name, in the process that ranks it and on its device.
        method: as in rank.
        on_progress: called with the group's name and how far it is, in the process that ranks it.
        checkpoints: a folder, or a :class:`~shapley_cuda.Checkpoint` whose path is one: each group's state is saved as
            ``GROUP.state`` in it.
        processes: who takes part, each making the same call; default this process alone. Those that are done early wait
            for the others, no longer than the timeout that they joined with.
        options: as in rank; one that is a dictionary gives each group its own, by name.

    Returns:
        The estimates by group, in the order of ``groups``, in every process.

    Raises:
        ProcessError: another process failed, ended or did not answer.
        ValueError: a group is named twice, or an option's dictionary does not fit the groups.
        Exception: whatever making or ranking one of this process's groups raised.

    Example:
        >>> data = sc.fashion_mnist_subset("rank")
        >>> estimates = sc.rank_groups(["conv1", "conv2"], lambda name: sc.ChannelGame(model, name, data))
    """
    if len(set(groups)) < len(groups):
        raise ValueError(f"groups must be different names, got {list(groups)}")
    for key, value in options.items():
        if isinstance(value, dict) and set(value) != set(groups):
            raise ValueError(f"{key} must have a value for each of the groups {list(groups)}, got {list(value)}")
    processes = processes or Processes()
    if isinstance(checkpoints, (str, Path)):
        checkpoints = Checkpoint(checkpoints)

    def tell(name: str) -> Callable[[RankingProgress], None] | None:
        return None if on_progress is None else lambda progress: on_progress(name, progress)

    def rank_mine() -> bytes:
        found = {}
        for name in groups[processes.rank :: processes.size]:
            own = {key: value[name] if isinstance(value, dict) else value for key, value in options.items()}
            saved = None if checkpoints is None else replace(checkpoints, path=Path(checkpoints.path) / f"{name}.state")
            estimate = rank(make_game(name), method, on_progress=tell(name), checkpoint=saved, **own)
            found[name] = estimate.to_json()
        return json.dumps(found).encode()

    found: dict[str, str] = {}
    for content in processes.exchange(rank_mine):
        found |= json.loads(content)
    return {name: Estimate.from_json(found[name]) for name in groups}
