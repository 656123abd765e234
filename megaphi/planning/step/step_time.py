"""The time of a training step, predicted: the busiest stage's work, and what surrounds it.

The pipeline's time is that of Megatron's schedule, walked through (`planning/pipeline.py`). It is a model: no launch is
waited for, no host is slow, products of every size run at one rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megaphi.model.arithmetic import AttentionCount, flops_per_token
from megaphi.planning.pipeline import ChunkWork, pipeline_time
from megaphi.planning.step.device import Device, group_rate
from megaphi.planning.step.shape import StepShape
from megaphi.planning.step.work import BF16, FP32, Parts, Passes, added, embedding, head, layer, total

SHARD_BYTES = FP32 * (1 + 2 + 2 + 2 + 2 + 1) + BF16
"""Bytes per number that a rank updates: the gradient read for its norm, scaled, and read; main copy and both moments
read and written; the bf16 weight written."""
GRADIENT_BYTES = 3 * FP32
"""Bytes per number that a rank holds: its gradient is zeroed, and divided by the number of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Predicted seconds of one step; what is not in `parts` is not in the model."""

    parts: Parts
    """By part: the busiest stage's passes over all micro-batches, then the rest; they add up to `seconds`."""
    step: StepShape
    device: Device

    @property
    def seconds(self) -> float:
        return total(self.parts)

    @property
    def tokens_per_second(self) -> float:
        """Per device."""
        return self.step.batch.tokens_per_step / self.seconds / self.step.layout.world_size

    def model_flops(self, attention: AttentionCount) -> float:
        """Model FLOP/s per device."""
        length = self.step.batch.sequence_length
        return self.tokens_per_second * flops_per_token(self.step.model, sequence_length=length, attention=attention)

    def utilisation(self, attention: AttentionCount) -> float:
        """MFU: model FLOP/s by the peak of the data sheet."""
        return self.model_flops(attention) / self.device.peak


def step_time(step: StepShape, device: Device) -> StepTime:
    """Predict one step."""
    layout, micro_batches = step.layout, step.micro_batches
    chunks = [chunk_passes(step, device, chunk) for chunk in range(len(step.chunk_layers))]
    work = [ChunkWork(total(chunk.forward), total(chunk.backward)) for chunk in chunks]
    pipeline = pipeline_time(layout, micro_batches, work)
    busiest = max(range(layout.pipeline), key=pipeline.busy.__getitem__)
    rest = {
        "pipeline bubble": pipeline.total - pipeline.busy[busiest],
        **around_passes(step, device, stage_work(work, stages=layout.pipeline)),
    }
    passes = _together(chunks[busiest :: layout.pipeline])
    parts = added((micro_batches, passes.forward), (micro_batches, passes.backward), (1, rest))
    return StepTime(parts=parts, step=step, device=device)


def stage_work(chunks: Sequence[ChunkWork], *, stages: int) -> list[ChunkWork]:
    """Work of every stage on one micro-batch, from that of the chunks."""
    return [
        ChunkWork(sum(one.forward for one in chunks[stage::stages]), sum(one.backward for one in chunks[stage::stages]))
        for stage in range(stages)
    ]


def around_passes(step: StepShape, device: Device, stages: Sequence[ChunkWork]) -> Parts:
    """Seconds of a step beside its passes and the bubble."""
    return {
        "point to point": step.micro_batches * _message_seconds(step, device),
        "gradients and weights": max(_replica_seconds(step, device, stage, work) for stage, work in enumerate(stages)),
        "optimizer": max(_optimizer_seconds(step, device, stage) for stage in range(len(stages))),
    }


def chunk_passes(step: StepShape, device: Device, chunk: int) -> Passes:
    """One micro-batch in a chunk of layers, and in the end of the model that is beside it."""
    one, count = layer(step, device), step.chunk_layers[chunk]
    terms = [(count, one)]
    if chunk == 0:
        terms.append((1, embedding(step, device)))
    if chunk == len(step.chunk_layers) - 1:
        terms.append((1, head(step, device)))
    return _summed(terms)


def _together(chunks: Sequence[Passes]) -> Passes:
    return _summed([(1, chunk) for chunk in chunks])


def _summed(terms: Sequence[tuple[float, Passes]]) -> Passes:
    return Passes(
        added(*((times, passes.forward) for times, passes in terms)),
        added(*((times, passes.backward) for times, passes in terms)),
    )


def replica_bytes(step: StepShape, stage: int) -> tuple[float, float]:
    """(gradients, weights) that a rank's replicas bring it: fp32 reduce-scattered, bf16 gathered."""
    sharing = (step.layout.data or 1) * step.layout.context
    numbers = step.parameters_of_stage(stage) * (sharing - 1) / sharing
    return numbers * FP32, numbers * BF16


def _message_seconds(step: StepShape, device: Device) -> float:
    """Time that a stage waits for its neighbours' tensors per micro-batch: an activation and a gradient in plain 1F1B.

    Interleaved schedules send beside the passes.
    """
    layout = step.layout
    if layout.pipeline == 1 or layout.virtual_pipeline > 1:
        return 0.0
    size = step.tokens * step.model.hidden * BF16 / (layout.tensor if layout.sequence_parallel else 1)
    is_near = layout.world_size <= device.node_devices
    return 2 * size / (device.node_bytes if is_near else device.network_bytes)


def _replica_seconds(step: StepShape, device: Device, stage: int, work: ChunkWork) -> float:
    """Part of the replicas' collectives that no pass hides."""
    layout = step.layout
    gradients, weights = replica_bytes(step, stage)
    rate = group_rate(device, ranks=(layout.data or 1) * layout.context, stride=layout.tensor)
    if not step.overlap_gradients:
        return (gradients + weights) / rate
    reduced = max(0.0, gradients / rate - work.backward)
    return reduced + max(0.0, weights / rate - work.forward)


def _optimizer_seconds(step: StepShape, device: Device, stage: int) -> float:
    numbers = step.parameters_of_stage(stage)
    sharing = (step.layout.data or 1) * step.layout.context
    return (numbers / sharing * SHARD_BYTES + numbers * GRADIENT_BYTES) / device.memory
