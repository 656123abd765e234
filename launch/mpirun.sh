#!/bin/sh
# Open MPI, from the system or from `pip install megaphi[mpi]`:
#
#   PROCESSES=2 launch/mpirun.sh quickstart_pretrain
#   PROCESSES=512 HOSTFILE=hosts.txt MASTER_ADDR=host0 launch/mpirun.sh phi4_14b_pretrain run.folder=/shared/runs/phi4
#
# Ranks on several machines need MASTER_ADDR, the machine of rank 0. Binding is off: a rank's threads and its data
# reader would otherwise share one core.
set -eu
PROCESSES=${PROCESSES:?set PROCESSES to the number of ranks}
set -- python -m megaphi train "$@"
[ -z "${HOSTFILE:-}" ] || set -- --hostfile "$HOSTFILE" "$@"
[ "$(id -u)" -ne 0 ] || set -- --allow-run-as-root "$@"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
exec mpirun -n "$PROCESSES" --bind-to none --oversubscribe -x MASTER_ADDR -x OMP_NUM_THREADS "$@"
