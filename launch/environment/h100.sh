# Settings for nodes with NVLink inside and InfiniBand (or RoCE) between them: H100, H200, A100, B200. None of them
# depends on the GPU. Each has a documented reason; what is not here has a default that should stay. A value that is set
# already stays. Not yet run on a GPU.
#
# megaphi sets these by itself, so that they are not here: NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME (the interface that
# reaches rank 0), CUDA_DEVICE_MAX_CONNECTIONS (1 with tensor ranks, so that collectives start in front of the products
# beside them), the allocator's expandable segments, and what `deterministic=true` needs.

# Without it NCCL says nothing when it fails, and the error of torch names no cause. NCCL's guide calls it the minimum
# for production; it prints warnings only.
# docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting/logging.html
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

# A rank's threads for work on the CPU (reading data, writing checkpoints). torchrun sets 1 and OpenMP all cores of the
# node, for each of its ranks: 8 of the 12 cores that a rank has leave four for its reader and NCCL's threads.
# docs.pytorch.org/docs/stable/elastic/run.html, "Setting OMP_NUM_THREADS"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

# Which adapters carry the traffic of the GPUs. By default NCCL takes all that it finds, and nodes often have more than
# those: adapters for storage, or Ethernet ports of the same make. Only you know: `ibstat -l` and `nvidia-smi topo -m`.
# docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-ib-hca
# export NCCL_IB_HCA="${NCCL_IB_HCA:-=mlx5_0,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_9,mlx5_10,mlx5_11}"
