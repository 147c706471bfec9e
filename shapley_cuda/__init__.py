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
from .counting import count_macs, count_parameters, measure_latencies
from .datasets import (
    Split,
    as_tensors,
    cifar10,
    cifar100,
    fashion_mnist,
    fashion_mnist_subset,
    load_cifar_folder,
    load_idx_folder,
    load_image_folder,
)
from .estimate import Estimate
from .export import ExportedFile, ExportError, export_onnx, export_program
from .game import ChannelGame
from .groups import Consumer, Group, GroupError, find_group, find_groups
from .latency import LatencyComparison, LatencyTimes, compare_latencies
from .mapped import stream_data
from .masking import PathError
from .networks import (
    lenet5,
    lenet5_bn,
    network,
    preset,
    pretrained,
    resnet50,
    resnet56,
    vgg16,
    vgg_bn,
    vit,
)
from .oracle import OracleAgreement, OracleSets, oracle_agreement, oracle_rank, oracle_sets
from .paths import Execution
from .planning import plan_pruning
from .plans import MeasuredLatency, PruningPlan
from .plugins import ShapleyImportance, as_shapiq_game, frame
from .pruning import PrunedNetwork, PruningRound, prune_network
from .rankers import Checkpoint, NonFinitePayoff, ProcessError, Processes, RankingProgress, rank, rank_groups
from .recalibration import recalibrate_batchnorm
from .samplers import (
    AllCoalitions,
    CoalitionsBySize,
    KernelSampler,
    SampleOrder,
    UniformSizeSampler,
    WalkSampler,
)
from .storage import load_pruned, save_pruned
from .study import STUDIES, StudyConfig, StudyResult, run_study, write_study
from .surgery import PruningError, prune
from .training import RECIPES, Recipe, evaluate, train

__all__ = [
    "RECIPES",
    "STUDIES",
    "AllCoalitions",
    "ChannelGame",
    "Checkpoint",
    "CoalitionsBySize",
    "Consumer",
    "Estimate",
    "Execution",
    "ExportError",
    "ExportedFile",
    "Group",
    "GroupError",
    "KernelSampler",
    "LatencyComparison",
    "LatencyTimes",
    "MeasuredLatency",
    "NonFinitePayoff",
    "OracleAgreement",
    "OracleSets",
    "PathError",
    "ProcessError",
    "Processes",
    "PrunedNetwork",
    "PruningError",
    "PruningPlan",
    "PruningRound",
    "RankingProgress",
    "Recipe",
    "SampleOrder",
    "ShapleyImportance",
    "Split",
    "StudyConfig",
    "StudyResult",
    "UniformSizeSampler",
    "WalkSampler",
    "__version__",
    "as_shapiq_game",
    "as_tensors",
    "build_info",
    "cifar10",
    "cifar100",
    "compare_latencies",
    "count_macs",
    "count_parameters",
    "evaluate",
    "export_onnx",
    "export_program",
    "fashion_mnist",
    "fashion_mnist_subset",
    "find_group",
    "find_groups",
    "frame",
    "kendall_tau",
    "lenet5",
    "lenet5_bn",
    "load_cifar_folder",
    "load_idx_folder",
    "load_image_folder",
    "load_pruned",
    "measure_latencies",
    "network",
    "ops",
    "oracle_agreement",
    "oracle_rank",
    "oracle_sets",
    "payoffs",
    "plan_pruning",
    "preset",
    "pretrained",
    "prune",
    "prune_network",
    "rank",
    "rank_groups",
    "recalibrate_batchnorm",
    "relative_rmse",
    "resnet50",
    "resnet56",
    "run_study",
    "save_pruned",
    "stream_data",
    "train",
    "vgg16",
    "vgg_bn",
    "vit",
    "write_study",
]
