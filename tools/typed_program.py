"""A program that uses the package with types: what tools/package.sh shows to mypy, strictly, and then runs.

Each ignored error is one that mypy has to find: where the package's types are not seen, it says that it did not.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import assert_type

import shapley_cuda as sc


def smaller(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[nn.Module, sc.PruningPlan]:
    """Leave half of the channels of every layer."""
    groups = [group for group in sc.find_groups(model, images[:1]) if group.prunable]
    assert_type(groups, list[sc.Group])
    estimates: dict[str, sc.Estimate | Tensor] = {}
    for group in groups:
        game = sc.ChannelGame(model, group, (images, labels), prefix="recompute", memory_budget=1 << 24)
        estimates[group.name] = sc.rank(game, tolerance=1.0, seed=0)
    plan = sc.plan_pruning(model, estimates, keep=0.5, example_input=images[:8])
    assert_type(plan.removed, dict[str, list[int]])
    assert_type(plan.kept("conv1"), list[int])
    return sc.prune(model, plan, images[:8]), plan


def wrong(model: nn.Module, images: Tensor) -> None:
    """Never called."""
    sc.ChannelGame(model, 3, (images, images))  # type: ignore[arg-type]
    sc.plan_pruning(model, {}, example_input=images, acros="global")  # type: ignore[call-arg]
    sc.Estimate.from_json(b"{}")  # type: ignore[arg-type]
    sc.lenet5("wide")  # type: ignore[arg-type]


def main() -> None:
    """Prune LeNet-5."""
    model = sc.pretrained("lenet5")
    images, labels = sc.fashion_mnist_subset("rank")
    assert_type(images, Tensor)
    pruned, plan = smaller(model, images[:50], labels[:50])
    sets = sc.oracle_sets(sc.ChannelGame(model, "conv1", (images[:8], labels[:8])), 2)
    assert_type(sc.oracle_agreement(plan_order(plan), sets), sc.OracleAgreement)
    sums, squares = sc.ops.marginals(images.new_zeros(1, 4), sc.ops.sample_permutations(0, 0, 1, 3))
    assert_type((sums, squares), tuple[Tensor, Tensor])
    accuracy: float = sc.evaluate(pruned, *sc.fashion_mnist_subset("test").first(100)).accuracy
    macs: int = sc.count_macs(pruned, images[:1])
    print(f"{macs:,} MACs, accuracy {accuracy:.1%}, shapley_cuda {sc.__version__} on {sc.build_info().devices[0]}")


def plan_order(plan: sc.PruningPlan) -> Tensor:
    """The channels of conv1, those that went first."""
    return Tensor([*plan.removed["conv1"], *plan.kept("conv1")]).long()


if __name__ == "__main__":
    main()
