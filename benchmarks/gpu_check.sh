#!/usr/bin/env bash
# Everything that needs a GPU, in under 8 minutes and without a network: benchmarks/gpu_check.sh OUT_DIR
#
# Builds for this machine's GPU, runs all tests, the ops under compute-sanitizer, on side streams and in CUDA graphs, and
# the benchmarks. OUT_DIR gets summary.txt, log.txt, tests.xml, kernels.json and layers.json. Each stage passes, fails or
# is skipped by name with the reason; the exit code is 1 if any failed. Without a GPU it does what it can.
#
# Needs what `pip install --no-build-isolation .[test]` needs, in the Python that PYTHON names (python3) or on PYTHONPATH.
# Nothing is installed there: the build goes to build/gpu_check.
set -uo pipefail
export LC_ALL=C PYTHONUNBUFFERED=1
out=${1:?usage: benchmarks/gpu_check.sh OUT_DIR}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
log=$out/log.txt summary=$out/summary.txt
: > "$log"
: > "$summary"
failures=0

report() { # STATUS NAME DETAIL
  printf '%-4s %-16s %s\n' "$@" | tee -a "$summary"
}

skip() { # NAME REASON
  report SKIP "$1" "$2"
}

# Runs a command with a limit of its own, and of what is left of the whole check's time. Output goes to the log; the end of
# it is shown if the stage fails. With `expect` set, the output must have that text too.
stage() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 left=$((deadline - SECONDS)) begin=$SECONDS code=0
  shift 2
  limit=$((limit * patience < left ? limit * patience : left))
  if [ "$limit" -lt 5 ]; then
    report FAIL "$name" "no time left"
    failures=$((failures + 1))
    return 1
  fi
  printf '\n== %s: %s\n' "$name" "$*" >> "$log"
  local from
  from=$(($(wc -l < "$log") + 1))
  timeout -k 5 "$limit" "$@" >> "$log" 2>&1 || code=$?
  local why="exit code $code"
  [ "$code" -eq 124 ] || [ "$code" -eq 137 ] && why="stopped after $limit s"
  if [ "$code" -eq 0 ] && [ -n "${expect:-}" ] && ! tail -n +"$from" "$log" | grep -q -e "$expect"; then
    code=1 why="its output lacks '$expect'"
  fi
  if [ "$code" -eq 0 ]; then
    report PASS "$name" "$((SECONDS - begin)) s"
    return 0
  fi
  failures=$((failures + 1))
  tail -n +"$from" "$log" | tail -n 25 | cut -c 1-250 | sed 's/^/    /'
  report FAIL "$name" "$why"
  return 1
}

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

arch=$("$python" -c 'import torch
if torch.cuda.is_available(): print("{}{}".format(*torch.cuda.get_device_capability()))' 2>> "$log") || arch=""
if [ -n "$arch" ]; then
  deadline=460 patience=1
else # nobody waits for a lent GPU
  deadline=36000 patience=20
fi

environment() {
  uname -srm
  nproc
  "$python" --version
  "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)' || return
  "$python" -m pip --version
  if command -v nvcc; then nvcc --version; fi
  if command -v nvidia-smi; then nvidia-smi; fi
  git rev-parse HEAD 2> /dev/null || echo "no git"
}
environment >> "$log" 2>&1 && report PASS environment "GPU architecture: ${arch:-none}" || {
  report FAIL environment "no torch in $python"
  exit 1
}

# The build has a place of its own, ahead of whatever version is installed.
site=$PWD/build/gpu_check/site
rm -rf "$site"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PATH="$site/bin:$PATH"
if [ -n "$arch" ]; then
  export SHAPLEY_CUDA=1 SHAPLEY_CUDA_ARCHS=$arch
fi
stage build 170 "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$site" . || {
  report FAIL summary "nothing else can run without the build"
  exit 1
}
stage import 60 "$python" -c 'import sys; sys.path.remove(""); import shapley_cuda; print(shapley_cuda.build_info())'

if has pytest; then
  # Not `python -m pytest`, which would put the source tree, where nothing is built, ahead of the build.
  run_pytest='import sys; sys.path.remove(""); import pytest; sys.exit(pytest.main())'
  parallel=()
  if has xdist && [ -n "$arch" ]; then parallel=(-n 4); fi
  stage tests 200 "$python" -c "$run_pytest" python_tests -q -rs -p no:cacheprovider "${parallel[@]}" \
    --junitxml="$out/tests.xml"
else
  skip tests "no pytest"
fi

if [ -z "$arch" ]; then
  for name in streams graphs memcheck racecheck kernels layers; do skip "$name" "no GPU"; done
else
  for name in streams graphs; do stage "$name" 40 "$python" benchmarks/gpu_check.py "$name"; done
  if command -v compute-sanitizer > /dev/null; then
    # Without torch's cache every tensor is an allocation of its own, whose ends the sanitizer knows. What torch asks the
    # driver in vain while it starts is no error of ours; our own calls are checked where they are made. A sanitizer that
    # ran nothing has nothing to report: the last line has to be there.
    for tool in memcheck racecheck; do
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 expect="samples passed" stage "$tool" 75 \
        compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 \
        "$python" benchmarks/gpu_check.py once
    done
  else
    skip memcheck "no compute-sanitizer"
    skip racecheck "no compute-sanitizer"
  fi
  for section in kernels layers; do
    stage "$section" 100 "$python" -m benchmarks --device cuda --only "$section" --seconds 0.5 --out "$out/$section.json"
  done
fi

if [ "$failures" -eq 0 ]; then report PASS summary "$SECONDS s in all"; else report FAIL summary "$failures stages"; fi
[ "$failures" -eq 0 ]
