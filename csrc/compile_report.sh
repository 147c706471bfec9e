#!/usr/bin/env bash
# Compiles every kernel as the package does, for the CPU and for CUDA, with warnings as errors, and prints what ptxas
# says about each CUDA kernel: csrc/compile_report.sh [ARCH ...] (80 90 without an argument). Fails on an error, a
# warning or a spill. Needs CMake, Ninja and nvcc, but no GPU, no Python and no torch; says so where nvcc is missing.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
if ! command -v "${CUDACXX:-nvcc}" > /dev/null; then
  echo "compile report: skipped, there is no ${CUDACXX:-nvcc}"
  exit 0
fi
build=build/compile_report
rm -rf "$build"
mkdir -p "$build"
archs=${*:-80 90}
cmake -G Ninja -S . -B "$build" -DSHAPLEY_MODULE=OFF -DSHAPLEY_CUDA=ON -DSHAPLEY_STRICT=ON \
  -DSHAPLEY_CUDA_ARCHS="${archs// /;}" > "$build/configure.log" 2>&1 || { cat "$build/configure.log"; exit 1; }
cmake --build "$build" --verbose > "$build/build.log" 2>&1 || { cat "$build/build.log"; exit 1; }

c++filt < "$build/build.log" | awk '
  /Compiling entry function/ {
    split($0, quoted, "\047"); kernel = quoted[2]; arch = quoted[4]
    gsub(/\(anonymous namespace\)::|shapley::|^void /, "", kernel)
    gsub(/\([A-Za-z]+\)/, "", kernel); sub(/\(.*/, "", kernel)  # casts of template arguments, parameters
  }
  /bytes stack frame/ { stack = $1; spill = $5 + $9 }
  /Used [0-9]+ registers/ {
    registers = shared = 0
    for (i = 1; i < NF; ++i) {
      if ($(i + 1) ~ /^registers/) registers = $i
      if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
    }
    printf "%-48s %-6s %9d %6d %6d %7d\n", kernel, arch, registers, stack, spill, shared
  }' | sort > "$build/table"
printf '%-48s %-6s %9s %6s %6s %7s\n' kernel arch registers stack spill shared
cat "$build/table"
awk '{ spilled += $(NF - 1) > 0 }
  END { printf "%d kernels compiled, %d with spills\n", NR, spilled; exit NR == 0 || spilled > 0 }' "$build/table"
