#!/bin/bash
# Tests of train_gpt.py with a packed program whose tools/bazel "builds" scripts that print what they are given.
set -euo pipefail

launcher="$PWD/program/train_gpt.py"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME="$work/cache" BUILD_WORKING_DIRECTORY=/
unset DATA_PATH TOKENIZER_PATH SEED

# The folder a submission is, and a caller elsewhere.
mkdir -p "$work/program/tools" "$work/submission" "$work/caller"
cat >"$work/program/tools/bazel" <<'BAZEL'
#!/bin/bash
echo "bazel $*" >&2
[[ -z ${BUILD_FAILS:-} ]] || exit 7
mkdir -p bazel-bin/train bazel-bin/eval
for program in train/hm11 eval/evaluate; do
  printf '#!/bin/bash\necho "%s" "$@"\npwd\necho "${BUILD_WORKING_DIRECTORY:-unset}"\nexit 5\n' "$program" >"bazel-bin/$program"
  chmod +x "bazel-bin/$program"
done
BAZEL
chmod +x "$work/program/tools/bazel"
tar cJf "$work/submission/program.tar.xz" -C "$work/program" tools
sed 's/^TRAINING = \[\]/TRAINING = ["--preset=tiny", "--set=a=1"]/' "$launcher" >"$work/submission/train_gpt.py"
cd "$work/caller"

failures=0
# expect CODE LINES ARGUMENTS...: the exit code and all that is printed.
expect() {
  local code=0 wanted_code="$1" wanted="$2" printed
  shift 2
  printed="$(python3 "$work/submission/train_gpt.py" "$@" 2>&1)" || code=$?
  if [[ $code != "$wanted_code" || $printed != "$wanted" ]]; then
    printf 'train_gpt.py %s: exit %s\n%s\nexpected exit %s\n%s\n' "$*" "$code" "$printed" "$wanted_code" "$wanted"
    failures=$((failures + 1))
  fi
}
training() { printf 'bazel --max_idle_secs=60 build //train:hm11\ntrain/hm11 %s\n%s\nunset' "$1" "$work/caller"; }
scoring() { printf 'bazel --max_idle_secs=60 build //eval:evaluate\neval/evaluate %s\n%s\nunset' "$1" "$work/caller"; }

# The run's own flags come first, so that the caller's win; the exit code is the program's.
expect 5 "$(training '--preset=tiny --set=a=1')"
expect 5 "$(training '--preset=tiny --set=a=1 --seed=3 --set=b=2')" --seed=3 --set=b=2
expect 5 "$(scoring "--data=v --artifact=$work/submission/artifact.hm11")" --score --data=v
expect 5 "$(scoring '--artifact=x --data=v')" --artifact=x --score --data=v
export DATA_PATH=/d TOKENIZER_PATH=/t SEED=9
expect 5 "$(training '--preset=tiny --set=a=1 --seed=9 --data=/d --tokenizer=/t')"
expect 5 "$(training '--preset=tiny --set=a=1 --data=/e --seed=3 --tokenizer=/t')" --data=/e --seed=3
expect 5 "$(scoring "--artifact=$work/submission/artifact.hm11 --data=/d/*_val_*.bin --tokenizer=/t")" --score
unset DATA_PATH TOKENIZER_PATH SEED

BUILD_FAILS=1 expect 7 'bazel --max_idle_secs=60 build //train:hm11'
head -c 100 "$work/submission/program.tar.xz" >"$work/cut"
mv "$work/cut" "$work/submission/program.tar.xz"
expect 1 "error: $work/submission/program.tar.xz is damaged: Compressed file ended before the end-of-stream marker was reached"
echo "no archive" >"$work/submission/program.tar.xz"
expect 1 "error: $work/submission/program.tar.xz is damaged: not an lzma file"
rm "$work/submission/program.tar.xz"
expect 1 "error: [Errno 2] No such file or directory: '$work/submission/program.tar.xz'"

exit $((failures > 0))
