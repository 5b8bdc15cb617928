#!/bin/bash
# The commands of the documents. Of all of them, those within a sentence too, the program and its flags exist; those
# about books run one after the other as they stand, on a made-up text and with a few steps of training by preset tiny
# on the CPU.
set -uo pipefail

readonly root="$PWD"
readonly work="${TEST_TMPDIR:-$(mktemp -d)}/commands test"  # a space, as folders have
source testing/shell_checks.sh
mkdir -p "$work" && cd "$work" || exit 1

# Documents of paragraphs of this project's own.
python3 - "$root"/README.md "$root"/docs/*.md <<'PYTHON' | xz -0 >books.jsonl.xz
import json, random, sys
paragraphs = [p for name in sys.argv[1:] for p in open(name).read().split("\n\n") if len(p) > 80]
random.seed(1)
for number in range(200):
    print(json.dumps({"text": "Chapter %d.\n" % number + "\n".join(random.sample(paragraphs, 3))}))
PYTHON

# //folder:name, or what a name of //tools stands for, as a path from the root.
program_of() {
  case "$1" in
    //tools:report) echo train/report/report ;;
    //tools:bench_track) echo tools/bench/bench_track ;;
    //tools:submission | //tools:compliance) echo "tools/${1#*:}/${1#*:}" ;;
    *) echo "${1#//}" | tr : / ;;
  esac
}
# Every --flag before the "=" is one that the program tells of.
flags_exist() {
  local program="$1" flag
  "$root/$program" --helpfull >"$work/help" 2>&1
  for flag in $(grep -oE -- '--[a-z_]+' <<<"${*:2}" | sort -u); do
    grep -q -E -- "^ +$flag " "$work/help" || { echo "$program has no flag $flag"; return 1; }
  done
}
# A few steps instead of minutes, whatever time they take; no GPU.
small() {
  sed -E 's/--preset=hm11/--preset=tiny/; s/--set=time_limit_seconds=300/--set=time_limit_seconds=0,max_steps=10,warmup_steps=0/
          s/--val_documents=100/--val_documents=4/' <<<"$1"
}

declare -A seen=()
known=0
ran=0
while read -r document target arguments; do
  program="$(program_of "$target")"
  [[ $program == tools/bundle ]] && continue
  check "$document: $target $arguments" flags_exist "$program" "$arguments"
  known=$((known + 1))
  # Not run: the machine's own documentation, GPUs, placeholders, and what needs runs of several seeds or many trials.
  [[ $arguments =~ --gpus|\[|NAME|--try ]] && continue
  [[ $program == train/hm11 && $arguments != *--data* ]] && continue
  [[ -n ${seen[$program $arguments]:-} ]] && continue  # in another document too
  seen[$program $arguments]=1
  [[ $arguments == *runs/other* ]] && { rm -rf runs/other; cp -r runs/books runs/other; }
  arguments="$(small "$arguments")"
  [[ $program == train/hm11 || $program == eval/* ]] && arguments+=" --device=cpu"
  check "$document: $program $arguments" code_is 0 bash -c "\"$root/$program\" $arguments"
  ran=$((ran + 1))
done < <(
  cd "$root" && for document in README.md docs/data.md docs/report.md docs/scoring.md docs/training.md \
    docs/scaling.md tools/compliance/README.md; do
    sed -e ':join' -e '/\\$/{N; s/\\\n */ /; b join' -e '}' "$document" |
      sed -n -E "s/^    tools\/bazel run (\/\/[a-z0-9_\/:]+)( -- )?/\1 /p" | sed -E "s/ +# .*//; s,^,$document ,"
  done
)
check "finds commands" test "$known" -ge 12
check "runs commands" test "$ran" -ge 5

known=0
while IFS=: read -r document command; do
  read -r target arguments <<<"$(sed -E 's,^`tools/bazel run ,,; s, -- , ,; s,`$,,' <<<"$command")"
  program="$(program_of "$target")"
  [[ $arguments == *--* ]] || continue
  [[ $program == tools/bundle ]] && continue
  check "$document: $target $arguments" flags_exist "$program" "$arguments"
  known=$((known + 1))
done < <(cd "$root" && grep -oE '`tools/bazel run [^`]+`' docs/*.md tools/compliance/README.md)
check "finds commands within sentences" test "$known" -ge 4
end_of_checks
