"""A run of curation: every stage on all shards, decisions between stages, the finished documents at the end.

Workers share nothing but the folder. Each begins with its own share of the shards; when that is done it takes those of
others that nobody is at, from the end. So a worker that is killed, or has not been started yet, holds up nobody, and
the last of them may do it all. A lock on a file of the shard says that somebody is at it, and ends with the process; on
a file system without locks a worker does its share only, and says what is missing. The result depends on none of this.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megaphi.config import difference
from megaphi.curation.pipeline.counts import StepCounts, summed
from megaphi.curation.pipeline.lineage import lineage_of
from megaphi.curation.pipeline.plan import CurationPlan, ShardJob, StagePlan, make_plan, stages_folder
from megaphi.curation.pipeline.process import (
    Given,
    ProcessStart,
    Source,
    claim_of,
    is_there,
    recipe_digest,
    refuse_samplers,
    work_on,
)
from megaphi.curation.pipeline.progress import position_of, showing
from megaphi.curation.pipeline.shard import GATHERED, REJECTED, WRITTEN, naming, shard_counts
from megaphi.curation.pipeline.upload import upload_documents
from megaphi.curation.recipe import Curation
from megaphi.curation.step import JointStep
from megaphi.curation.write.shard_files import link_shard_files
from megaphi.data.lineage.record import LINEAGE, listed_files
from megaphi.errors import InputError
from megaphi.files import (
    explain_write_errors,
    read_object,
    replace_folder,
    sync_tree,
    try_lock,
    whole_folder,
    write_json,
)
from megaphi.log import logger, progress_bar
from megaphi.parallel.rendezvous.folder_worker import Barrier, FolderWorker, barrier_of
from megaphi.worker_processes import worker_processes

DOCUMENTS, REJECTED_FOLDER = "documents", "rejected"
"""Folders of the finished documents, and of those that were kept aside, a file for every stage and shard."""
MADE_FROM = ".made_from"
"""In it: the fingerprint of the plan that they were made by."""
POLL_SECONDS = 0.2
EachShard = Callable[[Sequence[ShardJob]], Iterable[tuple[ShardJob, list[StepCounts] | None]]]
"""Works on shards in some processes, and gives each with its counts, None where another worker does it."""
Executor = Callable[[ProcessStart, int], AbstractContextManager[EachShard]]
"""Opens processes for all stages of a run, no more than there are shards (the number) to work on at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurationSummary:
    """Summary of a run."""

    plan: CurationPlan
    counts: list[StepCounts]
    """Counts of all shards; [] if the run is not finished."""
    shards: int
    shards_done_here: int
    missing_shards: int
    """Shards that other workers have not finished: the run is not."""
    seconds: float

    @property
    def folder(self) -> Path:
        return self.plan.folder

    @property
    def finished(self) -> bool:
        return not self.missing_shards


def local_processes(processes: int) -> Executor:
    """Executor of this machine; with one process it is this one."""

    @contextmanager
    def opened(start: ProcessStart, shards: int) -> Iterator[EachShard]:
        advice = "run the same command again, with fewer processes; finished shards are kept"
        with worker_processes(min(processes, shards), prepare=start, advice=advice) as workers:
            yield partial(workers.each, work_on)

    return opened


def curate(
    curation: Curation,
    *,
    source: Source | None = None,
    executor: Executor | None = None,
    worker: FolderWorker | None = None,
    open_sampler: Callable[[str], Any] = refuse_samplers,
    show_progress: bool = True,
) -> CurationSummary:
    """Run a recipe; a run that was killed goes on where it was, and what is up to date is kept.

    Args:
        source: gives the curation in other processes; None: its parts are of modules that they can import.
        executor: what works on the shards; None means this process.
        worker: this process's rank among several that share the folder; None means alone.
        open_sampler: opens a model by its name, in every process; a function of a module.

    Raises:
        InputError: an input is missing, the folder belongs to another recipe, a step cannot be opened.
        RunFailed: a model does not answer.
    """
    began = time.monotonic()
    worker = worker or FolderWorker()
    with barrier_of(worker) as barrier:
        plan = make_plan(curation)
        source = source or Given(curation)
        start = ProcessStart(source=source, recipe_digest=recipe_digest(curation), open_sampler=open_sampler)
        shards, executor = len(plan.stages[0].jobs), executor or local_processes(1)
        with _hold_folder(plan, alone=worker.is_alone):
            _begin(plan, speaks=worker.rank == 0)
            with executor(start, shards) as each_shard:
                run = _Run(plan, each_shard, worker, barrier, show_progress)
                missing = run.all_stages()
            if not missing:
                finish(plan, alone=worker.is_alone)
        barrier.wait()  # everything is there for all when this returns
    counts = [] if missing else all_counts(plan)
    return CurationSummary(
        plan=plan,
        counts=counts,
        shards=shards,
        shards_done_here=run.done_here,
        missing_shards=missing,
        seconds=time.monotonic() - began,
    )


