#!/bin/sh
# Open MPI, from the system or from `pip install megaphi[mpi]`:
#
#   PROCESSES=2 launch/mpirun.sh quickstart_pretrain
#   PROCESSES=512 HOSTFILE=hosts.txt launch/mpirun.sh phi4_14b_pretrain folder=/shared/runs/phi4
#
# HOSTFILE: a host a line (`host0 slots=8`). GPUS: ranks per host (default: the GPUs that nvidia-smi lists here; 0, on
# CPUs: as many as fit). MASTER_ADDR: the host of rank 0 (default: the first of the host file). Ranks on other hosts get
# PATH, the library and Python paths, MASTER_*, MEGAPHI_*, OMP_*, NCCL_*, GLOO_*, CUDA_*, TORCH_* and UCX_* of this
# shell. Binding is off: a rank's threads and its data reader would otherwise share one core.
#
# SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGUSR2 to this script make the run save and end with 0: mpirun passes SIGUSR1 on,
# where SIGTERM makes it kill the ranks a second later.
set -eu
. "$(dirname "$0")/stop_softly.sh"
PROCESSES=${PROCESSES:?set PROCESSES to the number of ranks}
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
set -- python -m megaphi train "$@"

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
hosts=1
if [ -n "${HOSTFILE:-}" ]; then
    names=$(sed -e 's/#.*//' "$HOSTFILE" | awk 'NF { print $1 }')
    hosts=$(printf '%s\n' "$names" | sort -u | grep -c . || true)
    if [ "$hosts" -eq 0 ]; then
        echo "launch/mpirun.sh: $HOSTFILE names no host" >&2
        exit 2
    fi
    first=$(printf '%s\n' "$names" | head -n 1)
    [ "$hosts" -gt 1 ] || first=127.0.0.1
    set -- --hostfile "$HOSTFILE" "$@"
fi
export MASTER_ADDR="${MASTER_ADDR:-${first:-127.0.0.1}}"
# By it the ranks of this job know each other.
export MEGAPHI_JOB_SECRET="${MEGAPHI_JOB_SECRET:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}"

if [ "$GPUS" -gt 0 ]; then
    if [ "$PROCESSES" -gt $((GPUS * hosts)) ]; then
        echo "launch/mpirun.sh: PROCESSES=$PROCESSES ranks on $hosts host(s) with $GPUS GPUs each: at most" \
            "$((GPUS * hosts)); GPUS=0 runs them on CPUs" >&2
        exit 2
    fi
    here=$GPUS
    [ "$PROCESSES" -ge "$GPUS" ] || here=$PROCESSES
    set -- --map-by "ppr:$here:node" --rank-by slot "$@"
else
    set -- --oversubscribe "$@"
fi

families='\(MASTER\|MEGAPHI\|OMP\|NCCL\|GLOO\|CUDA\|TORCH\|UCX\)_[A-Z0-9_]*'
forwarded="^\(PATH\|LD_LIBRARY_PATH\|PYTHONPATH\|VIRTUAL_ENV\|$families\)="
for name in $(env | sed -n "s/$forwarded.*/\1/p" | sort); do
    set -- -x "$name" "$@"
done
[ "$(id -u)" -ne 0 ] || set -- --allow-run-as-root "$@"
stop_ranks() { kill -USR1 "$1"; }
run_and_stop_softly stop_ranks mpirun -n "$PROCESSES" --bind-to none "$@"
