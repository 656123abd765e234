# Settings for nodes with plain Ethernet between them, without RDMA: TCP sockets. With pipeline stages across nodes and
# tensor ranks inside them the network carries the least. A value that is set already stays. Not yet run on a GPU.

# As in h100.sh: without it NCCL says nothing when it fails.
# docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting/logging.html
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

# As in h100.sh: torchrun sets 1 and OpenMP all cores of the node, for each of its ranks.
# docs.pytorch.org/docs/stable/elastic/run.html, "Setting OMP_NUM_THREADS"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

# Threads and sockets of each connection. By default there is one thread with one socket (NCCL knows AWS and Google's
# adapters), which does not fill a link of 100 Gbit/s: the guide names 4 and 4 for those, and 64 as the largest product.
# docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-socket-nthreads
export NCCL_SOCKET_NTHREADS="${NCCL_SOCKET_NTHREADS:-4}"
export NCCL_NSOCKS_PERTHREAD="${NCCL_NSOCKS_PERTHREAD:-4}"
