"""Run the measurements: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from . import convolutions, estimators, heads, kernels, layers
from .cases import Cases, Setting
from .harness import Row, measure
from .machine import ceilings, describe
from .report import Record, default_path, print_header, print_rows, progress, write_json

_SECTIONS: dict[str, dict[str, Cases]] = {
    "kernels": {**kernels.CASES, **heads.CASES, **convolutions.CASES},
    "layers": layers.CASES,
}
_TF32_TOLERANCE = 1e-2  # products of 10-bit mantissas, summed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 0 if all contenders ran and agreed."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True  # the fastest convolution for a shape, for both sides
    setting = Setting(torch.device(options.device), options.quick, options.compile)
    header = describe(setting.device)
    record = Record(header, ceilings(setting.device, options.quick))
    path = options.out or (default_path(header) if options.save else None)
    print_header(record)
    for section, makers in _SECTIONS.items():
        first = len(record.rows)
        for name in makers:
            if _chosen(options.only, section, name):
                for row in _rows(name, makers[name], setting, record, options):
                    record.rows.append(row)
                    write_json(path, record)  # what is measured survives an interruption
        print_rows(section, record.rows[first:])
    for name in estimators.LAYERS:
        if _chosen(options.only, "estimators", name):
            record.estimators += estimators.compare(setting, name)
            write_json(path, record)
    estimators.print_errors(record.estimators)
    disagreed = [f"{row.op} {row.shape} and {row.baseline} disagree" for row in record.rows if not row.agreed]
    for problem in record.failures + disagreed:
        progress(problem)
    return 1 if record.failures or disagreed else 0


def _rows(name: str, make: Cases, setting: Setting, record: Record, options: argparse.Namespace) -> Iterator[Row]:
    """Measure an op's cases. One that cannot run is noted and does not take the others with it."""
    try:
        for case in make(setting):
            progress(f"{name}: {case.shape}")
            if options.tf32 and case.tolerance:
                case = replace(case, tolerance=max(case.tolerance, _TF32_TOLERANCE))
            yield from measure(case, setting.device, record.ceilings, 0.05 if options.quick else options.seconds)
    except Exception as error:  # out of memory, a compiler that is missing
        traceback.print_exc()
        record.failures.append(f"{name} stopped: {type(error).__name__}: {error}")


def _chosen(only: Sequence[str], section: str, name: str) -> bool:
    return not only or any(word in (section, name) for word in only)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [name for makers in _SECTIONS.values() for name in makers] + list(estimators.LAYERS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure shapley_cuda against pure PyTorch; see benchmarks/README.md."
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for both sides (default 2)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=[*_SECTIONS, "estimators", *names],
        help=f"sections ({', '.join(_SECTIONS)}, estimators) or names: {', '.join(names)}",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs and agrees")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for the rounds of one case (default 2)")
    parser.add_argument("--compile", action="store_true", help="also the best baseline under torch.compile")
    parser.add_argument("--tf32", action="store_true", help="CUDA: let matrix products and convolutions use TF32")
    parser.add_argument("--out", type=Path, help="write JSON to this file")
    parser.add_argument("--save", action="store_true", help="write JSON to benchmarks/results/<device>.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
