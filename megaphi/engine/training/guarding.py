"""The guard at work in a run: it accepts updates, leaves them out, asks for a roll back, or ends the run.

`engine/guard` decides, from numbers that are the same on every rank; here decisions become events, lines in the log and
state in checkpoints. Replicas are compared just before an update, when their weights are those that gave the gradients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from megaphi.config import from_plain, to_plain
from megaphi.data.order.schedule import StageSpan
from megaphi.engine.guard.decision import (
    GuardRecord,
    RollBack,
    after_applied,
    after_skipped,
    decide,
    entering,
    is_left_out,
    rolled_back,
    way_back,
)
from megaphi.engine.guard.step_ranges import contains, parse_ranges
from megaphi.engine.model.replicas import replica_differences
from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.reporting.events import Events
from megaphi.engine.retention import stored_steps
from megaphi.engine.run_config import RunConfig
from megaphi.engine.saving.suspects import set_aside
from megaphi.engine.saving.writer import checkpoint_folders
from megaphi.engine.training.train_step import StepResult
from megaphi.engine.training_data import TrainingData
from megaphi.errors import RestartNeeded, RunFailed
from megaphi.log import logger
from megaphi.parallel.agreement import agreed
from megaphi.parallel.exchange import broadcast
from megaphi.parallel.world import World


class RunGuard:
    """The guard of one run, from the state of the checkpoint that it continues from (none: empty)."""

    def __init__(self, run: RunConfig, world: World, events: Events, state: Mapping[str, Any]) -> None:
        self._run, self._settings, self._world, self._events = run, run.guard, world, events
        self._planned = parse_ranges(run.guard.skip_steps, where="guard.skip_steps")
        self.record, self._skipped_tokens = GuardRecord(), Counter[str]()
        self.step = self._compared = 0
        """Steps done, applied or left out; and the last one at which replicas were known to be the same."""
        self.wants_back, self._reason, self._differences = False, "", list[str]()
        """True after a step that must be taken back; the reason, if it is the step, or how replicas differ."""
        self.computed = True
        """True if the last step was computed, and not left out before that."""
        self._own_checkpoints: set[int] = set()
        self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take the state of a checkpoint, whose loading has made the replicas the same."""
        self.record = from_plain(GuardRecord, state.get("guard", {}), where="state.json: guard")
        self._skipped_tokens = Counter(state.get("skipped_tokens_by_source", {}))
        self.step = self._compared = state.get("step", 0)
        self.wants_back = False

    def computes(self, step: int, stage: StageSpan) -> bool:
        """Begin a step, in its stage of the data; returns whether it is to be computed, or was left out."""
        key = f"{stage.name} {stage.sequence_length} {stage.global_batch} {stage.sources} {stage.weights}"
        self.record = entering(self.record, key)
        self.computed = not is_left_out(self.record, self._planned, step)
        if self.computed:
            return True
        if not is_left_out(self.record, self._planned, step - 1):
            self._tell(step, "its data is left out, as guard.skip_steps or a roll back says")
        self.record = after_skipped(self.record, self._settings, step=step, is_bad=False)
        return False

    def accept(self, model: TrainingModel, step: int, result: StepResult) -> bool:
        """Return whether the update of a step is applied. Collective where replicas are compared.

        Raises:
            RunFailed: the run has to end, on all ranks.
        """
        every = self._settings.replica_check_steps
        if every and step % every == 0 and not self._replicas_are_the_same(model, step):
            return False
        loss, norm = result.loss, result.gradient_norm
        decision = decide(self.record, self._settings, step=step, loss=loss, gradient_norm=norm)
        if decision.action == "apply":
            self.record = after_applied(self.record, self._settings, loss=loss, gradient_norm=norm)
        elif decision.action == "skip":
            self._tell(step, decision.reason, **finite({"loss": loss, "gradient_norm": norm}))
            self.record = after_skipped(self.record, self._settings, step=step, is_bad=True)
        elif decision.action == "roll_back":
            self._reason, self.wants_back = decision.reason, True
        else:
            self._end(step, result, decision.reason)
        return decision.action == "apply"

    def has_left_out(self, step: int) -> bool:
        """Return whether the update of a step was left out."""
        return contains(self.record.skipped, step)

    def finish(self, data: TrainingData, step: int) -> None:
        """Count a step that is done; the data of one that was left out, too."""
        self.step = step
        if self.has_left_out(step):
            before, after = (data.tokens_by_source(data.order.position_at(at).sample) for at in (step - 1, step))
            self._skipped_tokens.update({name: after[name] - before.get(name, 0) for name in after})

    def state(self) -> dict[str, Any]:
        """The guard's part of a checkpoint's state."""
        return {
            "updates": self.step - self.record.skipped_count,
            "guard": to_plain(self.record),
            "skipped_tokens_by_source": dict(self._skipped_tokens),
        }

    def go_back(self, *, own_checkpoints: Sequence[int]) -> RollBack:
        """Set aside the checkpoints of the damaged part, so that `resume` takes the one before it. Collective.

        No save may be under way.

        Args:
            own_checkpoints: steps of the checkpoints that this process has written, or continued from.

        Raises:
            RestartNeeded: replicas differ, and only a new start makes sure that they no longer do.
            RunFailed: there is no checkpoint from before.
        """
        if self._differences:
            self._restart()
        folders, step = checkpoint_folders(self._run), self.step + 1
        self._own_checkpoints.update(own_checkpoints)

        def way() -> RollBack | None:
            stored = {one for folder in folders for one in stored_steps(folder) if one < step}
            usable = stored if self._run.start.resume else stored & self._own_checkpoints
            return way_back(self.record, self._settings, step=step, checkpoints=sorted(usable))

        found = broadcast(agreed(self._world, lambda: way() if self._world.is_main else None), RollBack | None)
        if found is None:
            self._fail(f"step {step}: {self._reason}, and no checkpoint is from before")
        suspects = self._set_aside(found.to)
        if self._world.is_main:
            text = f"step {step}: {self._reason}: back to step {found.to}, then without steps {found.first} to {step}"
            logger.warning("%s", text)
            facts = {"to": found.to, "first": found.first, "last": found.last, "suspects": suspects}
            self._events.add("rolled_back", step=step, text=text, reason=self._reason, **facts)
        return found

    def continue_from(self, state: Mapping[str, Any], way: RollBack) -> None:
        """Continue from the state of the checkpoint that the run has gone back to, with what is known since."""
        before = self.record
        self._load(state)
        self.record = rolled_back(self.record, before, way)

    def _replicas_are_the_same(self, model: TrainingModel, step: int) -> bool:
        self._differences = replica_differences(model)
        if self._differences:
            self.wants_back = True
        else:
            self._compared = step
        return not self._differences

    def _restart(self) -> NoReturn:
        """End the job, to be started again from a checkpoint that was written when replicas were the same."""
        good, step = self._compared, self.step + 1
        suspects = self._set_aside(good)
        aside = f"; not to be resumed from: {', '.join(suspects)}" if suspects else ""
        text = f"step {step}: {'; '.join(self._differences)}; they were the same at step {good}{aside}"
        self._events.add("replica_differs", step=step, text=text, last_good=good, suspects=suspects)
        remedy = "Start the run again, and without that host if it is the same one twice"
        raise RestartNeeded(f"{text}. {remedy}" * self._world.is_main)

    def _set_aside(self, after: int) -> list[str]:
        """Set aside the checkpoints of later steps; returns where they are, on rank 0. Collective."""
        folders = checkpoint_folders(self._run)
        return agreed(self._world, lambda: set_aside(folders, after=after) if self._world.is_main else [])

    def _tell(self, step: int, reason: str, **facts: Any) -> None:
        if self._world.is_main:
            logger.warning("step %d is left out: %s", step, reason)
        self._events.add("skipped", step=step, text=f"step {step} is left out: {reason}", **facts)

    def _end(self, step: int, result: StepResult, reason: str) -> NoReturn:
        self._fail(f"step {step}: loss {result.loss}, gradient norm {result.gradient_norm}: {reason}")

    def _fail(self, text: str) -> NoReturn:
        remedy = "Continue from an earlier checkpoint with a lower optimizer.learning_rate"
        raise RunFailed(f"{text}: the run has diverged and was ended without saving. {remedy}" * self._world.is_main)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The numbers that JSON can hold."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
