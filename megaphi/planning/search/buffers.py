"""Memory beside weights, gradients, optimizer and activations: a model, with its assumptions, never called exact.

The CUDA context with its libraries' workspaces, NCCL's buffers for every group of ranks, and what the allocator cannot
use of the memory that activations come and go in.
"""

from __future__ import annotations

from megaphi.parallel.layout import ParallelLayout

CONTEXT_BYTES = 0.8e9
"""Assumed: CUDA context and modules 0.5 GB, cuBLAS's and cuDNN's workspaces 0.3 GB."""
GROUP_BYTES = 2 * 16 * 5 * 2**20
"""NCCL's buffers of a group: both directions of 16 channels, 4 MiB each (NCCL_BUFFSIZE) and 1 MiB of its low-latency
protocols. The number of channels is assumed."""
FRAGMENTED = 0.05
"""Share of the activations that lies in pieces too small to be used, with expandable segments; assumed."""


def buffer_bytes(layout: ParallelLayout, activations: int) -> int:
    """Modelled bytes of one rank."""
    replicas = (layout.data or 1) * layout.context
    groups = sum(ranks > 1 for ranks in (layout.tensor, layout.context, layout.pipeline, replicas, layout.world_size))
    return int(CONTEXT_BYTES + groups * GROUP_BYTES + FRAGMENTED * activations)


def explain_buffers() -> str:
    return (
        f"buffers (model): {CONTEXT_BYTES / 1e9:.1f} GB of CUDA context and workspaces, {GROUP_BYTES / 1e9:.2f} GB of"
        f" NCCL for each group of ranks, {FRAGMENTED:.0%} of the activations lost to the allocator"
    )
