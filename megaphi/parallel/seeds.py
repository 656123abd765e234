"""All seeds of a run in one table, derived from the `seed` of its configuration.

| what is random | seed | differs between ranks |
|---|---|---|
| initial weights | SHA-256(seed, global parameter name) | no: each rank cuts its share out of the same draw |
| data order | (seed, split, source, epoch): data/order/permutation.py | no: a replica takes its own sample numbers |
| inside the model (dropout) | seed + 1,000 x pipeline stage; Megatron adds the tensor rank | yes |
| text generation | the `--seed` of the request | no: all ranks draw the same token |
"""

from __future__ import annotations

import hashlib


def parameter_seed(seed: int, name: str) -> int:
    """63-bit seed of one parameter's initial values; `name` is that of the whole model."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def model_seed(seed: int, *, pipeline_rank: int) -> int:
    """Base seed of Megatron's random state; pipeline stages must not share their dropout masks."""
    return seed + 1_000 * pipeline_rank
