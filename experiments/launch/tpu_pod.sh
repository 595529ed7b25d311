#!/usr/bin/env bash
# Runs one hierrouter command on every worker of a TPU VM pod.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu_pod.sh NAME ZONE COMMAND [OPTION ...]

The same command on all workers of the TPU VM pod NAME, where JAX finds the others by itself:

  tpu_pod.sh pod-a us-central2-b train --run-dir /shared/runs/pod --num-envs 65536
  WORKERS=4 tpu_pod.sh pod-a us-central2-b collect --tasks rows --shard {id}/{count} --store 'stores/{id}.sqlite'

`train` gets --distributed auto and --resume. {id} stands for the worker's number, {count} for WORKERS. The run directory
must lie where all workers see it, and the package must be installed in REMOTE_DIR on each:
  gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command 'cd hierrouter_jax && make .venv/.installed-run'

REMOTE_DIR      folder of the package on the workers (default: hierrouter_jax)
WORKERS         number of workers; needed where {count} is used
RESTARTS        how often to start training again after a preemption or a lost worker (default: 0)
PROJECT         Google Cloud project (default: gcloud's own)
DRY_RUN=1       print the command instead
TEXT
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

case "${1:-}" in
  -h | --help | '')
    usage
    exit 0
    ;;
esac
[ $# -ge 3 ] || fail "NAME, ZONE and a hierrouter command must be given; see --help."
name="$1" zone="$2"
shift 2
restarts="${RESTARTS:-0}"
[[ "$restarts" =~ ^[0-9]+$ ]] || fail "RESTARTS must be a number, but is '$restarts'."
if [[ "$*" == *'{count}'* && -z "${WORKERS:-}" ]]; then fail "{count} needs the number of workers as WORKERS."; fi
words=(.venv/bin/hierrouter "$@")
if [ "$1" = train ]; then
  words+=(--distributed auto)
  [[ " $* " == *' --resume '* ]] || words+=(--resume)
fi

remote="cd $(printf '%q' "${REMOTE_DIR:-hierrouter_jax}") && "
if [[ "$*" == *'{id}'* ]]; then
  # shellcheck disable=SC2016  # it is the worker that asks for its number
  remote+='id=$(curl -sf -H Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number) && '
fi
remote+="exec"
for word in "${words[@]}"; do
  quoted="$(printf '%q' "${word//\{count\}/${WORKERS:-}}")"
  # %q writes {id} as \{id\}; the worker puts its own number there.
  remote+=" ${quoted//\\\{id\\\}/\"\$id\"}"
done
job=(gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all)
if [ -n "${PROJECT:-}" ]; then job+=(--project "$PROJECT"); fi
job+=(--command "$remote")
if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "${job[@]}"
  printf '\n'
  exit 0
fi
for ((attempt = 0; ; attempt++)); do
  code=0
  "${job[@]}" || code=$?
  # gcloud does not always hand on a worker's own exit code; bad input (2) alone is not worth another start.
  if [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || [ "$1" != train ] || [ "$attempt" -ge "$restarts" ]; then exit "$code"; fi
  printf 'starting again (%s of %s)\n' "$((attempt + 1))" "$restarts" >&2
done
