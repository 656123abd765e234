"""Cost of metrics in a step of the quickstart's model, as a share of the step.

One model, on one process, trains on batches of the quickstart's shape. Everything that the training loop does for a
record of rank 0 is timed after each step: speed and memory, position in the data, seconds of phases, metrics.jsonl,
TensorBoard, the times of the rank, and the profiler's look whether it was asked. The share is that of the median.

    python benchmarks/reporting_cost.py --rounds 3 --steps 10
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from machine import settled
from random_batches import random_batches
from step_time import RATE, one_process

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.engine.model.training_model import TrainingModel, build_training_model
from megaphi.engine.reporting.events import Events
from megaphi.engine.reporting.meter import Meter
from megaphi.engine.reporting.metrics import open_log
from megaphi.engine.reporting.profiler import StepProfiler
from megaphi.engine.reporting.step_times import StepTimes
from megaphi.engine.training.train_step import train_step
from megaphi.parallel.world import start_world
from megaphi.recipes.quickstart import quickstart_pretrain

RESULTS = Path(__file__).parent / "results" / "reporting_cost.csv"
COLUMNS = "date device commit torch megatron-core step_s reporting_s share".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="independent measurements")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per round")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/reporting_cost.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = one_process(quickstart_pretrain(), micro_batch=16)
    world = start_world(run.layout, seed=run.seed)
    with tempfile.TemporaryDirectory() as folder:
        model = build_training_model(replace(run, folder=folder), world)
        rounds = [measured(model, steps=arguments.steps, seed=number) for number in range(arguments.rounds)]
    for number, row in enumerate(rounds, start=1):
        print(f"round {number}: " + ", ".join(f"{name} {value:.6f}" for name, value in row.items()))
    print(f"metrics take {statistics.median(row['share'] for row in rounds):.4%} of a step (median)")
    if arguments.write:
        append(rounds, device=f"{world.device_name}, 1 thread")


def measured(model: TrainingModel, *, steps: int, seed: int) -> dict[str, float]:
    """Medians in seconds: a step, and what its record costs."""
    run, world, generator = model.run, model.world, np.random.default_rng(seed)
    tokens, activity = run.batch.global_batch * run.batch.sequence_length, world.activity
    log, meter = open_log(run, after=0), Meter(run, world)
    times = StepTimes(Path(run.folder), rank=0, place="benchmark")
    of_steps, of_records = [], []
    with times, StepProfiler(run, world, Events(None), after=0) as profiler:
        for step in range(1, steps + 3):
            batches = random_batches(run, generator)
            activity.begin(step)
            began = settled_now()
            result = train_step(model, batches, learning_rate=RATE)
            reported = settled_now()
            record = {"step": step, "loss": result.loss, "gradient_norm": result.gradient_norm, "learning_rate": RATE}
            record |= meter.step(tokens, sequence_length=run.batch.sequence_length)
            record |= {"samples": step * run.batch.global_batch, "tokens": step * tokens}
            log.add(record | times.since_last_record(activity.take_seconds()))
            times.add(step, activity.take_seconds())
            profiler.after(step, asked=profiler.asked())
            meter.restart()
            ended = time.perf_counter()
            if step > 2:  # the first steps allocate
                of_steps.append(reported - began)
                of_records.append(ended - reported)
    log.close()
    step_s, reporting_s = statistics.median(of_steps), statistics.median(of_records)
    return {"step_s": step_s, "reporting_s": reporting_s, "share": reporting_s / step_s}


def settled_now() -> float:
    settled()
    return time.perf_counter()


def append(rounds: list[dict[str, float]], *, device: str) -> None:
    """One line per round: what was measured, where, with what."""
    found, is_new = versions(), not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        for row in rounds:
            stamp = [date.today().isoformat(), device, short_commit(), found["torch"], found["megatron-core"]]
            writer.writerow([*stamp, *(f"{value:.7f}" for value in row.values())])


if __name__ == "__main__":
    main()
