"""Cost of the guard in a step of the quickstart's model, as a share of the step without it.

One model, on one process, trains on the same kind of batches by turns: a step with the guard's calls, a step without.
The guard's own calls are timed inside the step (`own`: deciding, and keeping its record with a full window of 128
steps), because their share is far below the noise of whole steps; the ratio of whole steps is printed beside it. A
comparison of replicas is timed by itself, and counts once in `guard.replica_check_steps`.

    python benchmarks/guard_cost.py --rounds 3 --steps 10
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import settled
from random_batches import random_batches
from step_time import RATE, one_process

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.data.order.schedule import single_stage
from megaphi.engine.model.replicas import replica_differences
from megaphi.engine.model.training_model import TrainingModel, build_training_model
from megaphi.engine.reporting.events import Events
from megaphi.engine.training.guarding import RunGuard
from megaphi.engine.training.train_step import StepResult, train_step
from megaphi.parallel.world import start_world
from megaphi.recipes.quickstart import quickstart_pretrain
from megaphi.stages.pretrain import mixture_of

RESULTS = Path(__file__).parent / "results" / "guard_cost.csv"
COLUMNS = "date device commit torch megatron-core plain_s guarded_s own_s replica_check_s share".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="independent measurements")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each side per round")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/guard_cost.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = one_process(quickstart_pretrain(), micro_batch=16)
    run = replace(run, guard=replace(run.guard, deviations=1e9))  # of random tokens nothing may be left out
    world = start_world(run.layout, seed=run.seed)
    model = build_training_model(run, world)
    rounds = [measured(model, steps=arguments.steps, seed=number) for number in range(arguments.rounds)]
    for number, row in enumerate(rounds, start=1):
        print(f"round {number}: " + ", ".join(f"{name} {value:.6f}" for name, value in row.items()))
    share = statistics.median(row["share"] for row in rounds)
    whole = statistics.median(row["guarded_s"] / row["plain_s"] for row in rounds)
    print(f"the guard's share of a step: median {share:.4%}; whole steps, guarded / plain: median {whole:.3f}")
    if arguments.write:
        append(rounds, device=f"{world.device_name}, 1 thread")


def measured(model: TrainingModel, *, steps: int, seed: int) -> dict[str, float]:
    """Medians in seconds: a step without and with the guard, its own calls, one comparison; and the share of both."""
    run, generator = model.run, np.random.default_rng(seed)
    guard, stage = (
        RunGuard(run, model.world, Events(None), {}),
        single_stage(mixture_of(run).sources, sequence_length=1),
    )
    guard.computes(1, stage)
    guard.record = replace(guard.record, accepted=((8.3, 1.0), (8.4, 1.2)) * (run.guard.window // 2))
    times: dict[str, list[float]] = {"plain_s": [], "guarded_s": [], "own_s": [], "replica_check_s": []}
    for step in range(1, steps + 3):
        batches, number = random_batches(run, generator), step * run.guard.replica_check_steps + 1  # without comparison
        own = [seconds(partial(guard.computes, number, stage))]
        plain = seconds(partial(train_step, model, batches, learning_rate=RATE))
        accept = partial(timed_accept, guard, model, number, own)
        guarded = seconds(partial(train_step, model, batches, learning_rate=RATE, accept=accept))
        check = seconds(partial(replica_differences, model))
        if step > 2:  # the first steps allocate
            for name, value in zip(times, (plain, guarded, sum(own), check), strict=True):
                times[name].append(value)
    row = {name: statistics.median(values) for name, values in times.items()}
    return row | {"share": (row["own_s"] + row["replica_check_s"] / run.guard.replica_check_steps) / row["plain_s"]}


def timed_accept(guard: RunGuard, model: TrainingModel, step: int, own: list[float], result: StepResult) -> bool:
    """The guard's decision; its seconds are added to `own`."""
    began = time.perf_counter()
    accepted = guard.accept(model, step, result)
    own.append(time.perf_counter() - began)
    return accepted


def seconds(action: Callable[[], Any]) -> float:
    settled()
    began = time.perf_counter()
    action()
    settled()
    return time.perf_counter() - began


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
