#!/bin/sh
# Open MPI, from the system or from `pip install megaphi[mpi]`, or MPICH, Intel MPI and others with Hydra's mpirun:
#
#   PROCESSES=2 launch/mpirun.sh quickstart_pretrain
#   PROCESSES=512 HOSTFILE=hosts.txt launch/mpirun.sh phi4_14b_pretrain folder=/shared/runs/phi4
#
# HOSTFILE: a host a line (`host0`, `host0 slots=8` or `host0:8`). GPUS: ranks per host (default: the GPUs that
# nvidia-smi lists here; 0, on CPUs: as many as fit). MASTER_ADDR: the host of rank 0 (default: the first of the host
# file). Ranks on other hosts get PATH, the library and Python paths, MASTER_*, MEGAPHI_*, OMP_*, NCCL_*, GLOO_*,
# CUDA_*, TORCH_*, PYTORCH_* and UCX_* of this shell; only the names are on mpirun's command line, which others can
# read. Binding is off: a rank's threads and its data reader would otherwise share one core. ENVIRONMENT, CHECK_NODES
# and MAX_RESTARTS: see supervise.sh.
#
# SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGUSR2 to this script make the run save and end with 0: mpirun passes SIGUSR1 on,
# where SIGTERM makes it kill the ranks a second later.
set -eu
. "$(dirname "$0")/supervise.sh"
prepare "$@"
PROCESSES=${PROCESSES:?set PROCESSES to the number of ranks}
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
make_secret

hosts=
count=1
if [ -n "${HOSTFILE:-}" ]; then
    hosts=$(sed -e 's/#.*//' -e 's/:[0-9]*//' "$HOSTFILE" | awk 'NF { print $1 }' | uniq)
    count=$(printf '%s\n' "$hosts" | sort -u | grep -c . || true)
    if [ "$count" -eq 0 ]; then
        echo "launch/mpirun.sh: $HOSTFILE names no host" >&2
        exit 2
    fi
fi
first=$(printf '%s\n' "$hosts" | head -n 1)
if [ "$count" -eq 1 ]; then
    first=127.0.0.1
    choose_port
fi
export MASTER_ADDR="${MASTER_ADDR:-$first}"
if [ "$GPUS" -gt 0 ] && [ "$PROCESSES" -gt $((GPUS * count)) ]; then
    echo "launch/mpirun.sh: PROCESSES=$PROCESSES ranks on $count host(s) with $GPUS GPUs each: at most" \
        "$((GPUS * count)); GPUS=0 runs them on CPUs" >&2
    exit 2
fi
here=$GPUS
[ "$PROCESSES" -ge "$GPUS" ] || here=$PROCESSES

families='\(MASTER\|MEGAPHI\|OMP\|NCCL\|GLOO\|CUDA\|TORCH\|PYTORCH\|UCX\)_[A-Z0-9_]*'
forwarded="^\(PATH\|LD_LIBRARY_PATH\|PYTHONPATH\|VIRTUAL_ENV\|$families\)="
names=$(env | sed -n "s/$forwarded.*/\1/p" | sort)

# The same job for either kind of mpirun: RUN (a function of supervise.sh and its words) gets the command line of RANKS
# ranks, PER_HOST of them on each host (0: as they fit), which is to start the rest of the words.
hydra() {
    run=$1 ranks=$2 per_host=$3
    shift 3
    [ "$per_host" -eq 0 ] || set -- -ppn "$per_host" "$@"
    if [ -n "$hosts" ]; then
        set -- -hosts "$(sed -e 's/#.*//' -e 's/[ \t]\{1,\}slots=/:/' "$HOSTFILE" | awk 'NF { print $1 }' | paste -sd,)" "$@"
    fi
    $run mpirun -n "$ranks" -bind-to none -genvlist "$(printf '%s\n' "$names" | paste -sd,)" "$@"
}
open_mpi() {
    run=$1 ranks=$2 per_host=$3
    shift 3
    if [ "$per_host" -gt 0 ]; then
        set -- --map-by "ppr:$per_host:node" --rank-by slot "$@"
    else
        set -- --oversubscribe "$@"
    fi
    [ -z "$hosts" ] || set -- --hostfile "$HOSTFILE" "$@"
    for name in $names; do
        set -- -x "$name" "$@"
    done
    [ "$(id -u)" -ne 0 ] || set -- --allow-run-as-root "$@"
    $run mpirun -n "$ranks" --bind-to none "$@"
}
case "$(mpirun --version 2>&1)" in
    *HYDRA* | *Intel*) kind=hydra ;;
    *) kind=open_mpi ;;
esac
stop_ranks() { kill -USR1 "$1"; }
"$kind" check_nodes "$count" 1
"$kind" "run_until_done stop_ranks" "$PROCESSES" "$here" python -m megaphi train "$@"
