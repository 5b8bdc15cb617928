#!/bin/bash
# Tests of the bundle: packs programs of this machine, unpacks them in another place, runs them there, and takes away
# what they need.
set -uo pipefail

readonly source="$PWD/tools/bundle"
readonly work="${TEST_TMPDIR:-$(mktemp -d)}/bundle test"  # a space, as folders have

source testing/shell_checks.sh

# A tree as Bazel lays it out for the program: three tests, a benchmark, a program with a shared library, data.
readonly contents="$work/runfiles/hm11"
mkdir -p "$contents/ops" "$contents/train" "$contents/testing/golden" "$contents/tools/bundle"
cp -rL "$source/files" "$source/bundle.sh" "$contents/tools/bundle/"
cp -L "$(type -P true)" "$contents/ops/good_test"
cp -L "$(type -P false)" "$contents/ops/bad_test"
cp -L "$(type -P env)" "$contents/ops/env_test"
cp -L "$(type -P echo)" "$contents/ops/echo_benchmark"
cp -L "$(type -P xz)" "$contents/train/xz"
cp -L "$(type -P true)" "$contents/ops/engine.so"
echo "golden values" >"$contents/testing/golden/values.txt"
export RUNFILES_DIR="$work/runfiles"
unset BUILD_WORKING_DIRECTORY BUILD_WORKSPACE_DIRECTORY HM11_GOLDEN_DIR HM11_REQUIRE_CUDA LD_LIBRARY_PATH
export HOME="$work/home"

check "packs" code_is 0 "$source/bundle.sh" --out="$work/made/a.tar.xz"
check "says what it packed" has "$work/out" "3 tests, 1 benchmarks, 1 programs"
check "refuses an archive over the limit" code_is 1 "$source/bundle.sh" --out="$work/b.tar.xz" --max_mib=0
check "in one line" one_line_error
check "and leaves none behind" test ! -e "$work/b.tar.xz"
check "refuses unknown arguments" code_is 1 "$source/bundle.sh" --fast
check "in one line" one_line_error
check "leaves out what it is told" code_is 0 "$source/bundle.sh" --out="$work/c.tar.xz" --without='_benchmark$|bad_test$'
check "and says so" has "$work/out" "2 tests, 0 benchmarks, 1 programs"
check "refuses what is no pattern" code_is 1 "$source/bundle.sh" --out="$work/d.tar.xz" --without='('
check "in one line" one_line_error

mkdir "$work/elsewhere"
tar -C "$work/elsewhere" -xf "$work/made/a.tar.xz"
readonly bundle="$work/elsewhere/hm11_bundle"
check "carries shared libraries" test -e "$bundle"/lib/liblzma.so.*
check "but not the C library" test ! -e "$bundle/lib/libc.so.6"
check "nor what programs load where they find it" test ! -e "$bundle/ops/engine.so"
check "carries data" has "$bundle/testing/golden/values.txt" "golden values"
check "does not carry itself" test ! -e "$bundle/tools/bundle/bundle.sh"

check "a failed test fails the run" code_is 1 "$bundle/run_tests.sh"
check "the last line counts" test "$(tail -n 1 "$work/out")" == "2 passed, 1 failed"
check "the table names the failed" grep -q '^FAILED .* ops/bad_test' "$work/out"
check "tests must find a GPU" has "$bundle/logs/ops.env_test.log" "HM11_REQUIRE_CUDA=1"
check "tests find golden data" has "$bundle/logs/ops.env_test.log" "HM11_GOLDEN_DIR=$bundle/testing/golden"
check "tests find the libraries" has "$bundle/logs/ops.env_test.log" "LD_LIBRARY_PATH=$bundle/lib"
HM11_REQUIRE_CUDA='' check "runs the tests named" code_is 0 "$bundle/run_tests.sh" -j 2 good env_
check "the last line counts" test "$(tail -n 1 "$work/out")" == "2 passed, 0 failed"
check "a GPU can be made optional" lacks "$bundle/logs/ops.env_test.log" "HM11_REQUIRE_CUDA=1"
check "no test is no success" code_is 1 "$bundle/run_tests.sh" nothing

# A program of three cases, two GPUs.
cat >"$bundle/ops/cases_test" <<'EOF'
#!/bin/bash
if [[ $* == --gtest_list_tests ]]; then
  printf 'Running main()\nGood.\n  One\n  Two/0  # GetParam() = 1\nBad.\n  One\n'
  exit
