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
from functools import cache
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


def passes_of(layout: ParallelLayout, micro_batches: int, *, stage: int, group: int | None = None) -> list[Pass]:
    """The passes of one stage, in their order; `group` where it is not the layout's own for so many micro-batches."""
    stages, chunks = layout.pipeline, layout.virtual_pipeline
    group = group or layout.micro_batch_group(micro_batches)
    turns = [
        (chunk, micro_batch)
        for first in range(0, micro_batches, group)
        for chunk in range(chunks)
        for micro_batch in range(first, min(first + group, micro_batches))
    ]
    forward = [Pass(chunk * stages + stage, number, True) for chunk, number in turns]
    backward = [Pass((chunks - 1 - chunk) * stages + stage, number, False) for chunk, number in turns]
    ahead = min(_ahead(layout, stage, group), len(turns))
    alternating = [one for pair in zip(forward[ahead:], backward, strict=False) for one in pair]
    return [*forward[:ahead], *alternating, *backward[len(turns) - ahead :]]


def _ahead(layout: ParallelLayout, stage: int, group: int) -> int:
    """Forward passes of a stage before it takes forward and backward passes in turn."""
    after = layout.pipeline - 1 - stage
    return after if layout.virtual_pipeline == 1 else 2 * after + (layout.virtual_pipeline - 1) * group


class Kept(NamedTuple):
    """Contents of a stage's memory at one moment of a step."""

    layers: int
    """Layers of all micro-batches whose backward pass is to come."""
    outputs: int
    """Results of those passes that went on to another stage: Megatron's schedules hold them too."""
    heads: int
    """The same of the end of the model."""
    again: int
    """1 in a backward pass, which may compute something once more."""


def kept_at_most(layout: ParallelLayout, micro_batches: int, *, layers: int, stage: int) -> tuple[Kept, ...]:
    """The moments of a step of a model of `layers` that keep most of something; none keeps less than another of all.

    After the first groups of micro-batches a step repeats itself up to its last group, so that the groups between are
    left out.
    """
    group = layout.micro_batch_group(micro_batches)
    turns = group * layout.virtual_pipeline
    enough = (_ahead(layout, stage, group) // turns + 3) * group + micro_batches % group
    stages = ParallelLayout(pipeline=layout.pipeline, virtual_pipeline=layout.virtual_pipeline)
    return _kept_at_most(stages, min(micro_batches, enough), layout.chunk_layers(layers), stage, group)


@cache
def _kept_at_most(
    layout: ParallelLayout, micro_batches: int, chunk_layers: tuple[int, ...], stage: int, group: int
) -> tuple[Kept, ...]:
    return moments(passes_of(layout, micro_batches, stage=stage, group=group), chunk_layers)


def moments(passes: Sequence[Pass], chunk_layers: Sequence[int]) -> tuple[Kept, ...]:
    """The moments of these passes that keep most of something."""
    layers = outputs = heads = 0
    most: dict[tuple[int, int, int], int] = {}  # layers by what is kept beside them
    for one in passes:
        is_top = one.chunk == len(chunk_layers) - 1
        if one.forward:
            layers, outputs = layers + chunk_layers[one.chunk], outputs + (not is_top)
            heads += is_top
        else:
            heads -= is_top
        beside = (outputs, heads, int(not one.forward))
        most[beside] = max(most.get(beside, 0), layers)
        if not one.forward:
            layers, outputs = layers - chunk_layers[one.chunk], outputs - (not is_top)
    found: list[Kept] = []
    # The largest first: what is within another comes after it.
    for kept in sorted((Kept(layers, *beside) for beside, layers in most.items()), reverse=True):
        if not any(_is_within(kept, other) for other in found):
            found.append(kept)
    return tuple(found)


def _is_within(kept: Kept, other: Kept) -> bool:
    return all(mine <= theirs for mine, theirs in zip(kept, other, strict=True))


def most_kept(
    moments: Sequence[Kept], *, layer: float, output: float = 0.0, head: float = 0.0, again: float = 0.0
) -> float:
    """The most that is kept at any time of a step.

    Args:
        layer: what a micro-batch keeps of a layer from its forward to its backward pass.
        output: the result of a chunk of layers.
        head: what it keeps above the top chunk, until the head's backward pass.
        again: what the backward pass of any chunk computes once more.
    """
    weights = (layer, output, head, again)
    return max(sum(count * weight for count, weight in zip(kept, weights, strict=True)) for kept in moments)


def pipeline_time(layout: ParallelLayout, micro_batches: int, work: Sequence[ChunkWork]) -> PipelineTime:
    """Walk through a step: a pass starts when its stage is free and its input has been computed."""
    left = [list(reversed(passes_of(layout, micro_batches, stage=stage))) for stage in range(layout.pipeline)]
    free = [0.0] * layout.pipeline
    done: dict[Pass | None, float] = {None: 0.0}
    while any(left):
        before = len(done)
        for stage, passes in enumerate(left):
            free[stage] = _walk(passes, done, work, free[stage])
        assert len(done) > before, "the stages wait for each other"
    busy = tuple(
        micro_batches * sum(sum(part) for part in work[stage :: layout.pipeline]) for stage in range(len(free))
    )
    return PipelineTime(busy=busy, total=max(free))


def _walk(left: list[Pass], done: dict[Pass | None, float], work: Sequence[ChunkWork], free: float) -> float:
    """Take passes from the end of a stage's list until one lacks its input; returns when the stage is free again."""
    while left:
        one = left[-1]
        ready = done.get(_source(one, chunks=len(work)))
        if ready is None:
            break
        left.pop()
        spent = work[one.chunk]
        free = done[one] = max(free, ready) + (spent.forward if one.forward else spent.backward)
    return free


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


def _source(one: Pass, *, chunks: int) -> Pass | None:
    """The pass whose result this one takes; None for the tokens."""
    if one.forward:
        return Pass(one.chunk - 1, one.micro_batch, True) if one.chunk else None
    is_top = one.chunk == chunks - 1
    return Pass(one.chunk if is_top else one.chunk + 1, one.micro_batch, is_top)
