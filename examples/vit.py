"""Prune the attention heads and MLP neurons of a vision transformer: Shapley values, magnitude, random.

    python examples/vit.py
    python examples/vit.py --macs 0.7 --images 200 --budget 20000

It ranks the heads and the neurons of every block of the transformer that ships with the package, cuts it to a share of
its multiply-accumulates, without any retraining, and prints what is left. All blocks either keep the same share, or
compete by value over cost. A row is one image under one coalition. Takes one to two minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shapley_cuda as sc

METHODS = {
    "Shapley": ("permutation", "none"),  # in units of the payoff: values of different groups compare as they are
    "magnitude (L1)": ("l1", "mean"),
    "Taylor": ("taylor", "mean"),
    "random": ("random", "mean"),
}


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, str], float]:
    """Print a table; return the accuracies by method and by how groups compete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-accumulates that is kept")
    parser.add_argument("--images", type=int, default=1000, help="how many images to rank on")
    parser.add_argument("--budget", type=int, default=100_000, help="rows for the Shapley values of each group")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    model = sc.pretrained("vit")
    images, labels = sc.fashion_mnist_subset("rank")  # neither trained nor tested on
    images, labels = images[: options.images], labels[: options.images]
    test = sc.fashion_mnist_subset("test")

    groups = [group for group in sc.find_groups(model, images[:1]) if group.prunable]
    estimates: dict[str, dict[str, sc.Estimate]] = {name: {} for name in METHODS}
    for group in groups:
        game = sc.ChannelGame(model, group, (images, labels))
        for name, (method, _) in METHODS.items():
            settings = {"tolerance": 0.05, "budget": options.budget} if method == "permutation" else {}
            settings |= {"seed": options.seed} if method in ("permutation", "random") else {}
            estimates[name][group.name] = sc.rank(game, method, **settings)

    print(f"Unpruned: {sc.count_macs(model, images[:1]):,} MACs, accuracy {sc.evaluate(model, *test).accuracy:.1%}\n")
    print("| method | blocks | heads kept | neurons kept | MACs | accuracy | rows to rank |\n" + "| --- " * 7 + "|")
    accuracies = {}
    for name, (_, normalise) in METHODS.items():
        rows = sum(estimate.n_evaluations for estimate in estimates[name].values())
        for across in ("uniform", "global"):
            plan = sc.plan_pruning(
                model, estimates[name], macs=options.macs, across=across, normalise=normalise, example_input=images[:1]
            )
            pruned = sc.prune(model, plan, images[:50])
            accuracies[name, across] = sc.evaluate(pruned, *test).accuracy
            kept = [[len(plan.kept(g.name)) for g in groups if kind in g.name] for kind in (".attention.", ".mlp.")]
            heads, neurons = (" ".join(map(str, numbers)) for numbers in kept)
            share, accuracy = plan.macs[1] / plan.macs[0], accuracies[name, across]
            print(f"| {name} | {across} | {heads} | {neurons} | {share:.0%} | {accuracy:.1%} | {rows:,} |")
    return accuracies


if __name__ == "__main__":
    main()
