#!/bin/bash
# Runs the tests of this bundle on this machine's GPU:  ./run_tests.sh [-j JOBS] [PART_OF_A_NAME...]
#
# A test that finds no GPU fails; HM11_REQUIRE_CUDA= (empty) before the command lets it pass. Each test has
# TEST_SECONDS (600) and writes to logs/. Prints a table and, last, "N passed, N failed"; exits with 1 when one failed.
set -uo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

jobs=1
patterns=()
while (($#)); do
  case "$1" in
    -j) jobs="${2:-}"; shift ;;
    -j*) jobs="${1#-j}" ;;
    -*) fail "unknown argument $1; known: -j JOBS" ;;
    *) patterns+=("$1") ;;
  esac
  shift
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail "-j wants a number of jobs"

export HM11_REQUIRE_CUDA="${HM11_REQUIRE_CUDA-1}"
export RC_PARAMS="${RC_PARAMS:-max_success=50}"
logs="$bundle/logs"
mkdir -p "$logs" || exit 1
results="$(mktemp -d)"
trap 'rm -rf "$results"' EXIT
cd "$bundle" || exit 1  # tests name their data files from here

selected() {
  local pattern
  ((${#patterns[@]})) || return 0
  for pattern in "${patterns[@]}"; do
    [[ $1 == *"$pattern"* ]] && return 0
  done
  return 1
}

# What GoogleTest says of its cases: "12 cases, 3 skipped".
cases() {
  sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1 cases/p; s/^\[  SKIPPED \] \([0-9]*\) test.*/, \1 skipped/p;
    s/^\[  FAILED  \] \([0-9]*\) test.*/, \1 failed/p' "$1" | tr -d '\n'
}

run_test() {
  local name="$1" log="$logs/${1//\//.}.log" begin="$EPOCHREALTIME" seconds verdict
  TEST_TMPDIR="$(mktemp -d "$results/tmp.XXXXXX")" timeout "${TEST_SECONDS:-600}" "./$name" >"$log" 2>&1 </dev/null
  case $? in
    0) verdict=PASSED ;;
    124) verdict=TIMEOUT ;;
    *) verdict=FAILED ;;
  esac
  seconds="$(((${EPOCHREALTIME//[!0-9]/} - ${begin//[!0-9]/}) / 100000))"
  printf '%-8s %6d.%d s   %-50s %s\n' "$verdict" "$((seconds / 10))" "$((seconds % 10))" "$name" "$(cases "$log")" |
    tee "$results/${name//\//.}"
}

while read -r name; do
  selected "$name" || continue
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
  run_test "$name" &
done <tests.txt
wait

passed="$(cat /dev/null "$results"/*.* 2>/dev/null | grep -c '^PASSED')"
failed="$(cat /dev/null "$results"/*.* 2>/dev/null | grep -c -v '^PASSED')"
for result in "$results"/*; do
  if [[ ! -f $result ]] || grep -q '^PASSED' "$result"; then continue; fi
  printf '\n--- %s, the end of its log:\n' "$(basename "$result")"
  tail -n 30 "$logs/$(basename "$result").log"
done
echo "commit $commit"
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
