"""Steps of the corpus' recipe that are of no use elsewhere: names, entries of a dictionary, sizes, tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from megaphi.config import Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.extract.archive import unpack
from megaphi.curation.step import OfOne, StepContext


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedByPath:
    """Call documents by their path in the folder of packages, which is the same on every machine."""

    VERSION: ClassVar[int] = 1

    def open(self, context: StepContext) -> OfOne:
        del context
        return self.name

    def name(self, document: Document) -> Document:
        path = PurePosixPath(document.metadata["path"])
        return replace(document.known(origin=path.parts[0]), id=str(path.with_suffix("")))


@dataclass(frozen=True, kw_only=True, slots=True)
class DictionaryEntries:
    """Cut the Jargon File into its entries, some to a document so that one has something to read."""

    VERSION: ClassVar[int] = 1

    together: Annotated[int, Range(minimum=1)] = 12

    def open(self, context: StepContext) -> OfOne:
        del context
        return self.cut

    def cut(self, document: Document) -> Document | list[Outcome]:
        return list(self._groups(document)) if document.metadata["origin"] == "jargon" else document

    def _groups(self, document: Document) -> Iterator[Document]:
        text = unpack(document.content).files["content"].decode(errors="replace")
        parts = re.split(r"\n\n(?=   :[^\n]+:)", text)[
            1:
        ]  # each `:name:` with its explanation, behind the introduction
        entries = [re.sub(r"(?m)^   ", "", part).strip() for part in parts]
        for number, start in enumerate(range(0, len(entries), self.together)):
            joined = "\n\n".join(entries[start : start + self.together])
            yield replace(document, id=f"jargon/{number}").with_text(joined)


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """Reject stubs and books."""

    VERSION: ClassVar[int] = 1

    minimum_characters: Annotated[int, Range(minimum=0)] = 400
    maximum_characters: Annotated[int, Range(minimum=1)] = 24_000

    def open(self, context: StepContext) -> OfOne:
        del context
        return self.look

    def look(self, document: Document) -> Outcome:
        length = len(document.text)
        if length < self.minimum_characters:
            return Rejected(document, "too_short", f"{length:,} characters, fewer than {self.minimum_characters:,}")
        if length > self.maximum_characters:
            return Rejected(document, "too_long", f"{length:,} characters, more than {self.maximum_characters:,}")
        return document


@dataclass(frozen=True, kw_only=True, slots=True)
class NoTests:
    """Reject code that tests other code, by its path."""

    VERSION: ClassVar[int] = 1

    def open(self, context: StepContext) -> OfOne:
        del context
        return self.look

    def look(self, document: Document) -> Outcome:
        path = document.metadata["path"]
        return Rejected(document, "test", path) if "test" in path else document