class _Run:
    """A worker's way through the stages."""

    def __init__(
        self,
        plan: CurationPlan,
        each_shard: EachShard,
        worker: FolderWorker,
        barrier: Barrier,
        show_progress: bool,
    ) -> None:
        self.plan, self.each_shard, self.worker, self.barrier = plan, each_shard, worker, barrier
        self.visible = show_progress and worker.rank == 0
        self.done_here = 0

    def all_stages(self) -> int:
        """Work until every stage is done; returns how many shards are missing where it cannot wait for others."""
        for stage in self.plan.stages:
            if missing := self._complete(stage):
                return missing
            if stage.decisions is not None:
                self._decide(stage, stage.decisions)
        return 0

    def _complete(self, stage: StagePlan) -> int:
        missing = missing_jobs(stage)
        _say_what_is_there(self.plan, stage, missing, speaks=self.worker.rank == 0)
        if not missing:
            return 0
        total, initial = sum(job.size_bytes for job in stage.jobs), position_of(stage)
        label = f"stage {stage.stage.number + 1} of {len(self.plan.stages)}"
        with (
            progress_bar(total=total, initial=initial, unit="B", label=label, visible=self.visible) as bar,
            showing(stage, bar),
        ):
            while missing:
                takable = [job for job in self._in_order(missing) if _claimed(job) is not True]
                if takable:
                    self._work(takable, bar)
                elif not self.barrier.exists and _claimed(missing[0]) is None:
                    return len(missing)
                else:
                    time.sleep(POLL_SECONDS)
                missing = missing_jobs(stage)
        return 0

    def _in_order(self, missing: Sequence[ShardJob]) -> list[ShardJob]:
        """This worker's share from the beginning, then the others' from the end, where there are locks."""
        mine = [job for job in missing if job.number % self.worker.world == self.worker.rank]
        others = [job for job in reversed(missing) if job.number % self.worker.world != self.worker.rank]
        return mine or [job for job in others if _claimed(job) is False]

    def _work(self, jobs: Sequence[ShardJob], bar: Any) -> None:
        came = kept = errors = 0
        largest_first = sorted(jobs, key=lambda job: job.size_bytes, reverse=True)  # the last ones end together
        for _, counts in self.each_shard(largest_first):
            if counts is None:
                continue
            self.done_here += 1
            steps = [one for one in counts if one.came.documents]
            came += steps[0].came.documents if steps else 0
            kept += steps[-1].left.documents if steps else 0
            errors += sum(one.rejected.get("error", 0) for one in counts)
            said = f"{came:,} documents in, {kept:,} out" + (f", {errors:,} errors" if errors else "")
            bar.set_postfix_str(said, refresh=False)

    def _decide(self, stage: StagePlan, decisions: Path) -> None:
        """Decide, or wait for the worker that does."""
        assert stage.stage.gathers is not None
        name, step = self.plan.names[stage.stage.gathers], self.plan.curation.steps[stage.stage.gathers]
        assert isinstance(step, JointStep)
        while not is_there(decisions):
            with try_lock(decisions.parent / ".deciding", exclusive=True) as held:
                if held is not False and not is_there(decisions):
                    logger.info("%s decides over %d shards", name, len(stage.jobs))
                    with whole_folder(decisions) as output, naming(name, "decide"):
                        step.decide([job.output / GATHERED for job in stage.jobs], output)
                        sync_tree(output)
                    return
            time.sleep(POLL_SECONDS)


def missing_jobs(stage: StagePlan) -> list[ShardJob]:
    """Shards of a stage that are not finished, by one listing of its folder."""
    try:
        names = {entry.name for entry in os.scandir(stage.jobs[0].output.parent)} if stage.jobs else set()
    except FileNotFoundError:
        names = set()
    return [job for job in stage.jobs if job.output.name not in names]


