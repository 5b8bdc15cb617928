#!/bin/bash
# Packs the programs of //tools:bundle_contents into one archive that runs on another x86-64 Linux:
#   tools/bazel run //tools:bundle -- --out=hm11_bundle.tar.xz
# There: tar xf hm11_bundle.tar.xz && hm11_bundle/run_tests.sh && hm11_bundle/run_benchmarks.sh
#        hm11_bundle/run train/hm11 --flags
#
# --without=PATTERN leaves out what has such a name (an extended regular expression: '_(test|benchmark)$').
#
# In it: every program at its place in the source tree, stripped; the data files the programs name; the shared
# libraries they need but for the driver, the C library and CUDA's, which the other machine has. Exits with 1 and one
# line when a library is missing here or the archive is larger than --max_mib.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 1
}

out=hm11_bundle.tar.xz
max_mib=64
without=
for argument in "$@"; do
  case "$argument" in
    --out=*) out="${argument#*=}" ;;
    --max_mib=*) max_mib="${argument#*=}" ;;
    --without=*) without="${argument#*=}" ;;
    *) fail "unknown argument $argument; known: --out=FILE.tar.xz --max_mib=N --without=PATTERN" ;;
  esac
done
[[ $max_mib =~ ^[0-9]+$ ]] || fail "--max_mib=$max_mib is not a whole number"
matches=0
[[ "" =~ $without ]] 2>/dev/null || matches=$?
((matches < 2)) || fail "--without=$without is not a regular expression"
for tool in ldd readelf strip tar xz; do
  command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# Bazel lays out the programs and their data beside this program, or names the folder.
if [[ -n ${RUNFILES_DIR:-} ]]; then
  runfiles="$RUNFILES_DIR"
elif [[ $0 == *.runfiles/* ]]; then
  runfiles="${0%%.runfiles/*}.runfiles"
else
  runfiles="$0.runfiles"
fi
contents="$(readlink -f "$runfiles")/hm11"
[[ -d $contents ]] || fail "no runfiles at $runfiles; run this with tools/bazel run //tools:bundle"
cd "${BUILD_WORKING_DIRECTORY:-$PWD}"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
readonly stage="$work/hm11_bundle"
mkdir -p "$stage/lib"

# Of the C library and the dynamic linker only the machine's own will do; CUDA's belong to its driver.
readonly of_the_host='^(ld-linux.*|libc|libm|libpthread|libdl|librt|libresolv|libutil|libanl|libmvec)\.so'
readonly of_cuda='^lib(cuda|cudart|cublas|cublasLt|cudnn.*|cufft.*|curand|cusparse|cusolver.*|nccl|nvrtc.*|nvJitLink|nvidia-.*|cupti)\.so'

is_program() { [[ -x $1 && $(head -c 4 "$1" | od -An -c | tr -d ' ') == '177ELF' ]]; }

add_program() {
  local file="$1" name="$2" library path
  strip --strip-unneeded -o "$stage/$name" "$file"
  readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -E "$of_cuda" >>"$work/cuda_libraries" || true
  readelf -V "$file" | grep -o 'GLIBC_[0-9.]*' >>"$work/glibc_versions" || true
  while read -r library path; do
    [[ $library =~ $of_the_host || $library =~ $of_cuda ]] && continue
    [[ -n $path ]] || fail "$name needs $library, which is not on this machine"
    [[ -e $stage/lib/$library ]] || strip --strip-unneeded -o "$stage/lib/$library" "$path"
  done < <(ldd "$file" | sed -n 's/^\s*\(\S*\) => not found.*/\1/p; s/^\s*\(\S*\) => \(\/\S*\) .*/\1 \2/p')
  case "$name" in
    *_test) echo "$name" >>"$stage/tests.txt" ;;
    *_benchmark) echo "$name" >>"$stage/benchmarks.txt" ;;
    *) echo "$name" >>"$stage/programs.txt" ;;
  esac
}

touch "$stage/tests.txt" "$stage/benchmarks.txt" "$stage/programs.txt" "$work/cuda_libraries" "$work/glibc_versions"
while read -r name; do
  file="$contents/$name"
  [[ -n $without && $name =~ $without ]] && continue
  case "$name" in
    tools/bundle/bundle | tools/bundle/bundle.sh) continue ;;
    # What programs load at run time where they find it: CPU ranks' Gloo, and with it InfiniBand's libraries, which
    # must be the other machine's own.
    *.so) continue ;;
    tools/bundle/files/*)
      install -m 755 "$file" "$stage/"
      continue
      ;;
  esac
  mkdir -p "$stage/$(dirname "$name")"
  if is_program "$file"; then
    add_program "$file" "$name"
  else
    cp -L "$file" "$stage/$name"
  fi
done < <(cd "$contents" && find -L . -type f | sed 's,^\./,,' | sort)
sort -u "$work/cuda_libraries" >"$stage/cuda_libraries.txt"
sort -Vu "$work/glibc_versions" | tail -n 1 >"$stage/glibc_version.txt"

root="${BUILD_WORKSPACE_DIRECTORY:-$PWD}"
commit="$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"
[[ -z $(git -C "$root" status --porcelain 2>/dev/null) ]] || commit+="+"
echo "$commit" >"$stage/commit.txt"

# The window reaches over the next programs: they hold the same libraries.
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -cf - hm11_bundle |
  xz -T1 --memlimit-compress=4GiB --lzma2=preset=1,dict=512MiB >"$work/archive"
size="$(stat -c %s "$work/archive")"
((size <= max_mib << 20)) || fail "the archive has $size bytes, more than --max_mib=$max_mib"
mkdir -p "$(dirname "$out")"
mv "$work/archive" "$out"
chmod 644 "$out"
echo "wrote $out: $size bytes, commit $commit, $(wc -l <"$stage/tests.txt") tests," \
  "$(wc -l <"$stage/benchmarks.txt") benchmarks, $(wc -l <"$stage/programs.txt") programs," \
  "$(find "$stage/lib" -type f | wc -l) libraries; needs $(cat "$stage/glibc_version.txt")" \
  "and $(paste -sd' ' "$stage/cuda_libraries.txt")"
