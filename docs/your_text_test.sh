#!/bin/bash
# The commands of docs/your_text.md as they stand there, on a made-up book, with seconds of training.
set -uo pipefail

root="$PWD"
work="${TEST_TMPDIR:?}/your_text"
mkdir -p "$work" && cd "$work" || exit 1
# Paragraphs of this project's documents, told over and over by different numbers, are book enough.
for ((copy = 1; copy <= 6; ++copy)); do
  awk -v copy="$copy" '{print "Chapter " copy * NR ". " $0 "\n"}' "$root"/README.md "$root"/docs/*.md
done | iconv -f UTF-8 -t ASCII//TRANSLIT > book.txt || exit 1

count=0
while read -r command; do
  program="$(sed -E 's#^tools/bazel run //([a-z]+):([a-z0-9_]+) --.*#\1/\2#' <<<"$command")"
  arguments="$(sed -E 's#^tools/bazel run //[a-z]+:[a-z0-9_]+ -- ?##' <<<"$command")"
  [[ $program == train/hm11 ]] && arguments+=" --device=cpu --set=time_limit_seconds=0,max_steps=10,warmup_steps=0"
  [[ $program == eval/* ]] && arguments+=" --device=cpu"
  echo "== $program $arguments"
  if ! eval "$root/$program $arguments" > "out_$count.txt" 2> "err_$count.txt"; then
    tail -n 5 "out_$count.txt" "err_$count.txt"
    echo "failed: $command"
    exit 1
  fi
  [[ -s out_$count.txt || $program == train/hm11 ]] || { echo "no output: $command"; exit 1; }
  ((++count))
done < <(grep '^    tools/bazel run' "$root/docs/your_text.md" | sed 's/^ *//')
((count >= 5)) || { echo "only $count commands found"; exit 1; }
grep -q '"document": "paragraph"' corpus/manifest.json || { echo "the manifest does not say how documents were cut"; exit 1; }
echo "$count commands ran"
