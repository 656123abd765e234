"""The price of one choice: seconds of a step and bytes of every stage, by the models of `planning`.

A search prices many thousands of choices that share most of their parts. What a layer takes and keeps depends on the
tensor and context ranks, the micro-batch and the recomputation alone, so it is computed once for each of those. The
time without the walk through the schedule is a bound: no schedule is faster than its busiest stage, which cannot start
before the stages below it have passed the first micro-batch on, and whose last result these still wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from megaphi.planning.memory import KeptPerToken, RankMemory, activation_bytes, kept_per_token, state_memory
from megaphi.planning.pipeline import ChunkWork, pipeline_time
from megaphi.planning.search.buffers import buffer_bytes
from megaphi.planning.search.space import PlanChoice, PlanQuestion
from megaphi.planning.step.shape import StepShape, shape_of
from megaphi.planning.step.step_time import around_passes, stage_work
from megaphi.planning.step.work import Passes, embedding, head, layer, total


@dataclass(frozen=True)
class ModelPieces:
    """Work of the parts of a model on one micro-batch, and what they keep."""

    layer: ChunkWork
    embedding: ChunkWork
    head: ChunkWork
    kept: KeptPerToken


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes of one stage's ranks."""

    rank: RankMemory
    buffers: int

    @property
    def total(self) -> int:
        return self.rank.total + self.buffers


class Pricing:
    """Prices of a question's choices."""

    def __init__(self, question: PlanQuestion) -> None:
        self.question = question
        self._pieces: dict[tuple[int, int, int, str], ModelPieces] = {}

    @cached_property
    def head_layers(self) -> float:
        """Work of both ends of the model, in layers, on whole matrices."""
        question = self.question
        alone = replace(question.run.layout, tensor=1, pipeline=1, virtual_pipeline=1, stage_layers=(), context=1)
        choice = PlanChoice(
            layout=replace(alone, data=question.devices, sequence_parallel=False), micro_batch=1, recompute="none"
        )
        pieces = self._pieces_of(choice)
        return (sum(pieces.head) + sum(pieces.embedding)) / sum(pieces.layer)

    def step(self, choice: PlanChoice) -> StepShape:
        return shape_of(choice.of(self.question.run))

    def memory(self, choice: PlanChoice) -> list[StageMemory]:
        """Bytes of every pipeline stage, at the batch that needs most."""
        run, kept, step = choice.of(self.question.run), self._pieces_of(choice).kept, self.step(choice)
        others = [replace(run, batch=replace(run.batch, global_batch=size)) for size in self.question.other_batches]
        found = []
        for stage in range(choice.layout.pipeline):
            activations = max(activation_bytes(one, stage=stage, kept=kept) for one in (run, *others))
            rank = state_memory(run, step.parameters_of_stage(stage), activations=activations)
            found.append(StageMemory(rank=rank, buffers=buffer_bytes(choice.layout, activations)))
        return found

    def chunks(self, choice: PlanChoice) -> list[ChunkWork]:
        """Work of every chunk of layers on one micro-batch."""
        pieces = self._pieces_of(choice)
        layers = choice.layout.chunk_layers(self.question.run.model.layers)
        work = [ChunkWork(count * pieces.layer.forward, count * pieces.layer.backward) for count in layers]
        work[0] = _both(work[0], pieces.embedding)
        work[-1] = _both(work[-1], pieces.head)
        return work

    def bound(self, choice: PlanChoice) -> float:
        """Seconds that a step takes at least."""
        step, chunks = self.step(choice), self.chunks(choice)
        stages = stage_work(chunks, stages=choice.layout.pipeline)
        waited, least = 0.0, 0.0
        for own, first in zip(stages, chunks, strict=False):  # the first chunk of every stage
            least = max(least, waited + step.micro_batches * sum(own))
            waited += sum(first)
        return least + total(around_passes(step, self.question.device, stages))

    def seconds(self, choice: PlanChoice) -> float:
        """Seconds of a step: those of `step_time`."""
        step, chunks = self.step(choice), self.chunks(choice)
        stages = stage_work(chunks, stages=choice.layout.pipeline)
        rest = total(around_passes(step, self.question.device, stages))
        return pipeline_time(choice.layout, step.micro_batches, chunks).total + rest

    def _pieces_of(self, choice: PlanChoice) -> ModelPieces:
        key = (choice.layout.tensor, choice.layout.context, choice.micro_batch, choice.recompute)
        if key not in self._pieces:
            step, device = self.step(choice), self.question.device
            self._pieces[key] = ModelPieces(
                layer=_work(layer(step, device)),
                embedding=_work(embedding(step, device)),
                head=_work(head(step, device)),
                kept=kept_per_token(choice.of(self.question.run)),
            )
        return self._pieces[key]


def _work(passes: Passes) -> ChunkWork:
    return ChunkWork(total(passes.forward), total(passes.backward))


def _both(one: ChunkWork, other: ChunkWork) -> ChunkWork:
    return ChunkWork(one.forward + other.forward, one.backward + other.backward)
