"""Repeated paragraphs and lines: what stands in many documents is taken out of them (C4, RefinedWeb, Llama 3).

Each shard counts in how many of its documents a unit stands; the counts of all shards are added up, and units of more
than the given number of documents are written down with the first document that has each. Units are compared by their
words alone; short ones (headings, brackets of code) are never counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np

from megaphi.config import Range
from megaphi.curation.deduplicate.decisions import DocumentIds, first_numbers, in_order
from megaphi.curation.deduplicate.keys import KeyFile, Keys, Numbers, first_of_bucket, mapped, open_keys, ranges
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.step import OfOne
from megaphi.decontamination.words import characters

SEPARATORS = {"line": re.compile(r"(\n)"), "paragraph": re.compile(r"(\n[^\S\n]*\n\s*)")}
UNITS_AT_ONCE = 1 << 20
"""Units of a shard's documents that are held before they are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatedParagraphs:
    """Take out units that stand in many documents, and documents of which little is left."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"memory_megabytes"})

    unit: Literal["line", "paragraph"] = "line"
    """Paragraphs are separated by empty lines."""
    most_documents: Annotated[int, Range(minimum=1)] = 6
    """Documents that may have a unit; one that more of them have is repeated (Llama 3: 6, in buckets of 30 million)."""
    least_words: Annotated[int, Range(minimum=1)] = 5
    """Words of the shortest unit that counts (default)."""
    keep_first: bool = False
    """Leave each unit in the first document that has it (C4, CCNet)."""
    least_share: Annotated[float, Range(minimum=0, maximum=1)] = 0.2
    """Share of its characters that must be left of a document (default); one of no characters is rejected too."""
    memory_megabytes: Annotated[int, Range(minimum=1)] = 1024
    """Memory for sorting keys."""

    def gather(self, documents: Iterable[Document], shard: int, folder: Path) -> None:
        counted = UnitCounts()
        with DocumentIds(folder) as ids:
            for row, document in enumerate(documents):
                ids.add(document)
                counted.add({key for _, _, key in self._units(document.text) if key is not None}, row)
        counted.write(folder)

    def decide(self, folders: Sequence[Path], output: Path) -> None:
        starts = first_numbers(folders)
        files = open_keys(folders, "units", starts[:-1])
        counts = [mapped(folder / "units.counts", np.int64) for folder in folders]
        with open(output / "repeated.keys", "wb") as keys, open(output / "repeated.first", "wb") as first:
            for low, high in ranges(files, memory_bytes=self.memory_megabytes << 20):
                key_N, first_N, count_N = _merged(files, counts, low, high)
                is_repeated_N = count_N > self.most_documents
                key_N[is_repeated_N].tofile(keys)
                first_N[is_repeated_N].tofile(first)
        np.array(starts, np.int64).tofile(output / "starts")
        for shard, folder in enumerate(folders):
            at = output / f"{shard:06d}"
            at.mkdir()
            (at / "ids.checks").write_bytes((folder / "ids.checks").read_bytes())

    def open_decided(self, decisions: Path, shard: int) -> OfOne:
        key_R = mapped(decisions / "repeated.keys", np.uint64)
        first_R = mapped(decisions / "repeated.first", np.int64)
        start = int(np.fromfile(decisions / "starts", np.int64)[shard])
        next_row = in_order(decisions / f"{shard:06d}")

        def is_taken_out(key: int | None, number: int) -> bool:
            place = len(key_R) if key is None else int(np.searchsorted(key_R, np.uint64(key)))
            if place == len(key_R) or int(key_R[place]) != key:
                return False
            return not (self.keep_first and int(first_R[place]) == number)

        return lambda document: self._without(document, is_taken_out, start + next_row(document))

    def _without(self, document: Document, is_taken_out: Callable[[int | None, int], bool], number: int) -> Outcome:
        kept: list[str] = []
        removed = 0
        for unit, separator, key in self._units(document.text):
            if is_taken_out(key, number):
                removed += 1
            else:
                kept += [unit, separator]
        if not removed:
            return document
        text = "".join(kept).strip("\n")
        if not text.strip() or len(text) < self.least_share * len(document.text):
            left = f"{len(text)} of {len(document.text)} characters left"
            return Rejected(document, "repeated_paragraphs", f"{left} without {removed} repeated {self.unit}s")
        return document.with_text(text, **{f"repeated_{self.unit}s": removed})

    def _units(self, text: str) -> Iterable[tuple[str, str, int | None]]:
        """(unit, separator behind it, its key if it counts)."""
        pieces = [*SEPARATORS[self.unit].split(text), ""]
        for unit, separator in zip(pieces[::2], pieces[1::2], strict=True):
            key, words = characters().run_hash(unit)
            yield unit, separator, key if words >= self.least_words else None


class UnitCounts:
    """Counts of the documents of a shard that have each unit, and the first of them."""

    def __init__(self) -> None:
        self._held_keys: list[int] = []
        self._held_rows: list[int] = []
        self._counted = (np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def add(self, keys: set[int], row: int) -> None:
        self._held_keys += keys
        self._held_rows += [row] * len(keys)
        if len(self._held_keys) >= UNITS_AT_ONCE:
            self._count()

    def _count(self) -> None:
        key_N, row_N, count_N = self._counted
        self._counted = _added(
            np.concatenate([key_N, np.array(self._held_keys, np.uint64)]),
            np.concatenate([row_N, np.array(self._held_rows, np.int64)]),
            np.concatenate([count_N, np.ones(len(self._held_keys), np.int64)]),
        )
        self._held_keys, self._held_rows = [], []

    def write(self, folder: Path) -> None:
        self._count()
        for name, values in zip(("keys", "rows", "counts"), self._counted, strict=True):
            values.tofile(folder / f"units.{name}")


def _merged(files: Sequence[KeyFile], counts: Sequence[Numbers], low: int, high: int) -> tuple[Keys, Numbers, Numbers]:
    """(keys of a range, the first document of each, the number of documents) over all shards."""
    parts = [
        (*file.between(low, high), count[file.places(low, high)]) for file, count in zip(files, counts, strict=True)
    ]
    key_N, number_N, count_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _added(key_N, number_N, count_N)


def _added(key_N: Keys, number_N: Numbers, count_N: Numbers) -> tuple[Keys, Numbers, Numbers]:
    """Each key once, in ascending order, with its smallest number and the sum of its counts."""
    if not len(key_N):
        return key_N, number_N, count_N
    order = np.lexsort((number_N, key_N))
    key_N, number_N, count_N = key_N[order], number_N[order], count_N[order]
    first = np.flatnonzero(first_of_bucket(key_N) == np.arange(len(key_N)))
    return key_N[first], number_N[first], np.add.reduceat(count_N, first)
