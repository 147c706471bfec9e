"""Samplers: which coalitions, on which samples, in which order.

Each yields walks or masks by number: a number stands for the same walk or coalition whoever asks for it, in whichever
batch and on whichever device. What is random comes from the seed and the number alone; no generator has a state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from typing import ClassVar

import torch
from torch import Tensor

from . import ops

__all__ = [
    "AllCoalitions",
    "CoalitionsBySize",
    "KernelSampler",
    "SampleOrder",
    "UniformSizeSampler",
    "WalkSampler",
    "fold_halves",
    "masks_of_codes",
]

# Added to a seed to make another Philox key: streams that are used together must not be one.
_SAMPLE_ORDER_KEY = 0x5368_6170_6C65_79
_KERNEL_KEY = 0x4B65_726E_656C
_UNIFORM_SIZE_KEY = 0x556E_6953_697A_65

_WORD = 0xFFFF_FFFF
_MOST_CODE_BITS = 62  # codes and numbers of coalitions are int64


@dataclass(frozen=True)
class SampleOrder:
    """Which sample each row or walk is drawn from: every sample once in a pass, in an order shuffled anew each pass.

    A pass cut short is then still a fair sample.

    Attributes:
        n_samples: N.
        seed: any signed 64-bit integer.
        block: consecutive rows or walks that are one draw, and so share their sample.
    """

    n_samples: int
    seed: int = 0
    block: int = 1

    def samples(self, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Samples of the rows or walks first .. first + count - 1, int64 ``[count]``."""
        draws = torch.arange(first, first + count) // self.block
        passes, places = draws // self.n_samples, draws % self.n_samples
        if count == 0:
            return places.to(device)
        first_pass, last_pass = int(passes[0]), int(passes[-1])
        key = self.seed ^ _SAMPLE_ORDER_KEY
        orders = ops.sample_permutations(key, first_pass, last_pass - first_pass + 1, self.n_samples)
        return orders[passes - first_pass, places].long().to(device)


