#!/bin/bash
# Runs the tests of this bundle on this machine's GPUs:  ./run_tests.sh [-j JOBS] [OPTION...] [PART_OF_A_NAME...]
#
# A test that finds no GPU fails; HM11_REQUIRE_CUDA= (empty) before the command lets it pass. Each test has
# TEST_SECONDS (600) and writes to logs/. Prints a table and, last, "N passed, N failed"; exits with 1 when one failed.
#
#   --each             a process for every test case, which a name may name too; several GPUs take turns
#   --under=COMMAND    run under it: --under='compute-sanitizer --tool racecheck --error-exitcode 9'
#   --seconds=SECONDS  begin no test after so many, and end those that run then: they fail
#
# A thousand random cases of each property, six processes a GPU, two cores each:
#   RC_PARAMS=max_success=1000 HM11_THREADS=2 ./run_tests.sh -j 24 --each        # on four GPUs
set -uo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

jobs=1
each=
under=()
end=
patterns=()
while (($#)); do
  case "$1" in
    -j) jobs="${2:-}"; shift ;;
    -j*) jobs="${1#-j}" ;;
    --each) each=1 ;;
    --under=*) read -ra under <<<"${1#*=}" ;;
    --seconds=*)
      [[ ${1#*=} =~ ^[1-9][0-9]*$ ]] || fail "$1 is not a number of seconds"
      end=$((SECONDS + ${1#*=}))
      ;;
    -*) fail "unknown argument $1; known: -j JOBS --each --under=COMMAND --seconds=SECONDS" ;;
    *) patterns+=("$1") ;;
  esac
  shift
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail "-j wants a number of jobs"
((${#under[@]} == 0)) || command -v "${under[0]}" >/dev/null || fail "--under: ${under[0]} is not installed"

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

# $1: the program, and behind a space the case where it runs one; $2: how many began before it.
run_test() {
  local name="$1" program="${1%% *}" id="${1//[\/ ]/.}" begin="$EPOCHREALTIME" limit="${TEST_SECONDS:-600}"
  local log="$logs/$id.log" filter=() gpu=() seconds verdict
  [[ $name == *' '* ]] && filter=("--gtest_filter=${name#* }")
  # Tests of several GPUs see all.
  ((each && gpus > 1)) && [[ ! $program =~ nccl|ranks ]] && gpu=("CUDA_VISIBLE_DEVICES=$(($2 % gpus))")
  if [[ -n $end ]]; then limit=$((limit < end - SECONDS ? limit : end - SECONDS)); fi
  TEST_TMPDIR="$(mktemp -d "$results/tmp.XXXXXX")" timeout "$((limit > 0 ? limit : 1))" \
    env "${gpu[@]}" "${under[@]}" "./$program" "${filter[@]}" >"$log" 2>&1 </dev/null
  case $? in
    0) verdict=PASSED ;;
    124) verdict=TIMEOUT ;;
    *) verdict=FAILED ;;
  esac
  seconds="$(((${EPOCHREALTIME//[!0-9]/} - ${begin//[!0-9]/}) / 100000))"
  printf '%-8s %6d.%d s   %-50s %s\n' "$verdict" "$((seconds / 10))" "$((seconds % 10))" "$name" "$(cases "$log")" |
    tee "$results/$id"
}

# A line a test: every program, or with --each every program's cases.
list_tests() {
  local program
  while read -r program; do
    if [[ -z $each ]]; then
      echo "$program"
    else
      "./$program" --gtest_list_tests </dev/null 2>/dev/null |
        awk -v program="$program" '/^Running/ { next } /^[^ ]/ { suite = $1; next } { print program, suite $1 }'
    fi
  done <tests.txt
}

gpus="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')"
count=0
not_begun=0
while read -r name; do
  selected "$name" || continue
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
  if [[ -n $end ]] && ((SECONDS >= end)); then
    ((++not_begun))
    continue
  fi
  run_test "$name" "$count" &
  ((++count))
done < <(list_tests)
wait

passed="$(cat /dev/null "$results"/*.* 2>/dev/null | grep -c '^PASSED')"
failed="$(cat /dev/null "$results"/*.* 2>/dev/null | grep -c -v '^PASSED')"
for result in "$results"/*; do
  if [[ ! -f $result ]] || grep -q '^PASSED' "$result"; then continue; fi
  printf '\n--- %s, the end of its log:\n' "$(basename "$result")"
  tail -n 30 "$logs/$(basename "$result").log"
done
((not_begun == 0)) || echo "$not_begun not begun within --seconds"
echo "commit $commit"
echo "$passed passed, $failed failed"
((failed == 0 && not_begun == 0 && passed > 0))
