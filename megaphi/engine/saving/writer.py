"""One checkpoint written by all ranks together, from any thread of each.

Every rank writes its file and reads it back. Rank 0 collects the reports, adds the JSON files, renames the folder and
moves `latest`, in this order, so that `latest` always names a checkpoint that is complete and was read back. A failed
attempt is repeated, then made in the fallback folder. The ranks agree through the job's store (parallel/channel.py):
no process is started here, and there are no collectives.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from megaphi.checkpoint.format import CARRIED_FOLDER, TensorPiece, finish_checkpoint, rank_file, write_rank_file
from megaphi.checkpoint.manifest import check_content
from megaphi.checkpoint.tensor_file import FileRecord
from megaphi.checkpoint.versions import versions
from megaphi.config import to_plain
from megaphi.engine.retention import checkpoint_name, prune
from megaphi.engine.run_config import RunConfig
from megaphi.engine.saving.fallback import clear_fallback, fallback_folders, mark_fallback, usual_folder
from megaphi.engine.saving.snapshot import Sample, check_written
from megaphi.engine.saving.suspects import forget_suspects
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, remove_tree, replace_folder, write_text
from megaphi.log import logger
from megaphi.parallel.channel import CalledOff, Channel
from megaphi.parallel.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The part of a save that one rank writes."""

    number: int
    """Number of this save, counted by the processes of this start."""
    state: Mapping[str, Any]
    pieces: Sequence[TensorPiece]
    samples: Sequence[Sample]
    waited_seconds: float | None = None
    """Seconds that training waited for it; None if training waits until the end."""

    @property
    def step(self) -> int:
        return self.state["step"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Outcome of a save; the same on all ranks."""

    path: Path | None
    problem: str = ""
    """Error of the last attempt, if the save failed."""


def checkpoint_folders(run: RunConfig) -> list[Path]:
    """Folders that may hold checkpoints of a run: its own, then the fallback."""
    return [usual_folder(run), *fallback_folders(run)]


class CheckpointWriter:
    """Writer of one run's checkpoints, under a `save_id` that its ranks share and no other start of the run has."""

    def __init__(
        self, run: RunConfig, world: World, *, save_id: str, called_off: Event, after_save: Callable[[], object]
    ) -> None:
        self._run, self._rules, self._world = run, run.saving, world
        self._save_id, self._called_off, self._after_save = save_id, called_off, after_save

    def write(self, job: Job) -> Outcome:
        """Try every folder, several times each. Raises CalledOff."""
        began, outcome = time.perf_counter(), Outcome(path=None)
        for attempt, (folder, pause) in enumerate(self._attempts()):
            if attempt and self._world.is_main:
                logger.warning("saving step %d: %s; trying %s in %g s", job.step, outcome.problem, folder, pause)
            if self._called_off.wait(pause):
                raise CalledOff
            path = folder / checkpoint_name(job.step)
            problem = self._attempt(job, path, attempt)
            if problem is None:
                if self._world.is_main:
                    self._complete(job, path, seconds=time.perf_counter() - began)
                return Outcome(path=path)
            outcome = Outcome(path=None, problem=problem)
        return outcome

    def _attempts(self) -> Iterator[tuple[Path, float]]:
        """Yield (folder, pause before the attempt in seconds)."""
        for folder in checkpoint_folders(self._run):
            yield folder, 0.0
            for repeat in range(self._rules.attempts - 1):
                yield folder, self._rules.retry_seconds * 2**repeat

    def _attempt(self, job: Job, folder: Path, attempt: int) -> str | None:
        """Write one checkpoint together with all other ranks; returns the error, the same on all, or None."""
        channel = Channel(f"{self._save_id}/save/{job.number}/{attempt}", called_off=self._called_off)
        partial = folder.with_name(f".{folder.name}.{self._save_id}.partial")
        world, everyone = self._world, [f"report/{rank}" for rank in range(self._world.size)]
        if world.is_main:
            channel.post("folder", _problem(lambda: self._prepare(partial)))
        (problem,) = channel.wait(["folder"])
        if problem is not None:
            return problem
        channel.post(everyone[world.rank], self._report(job, partial))
        if world.is_main:
            reports = channel.wait(everyone)
            channel.post("verdict", self._verdict(job, reports, partial, folder))
            channel.forget(everyone)
        (verdict,) = channel.wait(["verdict"])
        return verdict

    def _prepare(self, partial: Path) -> None:
        """Make an empty folder to write to, in a folder that belongs to this run. On rank 0."""
        if partial.parent in fallback_folders(self._run):
            mark_fallback(self._run, partial.parent)
        _empty_folder(partial)

    def _report(self, job: Job, partial: Path) -> dict[str, Any]:
        """Write this rank's file and read it back; returns its record for the manifest, or the error."""
        report: dict[str, Any] = {}

        def write() -> None:
            record = write_rank_file(partial, job.pieces, rank=self._world.rank, save_id=self._save_id, step=job.step)
            if self._rules.verify:
                path = partial / rank_file(self._world.rank)
                check_written(path, record, job.samples, save_id=self._save_id, step=job.step)
            report.update(bytes=record.bytes, sha256=record.sha256)

        return report if (problem := _problem(write)) is None else {"problem": problem}

    def _verdict(self, job: Job, reports: Sequence[dict[str, Any]], partial: Path, folder: Path) -> str | None:
        """Publish the checkpoint when all ranks have written; otherwise remove it and return the error. On rank 0."""
        problem = _first_problem(reports)
        if problem is None:
            files = {rank_file(rank): FileRecord(**report) for rank, report in enumerate(reports)}
            problem = _problem(lambda: self._publish(job, files, partial, folder))
        if problem is not None:
            shutil.rmtree(partial, ignore_errors=True)
        return problem

    def _publish(self, job: Job, files: Mapping[str, FileRecord], partial: Path, folder: Path) -> None:
        state = {**job.state, "versions": versions()}
        carried = {path.name: path for path in sorted((Path(self._run.folder) / CARRIED_FOLDER).glob("*"))}
        manifest = finish_checkpoint(partial, to_plain(self._run), state, files, save_id=self._save_id, carried=carried)
        if self._rules.verify:
            for name in manifest.files.keys() - files.keys():
                check_content(partial, manifest, name, from_disk=True)
        with explain_write_errors(folder):
            replace_folder(partial, folder)
        write_text(folder.parent / "latest", folder.name + "\n")

    def _complete(self, job: Job, path: Path, *, seconds: float) -> None:
        """Finish after a success: everything here may fail without harm. On rank 0."""
        waited = "" if job.waited_seconds is None else f"; training waited {job.waited_seconds:.2f} s of them"
        logger.info("saved %s in %.1f s%s", path, seconds, waited)

        def tidy() -> None:
            prune(path.parent, self._rules, newest=job.step)
            for folder in checkpoint_folders(self._run):
                forget_suspects(folder, until=job.step)
            for folder in fallback_folders(self._run) if path.parent == usual_folder(self._run) else ():
                clear_fallback(self._run, folder, until=job.step)  # the run's own folder works again
            self._after_save()

        if (problem := _problem(tidy)) is not None:
            logger.warning("after saving %s: %s", path, problem)


def _empty_folder(folder: Path) -> None:
    with explain_write_errors(folder):
        remove_tree(folder)
        folder.mkdir(parents=True)


def _problem(action: Callable[[], object]) -> str | None:
    """Run an action on the storage; returns the error message, or None. No exception in a save may end the run."""
    try:
        action()
    except (InputError, OSError) as error:
        return str(error)
    except CalledOff:
        raise
    except Exception as error:
        logger.exception("a bug in saving, please report it")
        return f"{type(error).__name__}: {error}"
    return None


def _first_problem(reports: Sequence[dict[str, Any]]) -> str | None:
    found = [(rank, report["problem"]) for rank, report in enumerate(reports) if "problem" in report]
    if not found:
        return None
    rank, problem = found[0]
    return problem if len(reports) == 1 else f"{problem} (rank {rank}, and {len(found) - 1} others)"
