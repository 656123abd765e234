"""Ranks of the bucket tests: pretraining, fine-tuning and preferences, with and without overlap.

With a bucket for every parameter each weight is gathered by itself while the forward pass runs, as the layers of a
large model are. One world runs all layouts of its size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from megaphi.data.batch import BatchShape
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.rows import conversation_batch
from megaphi.engine.model.training_model import TrainingModel, build_training_model
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import RunConfig
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import World
from tests.engine.layout_runs import step_batches, tiny_run, weights_digest
from tests.stages.packed_runs import SEQUENCE, SHAPE, SIGMOID, conversations, pair_batches, pairs

LAYOUTS = {
    "DP2": ParallelLayout(data=2),
    "TP2xDP2": ParallelLayout(tensor=2, data=2, sequence_parallel=True),
    "PP2xDP2": ParallelLayout(pipeline=2, data=2),
}
KINDS = ("pretraining", "fine-tuning", "preferences")
STEPS, HALF = 3, 1


def all_curves(folder: str, names: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """By layout and kind of training: what came of it without overlap, with it, and resumed in the middle."""
    from megaphi.parallel.world import start_world

    found = {}
    for name in names:
        world = start_world(LAYOUTS[name], seed=1)  # groups cost more than everything else here
        for kind in KINDS:
            whole = _run(f"{folder}/{name}/{kind}", LAYOUTS[name])
            plain = dataclasses.replace(whole, overlap_communication=False)
            model = build_training_model(whole, world)
            found[name, kind] = {
                "plain": _curve(build_training_model(plain, world), kind, steps=STEPS),
                "overlapped": _curve(model, kind, steps=STEPS),
                "resumed": _resumed(whole, world, kind),
                "buckets": len(model.chunks[0].bucket_groups),
            }
    return found


def _run(folder: str, layout: ParallelLayout) -> RunConfig:
    return tiny_run(
        folder=folder,
        layout=layout,
        model=dataclasses.replace(SHAPE, layers=2, loss_chunk_tokens=20),
        batch=BatchShape(sequence_length=SEQUENCE, global_batch=4, micro_batch=1),
        saving=Saving(asynchronous=False, verify=False),
        bucket_parameters=1,
    )


def _curve(model: TrainingModel, kind: str, *, steps: int, first: int = 0) -> dict[str, Any]:
    from megaphi.engine.training.train_step import NEXT_TOKEN, train_step

    objective = SIGMOID if kind == "preferences" else NEXT_TOKEN
    results = [
        train_step(model, _batches(model, kind, step=step), learning_rate=3e-4, objective=objective)
        for step in range(first, first + steps)
    ]
    losses, norms = [result.loss for result in results], [result.gradient_norm for result in results]
    return {"losses": losses, "norms": norms, "weights": weights_digest(model)}


def _batches(model: TrainingModel, kind: str, *, step: int) -> list[Any]:
    """This replica's micro-batches of a step."""
    world = model.world
    if kind == "pretraining":
        return step_batches(model.run, step=step, replica=world.replica, replicas=world.replicas)
    if kind == "preferences":
        return pair_batches(pairs(), single_tokens=True)[world.replica :: world.replicas]
    samples = conversations(10)
    rows = PackedEpochs([len(sample.ids) for sample in samples], capacity=SEQUENCE, seed=step)
    make = conversation_batch(samples, capacity=SEQUENCE, padding_token=0)
    whole = rows.rows_per_epoch // world.replicas * world.replicas
    return [make([rows.row(number)], np.array([number])) for number in range(world.replica, whole, world.replicas)]


def _resumed(run: RunConfig, world: World, kind: str) -> dict[str, Any]:
    """The same steps with a save in the middle, and a new model that goes on from there."""
    from megaphi.engine.saving.saver import save_checkpoint
    from megaphi.engine.saving.shards import load_checkpoint

    before = build_training_model(run, world)
    first = _curve(before, kind, steps=HALF)
    save_checkpoint(before, {"step": HALF})
    after = build_training_model(run, world)
    load_checkpoint(after, run.folder)
    second = _curve(after, kind, steps=STEPS - HALF, first=HALF)
    return {
        "losses": first["losses"] + second["losses"],
        "norms": first["norms"] + second["norms"],
        "weights": second["weights"],
    }
