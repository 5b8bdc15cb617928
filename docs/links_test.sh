#!/bin/bash
# Every relative link of the documents leads to a file that the test was given.
set -uo pipefail

checked=0
failures=0
for document in README.md CHANGELOG.md CONTRIBUTING.md docs/*.md tools/compliance/README.md; do
  while read -r link; do
    [[ $link =~ ^[a-z]+: ]] && continue
    path="${link%%#*}"
    [[ -z $path ]] && continue
    ((++checked))
    if [[ ! -e $(dirname "$document")/$path ]]; then
      echo "$document: no file at $link"
      ((++failures))
    fi
  done < <(grep -o ']([^)]*)' "$document" | sed 's/^](//; s/)$//')
done
((checked > 0)) || { echo "no link was found"; exit 1; }
echo "$checked links checked, $failures broken"
exit $((failures > 0))
