#!/bin/bash
# The competition's run, unattended: text made into shards, the speed of 1, 2, 4, ... GPUs, training, the artifact
# scored in every mode, the submission's folder with both audits, and all figures in one table.
#
#   tools/competition_run.sh begin --train='text/train*.jsonl.xz' --val=text/val.jsonl.xz --tokenizer=8192.model
#   tools/competition_run.sh wait 300        # seconds; without a number until it ends
#   tools/competition_run.sh results
#
# `begin` returns at once: the run goes on in a process group of its own after the shell that began it has gone. What
# is done already is not done again, so `begin` after an interruption goes on where the run was; training goes on from
# its last checkpoint. Flags of begin (kept in the folder; a second begin may leave them out):
#   --out=DIR             everything is written there (runs/competition)
#   --train=FILES --val=FILE --tokenizer=MODEL   texts for tools/prepare_data, or
#   --data=DIR            prepared data: shards *_train_*.bin and *_val_*.bin, and one .model
#   --preset=hm11_best --seed=7 --set=key=value,...   of the run
#   --seconds=600         of training
#   --scaling_seconds=60  of training for each number of GPUs; 0: not measured
#   --gpus=N              default: all that are here; 0: the CPU
#   --tokens_per_gpu=65536   of a step, when the speed is measured
#   --name=hm11 --author=hm11 --github_id=hm11 --track=10min_16mb   of the submission
# Exit codes: 0 done; 1 a step failed, or bad input, with one line that names it; 2 (wait) still running.
#
# Programs are the bundle's where this file lies in one, else bazel-bin's (tools/bazel build //tools:competition).
set -uo pipefail
readonly self="$(readlink -f "${BASH_SOURCE[0]}")"
readonly home="$(dirname "$self")"

fail() {
  echo "error: $*" >&2
  exit 1
}

declare -A flags=([out]=runs/competition [train]= [val]= [tokenizer]= [data]= [preset]=hm11_best [seed]=7 [set]=
  [seconds]=600 [scaling_seconds]=60 [gpus]= [tokens_per_gpu]=65536 [name]=hm11 [author]=hm11 [github_id]=hm11
  [track]=10min_16mb)

# parse FLAGS...: into `flags`, those of an earlier begin first.
parse() {
  local argument name
  for argument in "$@"; do
    [[ $argument == --*=* ]] || fail "unexpected argument '$argument'; flags are --name=value"
    name="${argument%%=*}"
    name="${name#--}"
    [[ -v flags[$name] ]] || fail "unknown flag --$name; known: $(printf -- '--%s ' $(printf '%s\n' "${!flags[@]}" | sort))"
    flags[$name]="${argument#*=}"
  done
}

is_number() { [[ $1 =~ ^[0-9]+$ ]]; }

run_program() {
  local program="$1"
  shift
  if [[ -n ${HM11_PROGRAMS:-} ]]; then
    "$HM11_PROGRAMS/$program" "$@"
  elif [[ -x $home/../run ]]; then
    "$home/../run" "$program" "$@"
  else
    "$home/../bazel-bin/$program" "$@"
  fi
}

count_gpus() { nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true; }

# Flags that say what a program runs on: on_gpus N.
on_gpus() { if ((flags[gpus] == 0)); then echo --device=cpu; else echo "--gpus=$1"; fi; }

