"""Samples that begin where documents begin: how a source of long documents is cut, instead of as one stream of tokens.

A document of L tokens (its end of text included) has L - 1 targets, which are cut into windows of S from its first
token on; a document of fewer gives one window, which is padded. So a window is of one document, begins at its start or
a whole number of windows behind it, and no target occurs twice in an epoch. The fewer than S targets behind the last
whole window of a longer document are left out, and counted. Documents outside the source's range of lengths are left
out, too: two sources of the same files with ranges of their own are how longer documents get a larger share.

The price is the index: all of it is read once, and 16 bytes per chosen document are kept (4 million documents of 20,000
tokens are 64 MB). Windows are numbered through the documents in the order of the files; the keyed permutation of the
epoch shuffles the numbers. Shape legend: D chosen documents, B samples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megaphi.data.order.mixture import Source
from megaphi.data.storage.formats.indexed_dataset import IndexedDataset
from megaphi.data.storage.streams import TokenStream
from megaphi.errors import InputError

SHORTEST = 2
"""Tokens of the shortest document that has a target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Counts of a source's documents: those in its windows, and those left out."""

    documents: int
    tokens: int
    """Tokens of these documents."""
    left_out_documents: int
    """Documents shorter or longer than the source takes."""
    left_out_tokens: int
    sequence_length: int
    windows: int
    targets: int
    """Targets in all windows; windows x S less this is padding."""
    rest: int
    """Targets of chosen documents behind their last whole window."""

    def __str__(self) -> str:
        places = self.windows * self.sequence_length
        return (
            f"{self.documents:,} documents of {self.tokens:,} tokens in {self.windows:,} windows of"
            f" {self.sequence_length:,}, {1 - self.targets / places:.1%} of it padding; left out: {self.rest:,} tokens"
            f" behind whole windows, and {self.left_out_documents:,} documents of other lengths"
            f" ({self.left_out_tokens:,} tokens)"
        )


class WindowTable:
    """The windows of S tokens of a source, numbered from 0."""

    def __init__(self, start_D: NDArray[np.int64], length_D: NDArray[np.int64], sequence_length: int) -> None:
        if sequence_length < SHORTEST:
            raise InputError(f"windows=documents needs samples of at least {SHORTEST} tokens, not {sequence_length}")
        self.sequence_length = sequence_length
        self._start_D, self._targets_D = start_D, length_D - 1
        self._end_D = np.cumsum(np.maximum(1, self._targets_D // sequence_length))

    @property
    def count(self) -> int:
        return int(self._end_D[-1])

    @property
    def targets(self) -> int:
        """Targets of all windows together."""
        counts_D = np.diff(self._end_D, prepend=0)
        return int(np.minimum(self._targets_D, counts_D * self.sequence_length).sum())

    def locate(self, window_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first token in the stream, number of targets, at most S) of these windows."""
        document_B = np.searchsorted(self._end_D, window_B, side="right")
        first_B = np.where(document_B > 0, self._end_D[document_B - 1], 0)
        offset_B = (window_B - first_B) * self.sequence_length
        targets_B = np.minimum(self.sequence_length, self._targets_D[document_B] - offset_B)
        return self._start_D[document_B] + offset_B, targets_B


class DocumentWindows:
    """The documents of a source with `windows=documents`; threads may share it."""

    def __init__(self, edge_D: list[NDArray[np.int64]], *, name: str, shortest: int, longest: int | None) -> None:
        """`edge_D`: of each dataset, the first token of every document, and the end of the last, in the stream."""
        start_D = np.concatenate([edges[:-1] for edges in edge_D])
        length_D = np.concatenate([np.diff(edges) for edges in edge_D])
        is_chosen_D = length_D >= max(shortest, SHORTEST)
        if longest is not None:
            is_chosen_D &= length_D <= longest
        if not is_chosen_D.any():
            found = f"its {len(length_D):,} documents have {length_D.min():,} to {length_D.max():,} tokens"
            most = "" if longest is None else f", at most {longest:,}"
            raise InputError(
                f"source {name!r} takes documents of at least {max(shortest, SHORTEST):,} tokens{most}, and has none:"
                f" {found}. Change task.mixture.sources.{name}.shortest_document or longest_document"
            )
        self._start_D, self._length_D = start_D[is_chosen_D], length_D[is_chosen_D]
        self._left_out = (int((~is_chosen_D).sum()), int(length_D[~is_chosen_D].sum()))
        self._table = functools.lru_cache(maxsize=4)(functools.partial(WindowTable, self._start_D, self._length_D))
        self.cut = f"documents of {max(shortest, SHORTEST)} to {longest or 'any'} tokens"
        """Names the rule, for the ledger: a source that is cut by another rule cannot be continued."""

    def of_length(self, sequence_length: int) -> WindowTable:
        return self._table(sequence_length)

    def nominal_tokens(self, sequence_length: int) -> int:
        """The size of a stream that has as many windows: the order shuffles their numbers, not tokens."""
        return self.of_length(sequence_length).count * sequence_length + 1

    def coverage(self, sequence_length: int) -> Coverage:
        table = self.of_length(sequence_length)
        documents, tokens = self._left_out
        return Coverage(
            documents=len(self._length_D),
            tokens=int(self._length_D.sum()),
            left_out_documents=documents,
            left_out_tokens=tokens,
            sequence_length=sequence_length,
            windows=table.count,
            targets=table.targets,
            rest=int(self._length_D.sum()) - len(self._length_D) - table.targets,
        )


def document_windows(source: Source, stream: TokenStream) -> DocumentWindows | None:
    """The windows of a source's documents, whose index is read whole; None for one that is cut as a stream.

    Raises:
        InputError: a dataset does not list its documents, or no document has a length that the source takes.
    """
    if source.windows != "documents":
        return None
    edges, first = [], 0
    for dataset in stream.datasets:
        if not isinstance(dataset, IndexedDataset):
            raise InputError(
                f"task.mixture.sources.{source.name}.windows=documents: {dataset.name} does not list its documents."
                " Only .bin/.idx pairs do: tokenise it with megaphi tokenize"
            )
        edges.append(first + dataset.document_edges())
        first += dataset.token_count
    return DocumentWindows(edges, name=source.name, shortest=source.shortest_document, longest=source.longest_document)
