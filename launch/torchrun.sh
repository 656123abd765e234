#!/bin/sh
# One machine, or several with the same command on each:
#
#   launch/torchrun.sh phi4_14b_pretrain run.folder=/shared/runs/phi4
#   NODES=8 NODE_RANK=$RANK_OF_THIS_NODE MASTER_ADDR=host0 launch/torchrun.sh phi4_14b_pretrain ...
#
# GPUS: processes per machine (default: the GPUs that nvidia-smi lists, else 2 CPU processes).
set -eu
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
[ "$GPUS" -gt 0 ] || GPUS=2
exec torchrun \
    --nnodes "${NODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --nproc-per-node "$GPUS" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${MASTER_PORT:-29500}" \
    -m megaphi train "$@"
