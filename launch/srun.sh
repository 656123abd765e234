#!/bin/bash
# The ranks of a Slurm job. Called by batch scripts such as slurm/pretrain.sbatch; it also works in a shell of salloc:
#
#   launch/srun.sh phi4_14b_pretrain folder=/shared/runs/phi4
#
# IMAGE: run in this container, by RUNTIME=pyxis (default; IMAGE as enroot takes it) or RUNTIME=apptainer; MOUNTS: what
# it sees of the host, `/shared,/data` (default: the working folder). ENVIRONMENT, CHECK_NODES and MAX_RESTARTS: see
# supervise.sh; crashes are counted in JOB.restarts beside the log, and a crashed job is requeued, as nodes may be down.
# SIGUSR1, which Slurm sends before the time limit (`--signal=B:USR1@300`), makes the run save, and requeues the job to
# go on; SIGTERM and scancel end it.
#
# srun gives every rank its SLURM_* variables, from which megaphi takes rank, world size and the address of rank 0. It
# does not take over --cpus-per-task by itself (since Slurm 22.05): without it a rank would share one core with its
# threads and its data reader.
set -euo pipefail
. "$(dirname "$0")/supervise.sh"
prepare "$@"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
GPUS=${SLURM_GPUS_ON_NODE:-0}
make_secret

step=()
inside=()
if [ -n "${IMAGE:-}" ]; then
    mounts=${MOUNTS:-$PWD}
    case "${RUNTIME:-pyxis}" in
        pyxis)
            mounts=$(printf '%s' "$mounts" | sed 's/[^,]*/&:&/g')
            # What the image sets wins over the host, unless it is named.
            ours=$(sed -n 's/^export \([A-Z0-9_]*\)=.*/\1/p' "${ENVIRONMENT:-/dev/null}" | paste -sd,)
            step=(--container-image="$IMAGE" --container-mounts="$mounts" --container-workdir="$PWD"
                --container-env="OMP_NUM_THREADS${ours:+,$ours}")
            ;;
        apptainer) inside=(apptainer exec --nv --bind "$mounts" --pwd "$PWD" "$IMAGE") ;;
        *)
            echo "launch/srun.sh: RUNTIME=$RUNTIME: it is pyxis or apptainer" >&2
            exit 2
            ;;
    esac
fi

lines_of() { if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi; }
crashes=${SLURM_JOB_NAME:-job}_$SLURM_JOB_ID.restarts
[ ! -f "$crashes" ] || export MEGAPHI_RESTART="$(lines_of "$crashes")" # for the run's events.jsonl

requeue() { # REASON
    echo "launch/srun.sh: $1: the job is requeued, to go on from the last checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID" || echo "launch/srun.sh: Slurm does not requeue it: submit the job again" >&2
}

check_nodes srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    --kill-on-bad-exit=0 ${step[@]+"${step[@]}"} ${inside[@]+"${inside[@]}"}

stop_ranks() { kill -USR1 "$1"; } # srun passes it on to all ranks
code=0
run_and_stop_softly stop_ranks srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    --kill-on-bad-exit=1 ${step[@]+"${step[@]}"} ${inside[@]+"${inside[@]}"} python -m megaphi train "$@" || code=$?

if [ "$asked" = USR1 ] && [ "$code" -eq 0 ]; then
    rm -f "$crashes"
    requeue "saved before the time limit"
elif may_restart "$code" "$(lines_of "$crashes")"; then
    echo "$(date -u +%FT%TZ) exit code $code" >>"$crashes"
    requeue "ended with code $code (restart $(lines_of "$crashes") of $MAX_RESTARTS)"
fi
exit "$code"
