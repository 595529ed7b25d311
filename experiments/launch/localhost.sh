#!/usr/bin/env bash
# Runs one hierrouter command as several processes on this machine.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: localhost.sh [--gpu-each] N COMMAND [OPTION ...]

Starts N processes of `hierrouter COMMAND OPTION ...`. `train` gets --coordinator, --num-processes and --process-id,
and --resume; in any option {id} stands for the process's number, from 0, and {count} for N:

  localhost.sh 2 train --run-dir runs/two
  localhost.sh 2 collect --tasks rows --shard {id}/{count} --store 'stores/{id}.sqlite'

--gpu-each      process I sees GPU I alone
HIERROUTER      the program (default: hierrouter)
LOG_DIR         where process I writes I.log (default: logs)
PORT            of the coordinator (default: a free one)
RESTARTS        how often to start again after a preemption or a lost process (default: 0)
DRY_RUN=1       print the commands instead

Exit code: that of the first process that failed; 75 after a preemption, 76 after the loss of a process.
TEXT
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

gpu_each=0
case "${1:-}" in
  -h | --help | '')
    usage
    exit 0
    ;;
  --gpu-each)
    gpu_each=1
    shift
    ;;
esac
count="${1:-}"
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "the number of processes must be 1 or more, but is '$count'."
shift
[ $# -gt 0 ] || fail "a hierrouter command must follow the number of processes, such as: train --run-dir runs/two."
restarts="${RESTARTS:-0}"
[[ "$restarts" =~ ^[0-9]+$ ]] || fail "RESTARTS must be a number, but is '$restarts'."
read -r -a program <<<"${HIERROUTER:-hierrouter}"
log_dir="${LOG_DIR:-logs}"

free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 30000))
    if ! (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; then
      printf '%s\n' "$port"
      return
    fi
  done
  fail "no free port was found; give one as PORT."
}

# Sets `words` to the command of process $1, from the arguments that follow.
words_of() {
  local id="$1" word
  shift
  words=("${program[@]}")
  for word in "$@"; do
    word="${word//\{id\}/$id}"
    words+=("${word//\{count\}/$count}")
  done
  if [ "$1" = train ]; then
    [[ " $* " == *' --resume '* ]] || words+=(--resume)
    [ "$count" = 1 ] || words+=(--coordinator "localhost:$port" --num-processes "$count" --process-id "$id")
  fi
}

children=()
# A preemption notice to this script is one to its processes.
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM
trap 'kill -INT "${children[@]}" 2>/dev/null || true' INT

# Waits for child $1, also where a signal interrupts the waiting.
wait_for() {
  local code=0
  wait "$1" || code=$?
  while kill -0 "$1" 2>/dev/null; do
    code=0
    wait "$1" || code=$?
  done
  return "$code"
}

run_once() {
  local id failed=0 code port="${PORT:-}"
  [ -n "$port" ] || port="$(free_port)"
  children=()
  for ((id = 0; id < count; id++)); do
    words_of "$id" "$@"
    if [ "$gpu_each" = 1 ]; then words=(env "CUDA_VISIBLE_DEVICES=$id" "${words[@]}"); fi
    if [ "${DRY_RUN:-0}" = 1 ]; then
      printf '%q ' "${words[@]}"
      printf '\n'
      continue
    fi
    mkdir -p "$log_dir"
    "${words[@]}" >>"$log_dir/$id.log" 2>&1 &
    children+=($!)
  done
  for id in "${!children[@]}"; do
    code=0
    wait_for "${children[$id]}" || code=$?
    if [ "$code" -ne 0 ]; then
      printf 'process %s ended with code %s; the end of %s:\n' "$id" "$code" "$log_dir/$id.log" >&2
      tail -n 5 "$log_dir/$id.log" >&2
      [ "$failed" -ne 0 ] || failed="$code"
    fi
  done
  return "$failed"
}

for ((attempt = 0; ; attempt++)); do
  code=0
  run_once "$@" || code=$?
  case "$code" in
    75 | 76) ;;
    *) exit "$code" ;;
  esac
  [ "$attempt" -lt "$restarts" ] || exit "$code"
  printf 'starting again (%s of %s)\n' "$((attempt + 1))" "$restarts" >&2
done
