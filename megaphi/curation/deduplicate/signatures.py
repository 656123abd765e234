"""Signatures of a shard's documents in a file, and the keys that are made of them.

A signature is computed by compiled code (csrc/text/minhash.h) from hashes of runs of words in NFKC form and lower case,
the words of decontamination. All hashes are our own, so the same text has the same signature in every version.
Documents without a word have none, and are nobody's duplicates.

Legend: D documents with words, R rows of a band.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megaphi.curation.deduplicate.keys import Keys, Numbers, mapped
from megaphi.decontamination.words import characters

WRITTEN_AT_ONCE = 1 << 12
"""Documents whose signatures are held in memory."""
FACTOR = np.uint64(0x9E3779B97F4A7C15)


class SignatureWriter:
    """Signs texts into `signatures` (uint32, a row for every document) and `has_words` (a byte for every document)."""

    def __init__(self, folder: Path, *, words: int, size: int) -> None:
        self._words = words
        self._files = ExitStack()
        self._file = self._files.enter_context(open(folder / "signatures", "wb"))  # noqa: SIM115
        self._flags = self._files.enter_context(open(folder / "has_words", "wb"))  # noqa: SIM115
        self._held = np.zeros((WRITTEN_AT_ONCE, size), np.uint32)
        self._has_words = np.zeros(WRITTEN_AT_ONCE, bool)
        self._count = 0

    def add(self, text: str) -> None:
        row = self._held[self._count]
        self._has_words[self._count] = characters().sign(text, words=self._words, out=row)
        self._count += 1
        if self._count == WRITTEN_AT_ONCE:
            self._write()

    def _write(self) -> None:
        self._held[: self._count].tofile(self._file)
        self._has_words[: self._count].tofile(self._flags)
        self._held[:] = 0
        self._count = 0

    def __enter__(self) -> SignatureWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._files:
            self._write()


@dataclass(frozen=True, slots=True)
class Signatures:
    """The signatures of one shard."""

    rows: NDArray[np.uint32]
    """A row of every document, in the memory of files."""
    row_D: Numbers
    """Rows of the documents that have words."""

    @classmethod
    def open(cls, folder: Path, *, size: int) -> Signatures:
        has_words = np.fromfile(folder / "has_words", bool)
        return cls(mapped(folder / "signatures", np.uint32, columns=size), np.flatnonzero(has_words))


def band_keys(signed: Signatures, *, band: int, rows: int) -> Keys:
    """A key of each document with words, from the rows of one band."""
    return _keys(signed, first=band * rows, count=rows)


def whole_keys(signed: Signatures) -> Keys:
    """A key of each document with words, from its whole signature."""
    return _keys(signed, first=0, count=signed.rows.shape[1])


def _keys(signed: Signatures, *, first: int, count: int) -> Keys:
    key_D = np.full(len(signed.row_D), first * 1_000_003 + count, np.uint64)
    for start in range(0, len(key_D), WRITTEN_AT_ONCE):
        part = slice(start, start + WRITTEN_AT_ONCE)
        values_DR = signed.rows[signed.row_D[part], first : first + count].astype(np.uint64)
        for column in range(count):
            key_D[part] = (key_D[part] + values_DR[:, column]) * FACTOR
            key_D[part] ^= key_D[part] >> np.uint64(29)
    return key_D
