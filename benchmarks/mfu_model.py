"""The predicted time of a step of the 14B in several layouts, and of published runs (megaphi/planning/step).

Every figure of this file is a model's, from rates that `step/device.py` assumes; nothing here was measured. The
published runs say how far such figures can be believed: `implied` is the rate of matrix products at which the
prediction would be the published time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.mfu_published import PublishedRun, nvidia_bf16, published_runs
from megaphi.data.batch import BatchShape
from megaphi.model.architecture import PHI4_14B
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


@cache
def implied_rate(run: PublishedRun, device: Device) -> float:
    """FLOP/s of bf16 products without end at which the predicted time is the published one.

    Time is nearly straight in the seconds that a FLOP takes, so a few secants find it.
    """

    def excess(slowness: float) -> float:
        return step_time(run.step, with_products(run.on(device), 1 / slowness)).seconds - run.seconds

    before, now = 1 / device.products, 1.5 / device.products
    for _ in range(5):
        if (slope := excess(now) - excess(before)) == 0:
            break
        before, now = now, now - excess(now) * (now - before) / slope
    return 1 / now


def with_products(device: Device, rate: float) -> Device:
    """The device with another rate of bf16 products, and of FP8 ones in proportion."""
    fp8 = None if device.products_fp8 is None else device.products_fp8 * rate / device.products
    return replace(device, products=rate, products_fp8=fp8)


def at_implied_rate(run: PublishedRun, device: Device) -> Device:
    return with_products(run.on(device), implied_rate(run, device))


def print_assumptions(device: Device) -> None:
    print(
        f"model, not measured: {device.name}, {device.products / TERA:.0f} TFLOP/s in products,"
        f" {device.attention / TERA:.0f} in attention, {device.memory / TERA:.2f} TB/s,"
        f" {device.node_bytes / 1e9:.0f} GB/s within a node, {device.network_bytes / 1e9:.0f} GB/s between nodes;"
        f"\nMFU of {device.peak / TERA:.1f} TFLOP/s, by 6 FLOPs a matrix number and token, attention counted"
        " causal (6 x layers x width x sequence) or full (12 x); no recomputation"
    )


def median_implied_rate(device: Device) -> float:
    return statistics.median(implied_rate(run, device) for run in nvidia_bf16())


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


def prediction_error(run: PublishedRun, device: Device, **changed: Any) -> float:
    """Predicted by published seconds, less one."""
    return step_time(replace(run.step, **changed), run.on(device)).seconds / run.seconds - 1


def median_error(device: Device, runs: Iterable[PublishedRun], **changed: Any) -> float:
    """Median of the errors without their signs."""
    return statistics.median(abs(prediction_error(run, device, **changed)) for run in runs)


def print_published(device: Device) -> None:
    """Predicted by published seconds, without and with the tensor ranks' collectives hidden, as NeMo hides them."""
    print("\npredicted against published; nothing in the model was fitted to these runs")
    print(f"  {'run':<44}{'GPUs':>6}{'published':>11}{'predicted':>11}{'error':>8}{'TP hidden':>11}{'implied':>14}")
    runs = list(published_runs())
    for run in runs:
        time = step_time(run.step, run.on(device)).seconds
        print(
            f"  {run.name:<44}{run.step.layout.world_size:>6}{run.seconds:>9.2f} s{time:>9.2f} s"
            f"{prediction_error(run, device):>8.1%}{prediction_error(run, device, tensor_overlap=1.0):>11.1%}"
            f"{implied_rate(run, device) / TERA:>8.0f} TFLOP/s"
        )
    for name, chosen in (("all", runs), ("NVIDIA's recipes in bf16", list(nvidia_bf16()))):
        hidden = median_error(device, chosen, tensor_overlap=1.0)
        print(f"  median error of {name}: {median_error(device, chosen):.1%}, with TP hidden {hidden:.1%}")
    for source in dict.fromkeys(run.source for run in runs):
        print(f"  source: {source}")
    for run in runs:
        if run.assumed:
            print(f"  assumed for {run.name}: {run.assumed}")
