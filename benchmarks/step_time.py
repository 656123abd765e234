"""Step time of the quickstart model: our engine on fused kernels, on plain PyTorch, and transformers with AdamW.

All three train the same weights in fp32 on the same batches, in this one process with the same number of threads, one
step each in turn, so that whatever else the machine does hits all. A step is forward, backward, clipping to norm 1 and
the AdamW update; all use torch's fused AdamW kernel and scaled_dot_product_attention. The claims are ratios of medians.

    python benchmarks/step_time.py --rounds 3 --steps 10
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from machine import settled
from random_batches import random_batches
from results_file import append_rows

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import Batch
from megaphi.engine.model.training_model import TrainingModel, build_training_model
from megaphi.engine.run_config import RunConfig, check
from megaphi.engine.saving.saver import save_checkpoint
from megaphi.engine.training.train_step import train_step
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import start_world
from megaphi.recipes.quickstart import quickstart_pretrain

RESULTS = Path(__file__).parent / "results" / "step_time.csv"
COLUMNS = "date device commit torch megatron-core fused_s reference_s transformers_s".split()
RATE = 1e-4
Step = Callable[[list[Batch]], float]
"""Train one step, return its loss."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="independent measurements")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each side per round")
    parser.add_argument("--threads", type=int, default=1, help="threads of all sides")
    parser.add_argument("--micro-batch", type=int, default=16, help="sequences per forward pass, all sides")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/step_time.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = one_process(quickstart_pretrain(), micro_batch=arguments.micro_batch)
    world = start_world(run.layout, seed=run.seed)
    models = {kernels: build_training_model(computed_by(run, kernels), world) for kernels in ("fused", "reference")}
    sides: dict[str, Step] = {name: partial(our_step, model) for name, model in models.items()}
    sides["transformers"] = transformers_step(models["reference"])
    rounds = []
    for number in range(arguments.rounds):
        times = alternate(run, sides, steps=arguments.steps, seed=number)
        rounds.append(times)
        print(f"round {number + 1}: " + ", ".join(f"{name} {seconds:.4f} s" for name, seconds in times.items()))
    for other in ("reference", "transformers"):
        ratio = statistics.median(times["fused"] / times[other] for times in rounds)
        print(f"fused / {other}: median ratio {ratio:.3f} (below 1: fused is faster)")
    if arguments.write:
        append(rounds, device=f"{world.device_name}, {arguments.threads} thread(s)")


def computed_by(run: RunConfig, kernels: Literal["fused", "reference"]) -> RunConfig:
    return dataclasses.replace(run, model=dataclasses.replace(run.model, kernels=kernels))


def our_step(model: TrainingModel, batches: list[Batch]) -> float:
    return train_step(model, batches, learning_rate=RATE).loss


def one_process(run: RunConfig, *, micro_batch: int) -> RunConfig:
    batch = dataclasses.replace(run.batch, micro_batch=micro_batch)
    return check(dataclasses.replace(run, layout=ParallelLayout(), batch=batch), world_size=1)


def transformers_step(ours: TrainingModel) -> Step:
    """The same weights in transformers; returns a function that trains one step and gives the loss."""
    from transformers import Phi3ForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(ours.run, folder=folder)
        save_checkpoint(dataclasses.replace(ours, run=run), {"step": 0})
        to_huggingface(folder, Path(folder) / "huggingface", tokenizer=False)
        model = Phi3ForCausalLM.from_pretrained(Path(folder) / "huggingface", dtype=torch.float32)
    device = ours.world.device
    model.to(device).train()  # pyright: ignore[reportArgumentType]
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    settings = ours.run.optimizer
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=RATE, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)

    def step(batches: list[Batch]) -> float:
        adam.zero_grad()
        total = 0.0
        for batch in batches:
            labels = torch.from_numpy(batch.labels_BS).to(device)
            logits = model(torch.from_numpy(batch.tokens_BS).to(device), use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) / len(batches)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_gradient_norm)
        adam.step()
        return total

    return step


def alternate(run: RunConfig, sides: dict[str, Step], *, steps: int, seed: int) -> dict[str, float]:
    """Median seconds per step of every side, all having trained on the same batches; their losses must agree."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    generator = np.random.default_rng(seed)
    for number in range(steps + 2):
        batches = random_batches(run, generator)
        losses = {}
        for name, step in sides.items():
            settled()
            began = time.perf_counter()
            losses[name] = step(batches)
            settled()
            if number >= 2:  # the first steps allocate
                times[name].append(time.perf_counter() - began)
        if max(losses.values()) - min(losses.values()) > 1e-3:
            raise SystemExit(f"the sides do not train the same model: losses {losses}")
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def append(rounds: list[dict[str, float]], *, device: str) -> None:
    """One line per round: what was measured, where, with what."""
    found = versions()
    stamp = [date.today().isoformat(), device, short_commit(), found["torch"], found["megatron-core"]]
    seconds = ([f"{times[name]:.5f}" for name in ("fused", "reference", "transformers")] for times in rounds)
    append_rows(RESULTS, COLUMNS, ([*stamp, *row] for row in seconds))


if __name__ == "__main__":
    main()
