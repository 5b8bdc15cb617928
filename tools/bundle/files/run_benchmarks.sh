#!/bin/bash
# Runs the benchmarks of this bundle:  ./run_benchmarks.sh [PART_OF_A_NAME...] [--benchmark_filter=... and the like]
#
# The results are results/<benchmark>.json, which `bench_track record --json=FILE` takes; they name commit, CPU and GPU.
# REPETITIONS (3) says how often each is run; OUT where the results go.
set -uo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

patterns=()
flags=()
for argument in "$@"; do
  if [[ $argument == -* ]]; then flags+=("$argument"); else patterns+=("$argument"); fi
done
selected() {
  local pattern
  ((${#patterns[@]})) || return 0
  for pattern in "${patterns[@]}"; do
    [[ $1 == *"$pattern"* ]] && return 0
  done
  return 1
}

# Commas and equals signs separate what Google Benchmark is told.
plain() { tr ',=' '  '; }
cpu="$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1 | plain)"
gpu="$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | plain)"
context="commit=$commit,cpu=$cpu,cores=$(nproc) cores${gpu:+,gpu=$gpu}"

out="$(realpath -m "${OUT:-$bundle/results}")"
mkdir -p "$out" || exit 1
cd "$bundle" || exit 1
failed=0
while read -r name; do
  selected "$name" || continue
  echo "== $name"
  "./$name" --benchmark_out="$out/${name//\//.}.json" --benchmark_out_format=json \
    --benchmark_repetitions="${REPETITIONS:-3}" --benchmark_display_aggregates_only=true \
    --benchmark_context="$context" ${flags[@]+"${flags[@]}"} </dev/null || {
    echo "error: $name exited with $?" >&2
    failed=1
  }
done <benchmarks.txt
exit "$failed"
