#!/usr/bin/env bash
# Builds the ops with AddressSanitizer and UndefinedBehaviorSanitizer and makes generated calls of them (see
# python_tests/test_fuzz_ops.py), once for each instruction set: csrc/tests/sanitize.sh. SHAPLEY_FUZZ_CALLS says how
# many. Needs g++ and a Python with torch, pybind11, CMake, Ninja and the tests' packages. What is installed is left
# alone: the module is built in build/sanitize, beside links to the package's other files.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$PWD/build/sanitize
package=$build/package/shapley_cuda
python=$(command -v python)
rm -rf "$package"
mkdir -p "$package"
for source in shapley_cuda/*; do
  case $source in *.so | *__pycache__) ;; *) ln -s "$PWD/$source" "$package" ;; esac
done

flags="-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
cmake -G Ninja -S . -B "$build/cmake" -DCMAKE_BUILD_TYPE=Sanitize -DCMAKE_CXX_COMPILER=g++ -DCMAKE_CXX_FLAGS="$flags" \
  -DSHAPLEY_CUDA=OFF -DPython_EXECUTABLE="$python" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$package" \
  > "$build/configure.log" 2>&1 || { cat "$build/configure.log"; exit 1; }
cmake --build "$build/cmake" -- --quiet

# The sanitizers' libraries have to come before all others. A result larger than memory is an error, not the end.
sanitized() {
  env LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" PYTHONPATH="$build/package" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 "$@"
}

# An array of 16 numbers that says it has 64: the sanitizer has to be there, and to see into the kernels.
sanitized "$python" - > "$build/planted.log" 2>&1 << END || true
import sys
sys.path.remove("")
import numpy, torch
from shapley_cuda import ops
short = torch.from_numpy(numpy.lib.stride_tricks.as_strided(numpy.zeros(16, numpy.float32), (1, 64)))
ops.loss_difference(short, torch.tensor([0]))
END
if ! grep -q "ERROR: AddressSanitizer: heap-buffer-overflow" "$build/planted.log" ||
  ! grep -q "#0 .*/csrc/kernels/" "$build/planted.log"; then
  cat "$build/planted.log"
  echo "sanitize: a planted overrun was not found" >&2
  exit 1
fi
echo "sanitize: the planted overrun was found"

export SHAPLEY_FUZZ_CALLS=${SHAPLEY_FUZZ_CALLS:-5000}
for isa in baseline avx2 avx512; do
  echo "== $isa"
  SHAPLEY_ISA=$isa sanitized timeout 600 "$python" -c '
import sys
sys.path.remove("")
import pytest
from shapley_cuda import _C
assert _C.__file__.startswith(sys.argv[1]), f"{_C.__file__} is not the sanitized module"
# What the sanitizers say before they end the process would be lost if pytest held it back.
sys.exit(pytest.main(["-q", "--capture=sys", "-p", "no:cacheprovider", "python_tests/test_fuzz_ops.py"]))
' "$build"
done
