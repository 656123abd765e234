"""The parts of a curation recipe: a reader, steps, a writer. Each is a frozen dataclass of its settings.

A step is opened once in every process that runs it (models are loaded there), and gives a plain function. There are
three kinds. Most steps look at one document at a time. Some are faster on many at once: classifiers, requests to a
model. Deduplication has to see all documents before it can say anything of one: it gathers from each shard what it
needs, decides once, and is then a step like the others.

What decides a step's result stands in its fields, and what they cannot say in `VERSION`: the pipeline compares both
with those of an earlier run, and does again only what has changed. A field that is a `FilePath` counts with the content
of the file. `WITHOUT_EFFECT: ClassVar[frozenset[str]]` may name fields that do not count: how many requests at a time,
or a reader's paths, which its portions say better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from megaphi.config import FilePath
from megaphi.curation.document import Document, Outcome
from megaphi.sampling import Sampler

ModelName = FilePath
"""A model that a step asks: a checkpoint or GGUF file, known by its content as all files that fields name are, or a
server's as http://HOST:PORT/v1=MODEL, of which nothing is known but this name."""
OfOne = Callable[[Document], Outcome | Iterable[Outcome]]
"""A step's function for a document. It returns it, another, several, none (it went into others),
or its rejection. An exception is the rejection `error`, and stops nothing."""
OfMany = Callable[[Sequence[Document]], Iterable[Outcome]]
"""The same for a batch. After an exception the documents are tried one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """Things that a step may use besides its settings."""

    folder: Path
    """Folder of this step of this run, kept between runs: request journals, caches. Several processes may be in it."""
    open_sampler: Callable[[str], Sampler]
    """Opens a model folder or an endpoint by its name, once for all steps of a process."""


@runtime_checkable
class Step(Protocol):
    """A step that looks at one document at a time."""

    VERSION: ClassVar[int]
    """Raised when the same settings begin to give another result."""

    def open(self, context: StepContext) -> OfOne: ...


@runtime_checkable
class BatchStep(Protocol):
    """A step that takes many documents at once."""

    VERSION: ClassVar[int]

    @property
    def batch_documents(self) -> int: ...

    def open_batch(self, context: StepContext) -> OfMany: ...


@runtime_checkable
class JointStep(Protocol):
    """A step that has to see all documents before it decides about one. Its memory is bounded in all three parts."""

    VERSION: ClassVar[int]

    def gather(self, documents: Iterable[Document], shard: int, folder: Path) -> None:
        """Write into the empty `folder` what is to be known of the documents of one shard."""
        ...

    def decide(self, folders: Sequence[Path], output: Path) -> None:
        """Decide over the folders of all shards, in order, into the empty folder `output`. Runs once."""
        ...

    def open_decided(self, decisions: Path, shard: int) -> OfOne:
        """The function for the documents of one shard, given in the order in which they were gathered."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """A part of a reader's input: a file, byte range, or group of files that is read by itself."""

    name: str
    """For people: the file, and the range of it."""
    size_bytes: int
    """For progress and for grouping portions into shards."""
    fingerprint: str
    """Changes when the content does."""
    source: str = ""
    """Path or URL of the one file that it is of, if there is one: the lineage of its folder is taken along."""


@runtime_checkable
class Reader(Protocol):
    """A source of documents."""

    VERSION: ClassVar[int]

    def portions(self) -> Sequence[Portion]:
        """All parts of the input, in order. Raises InputError that names what is missing or cannot be read."""
        ...

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The documents of one part, in order; a record that is none is a `Rejected`, and reading goes on."""
        ...


@runtime_checkable
class Writer(Protocol):
    """A destination of documents. The same documents give the same bytes."""

    VERSION: ClassVar[int]

    def write(self, documents: Iterable[Document], folder: Path) -> None:
        """Write the documents of one shard into the empty `folder`."""
        ...

    def join(self, folders: Sequence[Path], output: Path, lineage: Mapping[str, Any]) -> None:
        """Put what is in the folders of all shards, in order, together in the empty folder `output`; files of shards
        are linked there under their numbers (`write/shard_files.py`). `lineage` is what the run's lineage.json will
        say of the documents, for formats that have a place for it."""
        ...
