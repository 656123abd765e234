"""Steps of the tests of the pipeline, as a user would write them: a filter, one by batches, one over all documents."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation
from megaphi.curation.step import StepContext


@dataclass(frozen=True, kw_only=True, slots=True)
class TooShort:
    """Rejects documents of few words; one with the word `boom` is an exception."""

    VERSION: ClassVar[int] = 1

    minimum_words: Annotated[int, Range(minimum=0)] = 3

    def open(self, context: StepContext) -> Callable[[Document], Outcome]:
        calls = context.folder / "calls"
        with open(context.folder / "processes", "a") as file:
            file.write(f"{os.getpid()}\n")

        def keep(document: Document) -> Outcome:
            with open(calls, "a") as file:
                file.write(f"{document.id}\n")
            words = document.text.split()
            if "boom" in words:
                raise KeyError("boom")
            if len(words) < self.minimum_words:
                return Rejected(document, "too_short", f"{len(words)} words, fewer than {self.minimum_words}")
            return document.known(words=len(words))

        return keep


@dataclass(frozen=True, kw_only=True, slots=True)
class Banned:
    """Rejects documents with a word of a file."""

    VERSION: ClassVar[int] = 1

    words: FilePath

    def open(self, context: StepContext) -> Callable[[Document], Outcome]:
        banned = set(Path(self.words).read_text().split())
        return lambda document: Rejected(document, "banned") if banned & set(document.text.split()) else document


@dataclass(frozen=True, kw_only=True, slots=True)
class Shouted:
    """Adds to each document the same in capitals, a batch at a time; fails on a batch with the word `odd`."""

    VERSION: ClassVar[int] = 1

    batch_documents: int = 4

    def open_batch(self, context: StepContext) -> Callable[[Sequence[Document]], Iterator[Outcome]]:
        def shout(documents: Sequence[Document]) -> Iterator[Outcome]:
            if any("odd" in document.text.split() for document in documents):
                raise ValueError("odd")
            for document in documents:
                yield document
                shouted = document.text.upper()
                yield Document(id=f"{document.id}/2", source=document.source, place=document.place, text=shouted)

        return shout


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstOnly:
    """Rejects a document whose text came before, in any shard."""

    VERSION: ClassVar[int] = 1

    def gather(self, documents: Iterable[Document], shard: int, folder: Path) -> None:
        hashes = [hashlib.sha256(document.text.encode()).hexdigest() for document in documents]
        (folder / "hashes").write_text("\n".join(hashes))

    def decide(self, folders: Sequence[Path], output: Path) -> None:
        seen: set[str] = set()
        for number, folder in enumerate(folders):
            marks = []
            for found in (folder / "hashes").read_text().split():
                marks.append("0" if found in seen else "1")
                seen.add(found)
            (output / str(number)).write_text("".join(marks))

    def open_decided(self, decisions: Path, shard: int) -> Callable[[Document], Outcome]:
        marks = iter((decisions / str(shard)).read_text())
        return lambda document: document if next(marks) == "1" else Rejected(document, "duplicate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Takes its time over every document."""

    VERSION: ClassVar[int] = 1

    seconds: float = 0.005

    def open(self, context: StepContext) -> Callable[[Document], Outcome]:
        def wait(document: Document) -> Outcome:
            time.sleep(self.seconds)
            return document

        return wait


@dataclass(frozen=True, kw_only=True, slots=True)
class DiesOnce:
    """Ends the whole process at a document, the first time."""

    VERSION: ClassVar[int] = 1

    id: str

    def open(self, context: StepContext) -> Callable[[Document], Outcome]:
        died = context.folder / "died"

        def look(document: Document) -> Outcome:
            if document.id == self.id and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return document

        return look


def slow_recipe() -> Curation:
    """The same with steps that take long enough to be killed in."""
    steps = (TooShort(), Waits(), Shouted(), FirstOnly(), Waits(), TooShort(minimum_words=4))
    return replace(recipe(), recipe="slow", steps=steps)


def recipe() -> Curation:
    """Every kind of step; its folder and input are named by environment variables of the test."""
    return Curation(
        recipe="everything",
        folder=os.environ.get("CURATION_FOLDER", "run"),
        read=ReadJsonLines(paths=(os.environ.get("CURATION_INPUT", "input.jsonl"),), piece_bytes=300),
        steps=(TooShort(), Shouted(), FirstOnly(), TooShort(minimum_words=4)),
        shard_bytes=2_000,
    )


def no_curation() -> int:
    return 3
