"""Length, validation, evaluation, start and profile of a run: five sections of its configuration.

Checks across sections are in `run_config.py`. No torch here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from megaphi.config import FilePath, Range
from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingLength:
    """Length of the run (config section `training`)."""

    steps: Annotated[int, Range(minimum=0)] = 0
    """Optimizer steps of the whole run; a resumed run continues up to the same number. 0: as many as `epochs` needs."""
    epochs: Annotated[float, Range(minimum=0)] = 0.0
    """Passes over the conversations or pairs, where training.steps is 0."""
    stop_after: Annotated[int, Range(minimum=1)] | None = None
    """Stop early after this step, with a checkpoint, as on a signal; the learning rate still spans `steps`."""
    time_limit: str | None = None
    """Save and exit with code 0 before this much time has passed since the start: 23:50:00, or 1-12:00:00."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationPasses:
    """Validation on held-out data (config section `validation`)."""

    every: Annotated[int, Range(minimum=0)] = 0
    """Steps between validation passes; 0: only at the end. Needs validation data."""
    samples: Annotated[int, Range(minimum=1)] = 64
    """Held-out sequences of a mixture per pass, always the same; of conversations and pairs all are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPasses:
    """Scores on tasks of `megaphi evaluate` during training (config section `evaluation`)."""

    every: Annotated[int, Range(minimum=0)] = 0
    """Steps between evaluations; there is one at the end too. 0: never."""
    tasks: tuple[str, ...] = ()
    """Names of tasks that are graded by log-likelihood, such as mmlu_base,arc_challenge_base."""
    data: FilePath | None = None
    """Manifest of the tasks' data files, as for `megaphi evaluate`."""
    limit: Annotated[int, Range(minimum=1)] | None = None
    """Items of each task that are scored, the first ones of its files; none: all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Start of the run, and the checks that it may skip (config section `start`)."""

    resume: bool = True
    """Continue from the newest complete checkpoint, if there is one."""
    take_over: bool = False
    """Start even if a job on another host holds the run folder's lock; that job must be dead."""
    initial_checkpoint: FilePath | None = None
    """Start a new run (step 0, no optimizer state) from these weights: a checkpoint, or a Hugging Face folder."""
    continue_sources: bool = False
    """With initial_checkpoint: continue sources of the same name and content where that run stopped reading them."""
    accept_changed_data: bool = False
    """Resume even if data or seed have changed; a changed source begins a new epoch."""
    accept_rate_jump: bool = False
    """Resume even if the learning rate jumps because the steps or the schedule have changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfilerWindow:
    """Steps that torch's profiler records (config section `profile`); `megaphi profile` asks for others."""

    steps: str | None = None
    """First and last of them, counted from 1: 100-102; none: no window."""
    ranks: tuple[Annotated[int, Range(minimum=0)], ...] = (0,)
    """Ranks that write a trace, in this window and when `megaphi profile` asks."""


def profiled_steps(section: ProfilerWindow) -> range:
    """The steps of the window; empty without one. Raises InputError."""
    if section.steps is None:
        return range(0)
    found = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", section.steps, re.ASCII)
    first, last = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
    if not 1 <= first <= last:
        raise InputError(f"profile.steps={section.steps}: expected a first and a last step, such as 100-102")
    return range(first, last + 1)