data_folder() { if [[ -n ${flags[data]} ]]; then echo "${flags[data]}"; else echo "${flags[out]}/data"; fi; }
only_model() {
  local models=("$(data_folder)"/*.model)
  ((${#models[@]} == 1)) && [[ -e ${models[0]} ]] || { echo "no one .model in $(data_folder)" >&2; return 1; }
  echo "${models[0]}"
}

# --- Steps: each a function that prints what it does, and returns 0 when it is done.

# documents FILE: how many a text holds.
documents() {
  case "$1" in
    *.jsonl.xz) xz -dc "$1" | grep -c . ;;
    *.jsonl) grep -c . "$1" ;;
    *) echo 1 ;;
  esac
}

step_data() {
  [[ -z ${flags[data]} ]] || return 0
  local out="${flags[out]}/data"
  rm -rf "$out.writing" "$out"
  run_program tools/prepare_data --input="${flags[val]},${flags[train]}" --out="$out.writing" --name=text \
    --tokenizer="${flags[tokenizer]}" --val_documents="$(documents "${flags[val]}")" || return 1
  mv "$out.writing" "$out"
}

# train FOLDER GPUS SETTINGS: a new run; the caller's settings may be overruled.
train() {
  run_program train/hm11 --data="$(data_folder)" --preset="${flags[preset]}" --seed="${flags[seed]}" --overwrite \
    "$(on_gpus "$2")" --out="${flags[out]}/$1" --set="${flags[set]:+${flags[set]},}$3"
}

step_scaling() {
  train "scaling_$1" "$1" "batch_tokens=$((flags[tokens_per_gpu] * $1)),time_limit_seconds=${flags[scaling_seconds]},\
validation_seconds=0,validation_tokens=65536,calibration_tokens=0,budget_bytes=0,sample_tokens=0"
}

step_train() {
  # From the checkpoint of an interrupted run, if it left one.
  if [[ -e ${flags[out]}/train/checkpoint.safetensors ]]; then
    run_program train/hm11 --resume --out="${flags[out]}/train" "$(on_gpus "${flags[gpus]}")"
  else
    train train "${flags[gpus]}" "time_limit_seconds=${flags[seconds]},validation_seconds=0,checkpoint_seconds=120"
  fi
}

step_score() {
  local mode="$1" arguments=()
  shift
  case "$mode" in
    plain | sliding) arguments=("$(on_gpus "${flags[gpus]}")") ;;
    *) ((flags[gpus])) || arguments=(--device=cpu) ;;
  esac
  run_program eval/evaluate --artifact="${flags[out]}/train/artifact.hm11" --tokenizer="$(only_model)" \
    --data="$(data_folder)/*_val_*.bin" --mode="$mode" "${arguments[@]}" "$@"
}

step_submission() {
  rm -rf "${flags[out]}/submission" "${flags[out]}/submission.rejected"
  run_program tools/submission/submission --run="${flags[out]}/train" --name="${flags[name]}" --author="${flags[author]}" \
    --github_id="${flags[github_id]}" --track="${flags[track]}" --out="${flags[out]}/submission"
}

# --- The run.

# once NAME COMMAND...: unless it is done already; its output is in steps/NAME.log.
once() {
  local name="$1" begin=$SECONDS
  shift
  [[ ! -e ${flags[out]}/steps/$name.done ]] || return 0
  echo "$(date +%T) $name"
  echo "$name" >"${flags[out]}/steps/now"
  if ! "$@" >"${flags[out]}/steps/$name.log" 2>&1; then
    echo "$(date +%T) $name failed: $(grep -E '^error: ' "${flags[out]}/steps/$name.log" | tail -n 1)"
    echo "$name" >"${flags[out]}/steps/failed"
    return 1
  fi
  echo "$((SECONDS - begin))" >"${flags[out]}/steps/$name.done"
}

scaled_gpus() {
  local n
  for ((n = 1; n < flags[gpus]; n *= 2)); do echo "$n"; done
  echo "$((flags[gpus] ? flags[gpus] : 1))"
}

work() {
  local n failed=0
  once data step_data || return 1
  if ((flags[scaling_seconds])); then
    for n in $(scaled_gpus); do once "scaling_$n" step_scaling "$n" || failed=1; done
  fi
  once train step_train || return 1
  once score_plain step_score plain || failed=1
  once score_sliding step_score sliding --stride=1024 || failed=1
  once score_stateful step_score stateful || failed=1
  once score_ttt_mlp step_score ttt_mlp --stride=1024 || failed=1
  once submission step_submission || failed=1
  return $failed
}

is_running() {
  local pid
  pid="$(cat "${flags[out]}/pid" 2>/dev/null)" && [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null &&
    grep -q -a -F -- "${self##*/}" "/proc/$pid/cmdline"
}

begin() {
  local file
  for file in "$@"; do [[ $file != --out=* ]] || flags[out]="${file#*=}"; done
  if [[ -e ${flags[out]}/flags ]]; then
    mapfile -t kept <"${flags[out]}/flags"
    parse "${kept[@]}"
  fi
  parse "$@"
  is_running && fail "${flags[out]} is at work already: process $(cat "${flags[out]}/pid")"
  flags[gpus]="${flags[gpus]:-$(count_gpus)}"
  for file in gpus seconds scaling_seconds tokens_per_gpu seed; do
    is_number "${flags[$file]}" || fail "--$file=${flags[$file]} is not a whole number"
  done
  if [[ -n ${flags[data]} ]]; then
    [[ -d ${flags[data]} ]] || fail "no folder ${flags[data]}"
  else
    for file in train val tokenizer; do
      [[ -n ${flags[$file]} ]] || fail "--$file is missing (or --data, a folder of prepared data)"
      compgen -G "${flags[$file]}" >/dev/null || fail "--$file: no file ${flags[$file]}"
    done
  fi
  mkdir -p "${flags[out]}/steps" || fail "cannot make ${flags[out]}"
  for file in "${!flags[@]}"; do echo "--$file=${flags[$file]}"; done | sort >"${flags[out]}/flags"
  rm -f "${flags[out]}/steps/failed"
  setsid nohup "$self" work "${flags[out]}" >>"${flags[out]}/progress.txt" 2>&1 </dev/null &
  echo "$!" >"${flags[out]}/pid"
  echo "begun: process $!, ${flags[out]}/progress.txt; $0 wait --out=${flags[out]}"
}

