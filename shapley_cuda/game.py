"""The channel game: how well a network does when only a coalition of a group's channels is kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .exactness import check_exact
from .game_data import Loss, check_data, described, is_tensor
from .groups import Group, GroupError, find_group
from .memory import PeakMemory, Portions, check_budget, resolve_budget
from .paths import Execution, Head, choose_paths
from .prefix import KEPT
from .samplers import AllCoalitions, masks_of_codes
from .walks import hold_everyone_once, masks_of_walks

__all__ = ["ChannelGame", "Loss"]

Rows: TypeAlias = Callable[[int, int], tuple[Tensor, Tensor]]
"""Makes rows first .. last - 1 of some that are to be evaluated: coalitions ``[R, C]`` and samples ``[R]``."""

_ROW_BYTES = 32  # a row's number and payoff, in as many places as they are in, and its share of a walk
_MAX_CHUNK_ROWS = 1 << 16
_MAX_PLAYERS_OF_ALL_PAYOFFS = 24
_MASKS_AT_ONCE = 1 << 12


class ChannelGame:
    """The game whose players are the output channels of one group of layers, or the heads of an attention.

    The payoff v(S) of a coalition S is the network's performance with only the channels in S kept, higher is better:
    minus the mean loss over the data, or the accuracy. A channel is removed where it is read, at the input of every
    consumer, which is exactly what pruning it computes; this is checked on the spot by pruning a copy.

    Calling the game evaluates coalitions shared by all samples. ``walk_values`` and ``row_values`` give every row a
    coalition and a sample of its own, which is what makes estimates cheap. All three count the rows they evaluate in
    ``n_evaluations``: one row is one sample under one coalition.

    Args:
        model: a network in evaluation mode. It is used as it is, never changed, and must not be changed while the
            game is used.
        group: name of a layer (see :func:`~shapley_cuda.find_group`) or a :class:`~shapley_cuda.Group`.
        data: ``(inputs [N, ...], targets)``, on the model's device or the CPU. Class indices ``int64 [N]`` for
            ``"cross_entropy"`` and ``"accuracy"``, ``float [N, K]`` for ``"squared_error"``, any tensor with one entry
            per sample for a loss of your own. A :class:`~shapley_cuda.Split` named "test" or "select" is refused.
            A DataLoader or Dataset is read once, by :func:`~shapley_cuda.stream_data`: call that yourself where
            several games share the data.
        metric: ``"cross_entropy"`` (default), ``"accuracy"``, ``"squared_error"``, or a callable
            ``(outputs, targets) -> [R]`` giving each row's loss, lower is better. Without labels:
            :func:`~shapley_cuda.payoffs.agreement` gives the data and the metric.
        path: ``"auto"`` takes the fastest that can run the network; ``"walk"``, ``"suffix"`` or ``"hook"`` insist.
        execution: how the suffix of the network runs, see :class:`~shapley_cuda.Execution`; the hook path takes none.
        prefix: where the results for each sample of what runs before the masks are kept: ``"memory"`` of the device
            (default), there as ``"bfloat16"`` at half the size and with 8 bits of precision, on ``"disk"`` in a
            temporary file, or nowhere: ``"recompute"`` runs it again for the samples of every chunk. With the last two,
            memory does not grow with N, if data come from :func:`~shapley_cuda.stream_data`. The hook path keeps none.
        memory_budget: bytes that a chunk of rows may take at its worst moment, or as a float in (0, 1] a share of what
            is free; beside the model, data, kept prefix and what is returned, and without what libraries take within
            one operation. Default: 32 MiB on the CPU, a quarter of the free memory on a GPU, or what a row takes.

    Where memory runs out all the same, the rows of a chunk are evaluated in halves from then on, and payoffs are equal
    to rounding. The sizes ``chunk_rows`` and ``chunk_walks``, which estimates are made by, stay as they are.

    Raises:
        GroupError: the group does not exist, or removing its channels is not what masking them computes.
        PathError: the path that was asked for cannot run this network.
        ValueError, TypeError: bad data, devices or modes, or a budget below a row; nothing has been changed.
        torch.OutOfMemoryError: also from the methods: memory does not suffice for a single row.

    Example:
        >>> import shapley_cuda as sc
        >>> data = sc.fashion_mnist_subset("rank")
        >>> game = sc.ChannelGame(sc.pretrained("lenet5"), "conv2", (data.images[:100], data.labels[:100]))
        >>> everyone = game(torch.ones(1, game.n_players, dtype=torch.bool))
    """

    def __init__(
        self,
        model: nn.Module,
        group: str | Group,
        data: tuple[Tensor, Tensor] | DataLoader[Any] | Dataset[Any],
        *,
        metric: str | Loss = "cross_entropy",
        path: str = "auto",
        execution: Execution | None = None,
        prefix: str = "memory",
        memory_budget: int | float | None = None,
    ):
        check_budget(memory_budget)
        if path not in ("auto", "walk", "suffix", "hook"):
            raise ValueError(f"path must be 'auto', 'walk', 'suffix' or 'hook', got {path!r}")
        if prefix not in KEPT:
            raise ValueError(f"prefix must be one of {', '.join(KEPT)}, got {prefix!r}")
        self.model = model
        self.data = check_data(model, data, metric)
        self.metric, self.execution = metric, execution or Execution()
        self.group = group if isinstance(group, Group) else find_group(model, group, self.data.first(1))
        if not self.group.prunable:
            raise GroupError(f"group {self.group.name!r} cannot be pruned exactly: {self.group.reason}")
        self.n_evaluations = 0
        check_exact(model, self.group, self.data.inputs, self.device)
        self.prefix = prefix
        self._paths = choose_paths(model, self.group, self.data, path, self.execution, prefix, memory_budget)
        # A method of its own would keep the game, and all it has kept of the prefix, until the garbage is collected.
        sizes = weakref.WeakMethod(self._sizes)
        self._portions = {what: Portions(what, lambda: _told(sizes)) for what in ("row", "walk")}
        self.memory_budget = resolve_budget(memory_budget, self.device)
        self.bytes_per_row = self.bytes_per_walk = 0
        self._measure_memory(insist=path == "walk", is_default=memory_budget is None)

    @property
    def n_players(self) -> int:
        """Number of channels or heads, C."""
        return self.group.n_players

    @property
    def n_samples(self) -> int:
        """Number of samples, N."""
        return self.data.inputs.shape[0]

    @property
    def device(self) -> torch.device:
        """Where rows are evaluated."""
        return self.data.device

    @property
    def path(self) -> str:
        """The path that evaluates walks."""
        return self._paths.walk.name if self._paths.walk else self._paths.rows.name

    @property
    def chunk_rows(self) -> int:
        """How many rows are evaluated at once: as many as fit the memory budget."""
        return max(1, min(_MAX_CHUNK_ROWS, self.memory_budget // self.bytes_per_row))

    @property
    def chunk_walks(self) -> int:
        """How many walks are evaluated at once. Even, so that an antithetic pair is never cut. Where not even one pair
        fits the memory budget, the rows of the pair are dealt out in chunks of their own."""
        fitting = min(_MAX_CHUNK_ROWS // (self.n_players + 1), self.memory_budget // self.bytes_per_walk)
        return max(2, fitting // 2 * 2)

    def __repr__(self) -> str:
        return f"ChannelGame({self.group.name!r}, {self.n_players} players, {self.n_samples} samples, {self.path} path)"

    def describe(self) -> str:
        """Say what the game is, which path runs it and why not a faster one."""
        metric = self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "user's loss")
        lines = [
            f"{self.group.name}: {self.n_players} players, {self.n_samples} samples on {self.device}, {metric}",
            f"read by {', '.join(c.name for c in self.group.consumers)}",
            f"walks: {self.path} path; other rows: {self._paths.rows.name} path; prefix: {self.prefix}",
            f"chunks of {self.chunk_walks} walks, {self.bytes_per_walk} bytes each, "
            f"or of {self.chunk_rows} rows, {self.bytes_per_row} bytes each",
        ]
        lines += [f"not the {name} path: {why}" for name, why in self._paths.why_not.items()]
        limits = {what: portions.limit for what, portions in self._portions.items() if portions.limit}
        return "\n".join(lines + [f"memory ran out: {what}s by {limit} at most" for what, limit in limits.items()])

    @torch.no_grad()
    def __call__(self, masks: Tensor) -> Tensor:
        """Payoffs of coalitions shared by all samples.

        Args:
            masks: bool ``[M, C]``, True = kept.

        Returns:
            float64 ``[M]`` on the game's device: each the mean over all samples.
        """
        masks = self._check_masks(masks)
        self.n_evaluations += masks.shape[0] * self.n_samples
        totals = torch.zeros(masks.shape[0], dtype=torch.float64, device=self.device)
        masks_at_once = max(1, self.chunk_rows // self.n_samples)
        for first, count in self._sample_chunks():
            if self._head is not None:
                totals += self._head.means(masks, first, first + count, self.data).double() * count
                continue
            for start in range(0, masks.shape[0], masks_at_once):
                chunk = masks[start : start + masks_at_once]
                values = self._evaluate_rows(chunk.shape[0] * count, _shared(chunk, first, count))
                totals[start : start + masks_at_once] += values.double().view(-1, count).sum(1)
        return totals / self.n_samples

    @torch.no_grad()
    def row_values(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        """Payoffs of rows: coalition ``masks[r]`` on sample ``sample_index[r]``.

        Args:
            masks: bool ``[R, C]``.
            sample_index: int64 ``[R]``, each in [0, N).

        Returns:
            float32 ``[R]``.
        """
        masks = self._check_masks(masks)
        sample_index = self._check_index(sample_index, masks.shape[0])
        self.n_evaluations += masks.shape[0]
        return self._evaluate_rows(masks.shape[0], lambda a, b: (masks[a:b], sample_index[a:b]))

    @torch.no_grad()
    def walk_values(self, permutations: Tensor, sample_index: Tensor, needed: Tensor | None = None) -> Tensor:
        """Payoffs along walks: the coalition grows from empty to full, one player at a time.

        Args:
            permutations: int32 (or int64) ``[R, C]``; ``permutations[r, j]`` joins at step j + 1.
            sample_index: int64 ``[R]``, the sample of each walk.
            needed: bool ``[R, C + 1]``, steps whose payoffs are wanted, default all: what follows the consumer runs for
                those alone. Where the consumer is the classifier nothing is saved, and all steps are counted.

        Returns:
            float32 ``[R, C + 1]``; column 0 is the empty coalition, column C the full one. 0 where it is not needed.
        """
        permutations, sample_index = self._check_walks(permutations, sample_index)
        shape = (permutations.shape[0], self.n_players + 1)
        if needed is not None and not is_tensor(needed, torch.bool, shape):
            raise ValueError(f"needed must be bool with shape {list(shape)}, got {described(needed)}")
        fused = self._head is not None and self._paths.walk is not None
        self.n_evaluations += shape[0] * shape[1] if needed is None or fused else int(needed.sum())
        values = torch.zeros(shape, device=self.device)
        for first in range(0, shape[0], self.chunk_walks):
            part = slice(first, first + self.chunk_walks)
            steps = None if needed is None else needed[part].to(self.device)
            self._evaluate_walks(permutations[part], sample_index[part], steps, values[part])
        return values

    @torch.no_grad()
    def walk_outputs(self, permutations: Tensor, sample_index: Tensor) -> Tensor:
        """The network's outputs along walks, all in memory at once: ask for few walks, such as ``chunk_walks``.

        Args:
            permutations: int32 (or int64) ``[R, C]``, as :meth:`walk_values` takes them.
            sample_index: int64 ``[R]``, the sample of each walk.

        Returns:
            ``[R, C + 1, ...]``; column 0 is of the empty coalition, column C of the full one.
        """
        permutations, sample_index = self._check_walks(permutations, sample_index)
        n_walks, steps = permutations.shape[0], self.n_players + 1
        self.n_evaluations += n_walks * steps
        walk = self._paths.walk
        if walk is not None:
            everyone = slice(None)
            parts = self._portions["walk"].run(
                n_walks, self.chunk_walks, lambda a, b: walk.outputs(permutations[a:b], sample_index[a:b], everyone)
            )
        else:
            numbers = torch.arange(n_walks * steps, device=self.device)
            rows = _along(permutations, sample_index, numbers)
            parts = self._portions["row"].run(
                len(numbers), self.chunk_rows, lambda a, b: self._paths.rows.outputs(*rows(a, b))
            )
        made = list(parts)
        outputs = made[0] if len(made) == 1 else torch.cat(made)
        return outputs.view(n_walks, steps, *outputs.shape[1:])

    @torch.no_grad()
    def all_payoffs(self) -> Tensor:
        """Payoffs of all 2^C coalitions, for exact values and oracle sets of at most 24 players.

        Where the consumer is the classifier, one call of :func:`~shapley_cuda.ops.exhaustive_eval`; else as many calls
        of the game as memory asks for.

        Returns:
            float64 ``[2^C]`` on the game's device: entry T is the coalition whose player c is kept where bit c of T
            is set; each the mean over all samples.

        Raises:
            ValueError: more than 24 players; nothing has been evaluated.
        """
        if self.n_players > _MAX_PLAYERS_OF_ALL_PAYOFFS:
            raise ValueError(
                f"all_payoffs takes at most {_MAX_PLAYERS_OF_ALL_PAYOFFS} players, got {self.n_players}: "
                f"it would evaluate 2^{self.n_players} coalitions of {self.n_samples} samples each; take the "
                "permutation, regression or partial ranker"
            )
        coalitions = AllCoalitions(self.n_players)
        payoffs = torch.zeros(coalitions.count, dtype=torch.float64, device=self.device)
        if self._head is not None:
            self.n_evaluations += coalitions.count * self.n_samples
            for first, count in self._sample_chunks():
                payoffs.add_(self._head.means_of_all(first, first + count, self.data), alpha=count / self.n_samples)
            return payoffs
        for first in range(0, coalitions.count, _MASKS_AT_ONCE):
            codes = coalitions.codes(first, min(_MASKS_AT_ONCE, coalitions.count - first), self.device)
            payoffs[codes] = self(masks_of_codes(codes, self.n_players))
        return payoffs

    @property
    def _head(self) -> Head | None:
        """Kernels that give the payoff without the network's outputs in memory, where there are such."""
        return self._paths.head if isinstance(self.metric, str) else None

    def _sample_chunks(self) -> Iterator[tuple[int, int]]:
        """First sample and number of samples, of as many as fit memory with a row each."""
        for first in range(0, self.n_samples, self.chunk_rows):
            yield first, min(self.chunk_rows, self.n_samples - first)

    def _evaluate_rows(self, count: int, rows: Rows) -> Tensor:
        """Payoffs of rows that are made when memory allows."""
        payoffs = torch.empty(count, device=self.device)
        return self._portions["row"].fill(payoffs, self.chunk_rows, lambda a, b: self._row_payoffs(*rows(a, b)))

    def _row_payoffs(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        if self._head is not None:
            return self._head.of_rows(masks, sample_index, self.data)
        return self.data.payoffs(self._paths.rows.outputs(masks, sample_index), sample_index)

    def _evaluate_walks(
        self, permutations: Tensor, sample_index: Tensor, needed: Tensor | None, values: Tensor
    ) -> None:
        """Write payoffs along walks into ``values [R, C + 1]``, where there are zeros."""

        def work(a: int, b: int) -> Tensor:
            return self._walk_payoffs(permutations[a:b], sample_index[a:b], None if needed is None else needed[a:b])

        n_walks, steps = values.shape
        if self._paths.walk is not None:
            at_once = n_walks if needed is None else -(-n_walks // 2)  # of outputs that are needed, copies are made
            self._portions["walk"].fill(values, at_once, work)
            return
        numbers = torch.arange(n_walks * steps, device=self.device)
        numbers = numbers if needed is None else numbers[needed.flatten()]
        payoffs = self._evaluate_rows(len(numbers), _along(permutations, sample_index, numbers))
        values.view(-1).index_copy_(0, numbers, payoffs)

    def _walk_payoffs(self, permutations: Tensor, sample_index: Tensor, needed: Tensor | None) -> Tensor:
        walk, steps = self._paths.walk, permutations.shape[1] + 1
        assert walk is not None
        if self._head is not None:
            values = self._head.of_walks(permutations, sample_index, self.data)
            return values if needed is None else values.where(needed, 0.0)
        rows = sample_index.repeat_interleave(steps)
        if needed is None:
            return self.data.payoffs(walk.outputs(permutations, sample_index, slice(None)), rows).view(-1, steps)
        values = torch.zeros(needed.shape, device=self.device)
        if bool(needed.any()):
            chosen = needed.flatten()
            payoffs = self.data.payoffs(walk.outputs(permutations, sample_index, chosen), rows[chosen])
            values.masked_scatter_(needed, payoffs)
        return values

    def _sizes(self) -> str:
        sizes = f"a row was measured to take {self.bytes_per_row}, a walk {self.bytes_per_walk} (0: not measured yet)"
        return f"memory_budget is {self.memory_budget} bytes, {sizes}"

    def _fit(self, what: str, needs: int, is_default: bool) -> None:
        """Raise the default budget to what is needed at least, or refuse a budget below it."""
        if is_default:
            self.memory_budget = max(self.memory_budget, needs)
        elif needs > self.memory_budget:
            raise ValueError(
                f"memory_budget must hold at least {what}, which takes {needs} bytes, got {self.memory_budget}"
            )

    @torch.no_grad()
    def _measure_memory(self, insist: bool, is_default: bool) -> None:
        """Tell from a trial of two what a row and a walk take at most; the trial also proves that they can run."""
        samples = torch.arange(2, device=self.device) % self.n_samples
        permutations = torch.arange(self.n_players, dtype=torch.int32, device=self.device).repeat(2, 1)
        steps = self.n_players + 1

        def peak_of_rows(count: int) -> int:
            memory = PeakMemory()
            with memory:
                rows = steps - 1 - torch.arange(count, device=self.device)
                masks = masks_of_walks(permutations[:1], rows)
                list(self._portions["row"].run(count, count, lambda a, b: self._row_payoffs(masks[a:b], samples[a:b])))
            return memory.peak

        both = peak_of_rows(2)
        # What does not grow with the rows counts in full where one row is all that fits.
        self.bytes_per_row = _ROW_BYTES + (-(-both // 2) if both <= self.memory_budget else peak_of_rows(1))
        self._fit("a row", self.bytes_per_row, is_default)
        self.bytes_per_walk = self.bytes_per_row * steps
        if self._paths.walk is None:
            return
        pair = 2 * self.bytes_per_walk
        if self._head is not None or insist or pair <= self.memory_budget:
            with PeakMemory() as memory:
                hold_everyone_once(permutations)
                self._evaluate_walks(permutations, samples, None, torch.empty(2, steps, device=self.device))
            pair = memory.peak
        if insist:
            self._fit("a pair of walks", pair, is_default)
        if pair <= self.memory_budget:
            self.bytes_per_walk = max(1, -(-pair // 2))
        else:
            self._paths.why_not["walk"] = (
                f"a pair of walks takes up to {pair} bytes, the budget is {self.memory_budget}"
            )
            self._paths.walk = None

    def _check_masks(self, masks: Tensor) -> Tensor:
        if not is_tensor(masks, torch.bool, (-1, self.n_players)):
            raise ValueError(f"masks must be bool with shape [M, {self.n_players}], got {described(masks)}")
        return masks.to(self.device)

    def _check_walks(self, permutations: Tensor, sample_index: Tensor) -> tuple[Tensor, Tensor]:
        if not any(is_tensor(permutations, dtype, (-1, self.n_players)) for dtype in (torch.int32, torch.int64)):
            raise ValueError(
                f"permutations must be int32 with shape [R, {self.n_players}], got {described(permutations)}"
            )
        permutations = permutations.to(self.device)
        # Before they are shortened: 2^32 would become 0.
        if not all(hold_everyone_once(chunk) for chunk in permutations.split(self.chunk_walks)):
            raise ValueError(f"permutations must hold each of the {self.n_players} players once in every row")
        permutations = permutations.to(torch.int32)
        sample_index = self._check_index(sample_index, permutations.shape[0])
        return permutations, sample_index

    def _check_index(self, sample_index: Tensor, rows: int) -> Tensor:
        if not is_tensor(sample_index, torch.int64, (rows,)):
            raise ValueError(f"sample_index must be int64 with shape [{rows}], got {described(sample_index)}")
        if rows and not (int(sample_index.min()) >= 0 and int(sample_index.max()) < self.n_samples):
            raise ValueError(
                f"sample_index must be in [0, {self.n_samples}), "
                f"got values from {int(sample_index.min())} to {int(sample_index.max())}"
            )
        return sample_index.to(self.device)


def _told(sizes: weakref.WeakMethod[Callable[[], str]]) -> str:
    """What a game that is in use says of its sizes."""
    tell = sizes()
    assert tell is not None
    return tell()


def _along(permutations: Tensor, sample_index: Tensor, numbers: Tensor) -> Rows:
    """Rows of walks ``[R, C]``, by their numbers among R * (C + 1) steps, walk after walk."""

    def rows(a: int, b: int) -> tuple[Tensor, Tensor]:
        chosen = numbers[a:b]
        return masks_of_walks(permutations, chosen), sample_index[chosen // (permutations.shape[1] + 1)]

    return rows


def _shared(masks: Tensor, first: int, count: int) -> Rows:
    """Rows of every mask on each of ``count`` samples, mask after mask."""

    def rows(a: int, b: int) -> tuple[Tensor, Tensor]:
        row = torch.arange(a, b, device=masks.device)
        return masks[row // count], first + row % count

    return rows
