"""How much memory a game takes, against its budget: two tables, measured.

    python examples/memory_trace.py
    python examples/memory_trace.py --network vgg_bn --group conv3 --walks 16 --budgets 4 16 64 --device cuda

The first evaluates the same walks under several budgets. *Tensors* is the peak of all tensors alive at once, *process*
that of the whole process (Linux) or of torch's allocator (CUDA), with what libraries take within an operation; *outputs
of all rows* is what those of the consumers would take together. The second builds games of more and more
samples, which the budget does not bound but the choice of where the prefix's results are kept.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda.memory import PeakMemory

MIB = 1 << 20
_M_MMAP_THRESHOLD = -3
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def process_peak(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call takes at its worst moment beside what there was; None where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # What is freed goes back to the system at once; the C library would hold some back, to use it again unseen.
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        library.malloc_trim(0)
        _CLEAR_REFS.write_text("5")  # sets the high-water mark back
    except (OSError, AttributeError):
        call()
        return None
    before = _status_bytes("VmRSS")
    call()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def tensor_peak(call: Callable[[], object]) -> int:
    """Bytes of the tensors that a call has alive at its worst moment."""
    with PeakMemory() as memory:
        call()
    return memory.peak


def output_bytes(model: nn.Module, consumers: list[str], inputs: Tensor) -> int:
    """What the outputs of some layers take for one row, as float32."""
    sizes: list[int] = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda layer, args, output: sizes.append(4 * output.numel()))
        for name in consumers
    ]
    with torch.no_grad():
        model(inputs[:1])
    for handle in handles:
        handle.remove()
    return sum(sizes)


def trace_budgets(
    model: nn.Module, group: str, data: tuple[Tensor, Tensor], budgets: list[int], n_walks: int
) -> Iterator[list[str]]:
    """Rows of the first table: the same walks under budgets in bytes."""
    for budget in budgets:
        seen = set[str]()
        for path in ("auto", "suffix", "hook"):
            try:
                game = sc.ChannelGame(model, group, data, path=path, memory_budget=budget)
            except (sc.PathError, ValueError) as error:
                yield [f"{budget / MIB:g}", path, str(error)]
                continue
            if game.path in seen:
                continue
            seen.add(game.path)
            walks, samples = sc.WalkSampler(game.n_players, game.n_samples).walks(0, n_walks, game.device)
            game.walk_values(walks[:2], samples[:2])  # what is loaded on first use

            def call(game: sc.ChannelGame = game, walks: Tensor = walks, samples: Tensor = samples) -> Tensor:
                return game.walk_values(walks, samples)

            process, n_rows = process_peak(call, game.device), n_walks * (game.n_players + 1)
            whole = n_rows * output_bytes(model, [c.name for c in game.group.consumers], data[0])
            chunk = f"{game.chunk_walks} walks" if game.path == "walk" else f"{game.chunk_rows} rows"
            peaks = [tensor_peak(call), process, whole]
            yield [f"{budget / MIB:g}", game.path, chunk, *("-" if b is None else f"{b / MIB:.1f}" for b in peaks)]


def trace_samples(model: nn.Module, group: str, data: tuple[Tensor, Tensor], budget: int) -> Iterator[list[str]]:
    """Rows of the second table: where the prefix's results are kept, for 1, 2 and 4 times as many samples."""
    most = data[0].shape[0]
    for prefix in ("memory", "bfloat16", "disk", "recompute"):
        peaks = []
        for count in (most // 4, most // 2, most):

            def call(count: int = count, prefix: str = prefix) -> None:
                part = data[0][:count], data[1][:count]
                game = sc.ChannelGame(model, group, part, memory_budget=budget, prefix=prefix)
                game.walk_values(*sc.WalkSampler(game.n_players, count).walks(0, 8, game.device))

            peaks.append(tensor_peak(call))
        yield [prefix, *(f"{peak / MIB:.1f}" for peak in peaks)]


def print_table(titles: list[str], rows: Iterator[list[str]]) -> None:
    """Print as a table of Markdown."""
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    for row in rows:
        print("| " + " | ".join(row + [""] * (len(titles) - len(row))) + " |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg_bn", help="one of the networks that come with weights")
    parser.add_argument("--group", default="conv1")
    parser.add_argument("--walks", type=int, default=32)
    parser.add_argument("--budgets", type=float, nargs="+", default=[2.0, 8.0, 32.0], help="in MiB")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = sc.pretrained(options.network).to(options.device)
    images, labels = sc.fashion_mnist_subset("rank").to(options.device)
    budgets = [int(budget * MIB) for budget in options.budgets]
    print(f"{options.walks} walks of {options.network}'s {options.group} on {options.device}; sizes in MiB\n")
    titles = ["budget", "path", "chunk", "tensors", "process", "outputs of all rows"]
    print_table(titles, trace_budgets(model, options.group, (images, labels), budgets, options.walks))
    print(f"\nGame and 8 walks, budget {budgets[0] / MIB:g}: tensors, by number of samples\n")
    n = len(labels)
    rows = trace_samples(model, options.group, (images, labels), budgets[0])
    print_table(["prefix", *(f"{count} samples" for count in (n // 4, n // 2, n))], rows)


if __name__ == "__main__":
    main()
