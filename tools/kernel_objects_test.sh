#!/bin/bash
# No host code calls a function that is only for the GPU: kernel_objects_test.sh OBJECT...
#
# nvcc overlooks such calls where templates are in between, and compiles them to exit(1). It makes the like of every
# function for the GPU in an unnamed namespace too, called or not; `inline` or a template leaves it out.
set -uo pipefail
(($#)) || { echo "error: no objects of kernels"; exit 1; }
code=0
for object in "$@"; do
  # -c, not -q, which would end before nm does: pipefail takes that for no match.
  [[ $(nm --undefined-only "$object" | grep -cE ' (exit|_exit|quick_exit)$') != 0 ]] || continue
  echo "$object: exit is called by"
  objdump -dr --no-show-raw-insn "$object" | awk '/^[0-9a-f]+ <.*>:$/ { of = $2 } /[ \t](exit|_exit|quick_exit)-0x/ { print "  " of }' | c++filt
  code=1
done
exit "$code"
