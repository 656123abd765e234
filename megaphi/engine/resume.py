"""How a run begins: from its own newest checkpoint, from the weights of another run, or from nothing.

Weights and optimizer come from the checkpoint, the place in the data from its ledger. The ledger is compared with the
mixture on one rank, which reads a little of every dataset for that, and the verdict goes to all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from megaphi.config import difference, to_plain
from megaphi.data.continuation import Continuation, continue_run, warm_start
from megaphi.data.ledger import Origin, read_ledger
from megaphi.data.loader import OpenMixture
from megaphi.engine.checkpoint import agreed, load_checkpoint
from megaphi.engine.run_config import RunConfig
from megaphi.engine.training_model import TrainingModel
from megaphi.files import read_json, write_json
from megaphi.log import logger
from megaphi.parallel.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """The mixture to train on and, where the recipe names any, the held-out one."""

    training: OpenMixture
    validation: OpenMixture | None


def resume(model: TrainingModel, data: RunData) -> tuple[RunData, int]:
    """(data from where it goes on, steps done); loads what there is, and leaves config.json in the run folder."""
    run, world = model.run, model.world
    folder = Path(run.run.folder)
    newest = folder / "checkpoints" / "latest"
    step = 0
    if run.run.resume and newest.is_file():
        state = load_checkpoint(model, newest.parent)
        step = state["step"]
        data = _continued(data, state, run, world)
        logger.info("continuing %s from step %d", folder, step)
        _log_changes(folder, run)
    elif run.run.initial_checkpoint is not None:
        state = load_checkpoint(model, run.run.initial_checkpoint, weights_only=True)
        logger.info("starting from the weights of %s", run.run.initial_checkpoint)
        if run.run.continue_sources:
            data = _warm(data, state, run.run.initial_checkpoint, world)
    agreed(world, lambda: write_json(folder / "config.json", to_plain(run)) if world.is_main else None)
    return data, step


def _continued(data: RunData, state: dict[str, Any], run: RunConfig, world: World) -> RunData:
    folder = run.run.folder
    position = Origin(step=state["step"], sample=state["samples"], tokens=state["tokens"])

    def compare() -> Continuation:
        ledger = read_ledger(state, where=folder)
        accept = run.run.accept_changed_data
        return continue_run(ledger, data.training, position=position, accept_changed_data=accept, where=folder)

    return _at(data, agreed(world, lambda: compare() if world.is_main else None), world)


def _warm(data: RunData, state: dict[str, Any], checkpoint: str, world: World) -> RunData:
    def compare() -> Continuation:
        return warm_start(read_ledger(state, where=checkpoint), data.training)

    return _at(data, agreed(world, lambda: compare() if world.is_main else None), world)


def _at(data: RunData, verdict: Continuation | None, world: World) -> RunData:
    """The data as the main rank's verdict says."""
    shared = [verdict]
    distributed.broadcast_object_list(shared, src=0)
    (continuation,) = shared
    assert continuation is not None
    for note in continuation.notes:
        logger.info("  %s", note)
    training = agreed(
        world, lambda: data.training.at(continuation.origin, continuation.cursors, former=continuation.former)
    )
    return replace(data, training=training)


def _log_changes(folder: Path, run: RunConfig) -> None:
    before = read_json(folder / "config.json", what="run configuration")
    for path, old, new in difference(before, to_plain(run)):
        logger.info("  changed: %s from %s to %s", path, old, new)
