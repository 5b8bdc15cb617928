#!/bin/bash
# Tests of competition_run.sh, with programs that only write what the real ones' logs say.
set -uo pipefail

readonly script="$PWD/tools/competition_run.sh"
readonly work="${TEST_TMPDIR:-$(mktemp -d)}/competition test"  # a space, as folders have

source testing/shell_checks.sh
calls() { grep -c -E -- "$1" "$work/calls"; }
calls_are() { [[ $(calls "$2") == "$1" ]] || { echo "$(calls "$2") calls of $2, not $1"; cat "$work/calls"; return 1; }; }

export HM11_PROGRAMS="$work/programs"
mkdir -p "$HM11_PROGRAMS"/{tools/submission,train,eval}
cd "$work" || exit 1
export CALLS="$work/calls"

fake() {
  cat >"$HM11_PROGRAMS/$1"
  chmod +x "$HM11_PROGRAMS/$1"
}
fake tools/prepare_data <<'EOF'
#!/bin/bash
echo "prepare_data $*" >>"$CALLS"
for argument in "$@"; do [[ $argument != --out=* ]] || out="${argument#--out=}"; done
mkdir -p "$out" && touch "$out/text_train_000000.bin" "$out/text_val_000000.bin" "$out/text_8_bpe.model"
EOF
# Speed goes with the GPUs; HANG stops in the middle of a long run, with a checkpoint.
fake train/hm11 <<'EOF'
#!/bin/bash
echo "hm11 $*" >>"$CALLS"
for argument in "$@"; do
  case "$argument" in --out=*) out="${argument#--out=}" ;; --gpus=*) gpus="${argument#--gpus=}" ;; esac
done
mkdir -p "$out"
echo "batch_tokens=$((1000 * gpus))" >"$out/config.txt"
[[ " $* " == *" --resume "* || $out == *scaling* || -z ${HANG:-} ]] || { touch "$out/checkpoint.safetensors"; sleep 100; }
cat >"$out/train.log" <<LOG
device:cuda:0 (NVIDIA X, 80 GiB)
train_loader:dataset:x train_shards:1 tokens:4000
step:10/20000 train_loss:4.0 train_time:10ms step_avg:1.00ms tok/s:$((100 * gpus - gpus * gpus))
step:10/20000 val_loss:3.1 val_bpb:1.2345 train_time:10ms step_avg:1.00ms
Total submission size: 15999999 bytes
final_int6_roundtrip_exact val_loss:3.12 val_bpb:1.23570000
LOG
EOF
fake eval/evaluate <<'EOF'
#!/bin/bash
echo "evaluate $*" >>"$CALLS"
[[ $* != *${BAD_MODE:-none}* ]] || { echo "error: no such mode" >&2; exit 1; }
echo "mode:x window:1 stride:1 tokens:1 unscored:0 bytes:1 eval_time:12ms"
echo "val_loss:3.0 val_bpb:1.11000000"
EOF
fake tools/submission/submission <<'EOF'
#!/bin/bash
echo "submission $*" >>"$CALLS"
echo "submission: the/folder"
EOF
printf '{"text":"a"}\n{"text":"b"}\n' >val.jsonl
printf '{"text":"c"}\n' >train.jsonl
printf 'm' >8.model
readonly texts=(--train='tr*.jsonl' --val=val.jsonl --tokenizer=8.model)

check "no command" refuses "usage" "$script"
check "unknown flag" refuses "unknown flag --sed" "$script" begin --sed=1
check "a word" refuses "unexpected argument 'now'" "$script" begin now
check "a missing text" refuses "--train: no file none*" "$script" begin --train='none*' --val=val.jsonl --tokenizer=8.model
check "a missing flag" refuses "--val is missing" "$script" begin --train=train.jsonl
check "no folder" refuses "no folder nowhere" "$script" begin --data=nowhere
check "not a number" refuses "--seconds=ten is not" "$script" begin "${texts[@]}" --seconds=ten --gpus=1
check "nothing begun" refuses "nothing was begun in void" "$script" wait 1 --out=void

# A whole run on four GPUs.
check "begins" code_is 0 "$script" begin "${texts[@]}" --out=one --gpus=4 --seconds=9 --set=a=1
check "ends" code_is 0 "$script" wait 60 --out=one
check "validation documents are counted" has calls "--val_documents=2"
check "speed of 1, 2 and 4" calls_are 3 "scaling_[124] .*batch_tokens=(65536|131072|262144),"
check "the run's own settings and time" has calls "--set=a=1,time_limit_seconds=9,"
check "four modes" calls_are 4 "^evaluate"
check "shows results" code_is 0 "$script" results --out=one
for figure in "99 (1.000 x)" "196 (1.980 x)" "384 (3.879 x)" "10, 40000, 10.00" "1.2345 " "1.23570000" 15999999 \
  "1.11000000, 12ms" the/folder "NVIDIA X"; do
  check "results have $figure" has out "$figure"
done

# Interrupted: what is done is not done again, and training goes on from its checkpoint.
: >calls
check "begins another" env HANG=1 "$script" begin "${texts[@]}" --out=two --gpus=1 --scaling_seconds=0 >out
for ((i = 0; i < 100; ++i)); do
  [[ ! -e two/train/checkpoint.safetensors ]] || break
  sleep 0.1
done
check "is still running" code_is 2 "$script" wait 1 --out=two
check "is not begun twice" refuses "two is at work already" "$script" begin --out=two
kill -9 -- "-$(cat two/pid)"
check "was interrupted" refuses "ended in step train" "$script" wait 5 --out=two
check "goes on" code_is 0 "$script" begin --out=two
check "ends at last" code_is 0 "$script" wait 60 --out=two
check "one preparation" calls_are 1 "^prepare_data"
check "resumed" calls_are 1 "^hm11 --resume --out=two/train --gpus=1"

# A step that fails is told, and those that do not need it are done.
check "begins a third" env BAD_MODE=stateful "$script" begin "${texts[@]}" --out=three --gpus=1 --scaling_seconds=0 >out
check "tells the failure" refuses "step score_stateful failed" "$script" wait 60 --out=three
check "scores the other modes" test -e three/steps/score_ttt_mlp.done
check "packs" test -e three/steps/submission.done

end_of_checks
