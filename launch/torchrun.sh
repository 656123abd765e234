#!/bin/sh
# One machine, or several with the same command on each:
#
#   launch/torchrun.sh phi4_14b_pretrain folder=/shared/runs/phi4
#   NODES=8 NODE_RANK=$RANK_OF_THIS_NODE MASTER_ADDR=host0 launch/torchrun.sh phi4_14b_pretrain ...
#
# MEGAPHI_JOB_SECRET: a random text, the same on every machine, without which a process is none of this job's; on one
# machine it is made here.
#
# GPUS: processes per machine (default: the GPUs that nvidia-smi lists, else 2 CPU processes). ENVIRONMENT, CHECK_NODES
# and MAX_RESTARTS: see supervise.sh. After a crash on any machine the ranks of all have ended, and every machine's
# script starts its own again.
#
# SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGUSR2 to this script make the run save and end with 0. torchrun itself would
# stop its ranks too, but then return 1, and it dies of SIGUSR1: the signal goes past it, to the ranks.
set -eu
. "$(dirname "$0")/supervise.sh"
prepare "$@"
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
if [ "${NODES:-1}" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    echo "launch/torchrun.sh: NODES=$NODES needs MASTER_ADDR=<host of NODE_RANK 0>, the same on every machine" >&2
    exit 2
fi
if [ "${NODES:-1}" -eq 1 ]; then
    make_secret
    choose_port
fi
check_nodes env
[ "$GPUS" -gt 0 ] || GPUS=2
stop_ranks() { kill -TERM $(cat /proc/"$1"/task/*/children); }

# torchrun ends with 1 whatever its ranks ended with; their code is in the file that it is asked to leave here.
errors=$(mktemp -d)
trap 'rm -r "$errors"' EXIT
export TORCHELASTIC_ERROR_FILE="$errors/error.json"
refused_input() { grep -qs '"errorCode": 2[,}]' "$TORCHELASTIC_ERROR_FILE"; }
run_until_done stop_ranks torchrun \
    --nnodes "${NODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --nproc-per-node "$GPUS" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${MASTER_PORT:-29500}" \
    -m megaphi train "$@"
