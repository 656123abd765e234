"""Cost of the guard and of metrics in a step of the quickstart's model, each and together as a share of the step.

One model, on one process, trains on batches of the quickstart's shape, a step without the guard and one with it by
turns. What the training loop adds is timed by itself, because its share is far below the noise of whole steps:

- the guard: deciding, and keeping its record with a full window of 128 steps; a comparison of replicas counts once in
  `guard.replica_check_steps`;
- metrics: all that rank 0 does for a record: speed and memory, position in the data, seconds of phases, metrics.jsonl,
  TensorBoard, the times of the rank, and the profiler's look whether it was asked.

    python benchmarks/loop_cost.py --rounds 3 --steps 10
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from machine import settled
from random_batches import random_batches
from results_file import append_rows
from step_time import RATE, one_process

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.data.batch import Batch
from megaphi.data.order.schedule import StageSpan, single_stage
from megaphi.engine.model.replicas import replica_differences
from megaphi.engine.model.training_model import TrainingModel, build_training_model
from megaphi.engine.reporting.events import Events
from megaphi.engine.reporting.meter import Meter
from megaphi.engine.reporting.metrics import open_log
from megaphi.engine.reporting.profiler import StepProfiler
from megaphi.engine.reporting.step_times import StepTimes
from megaphi.engine.training.guarding import RunGuard
from megaphi.engine.training.train_step import StepResult, train_step
from megaphi.parallel.world import start_world
from megaphi.recipes.quickstart import quickstart_pretrain
from megaphi.stages.pretrain import mixture_of

RESULTS = Path(__file__).parent / "results" / "loop_cost.csv"
TIMES = "step_s guarded_step_s guard_s replica_check_s metrics_s".split()
SHARES = "guard_share metrics_share share".split()
COLUMNS = ["date", "device", "commit", "torch", "megatron-core", *TIMES, *SHARES]
Record = Callable[[int, StepResult], None]
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="independent measurements")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each side per round")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/loop_cost.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = one_process(quickstart_pretrain(), micro_batch=16)
    run = replace(run, guard=replace(run.guard, deviations=1e9))  # of random tokens nothing may be left out
    world = start_world(run.layout, seed=run.seed)
    with tempfile.TemporaryDirectory() as folder:
        model = build_training_model(replace(run, folder=folder), world)
        rounds = [measured(model, steps=arguments.steps, seed=number) for number in range(arguments.rounds)]
    for number, row in enumerate(rounds, start=1):
        print(f"round {number}: " + ", ".join(f"{name} {value:.6f}" for name, value in row.items()))
    guard, metrics, both = (statistics.median(row[name] for row in rounds) for name in SHARES)
    print(f"share of a step: guard {guard:.4%}, metrics {metrics:.4%}, together {both:.4%} (medians of rounds)")
    if arguments.write:
        append(rounds, device=f"{world.device_name}, 1 thread")


def measured(model: TrainingModel, *, steps: int, seed: int) -> dict[str, float]:
    """Medians in seconds of TIMES, and the shares of the step that follow from them."""
    run, generator = model.run, np.random.default_rng(seed)
    guard, stage = guard_at_work(model)
    times: dict[str, list[float]] = {name: [] for name in TIMES}
    with records_of(model) as record:
        for step in range(1, steps + 3):
            batches = random_batches(run, generator)
            model.world.activity.take_seconds()  # those of the guarded step are in no record
            model.world.activity.begin(step)
            result, plain = timed(partial(train_step, model, batches, learning_rate=RATE))
            _, recorded = timed(partial(record, step, result))
            guarded, own = guarded_step(model, guard, stage, batches, step=step)
            _, compared = timed(partial(replica_differences, model))
            if step > 2:  # the first steps allocate
                for name, value in zip(TIMES, (plain, guarded, own, compared, recorded), strict=True):
                    times[name].append(value)
    row = {name: statistics.median(values) for name, values in times.items()}
    guarding = row["guard_s"] + row["replica_check_s"] / run.guard.replica_check_steps
    shares = [seconds / row["step_s"] for seconds in (guarding, row["metrics_s"], guarding + row["metrics_s"])]
    return row | dict(zip(SHARES, shares, strict=True))


def guard_at_work(model: TrainingModel) -> tuple[RunGuard, StageSpan]:
    """A guard whose window is full, in the one stage of the quickstart's data."""
    run = model.run
    guard, stage = (
        RunGuard(run, model.world, Events(None), {}),
        single_stage(mixture_of(run).sources, sequence_length=1),
    )
    guard.computes(1, stage)
    guard.record = replace(guard.record, accepted=((8.3, 1.0), (8.4, 1.2)) * (run.guard.window // 2))
    return guard, stage


def guarded_step(
    model: TrainingModel, guard: RunGuard, stage: StageSpan, batches: list[Batch], *, step: int
) -> tuple[float, float]:
    """(seconds of a step with the guard's decision, those of the guard's own calls); replicas are not compared."""
    number = step * model.run.guard.replica_check_steps + 1
    _, own = timed(partial(guard.computes, number, stage))

    def accept(result: StepResult) -> bool:
        nonlocal own
        accepted, seconds = timed(partial(guard.accept, model, number, result))
        own += seconds
        return accepted

    _, whole = timed(partial(train_step, model, batches, learning_rate=RATE, accept=accept))
    return whole, own


@contextmanager
def records_of(model: TrainingModel) -> Iterator[Record]:
    """Gives a function that records a step as the training loop does, in the run folder."""
    run, world = model.run, model.world
    tokens, activity = run.batch.global_batch * run.batch.sequence_length, world.activity
    log, meter = open_log(run, after=0), Meter(run, world)
    times = StepTimes(Path(run.folder), rank=0, place="benchmark")

    def record(step: int, result: StepResult) -> None:
        known = {"step": step, "loss": result.loss, "gradient_norm": result.gradient_norm, "learning_rate": RATE}
        known |= meter.step(tokens, sequence_length=run.batch.sequence_length)
        known |= {"samples": step * run.batch.global_batch, "tokens": step * tokens}
        log.add(known | times.since_last_record(activity.take_seconds()))
        times.add(step, activity.take_seconds())
        profiler.after(step, asked=profiler.asked())
        meter.restart()

    with times, StepProfiler(run, world, Events(None), after=0) as profiler:
        yield record
    log.close()


def timed(action: Callable[[], Result]) -> tuple[Result, float]:
    """(what the action returns, its seconds)"""
    settled()
    began = time.perf_counter()
    result = action()
    settled()
    return result, time.perf_counter() - began


def append(rounds: list[dict[str, float]], *, device: str) -> None:
    """One line per round: what was measured, where, with what."""
    found = versions()
    stamp = [date.today().isoformat(), device, short_commit(), found["torch"], found["megatron-core"]]
    append_rows(RESULTS, COLUMNS, ([*stamp, *(f"{value:.7f}" for value in row.values())] for row in rounds))


if __name__ == "__main__":
    main()
