"""One shard through one stage: read, go through the steps, be gathered or written; a folder that appears whole.

Everything is streamed: no more than a document, or a batch of a step that takes batches, is held at a time. What a step
does not take on is kept aside with its reason. An exception costs one document; but what would meet every other
document too (a refused key, a full disk) ends the run. The folder holds `rejected.jsonl.zst`, `counts.json`,
`seconds.json`, `samples.json`, `origins.json`, and `documents.jsonl.zst` and `gathered/` for the next stage or
`written/` in the last.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import IO, Any, TypeVar

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.document_record import CONTENT_SHA256, document_of, json_line, whole_record
from megaphi.curation.pipeline.counts import StepCounts, counts_of
from megaphi.curation.pipeline.origins import DocumentOrigins
from megaphi.curation.pipeline.plan import ShardJob
from megaphi.curation.pipeline.progress import ShardProgress
from megaphi.curation.pipeline.samples import DocumentSample, Samples
from megaphi.curation.recipe import Curation, step_names
from megaphi.curation.step import BatchStep, JointStep, OfMany, OfOne, Step, StepContext
from megaphi.curation.write.shard_files import open_lines
from megaphi.errors import AffectsAll, InputError, RunFailed
from megaphi.files import read_json, sync_tree, whole_folder
from megaphi.json_text import json_bytes, parse_json

DOCUMENTS, REJECTED, GATHERED, WRITTEN = "documents.jsonl.zst", "rejected.jsonl.zst", "gathered", "written"
LONGEST_DETAIL = 500
ORIGINS = "origins.json"
READ, WRITE, BETWEEN = "read", "write", "between_stages"
"""Names of what is counted beside the steps."""

Opened = OfOne | tuple[int, OfMany] | JointStep
"""A step that is ready: its function, the size of its batches with the function for one, or itself, since a joint step
is opened for each shard."""
Item = TypeVar("Item")


def open_steps(
    curation: Curation, places: Sequence[int], folder: Path, open_sampler: Callable[[str], Any]
) -> list[Opened]:
    """Open the steps at these places of the recipe. Raises InputError that names the one that cannot be opened."""
    names = step_names(curation.steps)
    opened: list[Opened] = []
    for place in places:
        step, own = curation.steps[place], folder / names[place]
        own.mkdir(parents=True, exist_ok=True)
        context = StepContext(folder=own, open_sampler=open_sampler)
        with naming(names[place], "be opened"):
            if isinstance(step, JointStep):
                opened.append(step)
            elif isinstance(step, BatchStep):
                opened.append((max(1, step.batch_documents), step.open_batch(context)))
            else:
                assert isinstance(step, Step)
                opened.append(step.open(context))
    return opened


def run_shard(job: ShardJob, curation: Curation, opened: Sequence[Opened]) -> list[StepCounts]:
    """Fill the shard's folder; returns its counts.

    Raises:
        InputError: a part of the recipe failed in a way that concerns more than one document, or something is in the
            way of the folder.
    """
    with whole_folder(job.output) as folder:
        with ExitStack() as files:
            run = _Run(job, curation, folder, files)
            documents = run.read()
            for place, step in zip(job.stage.places, opened, strict=True):
                documents = run.through(run.names[place], step, documents)
            run.finish(documents)
            run.progress.end()
        for name, value in (
            (ORIGINS, dataclasses.asdict(run.origins)),
            ("counts.json", [one.record() for one in run.counts.values()]),
            ("seconds.json", {one.name: one.seconds for one in run.counts.values()}),
            ("samples.json", run.samples.records()),
        ):
            (folder / name).write_bytes(json_bytes(value))
        sync_tree(folder)
    return list(run.counts.values())


def shard_counts(output: Path) -> list[StepCounts]:
    """The counts of a finished shard."""
    seconds = read_json(output / "seconds.json", what="seconds of a shard")
    records = read_json(output / "counts.json", what="counts of a shard")
    return [counts_of(record, seconds[record["name"]]) for record in records]


def shard_samples(output: Path) -> list[DocumentSample]:
    """The samples of a finished shard."""
    return [DocumentSample(**record) for record in read_json(output / "samples.json", what="samples of a shard")]


def shard_origins(output: Path) -> DocumentOrigins:
    """The origins of the documents of a finished shard."""
    return DocumentOrigins(**read_json(output / ORIGINS, what="origins of a shard"))


def read_documents(path: Path, at: Callable[[float], object] = lambda share: None) -> Iterator[Document]:
    """The documents that a stage left; `at` is told the share of the file that has been read."""
    import zstandard

    size = max(1, path.stat().st_size)
    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as packed:
        for line in io.BufferedReader(packed, 1 << 20):  # pyright: ignore[reportArgumentType]
            at(file.tell() / size)
            yield document_of(parse_json(line))


class _Run:
    """A shard on its way: its counts, its samples, and the file of what is kept aside."""

    def __init__(self, job: ShardJob, curation: Curation, folder: Path, files: ExitStack) -> None:
        self.job, self.curation, self.folder, self.files = job, curation, folder, files
        self.names = step_names(curation.steps)
        self.counts = {name: StepCounts(name) for name in self._counted()}
        self.progress = ShardProgress(folder, job)
        self.samples = Samples()
        self.origins = DocumentOrigins()
        self._rejected = files.enter_context(open_lines(folder / REJECTED))

    def _counted(self) -> list[str]:
        """Names of all that is counted, in the order of the documents' way."""
        stage = self.job.stage
        begin = READ if self.job.before is None else BETWEEN
        end = [WRITE] if stage.is_last else [BETWEEN]
        gathers = [] if stage.gathers is None else [f"gather {self.names[stage.gathers]}"]
        return [begin, *(self.names[place] for place in stage.places), *end, *gathers]

    def reject(self, name: str, rejected: Rejected) -> None:
        self.counts[name].reject(rejected.reason, characters=len(rejected.document.text))
        self.samples.offer(name, rejected)
        document = rejected.document
        record = {"step": name, "reason": rejected.reason, "detail": rejected.detail[:LONGEST_DETAIL]}
        about = {"id": document.id, "source": document.source, "place": document.place}
        text = {"text": document.text[: self.curation.rejected_characters], "characters": len(document.text)}
        rest = {"metadata": dict(document.metadata), "history": list(document.history)}
        try:
            line = json_line(record | about | text | rest)
        except (TypeError, ValueError):  # what is no JSON in the metadata is said as text
            line = json_line(record | about | text | rest | {"metadata": repr(rest["metadata"])})
        self._rejected.write(line)

    def read(self) -> Iterator[Document]:
        """The documents of the input, or those of the stage before."""
        if self.job.before is not None:
            documents = read_documents(self.job.before / DOCUMENTS, self.progress.at)
            yield from _timed(documents, self.counts[BETWEEN])
            return
        counts, done, size = self.counts[READ], 0, max(1, self.job.size_bytes)
        for portion in self.job.portions:
            with naming(READ, f"read {portion.name}"):
                before = counts.came.size
                for outcome in _timed(self.curation.read.read(portion), counts):
                    document = outcome.document if isinstance(outcome, Rejected) else outcome
                    counts.came.add(document)
                    self.progress.at((done + min(portion.size_bytes, counts.came.size - before)) / size)
                    if isinstance(outcome, Rejected):
                        self.reject(READ, outcome)
                        continue
                    counts.left.add(document)
                    yield _with_hash(document)
            done += portion.size_bytes

    def through(self, name: str, opened: Opened, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents that come out of a step."""
        counts, before = self.counts[name], tuple(self.names[: self.names.index(name)])
        for came, outcomes in self._outcomes(name, opened, documents, counts):
            for document in came:
                counts.came.add(document)
            for outcome in outcomes:
                if isinstance(outcome, Rejected):
                    self.reject(name, outcome)
                    continue
                document = _passed(outcome, before, name)
                counts.left.add(document)
                yield document

    def _outcomes(
        self, name: str, opened: Opened, documents: Iterator[Document], counts: StepCounts
    ) -> Iterator[tuple[Sequence[Document], list[Outcome]]]:
        """(documents that went in, what became of them), timed."""
        if isinstance(opened, tuple):
            size, function = opened
            while batch := list(islice(documents, size)):
                yield batch, _clocked(counts, lambda batch=batch: _of_batch(function, batch))
            return
        if isinstance(opened, JointStep):
            assert self.job.decisions is not None
            with naming(name, "open its decisions"):
                opened = opened.open_decided(self.job.decisions, self.job.number)
        for document in documents:
            yield (document,), _clocked(counts, lambda document=document: _of_one(opened, document))

    def finish(self, documents: Iterator[Document]) -> None:
        """Take all documents to where the stage ends."""
        stage = self.job.stage
        if stage.is_last:
            (self.folder / WRITTEN).mkdir()
            self._consume(
                WRITE, self._finished(documents), lambda all_: self.curation.write.write(all_, self.folder / WRITTEN)
            )
            return
        kept = self._kept(documents)
        if stage.gathers is None:
            for _ in kept:
                pass
            return
        step = self.curation.steps[stage.gathers]
        assert isinstance(step, JointStep)
        gathered = self.folder / GATHERED
        gathered.mkdir()
        name = f"gather {self.names[stage.gathers]}"
        self._consume(name, kept, lambda all_: step.gather(all_, self.job.number, gathered))

    def _consume(self, name: str, documents: Iterator[Document], take: Callable[[Iterator[Document]], object]) -> None:
        counts, elsewhere, ended = self.counts[name], 0.0, False

        def pulled() -> Iterator[Document]:
            nonlocal elsewhere, ended
            while True:
                began = perf_counter()
                document = next(documents, None)
                elsewhere += perf_counter() - began
                if document is None:
                    ended = True
                    return
                counts.came.add(document)
                counts.left.add(document)
                yield document

        began = perf_counter()
        with naming(name, f"take the documents of shard {self.job.number}"):
            take(pulled())
        counts.seconds += perf_counter() - began - elsewhere
        if not ended and next(documents, None) is not None:
            raise InputError(f"{name} did not read all documents that it was given: it must")

    def _kept(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The same, written for the next stage."""
        counts = self.counts[BETWEEN]
        file: IO[bytes] = self.files.enter_context(open_lines(self.folder / DOCUMENTS))
        for document in documents:
            began = perf_counter()
            try:
                line = json_line(whole_record(document))
            except (TypeError, ValueError) as error:
                self.reject(BETWEEN, Rejected(document, "error", described(error)))
                continue
            file.write(line)
            counts.seconds += perf_counter() - began
            yield document

    def _finished(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            try:
                json_line(document.metadata)
            except (TypeError, ValueError) as error:
                self.reject(WRITE, Rejected(document, "error", described(error)))
                continue
            self.samples.offer("", document)
            self.origins.add(document)
            yield document


def _of_one(function: OfOne, document: Document) -> list[Outcome]:
    try:
        return _checked(function(document))
    except (AffectsAll, RunFailed):
        raise
    except Exception as error:
        return [Rejected(document, "error", described(error))]


def _of_batch(function: OfMany, batch: Sequence[Document]) -> list[Outcome]:
    try:
        return _checked(function(batch))
    except (AffectsAll, RunFailed):
        raise
    except Exception as error:
        if len(batch) == 1:
            return [Rejected(batch[0], "error", described(error))]
    return [outcome for document in batch for outcome in _of_batch(function, [document])]


def _checked(result: Any) -> list[Outcome]:
    """The outcomes that a step returned, as a list. Raises TypeError for anything else."""
    outcomes = (
        [result]
        if isinstance(result, Document | Rejected)
        else list(result)
        if isinstance(result, Iterable)
        else [result]
    )
    for outcome in outcomes:
        if not isinstance(outcome, Document | Rejected):
            raise TypeError(f"the step returned {type(outcome).__name__}, expected Document, Rejected, or several")
        document = outcome.document if isinstance(outcome, Rejected) else outcome
        told = (outcome.reason, outcome.detail) if isinstance(outcome, Rejected) else ()
        if not all(isinstance(text, str) for text in (document.text, document.id, document.source, *told)):
            raise TypeError("the step returned a document or a rejection with a field that is no text")
    return outcomes


def _passed(document: Document, before: tuple[str, ...], name: str) -> Document:
    """With the step in its history; a document that a step made has been through the steps before as well."""
    return dataclasses.replace(document, history=(*(document.history or before), name))


def _with_hash(document: Document) -> Document:
    if not document.content:
        return document
    return document.known(**{CONTENT_SHA256: hashlib.sha256(document.content).hexdigest()})


def _clocked(counts: StepCounts, work: Callable[[], list[Outcome]]) -> list[Outcome]:
    began = perf_counter()
    try:
        return work()
    finally:
        counts.seconds += perf_counter() - began


def _timed(items: Iterable[Item], counts: StepCounts) -> Iterator[Item]:
    """The items, with the time that it takes to get each of them."""
    iterator = iter(items)
    while True:
        began = perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            counts.seconds += perf_counter() - began
        yield item


@contextmanager
def naming(step: str, doing: str) -> Iterator[None]:
    """Turn an exception of a step into one message with its name. Raises InputError."""
    try:
        yield
    except (InputError, RunFailed):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no fault of the step
        raise InputError(f"step {step} cannot {doing}: {described(error)}") from error


def described(error: BaseException) -> str:
    """Type and message of an exception, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:LONGEST_DETAIL]}{where}"
