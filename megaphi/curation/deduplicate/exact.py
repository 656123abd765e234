"""Exact duplicates: documents with the same text, of which the first is kept.

Texts are compared by hashes of 128 bits: that any two of 10^12 different texts agree in it has a probability of 10^-15.
Half of the hash is the key by which shards are read together, the other half is compared where keys are equal.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np

from megaphi.config import Range
from megaphi.curation.deduplicate.decisions import DocumentIds, decided_function, first_numbers, write_decisions
from megaphi.curation.deduplicate.keys import first_of_equal, open_keys, write_keys
from megaphi.curation.document import Document
from megaphi.curation.step import OfOne
from megaphi.decontamination.words import characters


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactDuplicates:
    """Keep the first of the documents that have the same text."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"memory_megabytes"})

    ignore: Literal["blanks", "all_but_words"] = "blanks"
    """Differences that do not count: the kind and number of blanks and line ends (and Unicode's two ways to write an
    accent), or all but the words themselves: case, punctuation, markup. Texts without words differ from all others."""
    memory_megabytes: Annotated[int, Range(minimum=1)] = 1024
    """Memory for sorting keys."""

    def gather(self, documents: Iterable[Document], shard: int, folder: Path) -> None:
        hashes = bytearray()
        with DocumentIds(folder) as ids:
            for document in documents:
                ids.add(document)
                hashes += self._hash(document)
        hash_DH = np.frombuffer(bytes(hashes), "<u8").reshape(-1, 2)
        for half, name in enumerate(("low", "high")):
            write_keys(folder, name, hash_DH[:, half], np.arange(len(hash_DH)))

    def decide(self, folders: Sequence[Path], output: Path) -> None:
        starts = first_numbers(folders)
        kept = np.arange(starts[-1])
        of_half = []
        for name in ("low", "high"):
            first = np.arange(starts[-1])
            files = open_keys(folders, name, starts[:-1])
            for later_N, first_N in first_of_equal(files, memory_bytes=self.memory_megabytes << 20):
                first[later_N] = first_N
            of_half.append(first)
        is_same = of_half[0] == of_half[1]
        kept[is_same] = of_half[0][is_same]
        write_decisions(folders, kept, output)

    def open_decided(self, decisions: Path, shard: int) -> OfOne:
        return decided_function(decisions, shard, reason="exact_duplicate", detail="the same text as")

    def _hash(self, document: Document) -> bytes:
        if self.ignore == "blanks":
            text = " ".join(unicodedata.normalize("NFC", document.text).split())
        else:
            text = characters().spelled(document.text) or f"no words: {document.id}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
