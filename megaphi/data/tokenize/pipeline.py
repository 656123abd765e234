"""Turn files of documents into one tokenised dataset: PREFIX.bin, PREFIX.idx and PREFIX.json.

Every worker of the job makes the same plan (`plan.py`), tokenises its share of the shards into PREFIX.parts/
(`tokenize_shards.py`), and one of them joins all, shuffled, when all are there (`join_shards.py`). So a killed run
loses only the shards it was at, and the result depends neither on the number of processes and workers nor on who came
first.

What is relied on in a file system that several machines share: rename is atomic; what was written and closed, or
renamed, is seen by a process that opens or lists the folder afterwards (close-to-open, as NFS gives). Locks (flock)
spare work, never guard the result: workers hold PREFIX.parts/lock together, a lone run holds it alone, the joiner holds
PREFIX.parts/join. The kernel drops them with the process, however it ends. Where the file system has none, two workers
might join at once: both write the same bytes under names of their own and rename them, and the shards stay until a lone
run, or the user, removes them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.tokenize.fill_in_the_middle import check_sentinels
from megaphi.data.tokenize.join import corrupted_shards, join_shards
from megaphi.data.tokenize.plan import TokenizePlan, is_up_to_date, make_plan, parts_folder_of
from megaphi.data.tokenize.settings import TokenizeSettings
from megaphi.data.tokenize.shards import missing_shards, tokenize_missing, tokenizer_at
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, try_lock
from megaphi.log import logger
from megaphi.parallel.rendezvous.folder_worker import Barrier, FolderWorker, barrier_of
from megaphi.tokenizer.open_tokenizer import PHI4


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeSummary:
    """Summary of a call of `tokenize_documents`."""

    prefix: Path
    files: int
    input_bytes: int
    documents: int
    empty_documents: int
    """Documents left out because they are empty."""
    left_out: dict[str, tuple[int, str]]
    """Records left out because they hold no text: by reason, how many, and the place of the first."""
    tokens: int
    """One `<|endoftext|>` per document included. All counts are 0 until the dataset is joined."""
    seconds: float
    reused: bool
    """The dataset was there already, made from the same files with the same settings."""
    resumed_shards: int
    """Shards of this worker that an earlier, interrupted run had finished."""
    joined: bool
    """The dataset is there; else other workers are still at work, and the last of them will join."""
    missing_shards: int
    """Number of shards that others have not finished yet."""


def plan_tokenizing(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    settings: TokenizeSettings | None = None,
    *,
    threads: int = 1,
) -> TokenizePlan:
    """Plan a call of `tokenize_documents` with these arguments; writes nothing."""
    settings = settings or TokenizeSettings()
    path, size = settings.tokenizer, settings.vocabulary_size
    if size is not None and path != PHI4:
        raise InputError(f"a vocabulary of {size} is for Phi-4's tokenizer: {path} has its own size")
    opened = tokenizer_at(path, size, settings.ranks_file)
    if settings.fill_in_the_middle is not None:
        check_sentinels(opened, where=path)
    return make_plan(inputs, output, tokenizer=opened, settings=settings.decided(opened), threads=threads)


def tokenize_documents(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    settings: TokenizeSettings | None = None,
    *,
    processes: int | None = None,
    worker: FolderWorker | None = None,
    show_progress: bool = True,
) -> TokenizeSummary:
    """Tokenise the documents of `inputs` (files, folders, patterns) into `output`.bin/.idx/.json.

    Every document ends with the end of text; empty ones are left out. A dataset that was made from the same files with
    the same settings is kept. Temporarily needs twice the dataset's size on disk.

    Args:
        settings: what decides the result; None means Phi-4's tokenizer, shuffled with seed 0.
        processes: how many to tokenise with; None means one per processor.
        worker: this process's rank among several that tokenise the same inputs together; None means alone.

    Raises:
        InputError: an input is missing or not what it should be (file and line named), the output cannot be written,
            or another process is writing it. Finished shards are kept for the next try.
    """
    began = time.monotonic()
    worker = worker or FolderWorker()
    processes = processes or worker.processes or len(os.sched_getaffinity(0))
    with barrier_of(worker) as barrier:
        plan = plan_tokenizing(inputs, output, settings, threads=processes)
        for line in plan.left_out.lines():
            if worker.rank == 0:
                logger.info("%s", line)
        summary = _tokenize(plan, worker, barrier, processes=processes, show_progress=show_progress, began=began)
        barrier.wait()  # the dataset is there for all when this returns
    return summary if summary.joined or not barrier.exists else _summary(plan, began, joined=True)


def _tokenize(
    plan: TokenizePlan, worker: FolderWorker, barrier: Barrier, *, processes: int, show_progress: bool, began: float
) -> TokenizeSummary:
    """Tokenize this worker's share, and join the shards if that is this worker's part."""
    was_there = is_up_to_date(plan)
    resumed = missing = 0
    if was_there:
        logger.info("%s is up to date: kept as it is", plan.output)
        barrier.wait()
        _remove_leftovers(plan, alone=worker.is_alone)
        return _summary(plan, began, reused=True, joined=True)
    with _hold_parts(plan, alone=worker.is_alone):
        if not is_up_to_date(plan):  # another worker may have joined meanwhile, and removed all shards
            share = plan.distinct_shards[worker.rank :: worker.world]
            visible = show_progress and worker.rank == 0
            with _unless_joined(plan):
                resumed = tokenize_missing(share, plan.settings, processes=processes, show_progress=visible)
        barrier.wait()
        if worker.rank == 0 or not barrier.exists:
            with _unless_joined(plan):
                missing = _join_when_complete(plan, processes=processes, show_progress=show_progress)
    if joined := is_up_to_date(plan):
        _remove_leftovers(plan, alone=worker.is_alone)
    return _summary(plan, began, resumed=resumed, joined=joined, missing=missing)


def _summary(
    plan: TokenizePlan, began: float, *, joined: bool, reused: bool = False, resumed: int = 0, missing: int = 0
) -> TokenizeSummary:
    names = ("documents", "empty_documents", "tokens")
    found: dict[str, Any] = (IndexedDataset(plan.output).description or {}) if joined else dict.fromkeys(names, 0)
    return TokenizeSummary(
        prefix=plan.output,
        files=len(plan.files),
        input_bytes=plan.input_bytes,
        **{name: found[name] for name in names},
        left_out={reason: (count, first) for reason, (count, first) in found.get("left_out", {}).items()},
        seconds=time.monotonic() - began,
        reused=reused,
        resumed_shards=resumed,
        joined=joined,
        missing_shards=missing,
    )


def _join_when_complete(plan: TokenizePlan, *, processes: int, show_progress: bool) -> int:
    """Join, unless shards are missing (returns how many) or another worker is joining or has joined."""
    if is_up_to_date(plan):
        return 0
    if missing := missing_shards(plan.distinct_shards):
        return 0 if is_up_to_date(plan) else len(missing)
    with try_lock(plan.parts_folder / "join", exclusive=True) as held:
        if held is False or is_up_to_date(plan):
            return 0
        if corrupted := corrupted_shards(plan.distinct_shards):
            tokenize_missing(corrupted, plan.settings, processes=processes, show_progress=show_progress)
        join_shards(plan, show_progress=show_progress)
    return 0


@contextmanager
def _unless_joined(plan: TokenizePlan) -> Iterator[None]:
    """Nothing that goes wrong matters if another worker has joined meanwhile, and taken the shards away."""
    try:
        yield
    except (InputError, FileNotFoundError):
        if not is_up_to_date(plan):
            raise


@contextmanager
def _hold_parts(plan: TokenizePlan, *, alone: bool) -> Iterator[None]:
    """Make the folder of finished shards and hold it: alone, or together with the other workers."""
    folder = plan.parts_folder
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with try_lock(folder / "lock", exclusive=alone) as held:
        if held is False:
            raise InputError(f"another process is writing {plan.output}: wait for it, or stop it")
        try:
            yield
        finally:
            if held and alone:
                _remove_unfinished(folder)


def _remove_unfinished(folder: Path) -> None:
    """Files of shards whose process was ended: a run that resumes takes finished shards only."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def _remove_leftovers(plan: TokenizePlan, *, alone: bool) -> None:
    """Shards that are no longer needed, unless somebody works on them, or might where there are no locks to tell."""
    folder = parts_folder_of(plan.output)
    if folder.exists():
        with try_lock(folder / "lock", exclusive=True) as held:
            if held or (held is None and alone):
                shutil.rmtree(folder, ignore_errors=True)  # an NFS client may keep names of open files
            elif held is None:
                logger.info("%s is no longer needed: remove it when all workers have ended", folder)
