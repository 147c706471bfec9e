"""Which channels of LeNet-5 do each other's work? Interactions between channels, by shapiq.

    pip install 'shapley_cuda[ecosystem]'
    python examples/shapiq_game.py

A negative interaction means that two channels are worth less together than apart: either can stand in for the other.
LeNet-5 is cut to a few channels first, so that exact answers are at hand to compare with.
"""

from __future__ import annotations

import shapiq
import torch

import shapley_cuda as sc


def explain(n_channels: int = 10, n_images: int = 100, budget: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Print the strongest interactions in conv1, and how close shapiq's estimate comes to the exact Shapley values.

    Returns:
        Shapley values of the channels, by KernelSHAP and exactly.
    """
    images, labels = sc.fashion_mnist_subset("rank")
    images, labels = images[:n_images], labels[:n_images]
    model = sc.pretrained("lenet5")
    magnitude = sc.rank(sc.ChannelGame(model, "conv1", (images, labels)), method="magnitude")
    plan = sc.plan_pruning(model, {"conv1": magnitude}, keep={"conv1": n_channels}, example_input=images)
    model = sc.prune(model, plan, images[:10])

    game = sc.as_shapiq_game(sc.ChannelGame(model, "conv1", (images, labels)))
    exact = shapiq.ExactComputer(game, n_players=n_channels)
    interactions = exact("k-SII", order=2)
    pairs = [pair for pair in interactions.interaction_lookup if len(pair) == 2]
    print("pairs of channels of conv1 and their interaction, in nats of payoff:")
    for pair in sorted(pairs, key=lambda pair: interactions[pair])[:5]:
        print(f"  {pair}: {interactions[pair]:+.4f}")

    estimate = shapiq.KernelSHAP(n=n_channels, random_state=0).approximate(budget=budget, game=game)
    phi, estimated = (
        torch.tensor([values[(player,)] for player in range(n_channels)]) for values in (exact("SV", order=1), estimate)
    )
    print(f"KernelSHAP of {budget} coalitions is at most {(estimated - phi).abs().max():.4f} off the exact values")
    return estimated, phi


if __name__ == "__main__":
    explain()
