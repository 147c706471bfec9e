#!/bin/sh
# Compiles every CUDA kernel as the package does, with warnings as errors, and prints what ptxas says about each:
# csrc/compile_report.sh [ARCH ...] (80 90 without an argument). Exits non-zero on an error, a warning or a spill.
# NVCC names the compiler, JOBS how many run at a time (2). Needs no GPU.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
nvcc=${NVCC:-nvcc}
archs=${*:-80 90}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
command -v "$nvcc" > /dev/null || { echo "$0: no $nvcc on the PATH" >&2; exit 2; }

status=0
for source in "$here"/kernels/*.cu; do
  for arch in $archs; do
    printf '%s %s %s\n' "$source" "$arch" "$out/$(basename "$source" .cu).$arch"
  done
done > "$out/jobs"
# ptxas -v writes to stderr; a file called *.failed stands for an exit status that xargs would mix up.
xargs -P "${JOBS:-2}" -n 3 sh -c '"$0" -std=c++17 -O3 --fmad=false -I "'"$here"'" -arch "sm_$2" -Werror all-warnings \
  -Xcompiler=-Wall,-Wextra -Xptxas=-v -c "$1" -o "$3.o" > "$3.log" 2>&1 || touch "$3.failed"' "$nvcc" \
  < "$out/jobs" || status=1
for failed in "$out"/*.failed; do
  [ -e "$failed" ] || continue
  cat "${failed%.failed}.log" >&2
  status=1
done
if grep -i warning "$out"/*.log >&2; then status=1; fi

# One line a kernel: name, architecture, registers, stack, spill, shared.
cat "$out"/*.log | awk '
  /Compiling entry function/ { split($0, part, "\047"); name = part[2]; arch = part[4]; stack = spill = 0 }
  /bytes stack frame/ { stack = $1; spill = $5 + $9 }
  / Used [0-9]+ registers/ {
    registers = shared = 0
    for (i = 1; i < NF; ++i) {
      if ($(i + 1) ~ /^registers/) registers = $i
      if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
    }
    print name "|" arch "|" registers "|" stack "|" spill "|" shared
  }' | c++filt | sed -e 's/(anonymous namespace):://g; s/^void //; s/shapley:://g; s/([^()]*)|/|/' | sort > "$out/table"
printf '%-62s %-6s %9s %6s %6s %7s\n' kernel arch registers stack spill shared
awk -F'|' '{ printf "%-62s %-6s %9d %6d %6d %7d\n", $1, $2, $3, $4, $5, $6; spilled += $5 > 0 }
  END { printf "%d kernels compiled, %d with spills\n", NR, spilled; exit !(NR > 0 && spilled == 0) }' "$out/table" ||
  status=1
exit $status
