"""The time of the whole 14B on many devices, from what slices of it took on one.

Two slices give the times of a layer and of the head, per micro-batch: `layers x layer + head = micro-batch`, where the
smaller vocabulary's head takes its share of the larger one's by the model of a step. What one device does not show is
the model's: bubbles, messages between stages, the replicas' collectives, the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from benchmarks.mfu_model import layouts_of_the_14b
from benchmarks.mfu_sides import Slice
from megaphi.engine.run_config import RunConfig
from megaphi.model.arithmetic import flops_per_token
from megaphi.planning.pipeline import ChunkWork, pipeline_time
from megaphi.planning.step.device import Device
from megaphi.planning.step.shape import StepShape, shape_of
from megaphi.planning.step.step_time import step_time
from megaphi.planning.step.work import embedding, head, total

OF_THE_REST = ("point to point", "gradients and weights", "optimizer")
LAYOUTS = ("PP 4", "PP 4, layers 11,10,10,9", "PP 4 x VPP 5", "PP 4 x VPP 5, layers 11,10,10,9")
"""Layouts without tensor ranks: a slice on one device shows no other's products."""


class Measured(Protocol):
    """One side on one slice."""

    @property
    def side(self) -> str: ...

    @property
    def part(self) -> Slice: ...

    @property
    def run(self) -> RunConfig: ...

    @property
    def micro_batch_seconds(self) -> float: ...


def layer_and_head(first: Measured, second: Measured, device: Device) -> tuple[float, float]:
    """Seconds of one layer, and of the first slice's embedding and head, per micro-batch."""
    share = head_share(first, second, device)
    layers, others = first.run.model.layers, second.run.model.layers
    # layers x layer + head = a and others x layer + share x head = b
    layer = (second.micro_batch_seconds - share * first.micro_batch_seconds) / (others - share * layers)
    return layer, first.micro_batch_seconds - layers * layer


def head_share(first: Measured, second: Measured, device: Device) -> float:
    """Predicted time of the second slice's embedding and head, as a share of the first's."""
    seconds = []
    for case in (first, second):
        step = shape_of(case.run)
        ends = (*embedding(step, device), *head(step, device))
        seconds.append(sum(map(total, ends)))
    return seconds[1] / seconds[0]


def scaled_seconds(step: StepShape, layer: float, head: float, device: Device) -> float:
    """Seconds of a step of the whole model, whose layers and head take so long, two thirds of it backward."""
    chunks = [count * layer for count in step.chunk_layers]
    chunks[-1] += head
    work = [ChunkWork(seconds / 3, seconds * 2 / 3) for seconds in chunks]
    rest = step_time(step, device).parts
    passes = pipeline_time(step.layout, step.micro_batches, work).total
    return passes + sum(rest.get(name, 0.0) for name in OF_THE_REST)


def print_scaled(measured: Sequence[Measured], device: Device, *, devices: int) -> None:
    """The 14B on many devices, derived from megaphi's two slices at micro-batches of one sequence."""
    ours = [case for case in measured if case.side == "megaphi" and case.run.batch.micro_batch == 1]
    if len(ours) != 2 or any(math.isnan(case.micro_batch_seconds) for case in ours):
        print("nothing is derived for many devices: both slices of megaphi are needed")
        return
    layer, head_seconds = layer_and_head(ours[0], ours[1], device)
    print(
        f"\nderived, not measured: from a layer of {layer * 1e3:.3f} ms and a head of {head_seconds * 1e3:.3f} ms per "
        f"micro-batch\nassumed: each stage runs its layers as fast as the slice did; bubbles, messages, collectives and"
        " optimizer as in the model;\nnetwork and node as assumed above; no straggler, no failure, no checkpoint"
    )
    for name, step in layouts_of_the_14b(devices).items():
        if name not in LAYOUTS:
            continue
        run = ours[0].run
        batch = replace(step.batch, sequence_length=run.batch.sequence_length)
        step = replace(step, model=replace(run.model, layers=step.model.layers), batch=batch)
        seconds = scaled_seconds(step, layer, head_seconds, device)
        rate = step.batch.tokens_per_step / seconds / devices
        flops = {
            attention: rate * flops_per_token(step.model, sequence_length=batch.sequence_length, attention=attention)
            for attention in ("causal", "full")
        }
        print(
            f"  {name:<36}{devices:>5} devices {seconds:>9.4f} s a step {rate:>10,.0f} tokens/s each, "
            + ", ".join(f"MFU {flops[attention] / device.peak:.1%} {attention}" for attention in flops)
        )
