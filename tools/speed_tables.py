"""Put what `make bench` measured into README.md: the ops' and the layers' speed-ups on each machine with results.

    python -m benchmarks --save --compile
    python tools/speed_tables.py

The text around the tables is written by hand, so read it again when figures change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marks import filled

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
MACHINES = {"AMD EPYC": "amd-epyc-2-cores.json", "Intel Xeon": "intel-r-xeon-r-processor-2-cores.json"}
LAYERS_OF = "Intel Xeon"  # the others' results are of an earlier suffix path

# Case, what identifies its rows, and the baselines to show: what their names begin with, and what the table calls them.
_CUMSUM = ("gather, cumsum", "gather, cumulative sum, cross-entropy")
_MASKED_CONVOLUTION = ("folded conv2d", "convolution of masked rows")
_GROUPED = ("grouped conv2d", "grouped convolution, cumulative sum")
_CONTRIBUTIONS = ("masks @ contributions", "masks times contributions, chunked")
_HALVES = ("exponentials of two halves", "products of exponentials of two halves")
_COMPILED = ("torch.compile", "torch.compile of the best of these")
CASES = (
    ("`permutation_eval`, 512 walks, 512 channels, 10 classes", "permutation_eval", "R=512 C=512 K=10",
     (("loop over steps", "a loop over the steps"), _CUMSUM, _COMPILED)),
    ("1000 classes, 32 walks", "permutation_eval", "R=32 C=512 K=1000", (_CUMSUM,)),
    ("`permutation_conv2d` 3 \u00d7 3, ReLU, 64 channels at 16 \u00d7 16", "permutation_conv2d", "16x16",
     (_MASKED_CONVOLUTION, _GROUPED, _COMPILED)),
    ("128 channels at 8 \u00d7 8", "permutation_conv2d", "8x8", (_MASKED_CONVOLUTION, _GROUPED, _COMPILED)),
    ("256 channels at 4 \u00d7 4", "permutation_conv2d", "4x4", (_MASKED_CONVOLUTION, _GROUPED, _COMPILED)),
    ("512 channels at 2 \u00d7 2", "permutation_conv2d", "2x2", (_MASKED_CONVOLUTION, _GROUPED, _COMPILED)),
    ("`masked_eval`, 4,096 masks, 512 samples, 512 channels, 10 classes", "masked_eval", "M=4096",
     (_CONTRIBUTIONS, _COMPILED)),
    ("`exhaustive_eval`, 20 channels, 256 samples, 10 classes", "exhaustive_eval", "C=20",
     (_CONTRIBUTIONS, _HALVES, _COMPILED)),
)  # fmt: skip


def speed_up(rows: list[dict[str, Any]], op: str, shape: str, baseline: str) -> str:
    """A row's speed-up, or a dash where it was not measured."""
    for row in rows:
        if row["op"] == op and shape in row["shape"] and row["baseline"].startswith(baseline):
            return f"{row['speed_up'][1]:.2g} \u00d7" if row["speed_up"][1] < 10 else f"{row['speed_up'][1]:.0f} \u00d7"
    return "\u2013"


def ops_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each baseline, a column for each machine."""
    lines = [f"| case | pure PyTorch | {' | '.join(results)} |", "| --- | --- |" + " --- |" * len(results)]
    for case, op, shape, baselines in CASES:
        label = case
        for begin, name in baselines:
            found = [speed_up(rows, op, shape, begin) for rows in results.values()]
            lines.append(f"| {label} | {name} | {' | '.join(found)} |")
            label = ""
    return "\n".join(lines)


def layers_table(rows: list[dict[str, Any]]) -> str:
    """A line for each layer: the walk path against the masked batch, the suffix path against the plain forward."""
    lines = ["| layer | rows/s | against a masked batch | whole rows, against a forward without masks |"]
    lines += ["| --- | --- | --- | --- |"]
    layers = list(dict.fromkeys(row["shape"].split()[0] for row in rows if row["op"] == "walk_values"))
    for layer in layers:
        of_layer = [row for row in rows if row["op"] == "walk_values" and row["shape"].split()[0] == layer]
        folded = _by_default(of_layer, "walk", "folded batch")
        forward = _by_default(of_layer, "suffix", "plain forward")
        cells = (
            layer,
            f"{folded['rows_per_s']:,.0f}",
            f"{folded['speed_up'][1]:.1f} \u00d7",
            f"{forward['speed_up'][1]:.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_default(rows: list[dict[str, Any]], path: str, baseline: str) -> dict[str, Any]:
    """A path's row in the memory format that a game takes by itself on the CPU: channels last where images follow."""
    of_path = [row for row in rows if f"{path} path" in row["shape"] and row["baseline"].startswith(baseline)]
    return next((row for row in of_path if row["shape"].endswith("channels_last")), of_path[0])


def main() -> None:
    """Take over the results."""
    results = {
        machine: json.loads((RESULTS / file).read_text(encoding="utf-8"))["rows"] for machine, file in MACHINES.items()
    }
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (("ops", ops_table(results)), ("layers", layers_table(results[LAYERS_OF]))):
        page = filled(page, f"speed of {name}", f"end of speed of {name}", f"{table}\n")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
