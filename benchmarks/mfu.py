"""Speed of a training step at the 14B's width: predicted by a model of the step, and measured on slices of it.

    python benchmarks/mfu.py --model                            layouts of the 14B, and published runs; no GPU
    python benchmarks/mfu.py --model --products-tflops 640      with another assumption
    python benchmarks/mfu.py --write                            measure, beside predictions and peers
    python benchmarks/mfu.py --tiny                             the same program on a CPU, with tiny shapes

Slices are 6 layers with the whole vocabulary and 8 layers with a small one, in bf16, 4,096 tokens, micro-batches of 1
and 2, 32 of them to a step; also 8, because the difference is the time of micro-batches alone, without the optimizer.
From both slices follow the times of a layer and of the head, and from these the time of 512 devices, whose
communication and bubbles are the model's. A step is timed by CUDA events, by the clock on a CPU. megaphi comes first,
and every case is written as soon as it is measured: a time limit costs the peers, and one that fails is a row with its
error, after which the others run. Ratios are taken of all rows of this device and commit. The side `deterministic` is
megaphi with deterministic=true, on the smaller case of the second slice, in a process of its own. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the files beside this one, by their full name

from benchmarks.mfu_model import print_assumptions, print_layouts, print_published
from benchmarks.mfu_profile import print_profile
from benchmarks.mfu_rows import append, provenance, rows_like
from benchmarks.mfu_scaled import scaled
from benchmarks.mfu_sides import DETERMINISTIC, SIDES, SLICES, TINY_SLICES, Slice, Step, run_of
from benchmarks.random_batches import random_batches
from megaphi.data.batch import Batch
from megaphi.engine.run_config import RunConfig
from megaphi.engine.training.pinned import pinned
from megaphi.model.architecture import AttentionBackend
from megaphi.model.arithmetic import flops_per_token
from megaphi.planning.step.device import DEVICES, H100, Device, device_named
from megaphi.planning.step.shape import shape_of
from megaphi.planning.step.step_time import StepTime, step_time

RESULTS = Path(__file__).parent / "results" / "gpu" / "mfu.csv"
USUAL_SIDES = [side for side in SIDES if side != DETERMINISTIC]
OUT_OF_MEMORY = "out of memory"
Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device = assumed_device(options)
    print_assumptions(device)
    if options.model:
        print_layouts(device, devices=options.devices)
        print_published(device)
        return
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("torch sees no GPU here: --tiny measures tiny shapes on the CPU, --model predicts")
    cases: list[Case] = []
    for side in options.sides:
        parts = TINY_SLICES if options.tiny else SLICES
        parts = parts[-1:] if side == DETERMINISTIC else parts
        if side in ("megaphi", DETERMINISTIC):
            parts = [with_attention(part, options.attention_backend) for part in parts]
        measured = [case for part in parts for case in measure_slice(side, part, device, options)]
        if side == "megaphi":
            scale(measured, device, options)
        cases += measured
    rows = [cells(case) for case in cases]
    print_ratios(rows_like(rows[-1], options.results) if options.write else rows)
    if failed := [case for case in cases if math.isnan(case.seconds) and OUT_OF_MEMORY not in case.note]:
        sys.exit(f"{len(failed)} of {len(cases)} cases failed, the first by {failed[0].note}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="store_true", help="predict; measures nothing")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, a few micro-batches, no compiling")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=USUAL_SIDES, help="default: all but deterministic")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each case; their median counts")
    parser.add_argument("--micro-batches", type=int, help="of a step (default: 32; tiny: 4)")
    parser.add_argument(
        "--attention-backend",
        choices=get_args(AttentionBackend),
        default="auto",
        help="megaphi's kernel of attention (default: torch's choice); another one is a note in the results",
    )
    parser.add_argument("--devices", type=int, default=512, help="of the predicted layouts (default: 512)")
    parser.add_argument("--device", choices=DEVICES, help="whose rates are assumed (default: the GPU's, or h100)")
    parser.add_argument("--products-tflops", type=float, help="sustained in large bf16 matrix products")
    parser.add_argument("--attention-tflops", type=float, help="sustained in flash attention")
    parser.add_argument("--memory-terabytes", type=float, help="per second, of kernels that are bound by memory")
    parser.add_argument("--node-gigabytes", type=float, help="per second and device within a node (NVLink)")
    parser.add_argument("--network-gigabytes", type=float, help="per second and device between nodes (InfiniBand)")
    parser.add_argument("--write", action="store_true", help="append every case to the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results/gpu/mfu.csv")
    options = parser.parse_args(arguments)
    if DETERMINISTIC in options.sides and len(options.sides) > 1:
        parser.error("deterministic wants a process of its own: torch reads CUBLAS_WORKSPACE_CONFIG once, at a product")
    options.micro_batches = options.micro_batches or (4 if options.tiny else 32)
    return options


def assumed_device(options: argparse.Namespace) -> Device:
    """The table of the device that was named, or is here, with the rates that were given."""
    given = {
        "products": (options.products_tflops, 1e12),
        "attention": (options.attention_tflops, 1e12),
        "memory": (options.memory_terabytes, 1e12),
        "node_bytes": (options.node_gigabytes, 1e9),
        "network_bytes": (options.network_gigabytes, 1e9),
    }
    found = DEVICES[options.device] if options.device else H100
    if not options.device and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        found = device_named(name) or sys.exit(f"no rates and no peak of a {name} are known: name a device by --device")
    return replace(found, **{key: value * unit for key, (value, unit) in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One side on one slice."""

    side: str
    part: Slice
    run: RunConfig
    seconds: float
    """Median of a step; not a number if it could not be measured."""
    micro_batch_seconds: float
    """Time of a micro-batch, without what a step does once; of megaphi only."""
    peak_bytes: int
    """The most that torch had allocated, 0 on a CPU."""
    planned_bytes: int
    """By `--dry-run`, for megaphi."""
    predicted: StepTime
    note: str = ""
    """Oddity of its result, or the reason why it was not measured."""

    @property
    def tokens_per_second(self) -> float:
        return self.run.batch.tokens_per_step / self.seconds


