"""Step time of the quickstart model: our engine against transformers with torch's AdamW, on the same batches.

Both train the same weights in fp32 in this one process with the same number of threads, one step each in turn, so that
whatever else the machine does hits both. A step is forward, backward, clipping to norm 1 and the AdamW update; both
sides use torch's fused AdamW kernel and scaled_dot_product_attention. The claim is the ratio of the medians.

    python benchmarks/step_time.py --rounds 3 --steps 10
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch

from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.data.batch import Batch
from megaphi.engine.checkpoint import save_checkpoint, versions
from megaphi.engine.run_config import RunConfig, check
from megaphi.engine.train_step import train_step
from megaphi.engine.training_model import TrainingModel, build_training_model
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import start_world
from megaphi.recipes.quickstart import quickstart_pretrain

RESULTS = Path(__file__).parent / "results" / "step_time.csv"
RATE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="independent measurements")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each side per round")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--micro-batch", type=int, default=16, help="sequences per forward pass, both sides")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/step_time.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = one_process(quickstart_pretrain(), micro_batch=arguments.micro_batch)
    world = start_world(run.layout, seed=run.seed)
    ours = build_training_model(run, world)
    theirs = transformers_step(ours)
    ratios, rows = [], []
    for number in range(arguments.rounds):
        mine, other = alternate(run, ours, theirs, steps=arguments.steps, seed=number)
        ratios.append(mine / other)
        rows.append((mine, other))
        print(f"round {number + 1}: megaphi {mine:.4f} s, transformers {other:.4f} s, ratio {mine / other:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} (below 1: megaphi is faster)")
    if arguments.write:
        append(rows, device=f"{world.device_name}, {arguments.threads} thread(s)")


def one_process(run: RunConfig, *, micro_batch: int) -> RunConfig:
    batch = dataclasses.replace(run.batch, micro_batch=micro_batch)
    return check(dataclasses.replace(run, layout=ParallelLayout(), batch=batch), world_size=1)


def transformers_step(ours: TrainingModel) -> Callable[[list[Batch]], float]:
    """The same weights in transformers; returns a function that trains one step and gives the loss."""
    from transformers import Phi3ForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(ours.run, run=dataclasses.replace(ours.run.run, folder=folder))
        save_checkpoint(dataclasses.replace(ours, run=run), {"step": 0})
        to_huggingface(folder, Path(folder) / "huggingface", tokenizer=False)
        model = Phi3ForCausalLM.from_pretrained(Path(folder) / "huggingface", dtype=torch.float32)
    model.train()
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    settings = ours.run.optimizer
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=RATE, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)

    def step(batches: list[Batch]) -> float:
        adam.zero_grad()
        total = 0.0
        for batch in batches:
            labels = torch.from_numpy(batch.labels_BS)
            logits = model(torch.from_numpy(batch.tokens_BS), use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) / len(batches)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_gradient_norm)
        adam.step()
        return total

    return step


def alternate(
    run: RunConfig, ours: TrainingModel, theirs: Callable[[list[Batch]], float], *, steps: int, seed: int
) -> tuple[float, float]:
    """Median seconds per step of both, each having trained on the same batches; their losses must agree."""
    times: tuple[list[float], list[float]] = ([], [])
    generator = np.random.default_rng(seed)
    for number in range(steps + 2):
        batches = random_batches(run, generator)
        began = time.perf_counter()
        loss = train_step(ours, batches, learning_rate=RATE).loss
        between = time.perf_counter()
        other_loss = theirs(batches)
        ended = time.perf_counter()
        if abs(loss - other_loss) > 1e-3:
            raise SystemExit(f"the two sides do not train the same model: loss {loss} against {other_loss}")
        if number >= 2:  # the first steps allocate
            times[0].append(between - began)
            times[1].append(ended - between)
    return statistics.median(times[0]), statistics.median(times[1])


def random_batches(run: RunConfig, generator: np.random.Generator) -> list[Batch]:
    shape = (run.batch.micro_batch, run.batch.sequence_length + 1)
    batches = []
    for _ in range(run.batch.global_batch // run.batch.micro_batch):
        rows = generator.integers(run.model.vocabulary, size=shape)
        batch = Batch(
            tokens_BS=np.ascontiguousarray(rows[:, :-1]),
            labels_BS=np.ascontiguousarray(rows[:, 1:]),
            loss_mask_BS=np.ones((shape[0], shape[1] - 1), dtype=np.float32),
            document_ids_BS=None,
            sample_numbers_B=np.arange(shape[0]),
        )
        batches.append(batch)
    return batches


def append(rows: list[tuple[float, float]], *, device: str) -> None:
    """One line per round: what was measured, where, with what."""
    found = versions()
    is_new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow("date device commit torch megatron-core megaphi_s transformers_s ratio".split())
        for mine, other in rows:
            stamp = [date.today().isoformat(), device, found.get("commit", "")[:10], found["torch"]]
            writer.writerow([*stamp, found["megatron-core"], f"{mine:.5f}", f"{other:.5f}", f"{mine / other:.4f}"])


if __name__ == "__main__":
    main()
