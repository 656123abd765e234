"""The 14B's recipes on 8, 64 and 512 GPUs of 80 GB: `megaphi train phi4_14b_sft@64`.

The size changes how the work is cut: layout and sequences of a forward pass. Whatever the model learns from stays as
the recipe has it, so that every size follows one loss curve. Each layout is planned below 75 GB a rank, which leaves
the rest to buffers and the allocator, and is fast by the model of a step on H100s; *not yet run on a GPU*. Nothing is
recomputed. Any number of GPUs that holds whole copies of the model may take a size's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes.phi4_14b import PRETRAINING_LAYOUT

SIZES = (8, 64, 512)
LARGEST_BYTES = 75_000_000_000
"""Planned bytes of a rank that a device of 80 GB takes."""

Cut = tuple[ParallelLayout, int]
"""Layout, and sequences of a forward pass."""


def _plain(tensor: int, *, pipeline: int = 1, context: int = 1) -> ParallelLayout:
    return ParallelLayout(tensor=tensor, pipeline=pipeline, context=context, sequence_parallel=True)


INTERLEAVED = ParallelLayout(
    tensor=2, pipeline=2, virtual_pipeline=5, stage_layers=(*(4,) * 8, 5, 3), sequence_parallel=True
)
"""Two stages of five chunks; the last has a layer fewer for the output matrix, the first stage's last one more."""
_PREFERENCES: Mapping[int, Cut] = {
    8: (_plain(2, pipeline=2), 1),
    64: (_plain(2), 1),
    512: (_plain(4, context=2), 1),
}
CUTS: Mapping[str, Mapping[int, Cut]] = {
    "phi4_14b_pretrain": {8: (_plain(2, pipeline=2), 2), 64: (INTERLEAVED, 2), 512: (PRETRAINING_LAYOUT, 1)},
    "phi4_14b_midtrain": {
        8: (_plain(2, pipeline=2, context=2), 1),
        64: (_plain(2, context=2), 1),
        512: (_plain(2, context=2), 1),
    },
    "phi4_14b_sft": {
        8: (_plain(2, pipeline=2, context=2), 1),
        64: (_plain(2, context=2), 1),
        512: (_plain(4, context=2), 1),
    },
    "phi4_14b_dpo_pivotal": _PREFERENCES,
    "phi4_14b_dpo_judged": _PREFERENCES,
}
"""On 512 GPUs post-training has a batch of 64 sequences for 64 replicas: eight ranks share a row, without stages."""


def sized(run: RunConfig, *, gpus: int) -> RunConfig:
    """A recipe of the 14B, cut for so many GPUs. Raises InputError for a recipe or a size without a layout."""
    cuts = CUTS.get(run.recipe)
    if cuts is None:
        raise InputError(f"{run.recipe}@{gpus}: only {', '.join(CUTS)} have layouts by size")
    if gpus not in cuts:
        raise InputError(f"{run.recipe}@{gpus}: there are layouts for {', '.join(map(str, cuts))} GPUs")
    layout, micro_batch = cuts[gpus]
    return replace(run, layout=layout, batch=replace(run.batch, micro_batch=micro_batch))
