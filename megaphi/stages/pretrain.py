"""Pretraining: next-token prediction on a mixture of documents, from random weights or others (paper, section 3)."""

from __future__ import annotations

from megaphi.checkpoint.format import CheckpointReader
from megaphi.data.loading.loader import OpenMixture, open_mixture
from megaphi.data.order.mixture import Split
from megaphi.engine.model.training_model import build_training_model
from megaphi.engine.own_objective import load_objective
from megaphi.engine.run_config import RunConfig, has_validation, stages_of
from megaphi.engine.start.resume import OpenWeights, RunData
from megaphi.engine.start.run_folder import start_run
from megaphi.engine.start.same_run import agree_on_data
from megaphi.engine.training.loop import RunResult, training_loop
from megaphi.log import logger
from megaphi.model.arithmetic import explain_utilisation
from megaphi.parallel.agreement import agreed
from megaphi.parallel.world import World
from megaphi.stages.inheritance import Inheritance, inherit, inheritance_of


def pretrain(run: RunConfig, *, open_weights: OpenWeights = CheckpointReader) -> RunResult:
    """Train until the run's last step, a stop, or a failure. Every rank of the job calls this.

    `open_weights` opens `start.initial_checkpoint`: `conversion.open_weights` knows other formats than checkpoints.
    """
    world = start_run(run)
    inherited = inherit(run, world, open_weights)
    run = inherited.run
    training, validation = agreed(world, lambda: _open_data(inherited))
    agree_on_data(world, training, validation)
    _introduce(run, world, training)
    objective = agreed(world, lambda: load_objective(run))
    model = build_training_model(run, world)
    data = RunData(training=training, validation=validation)
    return training_loop(model, data, open_weights=open_weights, objective=objective)


def open_data(
    run: RunConfig, *, open_weights: OpenWeights = CheckpointReader
) -> tuple[OpenMixture, OpenMixture | None]:
    """Open the mixture, checked against the model's tokenizer, and the held-out one where there is any."""
    return _open_data(inheritance_of(run, open_weights))


def _open_data(inherited: Inheritance) -> tuple[OpenMixture, OpenMixture | None]:
    run = inherited.run
    return open_split(inherited, "training"), open_split(inherited, "validation") if has_validation(run) else None


def open_split(inherited: Inheritance, split: Split) -> OpenMixture:
    """One side of the data."""
    run, tokenizer = inherited.run, inherited.tokenizer
    return open_mixture(
        run.mixture,
        sequence_length=run.batch.sequence_length,
        seed=run.seed,
        tokenizer_fingerprint=None if tokenizer is None else tokenizer.fingerprint,
        vocabulary_size=run.model.vocabulary,
        split=split,
        stages=stages_of(run) if split == "training" else None,
    )


def _introduce(run: RunConfig, world: World, training: OpenMixture) -> None:
    logger.info("%s: %s parameters on %s", run.recipe, f"{run.model.parameters:,}", run.layout)
    logger.info("%d x %s. %s", world.size, world.device_name, explain_utilisation(world.device_name))
    epochs = training.epochs(stages_of(run)[-1].end_sample)
    for source in training.describe():
        logger.info(
            "  %-12s %15s tokens, %.2f epochs in this run", source.name, f"{source.tokens:,}", epochs[source.name]
        )
