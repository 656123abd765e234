"""Allow lists: long runs of words in a benchmark that are common anyway, so that they prove no contamination.

A run is allowed if at least ten unrelated texts of a reference corpus have it. Copies of one page are no ten witnesses,
least of all copies of the benchmark, so texts that share half of their short runs count once. They are compared by
sketches: of each text the 256 smallest hashes of its short runs, which is all of them in a text of up to 256.

In the file every line is a run and the number of texts that have it; a person reads it, and may strike lines out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from megaphi.decontamination.item_index import ItemIndex
from megaphi.decontamination.words import characters, words_of
from megaphi.errors import InputError
from megaphi.files import write_text
from megaphi.foreign.files import read_text

Hashes = NDArray[np.uint64]

UNRELATED_TEXTS = 10
"""Default."""
RELATED_SHARE = 0.5
"""Share of the short runs from which on two texts are related (default)."""
SKETCH = 256


class RunWitnesses:
    """Counts unrelated texts for every long run of the items."""

    def __init__(self, index: ItemIndex, *, enough: int = UNRELATED_TEXTS) -> None:
        """`enough`: texts after which no more are counted."""
        self._index, self._enough = index, enough
        self._sketches: dict[str, list[Hashes]] = {}

    def add(self, text: str) -> None:
        """Look for the items' runs in a text of the reference corpus."""
        runs = dict.fromkeys(self._index.compiled.exact_runs(characters(), text))
        if not runs:
            return
        sketch = characters().smallest_runs(text, self._index.rule.overlap_words, SKETCH)
        for gram in runs:
            self._count(gram, sketch)

    def _count(self, gram: str, sketch: Hashes) -> None:
        witnesses = self._sketches.setdefault(gram, [])
        if len(witnesses) < self._enough and not any(are_related(sketch, other) for other in witnesses):
            witnesses.append(sketch)

    def allowed(self) -> dict[str, int]:
        """Runs that enough unrelated texts have, with their number, in alphabetical order."""
        counts = {gram: len(found) for gram, found in self._sketches.items()}
        return {gram: count for gram, count in sorted(counts.items()) if count >= self._enough}


def are_related(left: Hashes, right: Hashes) -> bool:
    """Return whether two texts, by their sketches, share at least half of the short runs of the one that has fewer.

    Up to the smaller of the two largest hashes, both sketches are complete.
    """
    largest = min((sketch[-1] for sketch in (left, right) if len(sketch) == SKETCH), default=np.iinfo(np.uint64).max)
    left, right = left[left <= largest], right[right <= largest]
    smaller = min(len(left), len(right))
    return smaller > 0 and len(np.intersect1d(left, right, assume_unique=True)) >= RELATED_SHARE * smaller


def write_allow_list(path: str | os.PathLike[str], allowed: Mapping[str, int]) -> None:
    write_text(path, "".join(f"{gram}\t{count}\n" for gram, count in allowed.items()))


def read_allow_list(path: str | os.PathLike[str], *, exact_words: int) -> Collection[str]:
    """The runs of a file. Raises InputError for a line that is none."""
    lines = read_text(path).splitlines()
    grams = {}
    for number, line in enumerate(lines, start=1):
        gram = line.partition("\t")[0].strip()
        if not gram:
            continue
        words = words_of(gram)
        if len(words) != exact_words:
            raise InputError(f"{path}:{number}: {len(words)} words, expected a run of {exact_words}: {gram[:60]!r}")
        grams[" ".join(words)] = number
    return grams.keys()
