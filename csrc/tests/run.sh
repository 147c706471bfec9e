#!/bin/sh
# Builds and runs the kernel tests: csrc/tests/run.sh [plain|asan|tsan|all] (all without an argument).
# BUILD_DIR says where to build (build/kernel_tests).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build_root=${BUILD_DIR:-$here/../../build/kernel_tests}
case "${1:-all}" in
  plain|asan|tsan) variants=$1 ;;
  all) variants="plain asan tsan" ;;
  *) echo "usage: $0 [plain|asan|tsan|all]" >&2; exit 2 ;;
esac

summary=""
status=0
for variant in $variants; do
  build=$build_root/$variant
  mkdir -p "$build"
  cmake -S "$here" -B "$build" -G Ninja -DSHAPLEY_SANITIZE="$variant" > "$build/configure.log" 2>&1 || {
    cat "$build/configure.log"; exit 1; }
  ninja -C "$build" --quiet
  for program in emulator_tests kernel_tests; do
    echo "== $variant: $program"
    log=$build/$program.log
    code=0
    "$build/$program" > "$log" 2>&1 || code=$?
    grep -v "^emulator: .* refused: " "$log" || true
    last=$(tail -n 1 "$log")
    if [ "$code" -ne 0 ]; then status=1; last="FAILED (exit $code): $last"; fi
    summary="$summary$(printf '%-6s %-15s %s' "$variant" "$program" "$last")
"
  done
done
printf '\n%s' "$summary"
exit $status