def measure_slice(side: str, part: Slice, device: Device, options: argparse.Namespace) -> Iterator[Case]:
    """One side on one slice, with micro-batches of one and two sequences; nothing of it is left on the device."""
    from megaphi.parallel.world import start_world

    run = run_of(part, micro_batch=1, micro_batches=options.micro_batches)
    is_exact = side == DETERMINISTIC
    step, problem = attempted(lambda: SIDES[side](run, start_world(run.layout, seed=run.seed, deterministic=is_exact)))
    for micro_batch in (1,) if is_exact else (1, 2):
        case = measure(side, part, step, device, micro_batch=micro_batch, problem=problem, options=options)
        show(case)
        if options.write:
            append(cells(case), options.results)
        yield case
    if step is not None and side == "megaphi" and part.name in (SLICES[0].name, TINY_SLICES[0].name):
        attempted(partial(profile_step, step, part, device))
    del step
    if is_gpu():
        torch.compiler.reset()  # compiled code may hold a model
    gc.collect()
    torch.cuda.empty_cache()


def with_attention(part: Slice, backend: AttentionBackend) -> Slice:
    return replace(part, model=replace(part.model, attention_backend=backend))


def attempted(work: Callable[[], Result]) -> tuple[Result | None, str]:
    """(what `work` returns, ""), or (None, why it did not), with the traceback in the output."""
    try:
        return work(), ""
    except torch.OutOfMemoryError:
        return None, OUT_OF_MEMORY
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:200]


def measure(
    side: str,
    part: Slice,
    step: Step | None,
    device: Device,
    *,
    micro_batch: int,
    problem: str,
    options: argparse.Namespace,
) -> Case:
    """Time steps of all micro-batches, and of a quarter of them, after one that compiles and allocates.

    `problem`: why there is no `step`.
    """
    run = run_of(part, micro_batch=micro_batch, micro_batches=options.micro_batches)
    torch.cuda.reset_peak_memory_stats()
    times = Times(note=problem)
    if step is not None:
        found, problem = attempted(lambda: times_of(step, run, steps=options.steps, has_slope=side == "megaphi"))
        times = found or Times(note=problem)
    return Case(
        side=side,
        part=part,
        run=run,
        seconds=times.seconds,
        micro_batch_seconds=times.micro_batch_seconds,
        peak_bytes=torch.cuda.max_memory_allocated() if is_gpu() else 0,
        planned_bytes=planned_bytes(run) if side == "megaphi" else 0,
        predicted=predicted_time(run, device),
        note="; ".join(filter(None, (times.note, attention_note(run)))),
    )


def attention_note(run: RunConfig) -> str:
    backend = run.model.attention_backend
    return "" if backend == "auto" else f"attention {backend}"


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of a step and of a micro-batch, as in `Case`."""

    seconds: float = math.nan
    micro_batch_seconds: float = math.nan
    note: str


def times_of(step: Step, run: RunConfig, *, steps: int, has_slope: bool) -> Times:
    count, batches = run.batch.global_batch // run.batch.micro_batch, batches_of(run)
    few = batches[: count // 4]
    note = unlike_untrained(step(few), run)
    seconds = statistics.median(timed(step, batches) for _ in range(steps))
    if not has_slope:
        return Times(seconds=seconds, note=note)
    fewer = statistics.median(timed(step, few) for _ in range(steps))
    return Times(seconds=seconds, micro_batch_seconds=(seconds - fewer) / (count - len(few)), note=note)


def batches_of(run: RunConfig) -> list[Batch]:
    """The micro-batches of a step, in page-locked memory, where the prefetching thread would have put them."""
    device = torch.device("cuda" if is_gpu() else "cpu")
    return [pinned(batch, device) for batch in random_batches(run, np.random.default_rng(1))]


def profile_step(step: Step, part: Slice, device: Device) -> None:
    two = run_of(part, micro_batch=1, micro_batches=2)
    print_profile(step, batches_of(two), predicted=predicted_time(two, device).parts)


def scale(measured: Sequence[Case], device: Device, options: argparse.Namespace) -> None:
    """Derive the 14B on many devices from megaphi's slices; on a CPU these are no figures, and no rows."""
    print("\ntiny shapes: a test of the arithmetic, no figure" if options.tiny else "")
    derived, assumed = scaled(measured, device, devices=options.devices)
    print(assumed)
    for one in derived:
        print(one.line())
        if options.write and is_gpu():
            append(one.cells(measured[0].run, provenance(), note=assumed), options.results)