def _claimed(job: ShardJob) -> bool | None:
    """True if a process is at this shard; None where the file system has no locks."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(claim_of(job), exclusive=True) as held:
        return None if held is None else not held


def all_counts(plan: CurationPlan) -> list[StepCounts]:
    """Counts of all shards of all stages together."""
    return summed(shard_counts(job.output) for stage in plan.stages for job in stage.jobs)


def finish(plan: CurationPlan, *, alone: bool) -> None:
    """Put the finished documents at their place, and remove what other settings left; once, by whoever is first."""
    with try_lock(stages_folder(plan.folder) / ".finishing", exclusive=True) as held:
        if held is False:
            return
        _publish(plan, REJECTED_FOLDER, lambda output: _link_rejected(plan, output))
        with naming("write", "join its files"):
            _publish(plan, DOCUMENTS, lambda output: _write_documents(plan, output))
        if plan.curation.upload:
            upload_documents(plan.folder / DOCUMENTS, plan.curation.upload)
        _remove_others(plan, alone=alone)


def _publish(plan: CurationPlan, name: str, fill: Callable[[Path], object]) -> None:
    """Make a folder of the result, in the place of one of an earlier plan."""
    folder = plan.folder / name
    if not _is_made(folder, plan):
        partial = stages_folder(plan.folder) / name
        shutil.rmtree(partial, ignore_errors=True)
        with whole_folder(partial) as output:
            fill(output)
            write_json(output / MADE_FROM, plan.fingerprint)
            sync_tree(output)
        replace_folder(partial, folder)


def _write_documents(plan: CurationPlan, output: Path) -> None:
    """Put the finished documents of all shards into `output`, and their lineage beside them."""
    lineage = lineage_of(plan, all_counts(plan))
    plan.curation.write.join([job.output / WRITTEN for job in plan.stages[-1].jobs], output, lineage)
    write_json(output / LINEAGE, {**lineage, "files": listed_files(output)})


def _link_rejected(plan: CurationPlan, output: Path) -> None:
    """Put the rejected documents of every stage and shard into `output`."""
    for stage in plan.stages:
        at = output / f"stage-{stage.stage.number + 1:02d}"
        at.mkdir()
        link_shard_files([job.output for job in stage.jobs], at, name=REJECTED)


def _is_made(folder: Path, plan: CurationPlan) -> bool:
    try:
        return (folder / MADE_FROM).read_text().strip().strip('"') == plan.fingerprint
    except OSError:
        return False


def _remove_others(plan: CurationPlan, *, alone: bool) -> None:
    """Remove what is of no use any more: shards of other settings, claims, folders of steps that left nothing."""
    needed = {job.output for stage in plan.stages for job in stage.jobs} | {stage.decisions for stage in plan.stages}
    for entry in stages_folder(plan.folder).glob("*/*"):
        if entry not in needed and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
    for name in (DOCUMENTS, REJECTED_FOLDER):
        for entry in plan.folder.glob(f".{name}.*.replaced"):
            shutil.rmtree(entry, ignore_errors=True)
    if alone:
        for entry in stages_folder(plan.folder).glob("*/.claim-*"):
            entry.unlink(missing_ok=True)
        for entry in plan.folder.glob("steps/*"):
            with suppress(OSError):  # it holds something
                entry.rmdir()
    for entry in plan.folder.glob(".*.partial"):
        if alone or entry.name.startswith(".curation.json."):  # others may be writing their report now
            entry.unlink(missing_ok=True)


def _begin(plan: CurationPlan, *, speaks: bool) -> None:
    """Write what is run into curation.json; say which settings have changed since the last time."""
    path = plan.folder / "curation.json"
    shown = {name: getattr(plan.curation, name) for name in ("rejected_characters", "samples", "seed")}
    found = {"recipe": plan.curation.recipe, "meaning": plan.meaning, "report": shown}
    before = read_object(path, what="curation of this folder") if path.exists() else None
    if before == found:
        return
    if before is not None and speaks:
        for part, effect in (("meaning", ""), ("report", "; finished shards are kept")):
            for name, old, new in difference(before.get(part, {}), found[part]):
                logger.info("changed since the last run: %s: %s, now %s%s", name, old, new, effect)
    write_json(path, found)


def _say_what_is_there(plan: CurationPlan, stage: StagePlan, missing: Sequence[ShardJob], *, speaks: bool) -> None:
    if not speaks:
        return
    steps = ", ".join(plan.names_of(stage.stage)) or "no steps"
    about = f"stage {stage.stage.number + 1} of {len(plan.stages)} ({steps})"
    done = len(stage.jobs) - len(missing)
    if not missing:
        logger.info("%s: up to date, %d shards", about, done)
    elif done:
        logger.info("%s: %d of %d shards were finished by an earlier run", about, done, len(stage.jobs))
    else:
        logger.info("%s: %d shards", about, len(stage.jobs))


@contextmanager
def _hold_folder(plan: CurationPlan, *, alone: bool) -> Iterator[None]:
    """Make the folder of the run and hold it: alone, or together with the other workers.

    Raises:
        InputError: it belongs to another recipe, holds something else, or another process is writing it.
    """
    folder, recipe = plan.folder, plan.curation.recipe
    with explain_write_errors(folder):
        others = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        is_ours = {"curation.json", "stages"} & set(others)
        if others and not is_ours:
            raise InputError(f"{folder} holds other things ({', '.join(others[:3])}): choose another folder")
        stages_folder(folder).mkdir(parents=True, exist_ok=True)
    path = folder / "curation.json"
    if path.exists():
        owner = read_object(path, what="curation of this folder").get("recipe")
        if owner != recipe:
            raise InputError(f"{folder} belongs to the recipe {owner!r}, not {recipe!r}: choose another --output")
    with try_lock(stages_folder(folder) / ".lock", exclusive=alone) as held:
        if held is False:
            raise InputError(f"another process is writing {folder}: wait for it, or stop it")
        yield
