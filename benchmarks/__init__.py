"""Measurements of shapley_cuda against pure PyTorch: `python -m benchmarks` in the root of the source tree."""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)

# `python -m` searches the source tree first, where the package may have no native module: let the installed one win.
if any(entry in ("", _ROOT) for entry in sys.path):
    sys.path[:] = [entry for entry in sys.path if entry not in ("", _ROOT)] + [_ROOT]
