"""The predicted time of a step of the 14B in several layouts, and of published runs (megaphi/planning/step).

Every figure of this file is a model's, from rates that `step/device.py` assumes; nothing here was measured. The
published runs say how far such figures can be believed: `implied` is the rate of matrix products at which the
prediction would be the published time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from megaphi.data.batch import BatchShape
from megaphi.model.architecture import PHI4_14B, Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.step.device import Device
from megaphi.planning.step.shape import StepShape
from megaphi.planning.step.step_time import StepTime, step_time

TERA = 1e12


def layouts_of_the_14b(devices: int) -> dict[str, StepShape]:
    """Pretraining's batch of 5,760 sequences of 4,096 tokens, cut in several ways, by a name that says how."""
    layouts = {
        "TP 2 x PP 4, gradients added afterwards": ParallelLayout(tensor=2, pipeline=4, sequence_parallel=True),
        "TP 2 x PP 4": ParallelLayout(tensor=2, pipeline=4, sequence_parallel=True),
        "TP 2 x PP 4 x VPP 5": ParallelLayout(tensor=2, pipeline=4, virtual_pipeline=5, sequence_parallel=True),
        "PP 4": ParallelLayout(pipeline=4),
        "PP 4, layers 11,10,10,9": ParallelLayout(pipeline=4, stage_layers=(11, 10, 10, 9)),
        "PP 4 x VPP 5": ParallelLayout(pipeline=4, virtual_pipeline=5),
        "PP 4 x VPP 5, layers 11,10,10,9": ParallelLayout(
            pipeline=4, virtual_pipeline=5, stage_layers=(3, *[2] * 18, 1)
        ),
        "PP 8 x VPP 5": ParallelLayout(pipeline=8, virtual_pipeline=5),
    }
    batch = BatchShape(sequence_length=4_096, global_batch=5_760, micro_batch=1)
    return {
        name: StepShape(
            model=PHI4_14B,
            layout=layout.for_world(devices),
            batch=batch,
            weight_gradients="added afterwards" if "afterwards" in name else "in the product",
        )
        for name, layout in layouts.items()
    }


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A bf16 run on H100s, with the time of a step that its authors give."""

    name: str
    seconds: float
    step: StepShape


def grouped_by_eight(
    *, layers: int, hidden: int, feed_forward: int, heads: int, vocabulary: int, head_size: int = 128
) -> Architecture:
    """A model whose queries share eight key-value groups."""
    return Architecture(
        layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        heads=heads,
        key_value_groups=8,
        head_size=head_size,
        vocabulary=vocabulary,
    )


LLAMA_8B = grouped_by_eight(layers=32, hidden=4_096, feed_forward=14_336, heads=32, vocabulary=128_256)
LLAMA_70B = grouped_by_eight(layers=80, hidden=8_192, feed_forward=28_672, heads=64, vocabulary=128_256)
LLAMA_405B = grouped_by_eight(layers=126, hidden=16_384, feed_forward=53_248, heads=128, vocabulary=128_256)
# Nemotron's FFN has no gate, and 3/2 of this width: as many numbers in its matrices as a SwiGLU of the width here.
NEMOTRON_15B = grouped_by_eight(layers=32, hidden=6_144, feed_forward=16_384, heads=48, vocabulary=256_000)
NEMOTRON_340B = grouped_by_eight(
    layers=96, hidden=18_432, feed_forward=49_152, heads=96, vocabulary=256_000, head_size=192
)
SOURCE = "NVIDIA/dgxc-benchmarking, llama3.1/README_*.md (NeMo 24.09) and nemotron/README.md (2025), bf16"


def published_runs() -> Iterator[PublishedRun]:
    """From `SOURCE`."""
    cut_4 = ParallelLayout(tensor=4, pipeline=4, virtual_pipeline=5, context=2, sequence_parallel=True)
    cut_9 = ParallelLayout(tensor=8, pipeline=9, virtual_pipeline=7, context=2, sequence_parallel=True)
    cut_8 = ParallelLayout(tensor=8, pipeline=8, virtual_pipeline=12, sequence_parallel=True)
    proxy = ParallelLayout(tensor=8, context=2, sequence_parallel=True)
    pair = ParallelLayout(tensor=2, sequence_parallel=True)
    for name, seconds, model, layout, devices, length, global_batch, micro_batch in (
        ("Llama 3.1 8B, CP 2", 12.91, LLAMA_8B, ParallelLayout(context=2), 8, 8_192, 128, 1),
        ("Llama 3.1 8B, CP 2", 13.10, LLAMA_8B, ParallelLayout(context=2), 128, 8_192, 2_048, 1),
        ("Llama 3.1 70B, TP 4 x PP 4 x VPP 5 x CP 2", 14.72, LLAMA_70B, cut_4, 64, 8_192, 128, 1),
        ("Llama 3.1 70B, TP 4 x PP 4 x VPP 5 x CP 2", 14.98, LLAMA_70B, cut_4, 2_048, 8_192, 4_096, 1),
        ("Llama 3.1 405B, TP 8 x PP 9 x VPP 7 x CP 2", 17.20, LLAMA_405B, cut_9, 576, 8_192, 252, 1),
        ("Llama 3.1 405B, 7 layers, TP 8 x CP 2", 8.85, replace(LLAMA_405B, layers=7), proxy, 32, 8_192, 126, 1),
        ("Nemotron 4 15B, TP 2", 2.746, NEMOTRON_15B, pair, 16, 4_096, 64, 2),
        ("Nemotron 4 340B, TP 8 x PP 8 x VPP 12", 4.606, NEMOTRON_340B, cut_8, 256, 4_096, 64, 1),
    ):
        batch = BatchShape(sequence_length=length, global_batch=global_batch, micro_batch=micro_batch)
        step = StepShape(model=model, layout=layout.for_world(devices), batch=batch)
        yield PublishedRun(name=name, seconds=seconds, step=step)


@cache
def implied_rate(run: PublishedRun, device: Device) -> float:
    """FLOP/s of matrix products at which the predicted time is the published one.

    Time is nearly straight in the seconds that a FLOP takes, so a few secants find it.
    """

    def excess(slowness: float) -> float:
        return step_time(run.step, replace(device, products=1 / slowness)).seconds - run.seconds

    before, now = 1 / device.products, 1.5 / device.products
    for _ in range(5):
        if (slope := excess(now) - excess(before)) == 0:
            break
        before, now = now, now - excess(now) * (now - before) / slope
    return 1 / now


def print_assumptions(device: Device) -> None:
    print(
        f"model, not measured: {device.name}, {device.products / TERA:.0f} TFLOP/s in products,"
        f" {device.attention / TERA:.0f} in attention, {device.memory / TERA:.2f} TB/s,"
        f" {device.node_bytes / 1e9:.0f} GB/s within a node, {device.network_bytes / 1e9:.0f} GB/s between nodes;"
        f"\nMFU of {device.peak / TERA:.1f} TFLOP/s, by 6 FLOPs a matrix number and token, attention counted"
        " causal (6 x layers x width x sequence) or full (12 x); no recomputation"
    )


def median_implied_rate(device: Device) -> float:
    return statistics.median(implied_rate(run, device) for run in published_runs())


def print_layouts(device: Device, *, devices: int) -> None:
    """One line per layout, also at the rate of products that published runs imply; and the parts of the fastest."""
    sober = replace(device, products=median_implied_rate(device))
    print(f"\n14B pretraining, 4,096 tokens, 5,760 sequences a step, {devices} devices: model")
    print(f"  {'':<42}{'':>8}{'':>14}{'':>12}{'':>8}{'':>8}    at {sober.products / TERA:.0f} TFLOP/s in products")
    print(f"  {'layout':<42}{'s/step':>8}{'tokens/s/GPU':>14}{'MFU causal':>12}{'full':>8}{'bubble':>8}", end="")
    print(f"{'tokens/s/GPU':>16}{'MFU causal':>12}{'full':>8}")
    steps = layouts_of_the_14b(devices)
    found = {name: step_time(step, device) for name, step in steps.items()}
    for name, time in found.items():
        bubble, slower = time.parts.get("pipeline bubble", 0.0) / time.seconds, step_time(steps[name], sober)
        print(
            f"  {name:<42}{time.seconds:>8.3f}{time.tokens_per_second:>14,.0f}{time.utilisation('causal'):>12.1%}"
            f"{time.utilisation('full'):>8.1%}{bubble:>8.1%}{slower.tokens_per_second:>16,.0f}"
            f"{slower.utilisation('causal'):>12.1%}{slower.utilisation('full'):>8.1%}"
        )
    fastest = min(found, key=lambda name: found[name].seconds)
    print_parts(fastest, found[fastest])


def print_parts(name: str, time: StepTime) -> None:
    """Table of the parts of a predicted step, the largest first."""
    print(f"\n  {name}: the busiest stage's seconds, by part (model)")
    for part, seconds in sorted(time.parts.items(), key=lambda entry: -entry[1]):
        print(f"    {part:<24}{seconds:>9.4f}{seconds / time.seconds:>9.1%}")


def print_published(device: Device) -> None:
    """Predicted by published seconds, without and with the tensor ranks' collectives hidden, as NeMo hides them."""
    print(f"\npredicted against published ({SOURCE})")
    print(f"  {'run':<46}{'GPUs':>6}{'published':>10}{'predicted':>10}{'error':>8}{'TP hidden':>10}{'implied':>14}")
    for run in published_runs():
        time = step_time(run.step, device).seconds
        hidden = step_time(replace(run.step, tensor_overlap=1.0), device).seconds
        print(
            f"  {run.name:<46}{run.step.layout.world_size:>6}{run.seconds:>8.2f} s{time:>8.2f} s"
            f"{time / run.seconds - 1:>8.1%}{hidden / run.seconds - 1:>10.1%}"
            f"{implied_rate(run, device) / TERA:>8.0f} TFLOP/s"
        )
