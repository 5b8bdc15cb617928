# Checks for tests in bash, to be sourced where $work names a folder; what code_is prints is kept in $work/out.
failures=0

# check WHAT CONDITION...: says which expectation does not hold, and goes on.
check() {
  local what="$1"
  shift
  "$@" && return
  echo "FAILED: $what"
  failures=$((failures + 1))
}

# Conditions: a file has, or lacks, a text; a command ends with a code; it printed one line, an error, and that text.
has() { grep -q -F -- "$2" "$1"; }
lacks() { ! has "$@"; }
code_is() {
  local wanted="$1" code
  shift
  "$@" >"$work/out" 2>&1 </dev/null
  code=$?
  ((code == wanted)) || { echo "exit code $code of $*:"; cat "$work/out"; return 1; }
}
one_line_error() { [[ $(wc -l <"$work/out") == 1 ]] && has "$work/out" "error: ${1:-}"; }
refuses() { code_is 1 "${@:2}" && one_line_error "$1"; }

# The last line of a test: says that all held, or fails.
end_of_checks() {
  ((failures == 0)) && echo "all checks passed"
  exit $((failures > 0))
}