wait_for_it() {
  local seconds="$1" begin=$SECONDS
  while is_running; do
    ((seconds < 0 || SECONDS - begin < seconds)) || { tail -n 1 "${flags[out]}/progress.txt"; return 2; }
    sleep 1
  done
  [[ -e ${flags[out]}/steps/submission.done && ! -e ${flags[out]}/steps/failed ]] && return 0
  [[ ! -e ${flags[out]}/steps/failed ]] || fail "step $(cat "${flags[out]}/steps/failed") failed: ${flags[out]}/steps"
  fail "ended in step $(cat "${flags[out]}/steps/now"); begin goes on from there"
}

# value KEY FILE: the last KEY:value of a log.
value() { grep -o -E "(^|[ \t])$1:[^ ]+" "$2" 2>/dev/null | tail -n 1 | sed 's/^[ \t]*[^:]*://'; }
row() { printf '| %-34s | %-60s |\n' "$1" "${2:-not done}"; }

results() {
  local out="${flags[out]}" train log n one speed mode
  train="$out/train"
  log="$train/train.log"
  row figure value
  row '---' '---'
  row machine "$(sed -n 's/^device:[^ ]* (\(.*\))$/\1/p' "$log" 2>/dev/null | tail -n 1)"
  row "GPUs, seconds, preset, seed" "${flags[gpus]}, ${flags[seconds]}, ${flags[preset]}, ${flags[seed]}"
  [[ -z ${flags[set]} ]] || row settings "${flags[set]}"
  one=""
  for n in $(scaled_gpus); do
    [[ -e $out/steps/scaling_$n.done ]] || continue
    speed="$(value 'tok/s' "$out/scaling_$n/train.log")"
    one="${one:-$speed}"
    row "tokens/s on $n, ${flags[tokens_per_gpu]} each a step" \
      "$speed$(awk -v a="$speed" -v b="$one" 'BEGIN { printf " (%.3f x)", a / b }')"
  done
  if [[ -e $out/steps/train.done ]]; then
    local steps tokens corpus
    steps="$(sed -n 's/^step:\([0-9]*\)\/.* val_bpb:.*/\1/p' "$log" | tail -n 1)"
    tokens="$(awk -v s="$steps" -v b="$(sed -n 's/^batch_tokens=//p' "$train/config.txt" | tail -n 1)" 'BEGIN { print s * b }')"
    corpus="$(sed -n 's/^train_loader.* tokens:\([0-9]*\).*/\1/p' "$log" | tail -n 1)"
    row "steps, tokens, epochs" "$steps, $tokens, $(awk -v a="$tokens" -v b="$corpus" 'BEGIN { printf "%.2f", a / b }')"
    row "tokens/s" "$(value 'tok/s' "$log")"
    row "bits per byte before quantizing" "$(sed -n 's/^step:[0-9]*\/.* val_bpb:\([0-9.]*\).*/\1/p' "$log" | tail -n 1)"
    row "bits per byte from the artifact" "$(sed -n 's/^final_int6_roundtrip_exact .*val_bpb://p' "$log" | tail -n 1)"
    row "artifact and program, bytes" "$(sed -n 's/^Total submission size: \([0-9]*\) bytes/\1/p' "$log" | tail -n 1)"
  fi
  for mode in plain sliding stateful ttt_mlp; do
    [[ -e $out/steps/score_$mode.done ]] || continue
    row "$mode: bits per byte, time" \
      "$(value val_bpb "$out/steps/score_$mode.log"), $(value eval_time "$out/steps/score_$mode.log")"
  done
  row submission "$(sed -n 's/^submission: //p; s/^error: //p' "$out/steps/submission.log" 2>/dev/null | tail -n 1)"
}

command="${1:-}"
shift || true
case "$command" in
  begin) begin "$@" ;;
  work)  # begin's other half
    flags[out]="$1"
    mapfile -t kept <"$1/flags"
    parse "${kept[@]}"
    work
    ;;
  wait | results)
    seconds=-1
    if [[ $command == wait ]] && is_number "${1:-}"; then
      seconds="$1"
      shift
    fi
    parse "$@"
    [[ -e ${flags[out]}/flags ]] || fail "nothing was begun in ${flags[out]}"
    mapfile -t kept <"${flags[out]}/flags"
    parse "${kept[@]}"
    if [[ $command == wait ]]; then wait_for_it "$seconds"; else results; fi
    ;;
  *) fail "usage: competition_run.sh begin|wait [SECONDS]|results [--flags]; the file's first lines explain" ;;
esac