def predicted_time(run: RunConfig, device: Device) -> StepTime:
    return step_time(shape_of(run), device)


def unlike_untrained(loss: float, run: RunConfig) -> str:
    """A note if the loss is not about that of guessing: then the side computes something else."""
    expected = math.log(run.model.vocabulary)
    return "" if abs(loss - expected) < 1 else f"loss {loss:.2f}, not about {expected:.2f}"


def timed(step: Step, batches: list) -> float:
    """Seconds of one step."""
    if not is_gpu():
        began = time.perf_counter()
        step(batches)
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    step(batches)
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def is_gpu() -> bool:
    """False where torch.cuda is emulated (megaphi/parallel/cpu_emulation.py)."""
    return torch.cuda.get_device_name() != "CPU"


def planned_bytes(run: RunConfig) -> int:
    from megaphi.planning.memory import rank_memory

    (memory,) = rank_memory(run, [run.model.parameters])
    return memory.total


def show(case: Case) -> None:
    """Print one case beside its prediction."""
    print(f"{case.part.name}, micro-batch {case.run.batch.micro_batch}, {case.side}: ", end="")
    if case.note:
        print(case.note, end="; ")
    if math.isnan(case.seconds):
        print("not measured", flush=True)
        return
    if not is_gpu():
        print(f"{case.seconds:.3f} s a step on a CPU, a test of this program: no rate, no MFU", flush=True)
        return
    rates = utilisations(case)
    print(
        f"{case.seconds:.3f} s a step (model {case.predicted.seconds:.3f}, {case.seconds / case.predicted.seconds:.2f} "
        f"times), {case.tokens_per_second:,.0f} tokens/s, {rates['teraflops']:.1f} TFLOP/s causal, "
        f"MFU {rates['mfu_causal']:.1%} causal, {rates['mfu_full']:.1%} full, memory {case.peak_bytes / 1e9:.1f} GB "
        f"(planned {case.planned_bytes / 1e9:.1f})",
        flush=True,
    )


def print_ratios(rows: Sequence[dict[str, str]]) -> None:
    """Speed of megaphi as a multiple of each peer's, case by case; the fastest case last."""
    newest = {(row["side"], row["slice"], row["micro_batch"]): row for row in rows if float(row["seconds"]) > 0}
    ours = [row for row in newest.values() if row["side"] == "megaphi"]
    for row in sorted(ours, key=lambda row: float(row["tokens_per_s"])):
        case = (row["slice"], row["micro_batch"])
        peers = {side: newest[side, *case] for side in SIDES if side != "megaphi" and (side, *case) in newest}
        ratios = [f"{float(peer['seconds']) / float(row['seconds']):.2f} times {side}" for side, peer in peers.items()]
        reached = f"MFU {float(row['mfu_causal']):.1%} causal" if is_gpu() else "on a CPU, no figure"
        print(f"{case[0]}, micro-batch {case[1]}: {', '.join([reached, *ratios])}")


def utilisations(case: Case) -> dict[str, float]:
    """Model TFLOP/s, and their share of the peak; on a CPU not a number."""
    length = case.run.batch.sequence_length
    peak = case.predicted.device.peak if is_gpu() else float("nan")
    causal, full = (
        case.tokens_per_second * flops_per_token(case.run.model, sequence_length=length, attention=attention)
        for attention in ("causal", "full")
    )
    return {"teraflops": causal / 1e12, "mfu_causal": causal / peak, "mfu_full": full / peak}


def cells(case: Case) -> dict[str, str]:
    """One line of results."""
    rates = utilisations(case)
    return provenance() | {
        "side": case.side,
        "slice": case.part.name,
        "sequence": str(case.run.batch.sequence_length),
        "micro_batch": str(case.run.batch.micro_batch),
        "micro_batches": str(case.run.batch.global_batch // case.run.batch.micro_batch),
        "seconds": f"{case.seconds:.5f}",
        "micro_batch_seconds": f"{case.micro_batch_seconds:.6f}",
        "tokens_per_s": f"{case.tokens_per_second:.1f}",
        "teraflops_causal": f"{rates['teraflops']:.3f}",
        "mfu_causal": f"{rates['mfu_causal']:.4f}",
        "mfu_full": f"{rates['mfu_full']:.4f}",
        "peak_gb": f"{case.peak_bytes / 1e9:.3f}",
        "planned_gb": f"{case.planned_bytes / 1e9:.3f}",
        "model_seconds": f"{case.predicted.seconds:.5f}",
        "note": case.note,
    }


if __name__ == "__main__":
    main()