fi
[[ -n ${SLOW:-} && $* == *Two* ]] && sleep 20
echo "$* on GPU ${CUDA_VISIBLE_DEVICES-any} under ${UNDER-nothing}"
[[ $* != *Bad* ]]
EOF
mkdir "$work/bin"
printf '#!/bin/bash\necho "GPU 0: one"\necho "GPU 1: other"\n' >"$work/bin/nvidia-smi"
chmod +x "$bundle/ops/cases_test" "$work/bin/nvidia-smi"
cp "$bundle/tests.txt" "$work/tests.txt"
echo ops/cases_test >>"$bundle/tests.txt"
PATH="$work/bin:$PATH" check "runs every case by itself" code_is 1 "$bundle/run_tests.sh" --each
check "and counts them" test "$(tail -n 1 "$work/out")" == "2 passed, 1 failed"
check "the table names the failed" grep -q '^FAILED .* ops/cases_test Bad.One' "$work/out"
check "GPUs take turns" has "$bundle/logs/ops.cases_test.Good.One.log" "--gtest_filter=Good.One on GPU 0"
check "each its own" has "$bundle/logs/ops.cases_test.Good.Two.0.log" "--gtest_filter=Good.Two/0 on GPU 1"
check "runs the cases named, under a command" code_is 0 "$bundle/run_tests.sh" --each --under='env UNDER=x' Good.O
check "and no others" test "$(tail -n 1 "$work/out")" == "1 passed, 0 failed"
check "that command" has "$bundle/logs/ops.cases_test.Good.One.log" "under x"
check "a command that is not there is an error" code_is 1 "$bundle/run_tests.sh" --under=no_such_tool
check "in one line" one_line_error
SLOW=1 check "stops when its time is over" code_is 1 "$bundle/run_tests.sh" --each --seconds=2
check "ends what runs" grep -q '^TIMEOUT .* ops/cases_test Good.Two/0' "$work/out"
check "and counts what never ran" has "$work/out" "1 not begun within --seconds"
check "refuses a time that is none" code_is 1 "$bundle/run_tests.sh" --seconds=soon
check "in one line" one_line_error
mv "$work/tests.txt" "$bundle/tests.txt"

check "runs benchmarks" code_is 0 "$bundle/run_benchmarks.sh" echo --benchmark_filter=scan
check "with results in a file" has "$work/out" "--benchmark_out=$bundle/results/ops.echo_benchmark.json"
check "with the caller's flags" has "$work/out" "--benchmark_filter=scan"
check "with the commit" has "$work/out" "--benchmark_context=commit=$(cat "$bundle/commit.txt"),cpu="

check "runs a program" code_is 0 "$bundle/run" train/xz --version
check "lists the programs" code_is 0 "$bundle/run"
check "names an unknown program" code_is 1 "$bundle/run" train/none
check "in one line" one_line_error

echo libcublas.so.99 >"$bundle/cuda_libraries.txt"
check "a missing CUDA library is an error" code_is 1 "$bundle/run_tests.sh"
check "in one line" one_line_error
check "that names it" has "$work/out" "libcublas.so.99"
readonly wheel="$HOME/.local/lib/python3.11/site-packages/nvidia/cublas/lib"
mkdir -p "$wheel" && touch "$wheel/libcublas.so.99"
check "Python's packages are searched" code_is 0 "$bundle/run_tests.sh" env_
check "and found" has "$bundle/logs/ops.env_test.log" "LD_LIBRARY_PATH=$bundle/lib:$wheel"
nccl="$HOME/.local/lib/python3.11/site-packages/nvidia/nccl/lib"
mkdir -p "$nccl" && touch "$nccl/libnccl.so.2"
check "NCCL too" code_is 0 "$bundle/run_tests.sh" env_
known="$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p)"  # not a pipe: grep -q ends before its writer does
if ! grep -q -F "libnccl.so.2 " <<<"$known"; then
  check "where the loader does not" grep -q '^HM11_NCCL=/.*/libnccl.so.2$' "$bundle/logs/ops.env_test.log"
fi

echo GLIBC_99.0 >"$bundle/glibc_version.txt"
check "a C library too old is an error" code_is 1 "$bundle/run_benchmarks.sh"
check "in one line" one_line_error

end_of_checks
