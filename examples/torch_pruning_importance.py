"""The high-level pruning example of torch_pruning's README, with one line changed: the importance.

    python examples/torch_pruning_importance.py

It prunes a network that ships with the package once with their magnitude and once with Shapley values, without any
retraining, and prints what is left. Takes some seconds.
"""

from __future__ import annotations

import torch
import torch_pruning as tp
from torch import nn

import shapley_cuda as sc


def prune(
    criterion: str,
    network: str = "lenet5",
    n_images: int = 1000,
    pruning_ratio: float = 0.6,
    iterative_steps: int = 1,
    global_pruning: bool = False,
    isomorphic: bool = False,
) -> nn.Module:
    """Prune a shipped network with one of two criteria, print its size and accuracy, and return it."""
    model = sc.pretrained(network)
    images, labels = sc.fashion_mnist_subset("rank")  # neither trained nor tested on
    images, labels = images[:n_images], labels[:n_images]
    example_inputs = images[:1]

    # 1. Importance criterion
    if criterion == "magnitude":
        importance = tp.importance.GroupMagnitudeImportance(p=2)
    else:
        importance = sc.ShapleyImportance(model, (images, labels), tolerance=0.05)

    # 2. Initialize a pruner with the model and the importance criterion
    ignored_layers = []
    for m in model.modules():
        if isinstance(m, nn.Linear) and m.out_features == 10:
            ignored_layers.append(m)  # DO NOT prune the final classifier!
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs,
        importance=importance,
        pruning_ratio=pruning_ratio,
        ignored_layers=ignored_layers,
        iterative_steps=iterative_steps,
        global_pruning=global_pruning,
        isomorphic=isomorphic,
    )

    # 3. Prune the model
    base_macs, base_nparams = tp.utils.count_ops_and_params(model, example_inputs)
    for _ in range(iterative_steps):
        pruner.step()
        # finetune(model)
    macs, nparams = tp.utils.count_ops_and_params(model, example_inputs)
    accuracy = sc.evaluate(model, *sc.fashion_mnist_subset("test")).accuracy
    print(
        f"{criterion:9}: MACs {base_macs / 1e6:.2f} M -> {macs / 1e6:.2f} M, "
        f"parameters {base_nparams / 1e3:.0f} k -> {nparams / 1e3:.0f} k, accuracy {accuracy:.1%}"
    )
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    for criterion in ("magnitude", "shapley"):
        prune(criterion)
