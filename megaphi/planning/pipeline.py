"""A step's passes over the pipeline stages, in the order of Megatron's schedules: what is kept, and who waits.

1F1B: a stage runs forward passes until the stages above it can answer, then one forward and one backward pass in turn,
then the backward passes that are left. Interleaved, a stage does the same with several chunks of layers, a group of
micro-batches through each (Narayanan et al. 2021, section 2.2). The order is a function of integers; the time follows
from it by walking through all passes, each of which waits for its input. Communication takes no time here.

Chunk c, counted from the bottom of the model, is on stage c % pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from megaphi.engine.run_config import RunConfig
from megaphi.model.arithmetic import head_in_layers
from megaphi.parallel.layout import ParallelLayout


class Pass(NamedTuple):
    """One micro-batch through one chunk of layers."""

    chunk: int
    micro_batch: int
    forward: bool


class ChunkWork(NamedTuple):
    """Time of the passes through a chunk, in any unit."""

    forward: float
    backward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineTime:
    """Busy and idle time of the stages in one step."""

    busy: tuple[float, ...]
    """Time that each stage computes."""
    total: float
    """From the first pass to the end of the last."""

    @property
    def balance(self) -> float:
        """Mean of the stages' work over that of the busiest: the efficiency of the split by itself."""
        return sum(self.busy) / len(self.busy) / max(self.busy)

    @property
    def efficiency(self) -> float:
        """Share of the time in which a stage computes, on average: balance and bubbles together."""
        return sum(self.busy) / len(self.busy) / self.total


def passes_of(layout: ParallelLayout, micro_batches: int, *, stage: int) -> list[Pass]:
    """The passes of one stage, in their order."""
    stages, chunks = layout.pipeline, layout.virtual_pipeline
    group = layout.micro_batch_group(micro_batches)
    turns = [
        (chunk, micro_batch)
        for first in range(0, micro_batches, group)
        for chunk in range(chunks)
        for micro_batch in range(first, min(first + group, micro_batches))
    ]
    forward = [Pass(chunk * stages + stage, number, True) for chunk, number in turns]
    backward = [Pass((chunks - 1 - chunk) * stages + stage, number, False) for chunk, number in turns]
    after = stages - 1 - stage
    ahead = min(after if chunks == 1 else 2 * after + (chunks - 1) * group, len(turns))
    alternating = [one for pair in zip(forward[ahead:], backward, strict=False) for one in pair]
    return [*forward[:ahead], *alternating, *backward[len(turns) - ahead :]]


def most_kept(passes: Sequence[Pass], sizes: Sequence[float], *, head: float = 0.0, again: float = 0.0) -> float:
    """The most that is kept at any time of a step.

    Args:
        sizes: what a micro-batch keeps of each chunk from its forward to its backward pass.
        head: what it keeps above the top chunk, until the head's backward pass.
        again: what the backward pass of any chunk computes once more.
    """
    kept = most = 0.0
    for one in passes:
        above = head if one.chunk == len(sizes) - 1 else 0.0
        if one.forward:
            kept += sizes[one.chunk] + above
            most = max(most, kept)
        else:
            kept -= above
            most = max(most, kept + again)
            kept -= sizes[one.chunk]
    return most


def pipeline_time(layout: ParallelLayout, micro_batches: int, work: Sequence[ChunkWork]) -> PipelineTime:
    """Walk through a step: a pass starts when its stage is free and its input has been computed."""
    left = [list(reversed(passes_of(layout, micro_batches, stage=stage))) for stage in range(layout.pipeline)]
    free = [0.0] * layout.pipeline
    done: dict[Pass, float] = {}
    while any(left):
        ready = [stage for stage, passes in enumerate(left) if passes and _is_ready(passes[-1], done, len(work))]
        assert ready, "the stages wait for each other"
        for stage in ready:
            one = left[stage].pop()
            source = _source(one, chunks=len(work))
            start = max(free[stage], 0.0 if source is None else done[source])
            free[stage] = done[one] = start + (work[one.chunk].forward if one.forward else work[one.chunk].backward)
    busy = tuple(
        micro_batches * sum(sum(part) for part in work[stage :: layout.pipeline]) for stage in range(len(free))
    )
    return PipelineTime(busy=busy, total=max(free))


def chunk_work(run: RunConfig) -> list[ChunkWork]:
    """Work of every chunk, in forward passes of a layer.

    A backward pass takes twice its forward pass; what is recomputed is done once more, as are logits in chunks.
    """
    again = float(run.recompute == "full")
    work = [ChunkWork(layers, (2 + again) * layers) for layers in run.layout.chunk_layers(run.model.layers)]
    head = head_in_layers(run.model, sequence_length=run.batch.sequence_length)
    head_again = float(run.model.loss_chunk_tokens > 0)
    top = work[-1]
    return [*work[:-1], ChunkWork(top.forward + head, top.backward + (2 + head_again) * head)]


def _is_ready(one: Pass, done: dict[Pass, float], chunks: int) -> bool:
    source = _source(one, chunks=chunks)
    return source is None or source in done


def _source(one: Pass, *, chunks: int) -> Pass | None:
    """The pass whose result this one takes; None for the tokens."""
    if one.forward:
        return one._replace(chunk=one.chunk - 1) if one.chunk else None
    return one._replace(forward=True) if one.chunk == chunks - 1 else one._replace(chunk=one.chunk + 1)
