# Read by run, run_tests.sh and run_benchmarks.sh: sets $bundle and the library path. Exits with one line when this
# machine lacks what the programs need.

bundle="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"

fail() {
  echo "error: $*" >&2
  exit 1
}

# The programs run with any C library at least as new as the symbols they use.
needed_glibc="$(sed 's/GLIBC_//' "$bundle/glibc_version.txt")"
glibc="$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/.* //')"
if [[ $(printf '%s\n' "$needed_glibc" "${glibc:-0}" | sort -V | head -n 1) != "$needed_glibc" ]]; then
  fail "the programs need glibc $needed_glibc, this machine has ${glibc:-none}"
fi

# Folders that CUDA's libraries are found in: toolkits, newest first, then Python's packages (nvidia/*/lib).
cuda_folders() {
  local root
  for root in ${CUDA_HOME:+"$CUDA_HOME"} /usr/local/cuda $(printf "%s\n" /usr/local/cuda-* | sort -Vr); do
    printf '%s\n' "$root/lib64" "$root/targets/x86_64-linux/lib"
  done
  if command -v python3 >/dev/null; then
    python3 -c 'import glob, sys
for folder in sys.path:
    print("\n".join(sorted(glob.glob(folder + "/nvidia/*/lib"), reverse=True)))' 2>/dev/null
  fi
  printf '%s\n' {"$HOME"/.local,/usr,/usr/local,/opt/*,"$HOME"/.pyenv/versions/*,"${VIRTUAL_ENV:-/none}","${CONDA_PREFIX:-/none}"}/lib/python3*/{site,dist}-packages/nvidia/*/lib
}

library_path="$bundle/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
known="$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null)"
folders=""
missing=""
while read -r library; do
  [[ -n $library && $library != libcuda.so* ]] || continue  # the driver's own is always along the loader's path
  grep -q -F "$library " <<<"$known" && continue
  found=""
  [[ -n $folders ]] || folders="$(cuda_folders)"
  while read -r folder; do
    if [[ -e $folder/$library ]]; then
      found="$folder"
      break
    fi
  done < <(tr ':' '\n' <<<"$library_path"; echo "$folders")
  if [[ -z $found ]]; then
    missing+=" $library"
  elif [[ :$library_path: != *":$found:"* ]]; then
    library_path+=":$found"
  fi
done <"$bundle/cuda_libraries.txt"
[[ -z $missing ]] || fail "not found on this machine:$missing; looked along the loader's path, in /usr/local/cuda* and in Python's nvidia packages"

# More than one GPU also takes NCCL, which programs load by name when they need it.
if [[ -z ${HM11_NCCL:-} ]] && ! grep -q -F 'libnccl.so.2 ' <<<"$known"; then
  while read -r folder; do
    if [[ -e $folder/libnccl.so.2 ]]; then
      export HM11_NCCL="$folder/libnccl.so.2"
      break
    fi
  done < <(tr ':' '\n' <<<"$library_path"; cuda_folders)
fi

export LD_LIBRARY_PATH="$library_path"
[[ -d $bundle/testing/golden ]] && export HM11_GOLDEN_DIR="${HM11_GOLDEN_DIR:-$bundle/testing/golden}"
commit="$(cat "$bundle/commit.txt")"
