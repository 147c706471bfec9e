"""Show that one build serves every torch: run the ops' samples under this Python and compare with another's results.

    python other_torch.py write FILE      results under this torch
    python other_torch.py compare FILE    the same bits under this torch, from the same native module

Needs torch and the built source tree, and nothing else. other_torch.sh calls both.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch

# The package without its __init__, which imports what the other Python need not have.
package = types.ModuleType("shapley_cuda")
package.__path__ = [str(Path(__file__).resolve().parent.parent / "shapley_cuda")]
sys.modules["shapley_cuda"] = package

from op_samples import SAMPLES, arguments, op_of, results  # noqa: E402

from shapley_cuda import ops  # noqa: E402
from shapley_cuda.build import build_info  # noqa: E402


def main(action: str, path: str) -> None:
    """Write or compare the results of all samples."""
    print(build_info())
    assert {op_of(name) for name in SAMPLES} == set(ops.__all__)
    ours = {name: results(name, arguments(name)) for name in SAMPLES}
    if action == "write":
        torch.save({"torch": str(torch.__version__), "results": ours}, path)
        return
    theirs = torch.load(path)
    for name in SAMPLES:
        for actual, expected in zip(ours[name], theirs["results"][name], strict=True):
            assert torch.equal(actual, expected), f"{name} differs between torch {theirs['torch']} and this one"
    print(f"{len(SAMPLES)} samples: the same bits under torch {theirs['torch']} and {torch.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
