"""A whole run of any task: inherit from a model, open the data, train."""

from __future__ import annotations

from collections.abc import Callable

from megaphi.checkpoint.format import CheckpointReader
from megaphi.engine.model.training_model import build_training_model
from megaphi.engine.reporting.metric_names import check_objective_names
from megaphi.engine.run_config import RunConfig
from megaphi.engine.start.resume import InitialWeights, OpenWeights
from megaphi.engine.start.run_folder import start_run
from megaphi.engine.start.same_run import agree_on_data
from megaphi.engine.training.evaluations import Evaluate
from megaphi.engine.training.loop import RunResult, training_loop
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.model.arithmetic import explain_utilisation
from megaphi.parallel.agreement import agree_on, agreed
from megaphi.parallel.world import World
from megaphi.stages.inheritance import inherit
from megaphi.tokenizer.interface import Tokenizer

OpenEvaluation = Callable[[RunConfig, Tokenizer], Evaluate]
"""Function that opens the tasks of the section `evaluation`. Raises InputError."""


def train(
    run: RunConfig, *, open_weights: OpenWeights = CheckpointReader, open_evaluation: OpenEvaluation | None = None
) -> RunResult:
    """Train until the run's last step, a requested stop, or a failure. Every rank of the job calls this.

    Args:
        open_weights: opens `start.initial_checkpoint`: `conversion.open_weights` knows other formats than checkpoints.
        open_evaluation: `evaluation.during_training.open_evaluation`, for a run with `evaluation.every`.
    """
    world = start_run(run)
    inherited = inherit(run, world, open_weights)
    _introduce(inherited.run, world)
    task = agreed(world, lambda: inherited.run.task.open(inherited.run, inherited.tokenizer))
    agreed(world, lambda: check_objective_names(task.objective.names))
    agree_on_data(world, task.data.training, task.data.validation)
    evaluate = _open_evaluation(task.run, inherited.tokenizer, world, open_evaluation)
    model = build_training_model(task.run, world, draws=False)
    initial = InitialWeights(model, open_weights)
    if task.before_training is not None:
        initial.load()
        task.before_training(model)
    return training_loop(
        model,
        task.data,
        initial=initial,
        objective=task.objective,
        check_step=task.check_step,
        evaluate=evaluate,
    )


def _open_evaluation(
    run: RunConfig, tokenizer: Tokenizer | None, world: World, opened: OpenEvaluation | None
) -> Evaluate | None:
    """The run's evaluation, the same on every rank; None if it has none. Collective."""
    every = run.evaluation.every

    def found() -> Evaluate:
        if opened is None:
            raise InputError(f"evaluation.every={every}: this program gives train() no open_evaluation")
        if tokenizer is None:
            raise InputError(f"evaluation.every={every}: the model has no tokenizer, and tasks are texts")
        return opened(run, tokenizer)

    if not every:
        return None
    evaluate = agreed(world, found)
    agree_on(world, agreed(world, evaluate.facts))
    return evaluate


def _introduce(run: RunConfig, world: World) -> None:
    logger.info("%s: %s parameters on %s", run.recipe, f"{run.model.parameters:,}", run.layout)
    logger.info("%d x %s. %s", world.size, world.device_name, explain_utilisation(world.device_name))
