"""The training loop, in the open: batch, step, report; validate and save when it is time; stop when asked.

A run is resumed by one number: the samples seen so far decide every batch that follows. The loop may be ended at any
step by SIGTERM or Ctrl-C (it saves and returns), or killed at any moment (the last complete checkpoint continues).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.config import difference, to_plain
from megaphi.data.batch import Batch
from megaphi.data.loader import OpenMixture, batch_sample_numbers
from megaphi.data.prefetch import prefetch
from megaphi.engine.checkpoint import agreed, load_checkpoint, save_checkpoint
from megaphi.engine.guard import StopRequest, check_finite
from megaphi.engine.learning_rate import learning_rate
from megaphi.engine.loss_plot import plot_losses
from megaphi.engine.meter import Meter
from megaphi.engine.metrics import MetricsLog, read_metrics
from megaphi.engine.run_config import RunConfig
from megaphi.engine.train_step import evaluate, train_step
from megaphi.engine.training_model import TrainingModel
from megaphi.errors import InputError
from megaphi.files import read_json, write_json
from megaphi.log import logger, progress_bar
from megaphi.parallel.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """The mixture to train on and, where the recipe names any, the held-out one."""

    training: OpenMixture
    validation: OpenMixture | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended."""

    step: int
    finished: bool
    """False if it was stopped before its last step; it continues when started again."""


@dataclass
class _Position:
    """How far a run has come."""

    step: int
    samples: int


def training_loop(model: TrainingModel, data: RunData) -> RunResult:
    """Train from the newest checkpoint (or from nothing) to `run.steps`, or `run.stop_after`."""
    run, world = model.run, model.world
    position = _resume(model, data)
    last = min(run.run.steps, run.run.stop_after or run.run.steps)
    if position.step >= last:
        logger.info("step %d of %d is already done: nothing to train", position.step, run.run.steps)
        return RunResult(step=position.step, finished=position.step >= run.run.steps)
    log = agreed(world, lambda: MetricsLog(Path(run.run.folder), after=position.step) if world.is_main else None)
    bar = progress_bar(total=run.run.steps, initial=position.step, unit="step", label="train", visible=world.is_main)
    with StopRequest() as stop, bar:
        meter = Meter(run, world)
        for batches in prefetch(_steps_batches(data.training, run, world, position, last=last)):
            step = position.step + 1
            rate = learning_rate(step, run.optimizer, steps=run.run.steps)
            result = train_step(model, batches, learning_rate=rate)
            check_finite(result, step=step, world=world)
            position = _Position(step, position.samples + run.batch.global_batch)
            record = {
                "step": step,
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": rate,
                "tokens": position.samples * run.batch.sequence_length,
                **meter.step(run.batch.tokens_per_step),
            }
            stopping = stop.agreed(world) or step == last
            if data.validation is not None and _is_due(step, run.run.validate_every, last=run.run.steps):
                record["validation_loss"] = validation_loss(model, data.validation)
            if log is not None:
                log.add(record)
            bar.update()
            bar.set_postfix(_postfix(record), refresh=False)
            if stopping or step % run.run.save_every == 0:
                _save(model, data, position)
            if stopping:
                break
            meter.restart()
    if log is not None:
        log.close()
    return RunResult(step=position.step, finished=position.step >= run.run.steps)


def _is_due(step: int, every: int, *, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _postfix(record: dict[str, Any]) -> dict[str, str]:
    shown = {"loss": f"{record['loss']:.4f}", "tok/s": f"{record['tokens_per_second']:,.0f}"}
    if "validation_loss" in record:
        shown["val"] = f"{record['validation_loss']:.4f}"
    return shown


def _steps_batches(
    mixture: OpenMixture, run: RunConfig, world: World, position: _Position, *, last: int
) -> Iterator[list[Batch]]:
    """This replica's micro-batches of every step up to `last`."""
    samples = position.samples
    for _ in range(position.step, last):
        yield micro_batches(mixture, run, world, first_sample=samples, samples=run.batch.global_batch)
        samples += run.batch.global_batch


def micro_batches(
    mixture: OpenMixture, run: RunConfig, world: World, *, first_sample: int, samples: int
) -> list[Batch]:
    """This replica's share of samples [first_sample, first_sample + samples), cut into micro-batches."""
    share_MB = batch_sample_numbers(
        0,
        global_batch=samples,
        replica=world.replica,
        replicas=world.replicas,
        micro_batch=run.batch.micro_batch,
    )
    return [mixture.batch(first_sample + numbers_B) for numbers_B in share_MB]


def validation_loss(model: TrainingModel, mixture: OpenMixture) -> float:
    """Mean cross-entropy over the same `run.validation_samples` held-out samples each time."""
    samples = model.run.run.validation_samples
    return evaluate(model, micro_batches(mixture, model.run, model.world, first_sample=0, samples=samples))


def _resume(model: TrainingModel, data: RunData) -> _Position:
    """Load the newest checkpoint of the run folder, or start anew; leaves config.json in the folder."""
    run, world = model.run, model.world
    folder = Path(run.run.folder)
    newest = folder / "checkpoints" / "latest"
    position = _Position(0, 0)
    if run.run.resume and newest.is_file():
        state = load_checkpoint(model, newest.parent)
        agreed(world, lambda: _check_same_data(state, data, folder))
        position = _Position(state["step"], state["samples"])
        logger.info("continuing %s from step %d", folder, position.step)
        _log_changes(folder, run)
    elif run.run.initial_checkpoint is not None:
        load_checkpoint(model, run.run.initial_checkpoint, weights_only=True)
        logger.info("starting from the weights of %s", run.run.initial_checkpoint)
    agreed(world, lambda: write_json(folder / "config.json", to_plain(run)) if world.is_main else None)
    return position


def _check_same_data(state: dict[str, Any], data: RunData, folder: Path) -> None:
    if state["data"] != data.training.fingerprint:
        raise InputError(
            f"the data, weights or seed of {folder} are not those it was started with, so its place in them means "
            "nothing. To train its weights on other data, start a new run.folder with run.initial_checkpoint="
            f"{folder}"
        )


def _log_changes(folder: Path, run: RunConfig) -> None:
    before = read_json(folder / "config.json", what="run configuration")
    for path, old, new in difference(before, to_plain(run)):
        logger.info("  changed: %s from %s to %s", path, old, new)


def _save(model: TrainingModel, data: RunData, position: _Position) -> None:
    state = {
        "step": position.step,
        "samples": position.samples,
        "tokens": position.samples * model.run.batch.sequence_length,
        "samples_by_source": data.training.counts(position.samples),
        "data": data.training.fingerprint,
    }
    path = save_checkpoint(model, state)
    if model.world.is_main:
        run_folder = Path(model.run.run.folder)
        records = read_metrics(run_folder / "metrics.jsonl")
        plot_losses(records, run_folder / "loss.png", title=model.run.recipe, marks={})
        logger.info("saved %s", path)
