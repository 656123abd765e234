"""A process that works on shards: the recipe is loaded and its steps are opened once, a stage at a time.

A process that another one started gets the recipe by its name, not by its objects: a recipe and steps of the user's
own are in a file, which is loaded again. If that file was edited meanwhile, the process refuses to work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.curation.pipeline.counts import StepCounts
from megaphi.curation.pipeline.meaning import digest, meaning_of
from megaphi.curation.pipeline.plan import ShardJob
from megaphi.curation.pipeline.shard import Opened, open_steps, run_shard
from megaphi.curation.recipe import Curation, step_names
from megaphi.errors import InputError
from megaphi.files import try_lock
from megaphi.sampling import Sampler

Source = Callable[[], Curation]
"""Gives the curation in another process: a function of a module with its arguments."""


@dataclass(frozen=True, slots=True)
class Given:
    """The source of a curation whose parts are of modules that every process can import."""

    curation: Curation

    def __call__(self) -> Curation:
        return self.curation


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessStart:
    """Everything that a process needs before its first shard."""

    source: Source
    recipe_digest: str
    open_sampler: Callable[[str], Sampler]
    folder: str = ""
    """Working directory that the recipe's paths are relative to; "" for that of this process."""

    def __call__(self) -> None:
        """Load the recipe. Raises InputError if it is not the one that the plan was made of."""
        if self.folder:
            os.chdir(self.folder)
        curation = self.source()
        if recipe_digest(curation) != self.recipe_digest:
            raise InputError(f"recipe {curation.recipe!r} was changed while it was being run: run it again")
        _process.curation, _process.open_sampler = curation, self.open_sampler
        _process.stage, _process.opened = None, []


class _Process(threading.local):
    """The loaded recipe and its opened steps; each thread has its own, as a test's workers are threads."""

    curation: Curation | None = None
    open_sampler: Callable[[str], Sampler] | None = None
    stage: tuple[Path, int] | None = None
    opened: list[Opened] = []  # noqa: RUF012 (set for every thread in ProcessStart)


_process = _Process()


def recipe_digest(curation: Curation) -> str:
    """A name for the settings of a recipe, without what is in the files that they name."""
    names = step_names(curation.steps)
    return digest(
        *(meaning_of(part, where="", with_files=False) for part in (curation.read, curation.write, *curation.steps)),
        names,
    )


def work_on(job: ShardJob) -> list[StepCounts] | None:
    """Work on a shard, and return its counts; None if another process is at it, or has finished it meanwhile."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(claim_of(job), exclusive=True) as held:
        if held is False or is_there(job.output):
            return None
        try:
            assert _process.curation is not None
            return run_shard(job, _process.curation, _opened(_process.curation, job))
        except InputError:
            if is_there(job.output):  # a file system without locks, or one that hides for a while what is there
                return None
            raise


def claim_of(job: ShardJob) -> Path:
    """The file whose lock the process holds that is at this shard."""
    return job.output.parent / f".claim-{job.number:05d}"


def is_there(folder: Path) -> bool:
    """By a listing: network file systems remember for a while that a name was not there."""
    try:
        return any(entry.name == folder.name for entry in os.scandir(folder.parent))
    except FileNotFoundError:
        return False


def _opened(curation: Curation, job: ShardJob) -> list[Opened]:
    """The steps of the job's stage; those of the stage before are let go."""
    stage = (job.steps_folder, job.stage.number)
    if _process.stage != stage:
        assert _process.open_sampler is not None
        _process.opened, _process.stage = [], None
        _process.opened = open_steps(curation, job.stage.places, job.steps_folder, _process.open_sampler)
        _process.stage = stage
    return _process.opened


def refuse_samplers(name: str) -> Any:
    """In the place of `StepContext.open_sampler` where no models are to be opened. Raises InputError."""
    raise InputError(f"a step asks for the model {name!r}, and this run was started without any")
