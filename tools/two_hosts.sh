#!/bin/bash
# Runs a program of CPU ranks on two "hosts", which are network namespaces of this machine with a cable between them:
#   sudo tools/two_hosts.sh bazel-bin/train/hm11 --device=cpu --preset=tiny --set=micro_batch_tokens=1024 --out=runs/two
# RANKS_PER_HOST (1) ranks each. Exits with the first rank's code that is not 0.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 1
}
(($#)) || fail "usage: two_hosts.sh PROGRAM [FLAGS...]"
((EUID == 0)) || fail "network namespaces are root's to make"
for tool in ip unshare; do
  command -v "$tool" >/dev/null || fail "$tool is not installed"
done

readonly per_host="${RANKS_PER_HOST:-1}"
readonly hosts=("hm11a$$" "hm11b$$")
trap 'for host in "${hosts[@]}"; do ip netns del "$host" 2>/dev/null || true; done' EXIT
for host in "${hosts[@]}"; do ip netns add "$host"; done
ip link add "va$$" netns "${hosts[0]}" type veth peer name "vb$$" netns "${hosts[1]}"
for i in 0 1; do
  cable="v$( ((i)) && echo b || echo a)$$"
  ip -n "${hosts[i]}" addr add "10.111.0.$((i + 1))/24" dev "$cable"
  ip -n "${hosts[i]}" link set "$cable" up
  ip -n "${hosts[i]}" link set lo up
done

ranks=()
for i in 0 1; do
  for ((local = 0; local < per_host; ++local)); do
    RANK=$((i * per_host + local)) LOCAL_RANK=$local WORLD_SIZE=$((2 * per_host)) MASTER_ADDR=10.111.0.1 \
      MASTER_PORT=29500 ip netns exec "${hosts[i]}" unshare --uts \
      bash -c 'hostname "$1"; shift; exec "$@"' - "host$i" "$@" &
    ranks+=($!)
  done
done
code=0
for rank in "${ranks[@]}"; do
  wait "$rank" || code="${code/#0/$?}"
done
exit "$code"
