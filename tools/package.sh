#!/usr/bin/env bash
# Builds the sdist and from it the wheel, each in an environment of its own, looks into both, and installs the wheel in
# a new environment far from the source tree: there the README's quickstart runs, and a typed program passes mypy.
#
# package.sh OUT_DIR; PYTHON has `build`, MYPY is mypy's path. CUDA kernels are built where nvcc is, see setup.py.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
out=$(mkdir -p "${1:?usage: package.sh OUT_DIR}" && cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_CONSTRAINT=$root/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

rm -f "$out"/shapley_cuda-*
"${PYTHON:-python}" -m build --outdir "$out" .
"${PYTHON:-python}" tools/check_package.py "$out"/shapley_cuda-*.tar.gz "$out"/shapley_cuda-*.whl

"${PYTHON:-python}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "$out"/shapley_cuda-*.whl
"$work/venv/bin/pip" check
mkdir "$work/empty"
cd "$work/empty"
"$work/venv/bin/python" "$root/tools/quickstart.py"
"$work/venv/bin/shapley-cuda" info
cp "$root/tools/typed_program.py" .
"${MYPY:-mypy}" --strict --no-incremental --config-file= --python-executable "$work/venv/bin/python" typed_program.py
"$work/venv/bin/python" typed_program.py
