"""What a study compares: methods, budgets, seeds and sizes; and the studies that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

__all__ = ["METHODS", "STUDIES", "StudyConfig", "StudyMethod"]


@dataclass(frozen=True)
class StudyMethod:
    """A way to rank that a study compares.

    Attributes:
        label: what tables and figures call it.
        ranker: its name in :data:`~shapley_cuda.rankers.RANKERS`; None for those that the comparison itself needs.
        options: the ranker's own.
        cost: ``"budget"``, it takes as many rows as it is given; ``"limit"``, it takes what it takes and can be
            refused more than the largest budget; ``"fixed"``, neither.
        seeded: whether it draws random numbers.
        shapley: whether its values estimate Shapley values, so that their error means something.
        most_players: groups of more channels are not ranked by it, since each row takes C^2 operations.
    """

    label: str
    ranker: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    cost: str = "fixed"
    seeded: bool = False
    shapley: bool = False
    most_players: int | None = None


def _estimator(
    label: str, ranker: str, *, shapley: bool = True, most_players: int | None = None, **options: Any
) -> StudyMethod:
    return StudyMethod(label, ranker, options, "budget", seeded=True, shapley=shapley, most_players=most_players)


def _terms(label: str, ranker: str, **options: Any) -> StudyMethod:
    return StudyMethod(label, ranker, options, "limit")


METHODS: Mapping[str, StudyMethod] = MappingProxyType(
    {
        "permutation": _estimator("own orders, antithetic", "permutation", tolerance=0.0),
        "permutation_plain": _estimator("own orders", "permutation", tolerance=0.0, antithetic=False),
        "permutation_shared": _estimator(
            "shared orders (paper)", "permutation", tolerance=0.0, antithetic=False, shared=True
        ),
        "regression": _estimator("regression, own coalitions", "regression", most_players=128),
        "regression_shared": _estimator("regression, shared coalitions", "regression", shared=True),
        "least_squares": _estimator("least squares (authors' code)", "least_squares", shapley=False),
        "removing_1": _terms("partial, 1 removed", "partial", order=1, direction="removing"),
        "removing_2": _terms("partial, 2 removed", "partial", order=2, direction="removing"),
        "adding_1": _terms("partial, 1 present", "partial", order=1, direction="adding"),
        "adding_2": _terms("partial, 2 present", "partial", order=2, direction="adding"),
        "leave_one_out": _terms("leave one out", "leave_one_out"),
        "exact": StudyMethod("exact values", None, shapley=True),
        "oracle": StudyMethod("oracle rank", None),
        "taylor": StudyMethod("Taylor", "taylor"),
        "apoz": StudyMethod("activation (APoZ)", "apoz"),
        "l1": StudyMethod("magnitude (L1)", "l1"),
        "l2": StudyMethod("magnitude (L2)", "l2"),
        "bn_scale": StudyMethod("BatchNorm scale", "bn_scale"),
        "random": StudyMethod("random", "random", seeded=True),
    }
)
"""What a study can compare, by the names that its configuration and results use."""

_MANY_COALITIONS = ("regression", "regression_shared", "least_squares", "removing_2", "adding_2")
_PRUNED_BY = ("permutation", "permutation_shared", "leave_one_out", "oracle", "taylor", "apoz", "l1", "random")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What to compare, on what, and at what cost.

    Attributes:
        name: of the study; its files are called by it.
        network: a shipped network, see :func:`~shapley_cuda.pretrained`.
        layers: one of each group to study; default all groups that can be pruned.
        metric: of the game, see :class:`~shapley_cuda.ChannelGame`.
        methods: which of :data:`METHODS` to compare.
        passes: budgets, in walks for each sample (C + 1 rows each), ascending. No method takes more than the last.
        seeds: each sampling method is run with every one.
        n_samples: images that values are estimated on, at most.
        exact_players: groups of at most so many channels are compared with exact values, larger ones with a long run.
        reference_passes: length of that run.
        oracle_size: largest oracle set.
        shares: of the channels of every layer that are removed to see what accuracy is left, ascending, in (0, 1).
        pruned_by: methods whose rankings are pruned by, each with its largest budget.
        pruning_seeds: how many of the seeds that is done with.
        n_test: images that accuracies are measured on, at most.
        retrained_shares: of the shares, those after which the network is retrained.
        epochs: of retraining; 0 for none.
        device: where to run.
    """

    name: str = "study"
    network: str = "lenet5_bn"
    layers: tuple[str, ...] = ()
    metric: str = "cross_entropy"
    methods: tuple[str, ...] = tuple(METHODS)
    passes: tuple[int, ...] = (2, 4, 8, 16, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    n_samples: int = 1000
    exact_players: int = 12
    reference_passes: int = 256
    oracle_size: int = 20
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    pruned_by: tuple[str, ...] = _PRUNED_BY
    pruning_seeds: int = 3
    n_test: int = 10_000
    retrained_shares: tuple[float, ...] = (0.5, 0.8)
    epochs: int = 2
    device: str = "cpu"

    def quick(self) -> StudyConfig:
        """A small version of the study, to see that it works: a few seconds, and figures that mean little."""
        return replace(
            self,
            name=f"{self.name}-quick",
            passes=(2, 4),
            seeds=self.seeds[:2],
            n_samples=min(50, self.n_samples),
            reference_passes=16,
            oracle_size=2,
            exact_players=min(6, self.exact_players),
            shares=(0.3, 0.6),
            n_test=min(200, self.n_test),
            retrained_shares=(0.6,),
            pruning_seeds=1,
            epochs=min(1, self.epochs),
        )

    def __post_init__(self) -> None:
        for name in ("methods", "pruned_by"):
            unknown = [method for method in getattr(self, name) if method not in METHODS]
            if unknown:
                raise ValueError(f"{name} must be some of {', '.join(METHODS)}, got {', '.join(unknown)}")
        if not set(self.pruned_by) <= set(self.methods):
            raise ValueError(f"pruned_by must be some of methods, {', '.join(self.methods)}, got {self.pruned_by}")
        for name in ("passes", "shares"):
            values = getattr(self, name)
            if not values or sorted(set(values)) != list(values) or values[0] <= 0:
                raise ValueError(f"{name} must be one or more positive numbers in ascending order, got {values}")
        if self.shares[-1] >= 1 or not set(self.retrained_shares) <= set(self.shares):
            raise ValueError(
                f"shares must be below 1 and those of retrained_shares among them, "
                f"got {self.shares} and {self.retrained_shares}"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {self.seeds}")
        for name, least in (("n_samples", 1), ("reference_passes", 8), ("oracle_size", 1), ("n_test", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


STUDIES: Mapping[str, StudyConfig] = MappingProxyType(
    {
        "lenet5-small": StudyConfig(name="lenet5-small", network="lenet5_bn"),
        "lenet5": StudyConfig(
            name="lenet5", network="lenet5", layers=("conv2", "fc1"), passes=(2, 4, 8, 16), n_test=5000, pruning_seeds=2
        ),
        "vgg_bn": StudyConfig(
            name="vgg_bn",
            network="vgg_bn",
            layers=("conv5", "conv6"),
            # Of conv5, only walks are cheap: whatever shares coalitions runs two convolutions for each row.
            methods=tuple(name for name in METHODS if name not in _MANY_COALITIONS),
            passes=(2, 4, 8, 16),
            seeds=(0, 1),
            n_samples=500,
            reference_passes=128,
            oracle_size=4,
            shares=(0.2, 0.4, 0.5, 0.6, 0.8),
            n_test=1000,
            retrained_shares=(0.5,),
            pruning_seeds=2,
        ),
    }
)
"""The studies of ``make study``: on two CPU cores a quarter of an hour in all."""
