"""Stages of gpu_check.sh: every op on CUDA, on the samples that the tests use (small, odd shapes).

    python benchmarks/gpu_check.py once       each op once; what compute-sanitizer watches
    python benchmarks/gpu_check.py streams    on a side stream, behind other work
    python benchmarks/gpu_check.py graphs     captured in a CUDA graph and replayed on new inputs

Prints a line for each sample; the exit code is 1 if any failed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))

from op_samples import SAMPLES, Arguments, arguments, op_of, results, tensors  # type: ignore[import-not-found]
from tolerances import assert_close  # type: ignore[import-not-found]

import shapley_cuda  # noqa: F401  registers the ops


def on_cuda(name: str, seed: int = 1) -> Arguments:
    """A sample's arguments on the GPU. They are made on the CPU, so that few kernels but ours run."""
    args, kwargs = arguments(name, "cuda", seed)
    if op_of(name) == "sample_permutations":
        kwargs["device"] = "cuda"
    return args, kwargs


def once(name: str) -> None:
    """Run the op once and compare with the CPU."""
    actual = [output.cpu() for output in results(name, on_cuda(name))]
    for ours, expected in zip(actual, results(name, arguments(name)), strict=True):
        assert_close(op_of(name), ours, expected)


def streams(name: str) -> None:
    """Queue the op on a side stream while its inputs are still being written there."""
    expected = results(name, on_cuda(name, seed=2))
    inputs, later = on_cuda(name, seed=1), on_cuda(name, seed=2)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        _overwrite(inputs, later)
        actual = results(name, inputs)
    side.synchronize()
    _assert_same_bits(actual, expected)


def graphs(name: str) -> None:
    """Capture the op, give it new inputs and spoilt outputs, and replay it twice."""
    expected = results(name, on_cuda(name, seed=2))
    inputs = on_cuda(name, seed=1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        results(name, inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = results(name, inputs)
    _overwrite(inputs, on_cuda(name, seed=2))
    for _ in range(2):
        for output in actual:
            output.fill_(float("nan") if output.is_floating_point() else -1)
        graph.replay()
        torch.cuda.synchronize()
        _assert_same_bits(actual, expected)


def _overwrite(inputs: Arguments, others: Arguments) -> None:
    for target, source in zip(tensors(inputs), tensors(others), strict=True):
        target.copy_(source)


def _assert_same_bits(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape, f"shape {list(ours.shape)}, expected {list(theirs.shape)}"
        differing = int((ours.contiguous().view(torch.uint8) != theirs.contiguous().view(torch.uint8)).sum())
        assert differing == 0, f"{differing} bytes differ"


_STAGES: dict[str, Callable[[str], None]] = {"once": once, "streams": streams, "graphs": graphs}


def main() -> int:
    """Run one stage on all samples."""
    if len(sys.argv) != 2 or sys.argv[1] not in _STAGES:
        print(__doc__, file=sys.stderr)
        return 2
    failed = 0
    for name in SAMPLES:
        try:
            _STAGES[sys.argv[1]](name)
            print(f"ok    {name}", flush=True)
        except Exception:  # one op's failure must not hide the others'
            failed += 1
            traceback.print_exc()
            print(f"FAIL  {name}", flush=True)
    print(f"{sys.argv[1]}: {len(SAMPLES) - failed} of {len(SAMPLES)} samples passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
