"""Ranks of the engine's tests: tiny models on batches that are a pure function of the sample number."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megaphi.data.batch import Batch, BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import TrainingLength
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain

if TYPE_CHECKING:
    from megaphi.engine.model.training_model import TrainingModel

TINY = Architecture(layers=4, hidden=48, feed_forward=80, heads=6, key_value_groups=2, head_size=8, vocabulary=256)


def tiny_run(*, folder: str = "unused", layout: ParallelLayout | None = None, **fields: object) -> RunConfig:
    """A calm run: a small learning rate with warm-up, so that rounding does not grow."""
    run = RunConfig(
        recipe="tiny",
        folder=folder,
        training=TrainingLength(steps=20),
        layout=layout or ParallelLayout(),
        model=TINY,
        batch=BatchShape(sequence_length=32, global_batch=8, micro_batch=2),
        task=Pretrain(mixture=Mixture(sources=(Source(name="text", weight=1.0, paths=("unused",)),))),
        optimizer=Optimizer(learning_rate=3e-4, warmup_steps=5),
        precision=NumericPrecision(parameters="float32"),
    )
    return dataclasses.replace(run, **fields)


def sample(number: int, *, length: int, vocabulary: int) -> np.ndarray:
    """`length + 1` tokens with something to learn: a noisy walk, reproducible from its number."""
    generator = np.random.default_rng(number)
    steps = generator.choice([1, 2, 3], size=length + 1, p=[0.7, 0.2, 0.1])
    return (generator.integers(vocabulary) + np.cumsum(steps)) % vocabulary


def step_batches(run: RunConfig, *, step: int, replica: int, replicas: int) -> list[Batch]:
    """This replica's micro-batches of update number `step` (from 0)."""
    first = step * run.batch.global_batch
    numbers = np.arange(first, first + run.batch.global_batch).reshape(-1, replicas, run.batch.micro_batch)
    return [_batch(part, run) for part in numbers[:, replica]]


def _batch(numbers: np.ndarray, run: RunConfig) -> Batch:
    length = run.batch.sequence_length
    rows = np.stack([sample(int(number), length=length, vocabulary=run.model.vocabulary) for number in numbers])
    mask = np.ones((len(rows), length), dtype=np.float32)
    for row, number in zip(mask, numbers, strict=True):
        row[: number % 5] = 0.0  # unequal token counts: a mean of means would show
    return Batch(
        tokens_BS=rows[:, :-1].astype(np.int64),
        labels_BS=rows[:, 1:].astype(np.int64),
        loss_mask_BS=mask,
        document_ids_BS=None,
        sample_numbers_B=numbers,
    )


def train(
    run: RunConfig,
    *,
    steps: int,
    load: str | None = None,
    save: bool = False,
    pause_after: int | None = None,
    after_step: Callable[[TrainingModel], object] = lambda _: None,
) -> dict:
    """Train on this rank; returns losses, gradient norms, and a digest of this rank's weights.

    `pause_after`: validate and save after this step, and go on.
    """
    from megaphi.engine.saving.saver import save_checkpoint
    from megaphi.engine.saving.shards import load_checkpoint
    from megaphi.engine.training.train_step import evaluate

    model = build(run)
    world = model.world
    first = 0 if load is None else load_checkpoint(model, load).state["step"]

    def after(step: int) -> None:
        after_step(model)
        if step == pause_after:
            evaluate(model, [step_batches(run, step=99, replica=world.replica, replicas=world.replicas)])
            save_checkpoint(model, {"step": step})

    curves = advance(model, first=first, steps=steps, after_step=after)
    folder = str(save_checkpoint(model, {"step": first + steps})) if save else None
    return {**curves, "weights": weights_digest(model), "checkpoint": folder}


def build(run: RunConfig) -> TrainingModel:
    """This rank's share of a new model; may be called again in the same process, with another layout."""
    from megaphi.engine.model.training_model import build_training_model
    from megaphi.engine.run_config import check
    from megaphi.parallel.rendezvous.place import detect
    from megaphi.parallel.world import start_world

    run = check(run, world_size=detect().world_size)
    return build_training_model(run, start_world(run.layout, seed=run.seed, deterministic=run.deterministic))


def advance(
    model: TrainingModel, *, first: int, steps: int, after_step: Callable[[int], object] = lambda step: None
) -> dict[str, list[float]]:
    """Updates `first` + 1 to `first` + `steps`; `after_step` is told the number of each."""
    from megaphi.engine.learning_rate import learning_rate
    from megaphi.engine.training.train_step import train_step

    run, world = model.run, model.world
    curves: dict[str, list[float]] = {"losses": [], "norms": [], "tokens": []}
    for step in range(first + 1, first + steps + 1):
        batches = step_batches(run, step=step - 1, replica=world.replica, replicas=world.replicas)
        result = train_step(model, batches, learning_rate=learning_rate(step, run.optimizer, steps=run.training.steps))
        curves["losses"].append(result.loss)
        curves["norms"].append(result.gradient_norm)
        curves["tokens"].append(result.trained)
        after_step(step)
    return curves


def weights_digest(model: object) -> str:
    """SHA-256 over the bytes of every parameter of this rank."""
    from megaphi.engine.model.training_model import TrainingModel, whole_parameters

    assert isinstance(model, TrainingModel)
    digest = hashlib.sha256()
    with whole_parameters(model):
        for module in model.modules:
            for _, parameter in sorted(module.named_parameters()):
                digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def contents(folder: Path | str) -> dict[str, str]:
    """SHA-256 of every whole tensor of a checkpoint but the random states."""
    import torch

    from megaphi.checkpoint.format import CheckpointReader

    reader = CheckpointReader(folder)
    return {
        key: hashlib.sha256(reader.whole(key).view(torch.uint8).numpy().tobytes()).hexdigest()
        for key in reader.tensors
        if not key.startswith("random/")
    }
