"""A whole run of any task: inherit from a model, open the data, train."""

from __future__ import annotations

from megaphi.checkpoint.format import CheckpointReader
from megaphi.engine.model.training_model import build_training_model
from megaphi.engine.run_config import RunConfig
from megaphi.engine.start.resume import InitialWeights, OpenWeights
from megaphi.engine.start.run_folder import start_run
from megaphi.engine.start.same_run import agree_on_data
from megaphi.engine.training.loop import RunResult, training_loop
from megaphi.log import logger
from megaphi.model.arithmetic import explain_utilisation
from megaphi.parallel.agreement import agreed
from megaphi.parallel.world import World
from megaphi.stages.inheritance import inherit


def train(run: RunConfig, *, open_weights: OpenWeights = CheckpointReader) -> RunResult:
    """Train until the run's last step, a requested stop, or a failure. Every rank of the job calls this.

    `open_weights` opens `start.initial_checkpoint`: `conversion.open_weights` knows other formats than checkpoints.
    """
    world = start_run(run)
    inherited = inherit(run, world, open_weights)
    _introduce(inherited.run, world)
    task = agreed(world, lambda: inherited.run.task.open(inherited.run, inherited.tokenizer))
    agree_on_data(world, task.data.training, task.data.validation)
    model = build_training_model(task.run, world)
    initial = InitialWeights(model, open_weights)
    if task.before_training is not None:
        initial.load()
        task.before_training(model)
    return training_loop(model, task.data, initial=initial, objective=task.objective, check_step=task.check_step)


def _introduce(run: RunConfig, world: World) -> None:
    logger.info("%s: %s parameters on %s", run.recipe, f"{run.model.parameters:,}", run.layout)
    logger.info("%d x %s. %s", world.size, world.device_name, explain_utilisation(world.device_name))
