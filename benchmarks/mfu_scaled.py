"""The time of the whole 14B on many devices, from what slices of it took on one.

Two slices give the times of a layer and of the head, per micro-batch: `layers x layer + head = micro-batch`, where the
smaller vocabulary's head takes its share of the larger one's by the model of a step. What one device does not show is
the model's: bubbles, messages between stages, the replicas' collectives, the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from benchmarks.mfu_model import layouts_of_the_14b
from benchmarks.mfu_sides import Slice
from megaphi.engine.run_config import RunConfig
from megaphi.model.arithmetic import AttentionCount, flops_per_token
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


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The whole 14B in one layout; rates are of one device."""

    name: str
    devices: int
    device: Device
    seconds: float
    tokens_per_second: float
    flops: dict[AttentionCount, float]
    """Model FLOP/s, attention counted causal and full."""

    def line(self) -> str:
        shares = ", ".join(f"MFU {flops / self.device.peak:.1%} {count}" for count, flops in self.flops.items())
        return (
            f"  {self.name:<36}{self.devices:>5} x {self.device.name} {self.seconds:>9.4f} s a step"
            f" {self.tokens_per_second:>10,.0f} tokens/s each, {shares}"
        )

    def cells(self, run: RunConfig, provenance: dict[str, str], *, note: str) -> dict[str, str]:
        """A line of the results of mfu.py, of the side "derived"."""
        return provenance | {
            "side": "derived",
            "slice": f"14B on {self.devices} x {self.device.name}, {self.name}",
            "sequence": str(run.batch.sequence_length),
            "seconds": f"{self.seconds:.5f}",
            "tokens_per_s": f"{self.tokens_per_second:.1f}",
            "teraflops_causal": f"{self.flops['causal'] / 1e12:.3f}",
            "mfu_causal": f"{self.flops['causal'] / self.device.peak:.4f}",
            "mfu_full": f"{self.flops['full'] / self.device.peak:.4f}",
            "note": " ".join(note.split()),
        }


def scaled(measured: Sequence[Measured], device: Device, *, devices: int) -> tuple[list[Derived], str]:
    """The 14B on many devices, from megaphi's two slices at micro-batches of one sequence, and what is assumed."""
    ours = [case for case in measured if case.side == "megaphi" and case.run.batch.micro_batch == 1]
    if len(ours) != 2 or any(math.isnan(case.micro_batch_seconds) for case in ours):
        return [], "nothing is derived for many devices: both slices of megaphi are needed"
    layer, head_seconds = layer_and_head(ours[0], ours[1], device)
    assumed = (
        f"derived, not measured: from a layer of {layer * 1e3:.3f} ms and a head of {head_seconds * 1e3:.3f} ms per "
        "micro-batch\nassumed: each stage runs its layers as fast as the slice did; bubbles, messages, collectives and"
        f" optimizer as in the model;\n{device.node_bytes / 1e9:.0f} GB/s within a node,"
        f" {device.network_bytes / 1e9:.0f} GB/s between nodes; no straggler, no failure, no checkpoint"
    )
    steps = {name: step for name, step in layouts_of_the_14b(devices).items() if name in LAYOUTS}
    run = ours[0].run
    return [derived(name, step, run, layer, head_seconds, device) for name, step in steps.items()], assumed


def derived(name: str, step: StepShape, run: RunConfig, layer: float, head: float, device: Device) -> Derived:
    """One layout, with layers and sequences as wide and as long as the slices'."""
    batch = replace(step.batch, sequence_length=run.batch.sequence_length)
    step = replace(step, model=replace(run.model, layers=step.model.layers), batch=batch)
    seconds, devices = scaled_seconds(step, layer, head, device), step.layout.world_size
    rate = batch.tokens_per_step / seconds / devices
    counts: tuple[AttentionCount, ...] = ("causal", "full")
    return Derived(
        name=name,
        devices=devices,
        device=device,
        seconds=seconds,
        tokens_per_second=rate,
        flops={
            count: rate * flops_per_token(step.model, sequence_length=batch.sequence_length, attention=count)
            for count in counts
        },
    )
