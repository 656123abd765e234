"""The training loop: batch, step, report; validate, evaluate and save when due; stop when asked.

One number resumes a run: the samples seen so far determine every batch that follows. A signal or the time limit ends
the loop after any step (it saves and returns); a run that is killed at any moment resumes from its last complete
checkpoint. So does one whose guard wants to go back, within the same processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.data.batch import Batch
from megaphi.data.loading.loader import batch_sample_numbers
from megaphi.data.loading.prefetch import prefetch
from megaphi.data.order.schedule import StageSpan
from megaphi.engine.learning_rate import learning_rate
from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.objective import Objective, unit_of
from megaphi.engine.reporting.data_position import data_position
from megaphi.engine.reporting.events import Events
from megaphi.engine.reporting.loss_plot import plot_losses
from megaphi.engine.reporting.meter import Meter
from megaphi.engine.reporting.metrics import open_log, read_metrics
from megaphi.engine.reporting.profiler import StepProfiler
from megaphi.engine.reporting.step_times import StepTimes
from megaphi.engine.run_config import RunConfig
from megaphi.engine.saving.saver import Saver
from megaphi.engine.start.resume import InitialWeights, StartingPoint, resume
from megaphi.engine.task import CheckStep, no_check
from megaphi.engine.time_limit import TimeLimit
from megaphi.engine.training.evaluations import Evaluate, Evaluations
from megaphi.engine.training.garbage import GarbageCollection
from megaphi.engine.training.guarding import RunGuard, finite
from megaphi.engine.training.pinned import pinned
from megaphi.engine.training.stop_conditions import StopRequest
from megaphi.engine.training.train_step import NEXT_TOKEN, train_step
from megaphi.engine.training.validation import Validation
from megaphi.engine.training_data import RunData, TrainingData
from megaphi.errors import RunFailed
from megaphi.log import logger, progress_bar
from megaphi.parallel.agreement import agreed
from megaphi.parallel.restarts import restarts_so_far
from megaphi.parallel.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Result of a run."""

    step: int
    finished: bool
    """False if the run was stopped before its last step; started again, it continues."""


def training_loop(
    model: TrainingModel,
    data: RunData,
    *,
    initial: InitialWeights,
    objective: Objective = NEXT_TOKEN,
    check_step: CheckStep = no_check,
    evaluate: Evaluate | None = None,
) -> RunResult:
    """Train from the newest checkpoint, or from the beginning, to `training.steps` or `training.stop_after`.

    `evaluate` gives scores every `evaluation.every` steps.
    """
    run, world = model.run, model.world
    start = resume(model, data, initial)
    steps, last = run.training.steps, min(run.training.steps, run.training.stop_after or run.training.steps)
    if start.step >= last:
        logger.info("step %d of %d is already done: nothing to train", start.step, steps)
        return RunResult(step=start.step, finished=start.step >= steps)
    events = Events(run.folder if world.is_main else None)
    guard, stop = RunGuard(run, world, events, start.state), StopRequest(TimeLimit(run.training.time_limit))
    _tell_restart(events, step=start.step)
    train = partial(
        _train, model, guard, stop, events, last=last, objective=objective, check_step=check_step, evaluate=evaluate
    )
    with stop, events.telling_failures(lambda: world.activity.step):
        own_checkpoints = train(start)
        while guard.wants_back:
            way = guard.go_back(own_checkpoints=own_checkpoints)
            start = resume(model, data, initial, goes_back=True)
            guard.continue_from(start.state, way)
            own_checkpoints = train(start)
    return RunResult(step=guard.step, finished=guard.step >= steps)


