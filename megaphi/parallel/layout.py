"""The parallel layout of a run, and the coordinates of each rank: integers only, no torch.

A world of N ranks is tensor x context x data x pipeline. Tensor ranks are adjacent, because they communicate most, then
come context, data, pipeline: Megatron's order `tp-cp-dp-pp`. `data` is what the other three leave. Every check names
the field and the remedy, because otherwise a layout that does not divide fails minutes later, on every rank at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, NamedTuple

from megaphi.config import Range, check_values
from megaphi.errors import InputError


class Coordinates(NamedTuple):
    """Coordinates of a rank in each of the four dimensions."""

    tensor: int
    context: int
    data: int
    pipeline: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelLayout:
    """Parallel layout of the model and the batch (config section `layout`)."""

    tensor: Annotated[int, Range(minimum=1)] = 1
    """Ranks that share every matrix; must divide the heads. Where they do not divide the key-value groups (4 or 8 for
    Phi-4's 10), ranks hold copies of groups that they share."""
    pipeline: Annotated[int, Range(minimum=1)] = 1
    """Ranks that share the layers, one pipeline stage each."""
    virtual_pipeline: Annotated[int, Range(minimum=1)] = 1
    """Chunks of layers per pipeline stage; above 1 the schedule is interleaved."""
    stage_layers: tuple[Annotated[int, Range(minimum=1)], ...] = ()
    """Layers of every chunk, from the bottom of the model to its top (11,10,10,9), the stages taking turns; empty: all
    chunks alike."""
    context: Annotated[int, Range(minimum=1)] = 1
    """Ranks that share every sequence."""
    data: Annotated[int, Range(minimum=1)] | None = None
    """Replicas of the model; none: as many as the world size leaves."""
    sequence_parallel: bool = False
    """Split norms and residuals along the sequence over the tensor ranks; no effect at tensor=1."""

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @property
    def world_size(self) -> int:
        if self.data is None:
            raise ValueError("layout.data is not known yet: call for_world(world_size) first")
        return self.model_ranks * self.data

    def for_world(self, world_size: int) -> ParallelLayout:
        """The same layout with `data` filled in (or confirmed)."""
        check_values(self, where="layout")
        if world_size % self.model_ranks:
            raise InputError(
                f"{world_size} processes cannot hold whole copies of a model with layout.tensor={self.tensor} x "
                f"layout.pipeline={self.pipeline} x layout.context={self.context}: use a multiple of {self.model_ranks}"
            )
        data = world_size // self.model_ranks
        if self.data not in (None, data):
            raise InputError(
                f"layout.data={self.data} contradicts {world_size} processes, which leave {data} replicas: "
                f"leave layout.data out, or start {self.model_ranks * self.data} processes"
            )
        return dataclasses.replace(self, data=data)

    def coordinates(self, rank: int) -> Coordinates:
        """Position of a rank, tensor varying fastest."""
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        pipeline, data = divmod(rest, self.world_size // self.model_ranks)
        return Coordinates(tensor, context, data, pipeline)

    def rank_of(self, place: Coordinates) -> int:
        """Inverse of `coordinates`."""
        replicas = self.world_size // self.model_ranks
        return ((place.pipeline * replicas + place.data) * self.context + place.context) * self.tensor + place.tensor

    def check_model(
        self,
        *,
        layers: int,
        heads: int,
        feed_forward: int,
        sequence_length: int,
    ) -> None:
        """Refuse a layout that does not divide the model; a vocabulary is padded instead (`padded_vocabulary`)."""
        for what, size in (("model.heads", heads), ("model.feed_forward", feed_forward)):
            if size % self.tensor:
                raise InputError(_does_not_divide("layout.tensor", self.tensor, what, size))
        self._check_stages(layers)
        self.check_sequence(sequence_length)

    def _check_stages(self, layers: int) -> None:
        chunks = self.pipeline * self.virtual_pipeline
        what = "layout.pipeline" if self.virtual_pipeline == 1 else "layout.pipeline x layout.virtual_pipeline"
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise InputError(
                f"layout.virtual_pipeline={self.virtual_pipeline} needs layout.pipeline of at least 2: "
                "a single pipeline stage has nothing to interleave; use layout.virtual_pipeline=1"
            )
        if not self.stage_layers:
            if layers % chunks:
                uneven = "" if layers < chunks else ", or give layout.stage_layers, the layers of each chunk"
                plain = "" if self.virtual_pipeline == 1 else ", or layout.virtual_pipeline=1"
                raise InputError(_does_not_divide(what, chunks, "model.layers", layers) + uneven + plain)
            return
        given = f"layout.stage_layers={','.join(map(str, self.stage_layers))}"
        if len(self.stage_layers) != chunks:
            raise InputError(
                f"{given} has {len(self.stage_layers)} numbers, but {what}={chunks}: give one for every chunk of"
                " layers, from the bottom of the model to its top, or layout.stage_layers= for equal ones"
            )
        if sum(self.stage_layers) != layers:
            raise InputError(f"{given} adds up to {sum(self.stage_layers)} layers, but model.layers={layers}")

    def chunk_layers(self, layers: int) -> tuple[int, ...]:
        """Layers of every chunk of a model of `layers`, from the bottom up; chunk c is on stage c % pipeline."""
        chunks = self.pipeline * self.virtual_pipeline
        return self.stage_layers or (layers // chunks,) * chunks

    def with_stages_for(self, layers: int) -> ParallelLayout:
        """The same layout; where its stages do not divide `layers` and none are given, lower ones take one more."""
        each, over = divmod(layers, self.pipeline)
        if self.stage_layers or not each or not over:
            return self
        stage_layers = tuple(each + (stage < over) for stage in range(self.pipeline))
        return dataclasses.replace(self, stage_layers=stage_layers)

    def stage_of_layer(self, layer: int, *, layers: int) -> int:
        """The pipeline stage that holds a layer, counted from 0 at the bottom of a model of `layers`."""
        ends = accumulate(self.chunk_layers(layers))
        return next(chunk for chunk, end in enumerate(ends) if layer < end) % self.pipeline

    def check_sequence(self, sequence_length: int) -> None:
        if self.context > 1 and sequence_length % (2 * self.context):
            raise InputError(
                f"batch.sequence_length={sequence_length} cannot be cut into two chunks for each of "
                f"layout.context={self.context} ranks: use a multiple of {2 * self.context}"
            )
        local = sequence_length // self.context
        if self.sequence_parallel and local % self.tensor:
            raise InputError(
                f"layout.sequence_parallel splits {local} positions over layout.tensor={self.tensor}: "
                f"use a batch.sequence_length that is a multiple of {self.tensor * self.context}, "
                "or layout.sequence_parallel=false"
            )

    def _worlds_for(self, global_batch: int, micro_batch: int, replicas: int) -> str:
        """Name the nearest numbers of processes that can share the batch, as a job that has lost nodes needs them."""
        rows, rest = divmod(global_batch, micro_batch)
        if rest:
            return ""
        fewer = max(number for number in range(1, replicas + 1) if rows % number == 0)
        more = next((number for number in range(replicas, rows + 1) if rows % number == 0), fewer)
        sizes = " or ".join(str(number * self.model_ranks) for number in dict.fromkeys((fewer, more)))
        return f", or {sizes} processes"

    def check_batch(self, *, global_batch: int, micro_batch: int) -> int:
        """Refuse a batch that the replicas cannot share; returns micro-batches per replica and step."""
        for name, value in (("global_batch", global_batch), ("micro_batch", micro_batch)):
            if value < 1:
                raise InputError(f"batch.{name}={value}: must be at least 1")
        replicas = self.world_size // self.model_ranks
        share, rest = divmod(global_batch, replicas)
        largest = micro_batch if self.virtual_pipeline == 1 else min(micro_batch, share // self.pipeline)
        smaller = next((size for size in range(largest, 0, -1) if share % size == 0), None)
        same = "" if rest or smaller is None else f", or batch.micro_batch={smaller}, which trains the same"
        if global_batch % (micro_batch * replicas):
            raise InputError(
                f"batch.global_batch={global_batch} is not a multiple of batch.micro_batch={micro_batch} x "
                f"{replicas} replicas: use a multiple of {micro_batch * replicas}{same}"
                f"{self._worlds_for(global_batch, micro_batch, replicas)}"
            )
        micro_batches = global_batch // (micro_batch * replicas)
        if micro_batches < self.least_micro_batches:
            raise InputError(
                f"an interleaved schedule needs at least layout.pipeline={self.pipeline} micro-batches, but a step has "
                f"{micro_batches}: use layout.virtual_pipeline=1, or a batch.global_batch of at least "
                f"{micro_batch * replicas * self.pipeline}{same}"
            )
        return micro_batches

    @property
    def least_micro_batches(self) -> int:
        """Micro-batches that a pass needs: interleaved, each chunk of layers takes at least one for every stage."""
        return self.pipeline if self.virtual_pipeline > 1 else 1

    def micro_batch_group(self, micro_batches: int) -> int:
        """Micro-batches that a chunk of layers takes one after the other before the next chunk has its turn.

        The smallest number from `pipeline` on that leaves no rest, or a rest of at least `pipeline`: below that stages
        would wait for each other in the middle of a step. Larger groups keep more activations, and save no time.
        """
        sizes = range(self.least_micro_batches, micro_batches + 1)
        return next(size for size in sizes if not 0 < micro_batches % size < self.least_micro_batches)

    def __str__(self) -> str:
        parts = [f"tensor {self.tensor}", f"pipeline {self.pipeline}"]
        if self.virtual_pipeline > 1:
            parts.append(f"virtual pipeline {self.virtual_pipeline}")
        if self.stage_layers:
            parts[-1] += f" of {'/'.join(map(str, self.stage_layers))} layers"
        if self.context > 1:
            parts.append(f"context {self.context}")
        parts.append(f"data {self.data if self.data is not None else 'auto'}")
        return " x ".join(parts) + (", sequence parallel" if self.sequence_parallel and self.tensor > 1 else "")


def padded_vocabulary(vocabulary: int, tensor: int) -> int:
    """Rows of the embedding on all tensor ranks: the vocabulary, or the next multiple of 64 x ranks if they do not
    divide it.

    The added rows exist only in a running model: they are zero, belong to no token, and do not appear in checkpoints
    or losses.
    """
    if vocabulary % tensor == 0:
        return vocabulary
    return -(-vocabulary // (64 * tensor)) * 64 * tensor


def _does_not_divide(field: str, ways: int, what: str, size: int) -> str:
    fitting = ", ".join(str(n) for n in range(1, min(size, 1024) + 1) if size % n == 0)
    return f"{field}={ways} does not divide {what}={size}: choose one of {fitting}"
