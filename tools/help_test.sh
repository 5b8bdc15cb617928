#!/bin/bash
# --help of each program: a success, examples, and every flag of the program in one of its groups.
set -uo pipefail

failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
for program in "$@"; do
  help="$("$program" --help)" || fail "$program --help ends with code $?"
  grep -q '^Examples$' <<<"$help" || fail "$program --help has no examples"
  # Abseil's own list of what the program's file defines.
  flags="$("$program" --helpshort | sed -n 's/^ *--\([a-z_]*\) (.*/\1/p')"
  ((${#flags} > 0)) || fail "$program --helpshort names no flags"
  for flag in $flags; do
    count="$(grep -c -- "^  --$flag " <<<"$help")"
    ((count == 1)) || fail "$program --help names --$flag $count times"
  done
done
(($# > 0)) || fail "no programs"
((failures == 0)) && echo PASSED
exit $((failures > 0))
