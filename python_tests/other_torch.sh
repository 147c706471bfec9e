#!/usr/bin/env bash
# Shows that the module built in the source tree, made against one torch, runs on another, 2.11 or later:
# other_torch.sh OTHER_PYTHON. The other Python needs the same Python version and torch, nothing else; PYTHON names the
# one it was built with (python). Build first: pip install --no-build-isolation -e .
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=$(mktemp)
trap 'rm -f "$results"' EXIT
"${PYTHON:-python}" "$here/other_torch.py" write "$results"
"${1:?usage: other_torch.sh OTHER_PYTHON}" "$here/other_torch.py" compare "$results"
