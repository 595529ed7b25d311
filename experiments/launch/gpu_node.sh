#!/usr/bin/env bash
# Runs one hierrouter command on the GPUs of this machine.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: gpu_node.sh [--per-gpu] COMMAND [OPTION ...]

One process that uses every GPU: the simplest, and as fast for training. With --per-gpu one process a GPU, as
localhost.sh starts them; collections need this to share the work by shards:

  gpu_node.sh train --run-dir runs/node --num-envs 4096
  gpu_node.sh --per-gpu collect --tasks rows --shard {id}/{count} --store 'stores/{id}.sqlite'

GPUS            how many (default: those that nvidia-smi lists)
HIERROUTER, LOG_DIR, PORT, RESTARTS, DRY_RUN: see localhost.sh
TEXT
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

count=1
gpu_each=()
case "${1:-}" in
  -h | --help | '')
    usage
    exit 0
    ;;
  --per-gpu)
    shift
    count="${GPUS:-}"
    if [ -z "$count" ]; then
      command -v nvidia-smi >/dev/null || fail "nvidia-smi must list the GPUs, but is not there; give their number as GPUS."
      count="$(nvidia-smi --list-gpus | wc -l | tr -d ' ')"
    fi
    [[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "there must be at least one GPU, but there are '$count'."
    gpu_each=(--gpu-each)
    ;;
esac
[ $# -gt 0 ] || fail "a hierrouter command must be given, such as: train --run-dir runs/node."
exec "$(dirname "${BASH_SOURCE[0]}")/localhost.sh" "${gpu_each[@]}" "$count" "$@"
