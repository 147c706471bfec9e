"""Rank the channels of a trained network by their Shapley value, and prune the least valuable.

>>> import shapley_cuda as sc
>>> game = sc.ChannelGame(model, "conv2", data=(images, labels))
>>> estimate = sc.rank(game, tolerance=0.025, seed=0)
>>> plan = sc.plan_pruning(model, {"conv2": estimate}, keep=0.5, example_input=images)
>>> pruned = sc.prune(model, plan, images)

The kernels underneath are ``torch.ops.shapley.*``, documented in :mod:`shapley_cuda.ops`.
"""

from . import ops, payoffs
from .build import __version__, build_info
from .comparison import kendall_tau, relative_rmse
from .counting import count_macs, count_parameters
from .datasets import Split, fashion_mnist, fashion_mnist_subset, load_idx_folder
from .estimate import Estimate
from .game import ChannelGame
from .groups import Consumer, Group, GroupError, find_group, find_groups
from .masking import PathError
from .networks import lenet5, network, pretrained, vgg_bn
from .oracle import OracleAgreement, OracleSets, oracle_agreement, oracle_rank, oracle_sets
from .paths import Execution
from .planning import plan_pruning
from .plans import PruningPlan
from .rankers import NonFinitePayoff, RankingProgress, rank
from .samplers import (
    AllCoalitions,
    CoalitionsBySize,
    KernelSampler,
    SampleOrder,
    UniformSizeSampler,
    WalkSampler,
)
from .storage import load_pruned, save_pruned
from .surgery import PruningError, prune
from .training import evaluate, train

__all__ = [
    "AllCoalitions",
    "ChannelGame",
    "CoalitionsBySize",
    "Consumer",
    "Estimate",
    "Execution",
    "Group",
    "GroupError",
    "KernelSampler",
    "NonFinitePayoff",
    "OracleAgreement",
    "OracleSets",
    "PathError",
    "PruningError",
    "PruningPlan",
    "RankingProgress",
    "SampleOrder",
    "Split",
    "UniformSizeSampler",
    "WalkSampler",
    "__version__",
    "build_info",
    "count_macs",
    "count_parameters",
    "evaluate",
    "fashion_mnist",
    "fashion_mnist_subset",
    "find_group",
    "find_groups",
    "kendall_tau",
    "lenet5",
    "load_idx_folder",
    "load_pruned",
    "network",
    "ops",
    "oracle_agreement",
    "oracle_rank",
    "oracle_sets",
    "payoffs",
    "plan_pruning",
    "pretrained",
    "prune",
    "rank",
    "relative_rmse",
    "save_pruned",
    "train",
    "vgg_bn",
]
