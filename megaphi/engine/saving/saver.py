"""Saving while training goes on: training waits for a copy in host memory, and a thread of every rank does the rest.

The main thread samples some live values, copies the tensors, and starts the writer (writer.py). A save that fails
everywhere is given up with an error in the log and training goes on, so that a run survives a failure of its storage.
Only the first and the last save end the run: storage that never took a checkpoint is a mistake of the user's, and after
the last save all work would be lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, NoReturn

import torch
import torch.distributed as distributed

from megaphi.engine.model.training_model import TrainingModel, whole_parameters
from megaphi.engine.reporting.events import Events
from megaphi.engine.saving.random_states import random_pieces
from megaphi.engine.saving.shards import pieces_of
from megaphi.engine.saving.snapshot import HostMemory, sample_live
from megaphi.engine.saving.writer import CheckpointWriter, Job, Outcome
from megaphi.errors import RunFailed
from megaphi.log import logger
from megaphi.parallel.channel import CalledOff
from megaphi.parallel.exchange import broadcast

SECONDS_TO_CALL_OFF = 5.0


class Saver:
    """The checkpoints of one run. Leaving the context waits for the save under way.

    Construction and `save` are collective.

    Args:
        saved_step: step of the checkpoint that the run continues from; 0 for none.
        after_save: called on rank 0 after every checkpoint, by the thread that wrote it.
        events: where to record what was saved and what was not.
    """

    def __init__(
        self,
        model: TrainingModel,
        *,
        saved_step: int = 0,
        after_save: Callable[[], object] = lambda: None,
        events: Events | None = None,
    ) -> None:
        self._events = events or Events(None)
        self._model, self._rules, self._world = model, model.run.saving, model.world
        save_id: str = broadcast(secrets.token_hex(6), str)
        self._called_off = Event()
        self._writer = CheckpointWriter(
            model.run, model.world, save_id=save_id, called_off=self._called_off, after_save=after_save
        )
        self._memory = HostMemory(pinned=model.world.device.type == "cuda")
        self._saves = 0
        self._pending: _Pending | None = None
        self._is_proven = self._rules.train_unsaved
        """True once all ranks know that a checkpoint of this process set was written, or if none has to be."""
        self._given_up = ""
        self.saved_step = saved_step
        self.saved_steps = [saved_step] if saved_step else []
        """Steps of all checkpoints that this process wrote, or continued from."""
        self.failures = 0
        """Number of checkpoints that were given up."""
        self.longest_seconds = 0.0
        """Duration of the longest save, from its start until the checkpoint was complete."""

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        patience_seconds = self._rules.patience_seconds
        if error is not None and not isinstance(error, RunFailed):
            self._called_off.set()  # a rank may be gone, and then no answer will come
            patience_seconds = SECONDS_TO_CALL_OFF
        if self._pending is not None:
            self._pending.join(patience_seconds)
            self.poll()
        self._memory.release()

    def save(self, state: Mapping[str, Any], *, wait: bool = False) -> Path | None:
        """Start a save; with `wait`, finish it and return the folder.

        `state` is JSON-ready and must hold `step`, the number of updates done.

        Raises:
            RunFailed: the checkpoint could not be written anywhere, and it is the first of this process set, or there
                will be no other (`wait`). On all ranks.
        """
        began = time.perf_counter()
        if not self._is_free():
            problem = "the save before it is still being written"
            waited = time.perf_counter() - began
            return self._note(state["step"], Outcome(path=None, problem=problem), seconds=waited, final=wait)
        self.check_first()
        self._saves += 1
        with whole_parameters(self._model):
            pieces = [*pieces_of(self._model), *random_pieces(self._world)]
            job = Job(
                number=self._saves,
                state=state,
                pieces=pieces,
                samples=sample_live(pieces, step=state["step"]) if self._rules.verify else [],
            )
            if wait or not self._rules.asynchronous:
                outcome = self._writer.write(job)
                seconds = time.perf_counter() - began
                self.longest_seconds = max(self.longest_seconds, seconds)
                return self._note(job.step, outcome, seconds=seconds, final=wait)
            job = replace(job, pieces=self._memory.copy(pieces), waited_seconds=time.perf_counter() - began)
        self._pending = _Pending(self._writer, job)
        self._pending.start()
        return None

    def poll(self) -> None:
        """Record the outcome of a save that has ended."""
        if self._pending is not None and not self._pending.is_alive():
            ended, self._pending = self._pending, None
            self.longest_seconds = max(self.longest_seconds, ended.seconds)
            self._note(ended.job.step, ended.outcome, seconds=ended.seconds, by_all=False)

    def check_first(self) -> None:
        """End the run if its first save has failed. Call it after every step, on all ranks.

        Collective while the first save is under way, so that all ranks raise after the same step.

        Raises:
            RunFailed: the first save could not be written anywhere.
        """
        self.poll()
        if self._is_proven or self._saves == 0 or not self._all_are_free():
            return
        if self._given_up:
            self._stop_unproven()
        self._is_proven = True

    def metrics(self, step: int) -> dict[str, int]:
        """Metrics that reveal failing storage."""
        self.poll()
        return {"steps_since_checkpoint": step - self.saved_step, "checkpoint_failures": self.failures}

    def _is_free(self) -> bool:
        """Wait for every rank to finish the previous save, up to a limit; True if all have. Collective."""
        if self._pending is not None:
            self._pending.join(self._rules.patience_seconds)
            self.poll()
        return self._all_are_free()

    def _all_are_free(self) -> bool:
        flag = torch.tensor(float(self._pending is None), device=self._world.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MIN)
        return bool(flag.item())

    def _note(
        self, step: int, outcome: Outcome, *, seconds: float, final: bool = False, by_all: bool = True
    ) -> Path | None:
        """Act on the outcome of a save. `by_all`: all ranks do so together, and may end the run."""
        facts = {"seconds": round(seconds, 3)}
        if outcome.path is not None:
            self.saved_step = step
            self.saved_steps.append(step)
            self._is_proven = self._is_proven or by_all
            self._events.add("saved", step=step, text=f"saved {outcome.path}", checkpoint=str(outcome.path), **facts)
            return outcome.path
        self.failures += 1
        text = f"step {step} was not saved: {outcome.problem}"
        newest = f"the newest checkpoint is of step {self.saved_step}" if self.saved_step else "there is no checkpoint"
        self._given_up = f"{text}; {newest}"
        self._events.add("save_failed", step=step, text=self._given_up, failures=self.failures, **facts)
        if final:
            self._fail(self._given_up)
        if not self._is_proven:
            if by_all:
                self._stop_unproven()
        elif self._world.is_main:
            logger.error("%s. Training goes on; %s", text, newest)
        return None

    def _stop_unproven(self) -> NoReturn:
        self._fail(f"{self._given_up}. The run stops, rather than lose its work; saving.train_unsaved=true continues")

    def _fail(self, message: str) -> NoReturn:
        raise RunFailed(message if self._world.is_main else "")


class _Pending(Thread):
    """A save under way."""

    def __init__(self, writer: CheckpointWriter, job: Job) -> None:
        super().__init__(name=f"save step {job.step}", daemon=True)
        self.job, self._writer = job, writer
        self.outcome = Outcome(path=None, problem="it was cancelled")
        self.seconds = 0.0

    def run(self) -> None:
        began = time.perf_counter()
        try:
            self.outcome = self._writer.write(self.job)
            self.seconds = time.perf_counter() - began
        except CalledOff:
            pass
        except Exception as error:  # the store is gone, and the job with it
            self.outcome = Outcome(path=None, problem=str(error))


def save_checkpoint(model: TrainingModel, state: Mapping[str, Any]) -> Path:
    """Write one checkpoint and return its folder. Collective. Raises RunFailed."""
    with Saver(model) as saver:
        path = saver.save(state, wait=True)
    assert path is not None
    return path