def _train(
    model: TrainingModel,
    guard: RunGuard,
    stop: StopRequest,
    events: Events,
    start: StartingPoint,
    *,
    last: int,
    objective: Objective,
    check_step: CheckStep,
    evaluate: Evaluate | None,
) -> list[int]:
    """Train up to step `last`, a stop, or a step at which the guard wants to go back; returns the steps saved."""
    run, world, activity = model.run, model.world, model.world.activity
    data, step, _ = start
    report = _Report(run, world, events, after=step)
    checks, times = _Checks(data, run, world, evaluate), _step_times(run, world)
    saver = Saver(model, saved_step=step, after_save=partial(_plot, run, unit_of(objective)), events=events)
    profiler = StepProfiler(run, world, events, after=step)
    with report, times, saver, profiler, GarbageCollection() as garbage:
        meter = Meter(run, world)
        activity.begin(step + 1)
        for batches in prefetch(_steps_batches(data.training, world, first=step, last=last)):
            stage = data.training.order.span_at(step)
            _announce(stage, step=step)
            step += 1
            record = _update(model, batches, objective, check_step, guard, stage, step=step)
            if guard.wants_back:
                activity.enter("start")  # a checkpoint is read: the heartbeat lets that take its time
                break
            guard.finish(data.training, step)
            tokens = stage.global_batch * stage.sequence_length * guard.computed
            record |= meter.step(tokens, sequence_length=stage.sequence_length)
            is_asked_to_stop = stop.agreed(world, save_seconds=saver.longest_seconds, asked=profiler.asked())
            stopping = is_asked_to_stop or step == last
            saves = stopping or step % run.saving.every == 0
            record |= data_position(data.training, step, by_source=saves)
            saver.check_first()
            record |= checks.means(model, objective, step=step, in_haste=is_asked_to_stop)
            activity.enter("metrics")
            report.add(record | saver.metrics(step) | times.since_last_record(activity.take_seconds()))
            if saves:
                activity.enter("save")
                saver.save(_state(data, record, guard, world), wait=stopping)
            times.add(step, activity.take_seconds())
            garbage.after(step)
            profiler.after(step, asked=stop.asked)
            if stopping:
                break
            activity.begin(step + 1)
            meter.restart()
    report.end(step, why=stop.why, goes_back=guard.wants_back)
    return saver.saved_steps


def _tell_restart(events: Events, *, step: int) -> None:
    count, launcher = restarts_so_far()
    if count:
        events.add("restarted", step=step, text=f"restart {count} of this job, by {launcher}", count=count)


class _Checks:
    """Validation and evaluation, when they are due."""

    def __init__(self, data: RunData, run: RunConfig, world: World, evaluate: Evaluate | None) -> None:
        self._run, self._activity = run, world.activity
        self._validation = None if data.validation is None else Validation(data.validation, run, world)
        self._evaluations = None if evaluate is None else Evaluations(run, evaluate)

    def means(self, model: TrainingModel, objective: Objective, *, step: int, in_haste: bool) -> dict[str, float]:
        """Validation losses and scores after a step, by their names in the metrics. Collective."""
        found: dict[str, float] = {}
        if self._validation is not None and _is_due(step, self._run.validation.every, last=self._run.training.steps):
            self._activity.enter("validation")
            found |= self._validation.means(model, objective, step=step)
        if self._evaluations is not None and self._evaluations.are_due(step, in_haste=in_haste):
            self._activity.enter("evaluation")
            found |= self._evaluations.scores(model, step=step)
        return found


class _Report:
    """Metrics, progress bar and events of a run that continues after step `after`, on rank 0. Made collectively."""

    def __init__(self, run: RunConfig, world: World, events: Events, *, after: int) -> None:
        self._run, self._after, self._events = run, after, events
        self._log = agreed(world, lambda: open_log(run, after=after) if world.is_main else None)
        self._bar = progress_bar(
            total=run.training.steps, initial=after, unit="step", label="train", visible=world.is_main
        )

    def __enter__(self) -> None:
        self._bar.__enter__()
        kind, after, of = ("resumed" if self._after else "started"), self._after, self._run.training.steps
        self._events.add(kind, step=after, text=f"{self._run.recipe} {kind} after step {after} of {of}")

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def add(self, record: dict[str, Any]) -> None:
        """Report a step."""
        if self._log is not None:
            self._log.add(record)
        self._bar.update()
        self._bar.set_postfix(_postfix(record), refresh=False)

    def end(self, step: int, *, why: str, goes_back: bool) -> None:
        """Report the end of a run that has not failed; one that goes back has not ended."""
        of = self._run.training.steps
        why = why or ("finished" if step >= of else "training.stop_after was reached")
        if not goes_back:
            self._events.add("stopped", step=step, text=f"ended after step {step} of {of}: {why}", failed=False)
        if self._log is not None:
            self._log.close()


