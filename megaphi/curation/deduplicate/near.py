"""Near-duplicates: documents that share most of their runs of words, by MinHash signatures in bands.

Every shard is signed as it comes: a signature has bands x rows positions, two documents agree in each with the
probability that is the Jaccard similarity s of their runs of words, and they are compared if they agree in all rows of
some band, which happens with probability 1 - (1 - s^rows)^bands. Compared documents are linked if enough positions
agree, and linked documents are a cluster, of which one is kept. Order and number of shards change nothing: documents
have numbers, clusters are named by their smallest, and equal signatures are put together before anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from megaphi.compiled.module import compiled
from megaphi.config import FilePath, Range
from megaphi.curation.deduplicate.decisions import (
    DocumentIds,
    decided_function,
    first_numbers,
    read_settings,
    write_decisions,
    write_settings,
)
from megaphi.curation.deduplicate.keys import (
    Keys,
    Numbers,
    first_of_bucket,
    first_of_equal,
    mapped,
    open_keys,
    ranges,
    write_keys,
)
from megaphi.curation.deduplicate.signatures import Signatures, SignatureWriter, band_keys, whole_keys
from megaphi.curation.document import Document
from megaphi.curation.step import OfOne
from megaphi.errors import InputError
from megaphi.log import logger

PAIRS_AT_ONCE = 1 << 13
"""Pairs of documents whose signatures are compared in one pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicates:
    """Keep one of the documents that are nearly the same."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"memory_megabytes"})

    words: Annotated[int, Range(minimum=1)] = 5
    """Length of the runs of words that are compared (as in FineWeb)."""
    bands: Annotated[int, Range(minimum=1, maximum=1000)] = 14
    """Bands of a signature (as in FineWeb): more of them find more, and compare more that is not similar."""
    rows: Annotated[int, Range(minimum=1, maximum=100)] = 8
    """Rows of a band (as in FineWeb). Two of three pairs are found where s is (1 / bands)^(1 / rows), here 0.72."""
    similarity: Annotated[float, Range(minimum=0, maximum=1)] = 0.7
    """Share of a signature from which on two documents are linked; 0 links all that agree in a band."""
    best_by: str | None = None
    """Key of the metadata whose largest number says which document of a cluster is kept (quality, date); documents
    without a number come last, and of equals the first is kept, as it is without a key."""
    earlier: tuple[FilePath, ...] = ()
    """Folders with signatures that earlier runs gathered (FOLDER/stages): their documents are kept, and come first."""
    memory_megabytes: Annotated[int, Range(minimum=1)] = 1024
    """Memory for sorting keys. A document takes 9 bytes more, 50 with `best_by`."""

    def gather(self, documents: Iterable[Document], shard: int, folder: Path) -> None:
        """Write signatures, ids, values to choose by, and the keys of all bands."""
        ids = DocumentIds(folder)
        with ids, SignatureWriter(folder, words=self.words, size=self.bands * self.rows) as signatures:
            values = []
            for document in documents:
                ids.add(document)
                signatures.add(document.text)
                values.append(self._value(document))
        np.array(values, np.float64).tofile(folder / "values")
        signed = Signatures.open(folder, size=self.bands * self.rows)
        write_keys(folder, "whole", whole_keys(signed), signed.row_D)
        for band in range(self.bands):
            write_keys(folder, f"band_{band:03d}", band_keys(signed, band=band, rows=self.rows), signed.row_D)
        write_settings(folder, self._gathered_with())

    def decide(self, folders: Sequence[Path], output: Path) -> None:
        """Link, cluster, choose. Raises InputError for an earlier run with other settings."""
        before = self._earlier_folders()
        every = [*before, *folders]
        starts = first_numbers(every)
        clusters = np.memmap(output / "clusters", np.int64, "w+", shape=max(1, starts[-1]))[: starts[-1]]
        clusters[:] = np.arange(len(clusters))
        self._link_equal(every, starts, clusters)
        is_first = np.array(clusters == np.arange(len(clusters)))
        signed = SignatureColumns(every, starts, size=self.bands * self.rows)
        for band in range(self.bands):
            self._link_band(f"band_{band:03d}", every, starts, clusters, is_first, signed)
        compiled().point_to_roots(clusters)
        kept = self._kept(every, clusters, earlier=starts[len(before)])
        write_decisions(every, kept, output, earlier=len(before))
        (output / "clusters").unlink()

    def open_decided(self, decisions: Path, shard: int) -> OfOne:
        return decided_function(decisions, shard, reason="near_duplicate", detail="nearly the same as")

    def _value(self, document: Document) -> float:
        value = None if self.best_by is None else document.metadata.get(self.best_by)
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            return -np.inf
        return float(value)

    def _gathered_with(self) -> dict[str, Any]:
        """The settings that decide what a shard's files hold."""
        settings = asdict(self)
        return {"version": self.VERSION, **{name: settings[name] for name in ("words", "bands", "rows")}}

    def _earlier_folders(self) -> list[Path]:
        found = []
        for given in self.earlier:
            inside = sorted(path.parent for path in Path(given).rglob("gathered.json"))
            own = [folder for folder in inside if (folder / "whole.keys").exists()]
            if not own:
                raise InputError(f"{given}: no near-duplicates were gathered there")
            for folder in own:
                if read_settings(folder) != self._gathered_with():
                    raise InputError(f"{folder} was gathered with other settings than {self._gathered_with()}")
            found += own
        return found

    def _memory(self) -> int:
        return self.memory_megabytes << 20

    def _link_equal(self, folders: Sequence[Path], starts: Sequence[int], clusters: Numbers) -> None:
        """Link documents whose whole signatures are equal."""
        for later, first in first_of_equal(open_keys(folders, "whole", starts[:-1]), memory_bytes=self._memory()):
            compiled().link_members(clusters, later, first)

    def _link_band(
        self,
        name: str,
        folders: Sequence[Path],
        starts: Sequence[int],
        clusters: Numbers,
        is_first: NDArray[np.bool_],
        signed: SignatureColumns,
    ) -> None:
        """Link similar documents of each bucket: each with the first, and with the one before it."""
        files = open_keys(folders, name, starts[:-1])
        linked = 0
        for low, high in ranges(files, memory_bytes=self._memory()):
            key_N, number_N = _different(files, low, high, is_first)
            first_N = first_of_bucket(key_N)
            later_N = np.flatnonzero(first_N != np.arange(len(key_N)))
            left = np.concatenate([first_N[later_N], later_N - 1])
            right = np.concatenate([later_N, later_N])
            is_needed = np.concatenate([np.ones(len(later_N), bool), first_N[later_N] != later_N - 1])
            left, right = number_N[left[is_needed]], number_N[right[is_needed]]
            for start in range(0, len(left), PAIRS_AT_ONCE):
                pair = slice(start, start + PAIRS_AT_ONCE)
                is_similar = signed.agreement(left[pair], right[pair]) >= self.similarity
                compiled().link_members(clusters, left[pair][is_similar], right[pair][is_similar])
                linked += int(is_similar.sum())
        logger.info("%s: %d links", name, linked)

    def _kept(self, folders: Sequence[Path], clusters: Numbers, *, earlier: int) -> Numbers:
        """For each document the one that is kept of its cluster; `earlier`: documents of earlier runs."""
        if self.best_by is None or not len(clusters):
            return clusters
        values = np.concatenate([np.fromfile(folder / "values", np.float64) for folder in folders])
        values[:earlier] = np.inf
        order = np.lexsort((np.arange(len(clusters)), -values, clusters))
        best = np.zeros(len(clusters), np.int64)
        best[clusters[order[::-1]]] = order[::-1]  # of several writes to one place the last one stays: the best
        return best[clusters]


