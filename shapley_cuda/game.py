"""The channel game: how well a network does when only a coalition of a group's channels is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import ops
from .exactness import check_exact
from .game_data import Loss, check_data, described, is_tensor
from .groups import Group, GroupError, find_group
from .masking import PathError
from .memory import PeakMemory, default_budget
from .paths import Execution, HookPath, LinearWalk, RowPath, SuffixPath, WalkPath
from .samplers import AllCoalitions, masks_of_codes
from .split import Prefix
from .tracing import Traced

__all__ = ["ChannelGame", "Loss"]

_MAX_CHUNK_ROWS = 1 << 16
_MAX_PLAYERS_OF_ALL_PAYOFFS = 24
_MASKS_AT_ONCE = 1 << 12
_MASK_BYTES = 3  # that masks_of_walks takes for a player in a row
_TRIAL = 2  # rows or walks from which the memory that one takes is told


class ChannelGame:
    """The game whose players are the output channels of one group of layers.

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
        data: ``(inputs [N, ...], targets)``, on the model's device. Class indices ``int64 [N]`` for
            ``"cross_entropy"`` and ``"accuracy"``, ``float [N, K]`` for ``"squared_error"``, any tensor with one entry
            per sample for a loss of your own. A :class:`~shapley_cuda.Split` named "test" or "select" is refused.
        metric: ``"cross_entropy"`` (default), ``"accuracy"``, ``"squared_error"``, or a callable
            ``(outputs, targets) -> [R]`` giving each row's loss, lower is better. Without labels:
            :func:`~shapley_cuda.payoffs.agreement` gives the data and the metric.
        path: ``"auto"`` takes the fastest that can run the network; ``"walk"``, ``"suffix"`` or ``"hook"`` insist.
        execution: how the suffix of the network runs, see :class:`~shapley_cuda.Execution`; the hook path takes none.
        memory_budget: bytes that a chunk of rows may take beside the model, data and cached prefix. Default: 32 MiB
            on the CPU, a quarter of the free memory on a GPU.

    Raises:
        GroupError: the group does not exist, or removing its channels is not what masking them computes.
        PathError: the path that was asked for cannot run this network.
        ValueError, TypeError: bad data, devices or modes; nothing has been changed.

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
        data: tuple[Tensor, Tensor],
        *,
        metric: str | Loss = "cross_entropy",
        path: str = "auto",
        execution: Execution | None = None,
        memory_budget: int | None = None,
    ):
        if memory_budget is not None and not (isinstance(memory_budget, int) and memory_budget >= 1):
            raise ValueError(f"memory_budget must be at least 1 byte, got {memory_budget!r}")
        self.model = model
        self.data = check_data(model, data, metric)
        self.metric, self.execution = metric, execution or Execution()
        self.group = group if isinstance(group, Group) else find_group(model, group, self.data.inputs[:1])
        if not self.group.prunable:
            raise GroupError(f"group {self.group.name!r} cannot be pruned exactly: {self.group.reason}")
        self.n_evaluations = 0
        check_exact(model, self.group, self.data.inputs)
        self._linear_head: LinearWalk | None = None
        self._walk, self._rows, self._why_not = self._choose_paths(path, self.execution)
        self.memory_budget = default_budget(self.device) if memory_budget is None else memory_budget
        self.bytes_per_row, self.bytes_per_walk = self._measure_memory(insist=path)

    @property
    def n_players(self) -> int:
        """Number of channels, C."""
        return self.group.n_players

    @property
    def n_samples(self) -> int:
        """Number of samples, N."""
        return self.data.inputs.shape[0]

    @property
    def device(self) -> torch.device:
        """Where rows are evaluated."""
        return self.data.inputs.device

    @property
    def path(self) -> str:
        """The path that evaluates walks."""
        return self._walk.name if self._walk else self._rows.name

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
            f"walks: {self.path} path; other rows: {self._rows.name} path",
            f"chunks of {self.chunk_walks} walks, {self.bytes_per_walk} bytes each, "
            f"or of {self.chunk_rows} rows, {self.bytes_per_row} bytes each",
        ]
        return "\n".join(lines + [f"not the {name} path: {why}" for name, why in self._why_not.items()])

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
        head = self._head
        if head is not None:
            values = ops.masked_eval(
                head.features, masks, head.weight, head.bias, self.data.targets, metric=str(self.metric)
            )
            return self._sign * values.double()
        if masks.shape[0] == 0:
            return torch.empty(0, dtype=torch.float64, device=self.device)
        totals = torch.zeros(masks.shape[0], dtype=torch.float64, device=self.device)
        sample = torch.arange(self.n_samples, device=self.device)
        rows_of_mask = max(1, self.chunk_rows // self.n_samples)
        for first in range(0, masks.shape[0], rows_of_mask):
            chunk = masks[first : first + rows_of_mask]
            for part in sample.split(self.chunk_rows):
                index = part.repeat(chunk.shape[0])
                values = self._evaluate(chunk.repeat_interleave(part.numel(), 0), index)
                totals[first : first + rows_of_mask] += values.double().view(chunk.shape[0], -1).sum(1)
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
        return self._evaluate_in_chunks(masks, sample_index)

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
        if not any(is_tensor(permutations, dtype, (-1, self.n_players)) for dtype in (torch.int32, torch.int64)):
            raise ValueError(
                f"permutations must be int32 with shape [R, {self.n_players}], got {described(permutations)}"
            )
        permutations = permutations.to(self.device)
        if not _hold_everyone_once(permutations):  # before they are shortened: 2^32 would become 0
            raise ValueError(f"permutations must hold each of the {self.n_players} players once in every row")
        permutations = permutations.to(torch.int32)
        sample_index = self._check_index(sample_index, permutations.shape[0])
        shape = (permutations.shape[0], self.n_players + 1)
        if needed is not None and not is_tensor(needed, torch.bool, shape):
            raise ValueError(f"needed must be bool with shape {list(shape)}, got {described(needed)}")
        fused = self._head is not None and self._walk is not None
        self.n_evaluations += shape[0] * shape[1] if needed is None or fused else int(needed.sum())
        values = torch.empty(shape, device=self.device)
        for first in range(0, shape[0], self.chunk_walks):
            part = slice(first, first + self.chunk_walks)
            steps = None if needed is None else needed[part].to(self.device)
            values[part] = self._evaluate_walks(permutations[part], sample_index[part], steps)
        return values

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
        coalitions, head = AllCoalitions(self.n_players), self._head
        if head is not None:
            self.n_evaluations += coalitions.count * self.n_samples
            metric = str(self.metric)
            values = ops.exhaustive_eval(head.features, head.weight, head.bias, self.data.targets, metric=metric)
            return self._sign * values.double()
        payoffs = torch.empty(coalitions.count, dtype=torch.float64, device=self.device)
        for first in range(0, coalitions.count, _MASKS_AT_ONCE):
            codes = coalitions.codes(first, min(_MASKS_AT_ONCE, coalitions.count - first), self.device)
            payoffs[codes] = self(masks_of_codes(codes, self.n_players))
        return payoffs

    @property
    def _head(self) -> LinearWalk | None:
        """The consumer, where kernels can give the payoff without the network's outputs in memory."""
        return self._linear_head if isinstance(self.metric, str) else None

    @property
    def _sign(self) -> float:
        return 1.0 if self.metric == "accuracy" else -1.0

    def _evaluate(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        head = self._head
        if head is not None:
            return self._sign * ops.masked_eval(
                head.features, masks, head.weight, head.bias, self.data.targets,
                sample_index=sample_index, metric=str(self.metric),
            )  # fmt: skip
        return self._payoff(self._rows.outputs(masks, sample_index), sample_index)

    def _evaluate_in_chunks(self, masks: Tensor, sample_index: Tensor) -> Tensor:
        chunks = zip(masks.split(self.chunk_rows), sample_index.split(self.chunk_rows), strict=True)
        values = [self._evaluate(m, s) for m, s in chunks if m.shape[0]]
        return torch.cat(values) if values else torch.empty(0, device=self.device)

    def _evaluate_walks(self, permutations: Tensor, sample_index: Tensor, needed: Tensor | None = None) -> Tensor:
        head, steps = self._head, permutations.shape[1] + 1
        if head is not None and self._walk is not None:
            values = self._sign * ops.permutation_eval(
                head.features, permutations, head.weight, head.bias, self.data.targets, sample_index,
                metric=str(self.metric),
            )  # fmt: skip
            return values if needed is None else values.where(needed, 0.0)
        if needed is not None and not bool(needed.any()):
            return torch.zeros(needed.shape, device=self.device)
        chosen = slice(None) if needed is None else needed.flatten()
        rows = sample_index.repeat_interleave(steps)[chosen]
        if self._walk is None:
            payoffs = self._evaluate_in_chunks(masks_of_walks(permutations).flatten(0, 1)[chosen], rows)
        else:
            payoffs = self._payoff(self._walk.outputs(permutations, sample_index, chosen), rows)
        if needed is None:
            return payoffs.view(-1, steps)
        return torch.zeros(needed.shape, device=self.device).masked_scatter_(needed, payoffs)

    def _payoff(self, outputs: Tensor, sample_index: Tensor) -> Tensor:
        if isinstance(self.metric, str):
            if outputs.dim() != 2:
                raise ValueError(
                    f"metric {self.metric!r} needs network outputs [rows, K], got {list(outputs.shape)}; "
                    "give a callable for other outputs"
                )
            if outputs.dtype == torch.float64:
                outputs = outputs.float()  # payoffs are float32; the ops leave it to their callers to give bits away
            return self._sign * ops.loss_difference(
                outputs, self.data.targets, sample_index=sample_index, metric=self.metric
            )
        loss = self.metric(outputs, self.data.targets[sample_index])
        if loss.shape != (outputs.shape[0],):
            raise ValueError(f"metric must return one loss per row, [{outputs.shape[0]}], got {list(loss.shape)}")
        return self._sign * loss.float()

    @torch.no_grad()
    def _choose_paths(self, path: str, execution: Execution) -> tuple[WalkPath | None, RowPath, dict[str, str]]:
        if path not in ("auto", "walk", "suffix", "hook"):
            raise ValueError(f"path must be 'auto', 'walk', 'suffix' or 'hook', got {path!r}")
        inputs, why_not = self.data.inputs, dict[str, str]()
        walk: WalkPath | None = None
        rows: RowPath | None = None
        if path == "hook":
            return None, HookPath(self.model, self.group, inputs), why_not
        try:
            prefix = Prefix(Traced(self.model, inputs), inputs)
        except PathError as error:
            if path != "auto":
                raise
            return None, HookPath(self.model, self.group, inputs), {"walk": str(error), "suffix": str(error)}
        try:
            walk = WalkPath(prefix, self.group, execution)
            self._linear_head = walk.head
        except PathError as error:
            if path == "walk":
                raise
            why_not["walk"] = str(error)
        if path == "suffix":  # row by row as asked, but through the head's kernel where there is one
            walk, why_not = None, {}
        try:
            rows = SuffixPath(prefix, self.group, execution)
        except PathError as error:
            if path == "suffix":
                raise
            why_not["suffix"] = str(error)
        return walk, rows or HookPath(self.model, self.group, inputs), why_not

    @torch.no_grad()
    def _measure_memory(self, insist: str) -> tuple[int, int]:
        """Peak bytes that one row and one walk take, from a trial of a few; the trial also proves that they can run."""
        masks = torch.ones(_TRIAL, self.n_players, dtype=torch.bool, device=self.device)
        sample_index = torch.zeros(_TRIAL, dtype=torch.int64, device=self.device)
        with PeakMemory() as memory:
            self._evaluate(masks, sample_index)
        bytes_per_row = max(1, memory.peak // _TRIAL)
        pair = 2 * bytes_per_row * (self.n_players + 1)
        if self._walk is not None and self._head is None and insist != "walk" and pair > self.memory_budget:
            self._why_not["walk"] = f"a pair of walks takes up to {pair} bytes, the budget is {self.memory_budget}"
            self._walk = None
        if self._walk is None:
            return bytes_per_row, (bytes_per_row + _MASK_BYTES * self.n_players) * (self.n_players + 1)
        permutations = torch.arange(self.n_players, dtype=torch.int32, device=self.device).repeat(_TRIAL, 1)
        with PeakMemory() as memory:
            self._evaluate_walks(permutations, sample_index)
        return bytes_per_row, max(1, memory.peak // _TRIAL)

    def _check_masks(self, masks: Tensor) -> Tensor:
        if not is_tensor(masks, torch.bool, (-1, self.n_players)):
            raise ValueError(f"masks must be bool with shape [M, {self.n_players}], got {described(masks)}")
        return masks.to(self.device)

    def _check_index(self, sample_index: Tensor, rows: int) -> Tensor:
        if not is_tensor(sample_index, torch.int64, (rows,)):
            raise ValueError(f"sample_index must be int64 with shape [{rows}], got {described(sample_index)}")
        if rows and not (int(sample_index.min()) >= 0 and int(sample_index.max()) < self.n_samples):
            raise ValueError(
                f"sample_index must be in [0, {self.n_samples}), "
                f"got values from {int(sample_index.min())} to {int(sample_index.max())}"
            )
        return sample_index.to(self.device)


def masks_of_walks(permutations: Tensor) -> Tensor:
    """Coalitions along walks: int32 ``[R, C]`` -> bool ``[R, C + 1, C]``; in step j the first j players are kept."""
    n_walks, n_players = permutations.shape
    # The CPU compares 16-bit numbers fastest, and several times faster if the result has their type too.
    numbers = torch.arange(n_players + 1, device=permutations.device)
    numbers = numbers.to(torch.int16 if n_players < 1 << 15 else torch.int32)
    joins = numbers.new_empty(n_walks, n_players)
    joins.scatter_(1, permutations.long(), numbers[:-1].expand(n_walks, -1))
    kept = numbers.new_empty(n_walks, n_players + 1, n_players)
    return torch.lt(joins[:, None], numbers[:, None], out=kept).bool()


def _hold_everyone_once(permutations: Tensor) -> bool:
    """Whether each row of ``[R, C]`` holds 0 to C - 1, in any order."""
    n_walks, n_players = permutations.shape
    seen = torch.zeros(n_walks, n_players + 2, dtype=torch.bool, device=permutations.device)
    seen.scatter_(1, permutations.clamp(-1, n_players).long() + 1, True)  # what is out of range marks the ends
    return bool(seen[:, 1:-1].all())