def _step_times(run: RunConfig, world: World) -> StepTimes:
    names = " ".join(f"{name} {number}" for name, number in world.place._asdict().items())
    return StepTimes(Path(run.folder), rank=world.rank, place=names)


def _update(
    model: TrainingModel,
    batches: list[Batch],
    objective: Objective,
    check_step: CheckStep,
    guard: RunGuard,
    stage: StageSpan,
    *,
    step: int,
) -> dict[str, Any]:
    """Make update number `step` (from 1), unless the guard leaves it out; returns its record for the metrics."""
    rate = learning_rate(step, model.run.optimizer, steps=model.run.training.steps)
    if not guard.computes(step, stage):
        return {"step": step, "learning_rate": rate, "skipped": 1}
    accept = partial(guard.accept, model, step)
    result = train_step(model, batches, learning_rate=rate, objective=objective, accept=accept)
    known = finite({"loss": result.loss, "gradient_norm": result.gradient_norm, **result.means})
    if guard.has_left_out(step):
        known["skipped"] = 1
    elif reason := check_step(step, result.means):
        raise RunFailed(reason if model.world.is_main else "")
    return {"step": step, "learning_rate": rate} | known


def _announce(stage: StageSpan, *, step: int) -> None:
    if not stage.is_whole_run and step == stage.first_step:
        shares = ", ".join(f"{name} {weight:g}" for name, weight in zip(stage.sources, stage.weights, strict=True))
        logger.info(
            "mixture stage %s begins: %d steps of %d x %d tokens; %s",
            stage.name,
            stage.end_step - stage.first_step,
            stage.global_batch,
            stage.sequence_length,
            shares,
        )


def _is_due(step: int, every: int, *, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _postfix(record: dict[str, Any]) -> dict[str, str]:
    forms = {"loss": ("loss", ".4f"), "tok/s": ("tokens_per_second", ",.0f"), "val": ("validation_loss", ".4f")}
    return {short: format(record[name], form) for short, (name, form) in forms.items() if name in record}


def _steps_batches(data: TrainingData, world: World, *, first: int, last: int) -> Iterator[list[Batch]]:
    """This replica's micro-batches of the steps from `first` to `last`, counted from 0."""
    for step in range(first, last):
        if step + 1 < last:
            data.prepare(_numbers_of(data, world, step + 1).reshape(-1))
        yield [pinned(data.batch(numbers_B), world.device) for numbers_B in _numbers_of(data, world, step)]


def _numbers_of(data: TrainingData, world: World, step: int) -> NDArray[np.int64]:
    """Sample numbers of this replica's share of a step: [micro-batches, micro-batch]."""
    stage = data.order.span_at(step)
    first_sample = data.order.position_at(step).sample
    return first_sample + batch_sample_numbers(
        0,
        global_batch=stage.global_batch,
        replica=world.replica,
        replicas=world.replicas,
        micro_batch=stage.micro_batch,
    )


def _state(data: RunData, record: dict[str, Any], guard: RunGuard, world: World) -> dict[str, Any]:
    """The state that a checkpoint records: the run's position in its steps and data."""
    step, training = record["step"], data.training
    position = training.order.position_at(step)
    return {
        "step": step,
        "samples": position.sample,
        "tokens": position.tokens,
        "tokens_by_source": training.tokens_by_source(position.sample),
        "validation_loss": record.get("validation_loss"),
        "ledger": agreed(world, lambda: training.ledger(step).to_json() if world.is_main else None),
    } | guard.state()


def _plot(run: RunConfig, unit: str) -> None:
    folder = Path(run.folder)
    plot_losses(read_metrics(folder / "metrics.jsonl"), folder / "loss.png", title=run.recipe, marks={}, unit=unit)