def _different(files: Sequence[Any], low: int, high: int, is_first: NDArray[np.bool_]) -> tuple[Keys, Numbers]:
    """Keys of a range and their documents, in order of both, without documents whose whole signature came before."""
    keys, numbers = [], []
    for file in files:
        key_N, number_N = file.between(low, high)
        keys.append(key_N[is_first[number_N]])
        numbers.append(number_N[is_first[number_N]])
    key_N, number_N = np.concatenate(keys), np.concatenate(numbers)
    order = np.lexsort((number_N, key_N))
    return key_N[order], number_N[order]


class SignatureColumns:
    """The signatures of all shards, by the numbers of documents."""

    def __init__(self, folders: Sequence[Path], starts: Sequence[int], *, size: int) -> None:
        self._starts = np.array(starts)
        self._signature = [mapped(folder / "signatures", np.uint32, columns=size) for folder in folders]

    def agreement(self, left: Numbers, right: Numbers) -> NDArray[np.float64]:
        """Share of positions in which the signatures of left[i] and right[i] are equal."""
        return (self._rows(left) == self._rows(right)).mean(axis=1) if len(left) else np.zeros(0)

    def _rows(self, numbers: Numbers) -> NDArray[np.uint32]:
        shard_P = np.searchsorted(self._starts, numbers, side="right") - 1
        rows = np.empty((len(numbers), self._signature[0].shape[1]), np.uint32)
        for shard in np.unique(shard_P).tolist():
            is_own = shard_P == shard
            rows[is_own] = self._signature[shard][numbers[is_own] - self._starts[shard]]
        return rows