@dataclass(frozen=True)
class WalkSampler:
    """Walks by number: walk w is the same permutation on the same sample, whoever asks for it and in which batch.

    Every pass over the data gives each sample one walk (antithetic: one pair of walks, the second the reverse of the
    first), the samples in the order of :class:`SampleOrder`.

    Attributes:
        n_players: C.
        n_samples: N.
        seed: any signed 64-bit integer.
        antithetic: pair each walk with its reverse. Marginals at opposite ends of the walk are negatively correlated
            for most networks, so pairs have a smaller variance than independent walks.
        folded: passes come in twos. The second visits the samples in the order of the first, and a sample's walks are
            then those of the first pass with the order within either half of the players reversed. A player that joined
            at an end of the walk now joins next to its middle: with their reverses, the four walks of two passes have
            it once in each quarter, at places that balance each other.
    """

    n_players: int
    n_samples: int
    seed: int = 0
    antithetic: bool = True
    folded: bool = False

    @property
    def block(self) -> int:
        """Walks that belong together: 2 for antithetic pairs, else 1. Only blocks are independent of each other, and
        if folded only those of different samples or twos of passes."""
        return 2 if self.antithetic else 1

    def walks(self, first: int, count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Walks first .. first + count - 1.

        Returns:
            permutations int32 ``[count, C]`` and sample_index int64 ``[count]``, on ``device``.
        """
        if not self.folded:
            return self._walks_of_one(first, count, device)
        n_walks = self.n_samples * self.block  # of a pass
        numbers = torch.arange(first, first + count)
        passes, places = numbers // n_walks, numbers % n_walks
        unfolded, which = (passes // 2 * n_walks + places).unique(return_inverse=True)
        parts = [self._walks_of_one(*run, device) for run in _runs(unfolded)]
        permutations, samples = (torch.cat(part)[which.to(device)] for part in zip(*parts, strict=True))
        is_second = (passes % 2 == 1).to(device)
        is_reverse = (numbers % self.block == 1).to(device)
        permutations[is_second] = fold_halves(permutations[is_second], is_reverse[is_second])
        return permutations, samples

    def _walks_of_one(self, first: int, count: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Walks by number among those that are no other pass's folds."""
        permutations = ops.sample_permutations(
            self.seed, first, count, self.n_players, antithetic=self.antithetic, device=device
        )
        return permutations, SampleOrder(self.n_samples, self.seed, self.block).samples(first, count, device)


def fold_halves(permutations: Tensor, reverses: Tensor) -> Tensor:
    """Orders ``[R, C]`` with either half of the players reversed; folding them again gives the first ones back.

    Args:
        permutations: the orders.
        reverses: bool ``[R]``, which of them are the reverse of another. Of an odd number of players the second half
            has one more, in these the first, so that the reverse of an order is folded to the reverse of its fold.
    """
    n_players = permutations.shape[1]
    places = torch.arange(n_players, device=permutations.device)
    folds = torch.cat([half.flip(0) for half in places.tensor_split([n_players // 2])])
    of_reverses = n_players - 1 - folds.flip(0)
    return permutations.gather(1, torch.where(reverses[:, None], of_reverses, folds))


@dataclass(frozen=True)
class _RandomCoalitions(ABC):
    """Coalitions by number: a size from a law that favours no size over its complement's, then a uniform subset.

    The size comes from a uniform number of 53 bits, the subset is the head of a permutation, both from the Philox
    stream of the seed. A size's probability is off by less than (C + 3) / 2^52, below 2^-30 for C < 2^21; subsets of
    a size by the bias of :func:`~shapley_cuda.ops.sample_permutations`.
    """

    n_players: int
    seed: int = 0
    paired: bool = True

    _key: ClassVar[int]
    _fewest_players: ClassVar[int]

    def __post_init__(self) -> None:
        if self.n_players < self._fewest_players:
            raise ValueError(
                f"n_players of {type(self).__name__} must be at least {self._fewest_players}, got {self.n_players}"
            )

    @abstractmethod
    def size_weights(self) -> list[float]:
        """How probable each size 0 .. C is, up to a common factor."""

    @property
    def block(self) -> int:
        """Coalitions that belong together: 2 for complementary pairs, else 1. Only blocks are independent."""
        return 2 if self.paired else 1

    def masks(self, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Coalitions first .. first + count - 1, bool ``[count, C]`` on ``device``, True = kept."""
        numbers = torch.arange(first, first + count, device=device)
        draws = numbers // self.block
        first_draw = first // self.block
        n_draws = (first + count + self.block - 1) // self.block - first_draw
        key = self.seed ^ self._key
        permutations = ops.sample_permutations(key, first_draw, n_draws, self.n_players, device=device)
        totals = list(accumulate(self.size_weights()))
        thresholds = torch.tensor([total / totals[-1] for total in totals], dtype=torch.float64, device=device)
        sizes = torch.searchsorted(thresholds, _uniform(key, first_draw, n_draws, device), right=True)
        joined = torch.arange(self.n_players, device=device) < sizes[:, None]
        masks = torch.zeros_like(joined).scatter_(1, permutations.long(), joined)[draws - first_draw]
        return masks ^ (numbers % self.block == 1)[:, None]


@dataclass(frozen=True)
class KernelSampler(_RandomCoalitions):
    """Coalitions from the Shapley kernel, for least squares with equal weights.

    A coalition of s players, 0 < s < C, has a probability proportional to (C - 1) / (binom(C, s) s (C - s)); the size
    s therefore one proportional to (C - 1) / (s (C - s)). Source: Lundberg and Lee, "A unified approach to
    interpreting model predictions", 2017; pairs: Covert and Lee, "Improving KernelSHAP", 2021. A size's probability
    is off by less than (C + 3) / 2^52.

    Attributes:
        n_players: C, at least 2.
        seed: any signed 64-bit integer.
        paired: coalition 2i + 1 is the complement of coalition 2i, which has the same probability. Coalition 2i is
            then what coalition i is without.

    Raises:
        ValueError: fewer than 2 players, who have no coalition between none and all.

    Example:
        >>> masks = KernelSampler(n_players=5, seed=0).masks(first=0, count=4)
        >>> bool((masks[0] ^ masks[1]).all())
        True
    """

    _key: ClassVar[int] = _KERNEL_KEY
    _fewest_players: ClassVar[int] = 2

    def size_weights(self) -> list[float]:
        """How probable each size 0 .. C is, up to a common factor."""
        n = self.n_players
        return [0.0, *((n - 1) / (size * (n - size)) for size in range(1, n)), 0.0]


@dataclass(frozen=True)
class UniformSizeSampler(_RandomCoalitions):
    """Coalitions whose size is uniform on 0 .. C, and which are uniform among those of their size.

    What the coalitions along random walks are like. For fitting surrogates and unweighted least squares.

    Attributes:
        n_players: C, at least 1.
        seed: any signed 64-bit integer.
        paired: as in :class:`KernelSampler`, but independent coalitions are the default.

    Raises:
        ValueError: fewer than 1 player.
    """

    paired: bool = False

    _key: ClassVar[int] = _UNIFORM_SIZE_KEY
    _fewest_players: ClassVar[int] = 1

    def size_weights(self) -> list[float]:
        """How probable each size 0 .. C is, up to a common factor."""
        return [1.0] * (self.n_players + 1)


@dataclass(frozen=True)
class CoalitionsBySize:
    """All coalitions of some sizes by number, so that none has to be stored: leave-one-out is size C - 1.

    Sizes follow each other in the order given; coalitions of one size are in the order of their codes (bit c = player
    c kept), which is that of the combinatorial number system.

    Attributes:
        n_players: C, at least 1.
        sizes: numbers of kept players, each once.

    Raises:
        ValueError: a size is repeated or not in [0, C], or there are 2^62 coalitions or more.

    Example:
        >>> CoalitionsBySize(3, (1,)).masks(0, 3).int().tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """

    n_players: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.sizes)) < len(self.sizes) or not all(0 <= size <= self.n_players for size in self.sizes):
            raise ValueError(f"sizes must be different numbers in [0, {self.n_players}], got {self.sizes}")
        if self.count >> _MOST_CODE_BITS:
            raise ValueError(f"sizes must give fewer than 2^{_MOST_CODE_BITS} coalitions, got {self.count}")

    @property
    def count(self) -> int:
        """How many coalitions there are."""
        return sum(comb(self.n_players, size) for size in self.sizes)

    def masks(self, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Coalitions first .. first + count - 1, bool ``[count, C]`` on ``device``, True = kept."""
        _check_range(self, first, count)
        parts = [torch.empty(0, self.n_players, dtype=torch.bool, device=device)]
        start = 0  # number of the size's first coalition
        for size in self.sizes:
            end = start + comb(self.n_players, size)
            begin, stop = max(first, start), min(first + count, end)
            if begin < stop:
                numbers = torch.arange(begin - start, stop - start, device=device)
                parts.append(_coalitions_of_size(numbers, self.n_players, size))
            start = end
        return torch.cat(parts)


@dataclass(frozen=True)
class AllCoalitions:
    """All 2^C coalitions by number, in Gray order: neighbours differ in one player.

    Attributes:
        n_players: C, in [1, 62].

    Raises:
        ValueError: n_players is not in that range.

    Example:
        >>> AllCoalitions(2).codes(0, 4)
        tensor([0, 1, 3, 2])
    """

    n_players: int

    def __post_init__(self) -> None:
        if not 1 <= self.n_players <= _MOST_CODE_BITS:
            raise ValueError(f"n_players of AllCoalitions must be in [1, {_MOST_CODE_BITS}], got {self.n_players}")

    @property
    def count(self) -> int:
        """How many coalitions there are."""
        return 1 << self.n_players

    def codes(self, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Codes of coalitions first .. first + count - 1, int64 ``[count]``: bit c = player c kept."""
        _check_range(self, first, count)
        numbers = torch.arange(first, first + count, device=device)
        return numbers ^ (numbers >> 1)

    def masks(self, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Coalitions first .. first + count - 1, bool ``[count, C]`` on ``device``, True = kept."""
        return masks_of_codes(self.codes(first, count, device), self.n_players)


def masks_of_codes(codes: Tensor, n_players: int) -> Tensor:
    """Coalitions with the codes int64 ``[M]``, bool ``[M, C]``: player c is kept where bit c is set."""
    return (codes[:, None] >> torch.arange(n_players, device=codes.device)).bitwise_and_(1).bool()


def _check_range(coalitions: CoalitionsBySize | AllCoalitions, first: int, count: int) -> None:
    if first < 0 or count < 0 or first + count > coalitions.count:
        raise ValueError(
            f"numbers of {coalitions} must be in [0, {coalitions.count}), got {count} from {first} onwards"
        )


def _coalitions_of_size(numbers: Tensor, n_players: int, size: int) -> Tensor:
    """Unrank in the combinatorial number system: coalition {c_1 < .. < c_s} has number sum_j binom(c_j, j)."""
    if 2 * size > n_players:  # complements have the reverse order, and fewer players to find
        last = comb(n_players, size) - 1
        return ~_coalitions_of_size(last - numbers, n_players, n_players - size)
    binomials = [torch.ones(n_players, dtype=torch.int64, device=numbers.device)]  # row j: binom(c, j) for c < C
    for _ in range(size):
        binomials.append(binomials[-1].cumsum(0) - binomials[-1])
    masks = torch.zeros(len(numbers), n_players, dtype=torch.bool, device=numbers.device)
    for row in reversed(binomials[1:]):
        player = torch.searchsorted(row, numbers, right=True) - 1
        masks.scatter_(1, player[:, None], True)
        numbers = numbers - row[player]
    return masks


def _runs(numbers: Tensor) -> list[tuple[int, int]]:
    """Sorted numbers as runs of consecutive ones: first and how many."""
    ends = (numbers.diff() > 1).nonzero().flatten() + 1
    return [(int(run[0]), len(run)) for run in numbers.tensor_split(ends) if len(run)] or [(0, 0)]


def _uniform(key: int, first: int, count: int, device: torch.device | str) -> Tensor:
    """Numbers in [0, 1) with 53 bits, float64 ``[count]``, from a stream beside that of the key's permutations.

    Philox-4x32-10 with the counter (0, 1, number low, number high); sample_permutations has 0 in the second place.
    """
    numbers = torch.arange(first, first + count, device=device)
    zero = torch.zeros_like(numbers)
    x, y, z, w = zero, zero + 1, numbers & _WORD, numbers >> 32
    low, high = key & _WORD, key >> 32 & _WORD
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = _multiply(x, 0xD2511F53), _multiply(z, 0xCD9E8D57)
        x, y, z, w = b_high ^ y ^ low, b_low, a_high ^ w ^ high, a_low
        low, high = low + 0x9E3779B9 & _WORD, high + 0xBB67AE85 & _WORD
    return ((x << 21) | (y >> 11)).double() * 2.0**-53


def _multiply(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low word of words * factor, both of 32 bits; in two parts, for the product overflows int64."""
    upper, lower = words * (factor >> 16), words * (factor & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | lower & 0xFFFF
