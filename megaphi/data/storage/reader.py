"""Reading of rows of tokens from the datasets of all sources: their positions, tokens and documents.

`windows` turns (source, first token) into runs: stretches of one dataset. A row has more than one run only if it
crosses the end of a dataset or of the ring. `read` and `document_ids` turn runs into arrays, in C++ without the GIL
(`csrc/index`). No state is kept between calls, so threads may share a reader. The format of a dataset does not matter
here (`token_dataset.py`): it is tokens from some byte of a file on, with an index of documents. Runs of remote datasets
are also cut where their cached blocks end (`remote.py`). Legend: B requested rows, N runs, P pieces of runs,
D datasets, S sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.compiled.module import compiled
from megaphi.data.storage.files.token_files import LocalTokens, Pieces, explain_read_failure
from megaphi.data.storage.formats.indexed_dataset import CODE_OF_DTYPE
from megaphi.data.storage.streams import TokenStream
from megaphi.errors import InputError


class Runs(NamedTuple):
    """Stretches of datasets, all int64 [N]; `dataset_N` numbers the datasets of all sources consecutively."""

    row_N: NDArray[np.int64]
    """Row to which each run belongs, ascending."""
    dataset_N: NDArray[np.int64]
    start_N: NDArray[np.int64]
    """First token in the dataset."""
    count_N: NDArray[np.int64]


class TokenReader:
    """Reads the datasets of several sources, each a ring of tokens."""

    def __init__(self, streams: Sequence[TokenStream]) -> None:
        self.streams = tuple(streams)
        self.datasets = [dataset for stream in streams for dataset in stream.datasets]
        self._source_names = [stream.name for stream in streams for _ in stream.datasets]
        self._itemsize_D = np.array([dataset.dtype.itemsize for dataset in self.datasets])
        self._code_D = np.array([code_of(dataset.dtype) for dataset in self.datasets])
        self._first_byte_D = np.array([dataset.first_byte for dataset in self.datasets])
        counts_D = np.array([dataset.token_count for dataset in self.datasets], dtype=np.int64)
        # Tokens of all sources, numbered consecutively: source s has [first_S[s], first_S[s] + size_S[s]).
        self._end_D = np.cumsum(counts_D)
        self._begin_D = self._end_D - counts_D
        self._size_S = np.array([stream.token_count for stream in streams], dtype=np.int64)
        self._first_S = np.cumsum(self._size_S) - self._size_S

    @property
    def is_remote(self) -> bool:
        """True if a dataset is in object storage."""
        return any(dataset.data.is_remote for dataset in self.datasets)

    def windows(self, source_B: ArrayLike, start_token_B: ArrayLike, count: int) -> Runs:
        """Divide rows of `count` tokens into runs; row b begins at token `start_token_B[b]` of source `source_B[b]`."""
        source_B = np.asarray(source_B, dtype=np.int64)
        first_B, size_B = self._first_S[source_B], self._size_S[source_B]
        place_B = first_B + np.asarray(start_token_B, dtype=np.int64) % size_B
        row_N, left_N, parts = np.arange(len(source_B)), np.full(len(source_B), count), []
        while len(row_N):
            dataset_N = np.searchsorted(self._end_D, place_B, side="right")
            count_N = np.minimum(left_N, self._end_D[dataset_N] - place_B)
            parts.append(Runs(row_N, dataset_N, place_B - self._begin_D[dataset_N], count_N))
            (unfinished,) = np.nonzero(count_N < left_N)
            place_B, left_N = (place_B + count_N)[unfinished], (left_N - count_N)[unfinished]
            row_N, first_B, size_B = row_N[unfinished], first_B[unfinished], size_B[unfinished]
            place_B = np.where(place_B == first_B + size_B, first_B, place_B)
        if len(parts) <= 1:
            return parts[0] if parts else Runs(*(np.empty(0, dtype=np.int64) for _ in Runs._fields))
        joined = Runs(*map(np.concatenate, zip(*parts, strict=True)))
        order = np.argsort(joined.row_N, kind="stable")
        return Runs(*(column[order] for column in joined))

    def prepare(self, runs: Runs) -> None:
        """Announce runs that will be read soon, to fetch remote ones ahead of time."""
        for number in np.unique(runs.dataset_N):
            data = self.datasets[number].data
            if data.is_remote:
                mine = runs.dataset_N == number
                itemsize = self._itemsize_D[number]
                offset_N = self._first_byte_D[number] + runs.start_N[mine] * itemsize
                data.prepare(offset_N, runs.count_N[mine] * itemsize)

    def read(
        self, runs: Runs, *, rows: int, count: int, vocabulary_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Read the tokens of runs that fill `rows` rows of `count` tokens.

        Returns two arrays, int64 [rows, count - 1]: all tokens but the last of each row, which a model reads, and all
        but the first, which it predicts.

        Raises:
            InputError: a file is shorter than its index says, cannot be read, or holds a token outside the vocabulary.
        """
        with self._pieces(runs) as (pieces, code_F):
            width_P = self._itemsize_D[runs.dataset_N[pieces.run_P]]
            inputs, labels, failure = compiled().gather_tokens(
                pieces.descriptors,
                code_F,
                runs.row_N[pieces.run_P],
                pieces.file_P,
                pieces.offset_P,
                pieces.bytes_P // width_P,
                rows=rows,
                columns=count,
                vocabulary=vocabulary_size,
            )
        if failure is not None:
            raise InputError(self._explain(runs, pieces, *failure, vocabulary_size=vocabulary_size))
        return inputs, labels

    def document_ids(self, runs: Runs, *, rows: int, count: int) -> NDArray[np.int32]:
        """Number of each token's document within its row, from 0: int32 [rows, count].

        A document begins where its dataset's index has one, and with every run of a row but the first: at the seam of
        two datasets, or of the ring's end and its beginning.
        """
        chosen, index_N = np.unique(runs.dataset_N, return_inverse=True)
        indices = [
            self.datasets[number].document_index(runs.start_N[index_N == place], runs.count_N[index_N == place])
            for place, number in enumerate(chosen)
        ]
        tables = [(index.pointers_K, index.documents_D, index.bytes, index.token_bytes) for index in indices]
        ids, failure = compiled().document_ids(
            tables, runs.row_N, index_N, runs.start_N, runs.count_N, rows=rows, columns=count
        )
        if failure is not None:
            run, sequence = failure
            name = indices[index_N[run]].name
            raise InputError(f"{name} is corrupted: its pointers do not ascend near sequence {sequence:,}")
        return ids

    @contextmanager
    def _pieces(self, runs: Runs) -> Iterator[tuple[Pieces, NDArray[np.int64]]]:
        """Locate the runs in files, with each file's dtype code; the files are open inside the block."""
        chosen, file_N = np.unique(runs.dataset_N, return_inverse=True)
        itemsize_N = self._itemsize_D[runs.dataset_N]
        offset_N = self._first_byte_D[runs.dataset_N] + runs.start_N * itemsize_N
        bytes_N = runs.count_N * itemsize_N
        sources = [self.datasets[number].data for number in chosen]
        local = [data.descriptor for data in sources if isinstance(data, LocalTokens)]
        if len(local) == len(sources):
            yield Pieces(local, file_N, offset_N, bytes_N, np.arange(len(offset_N))), self._code_D[chosen]
            return
        with ExitStack() as opened:
            parts, files, codes = [], [], []
            for place, data in enumerate(sources):
                (mine,) = np.nonzero(file_N == place)
                part = opened.enter_context(data.pieces(offset_N[mine], bytes_N[mine]))
                parts.append(part._replace(file_P=part.file_P + len(files), run_P=mine[part.run_P]))
                files += part.descriptors
                codes += [self._code_D[chosen[place]]] * len(part.descriptors)
            _, file_P, offset_P, bytes_P, run_P = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(run_P, kind="stable")
            columns = (column[order] for column in (file_P, offset_P, bytes_P, run_P))
            yield Pieces(files, *columns), np.array(codes)

    def _explain(
        self, runs: Runs, pieces: Pieces, kind: str, piece: int, byte: int, value: int, *, vocabulary_size: int
    ) -> str:
        """Explain a failed read: translate the piece and the byte within it to a token of a file."""
        run = int(pieces.run_P[piece])
        number = int(runs.dataset_N[run])
        dataset, itemsize = self.datasets[number], int(self._itemsize_D[number])
        name = dataset.data.name
        byte += int(pieces.bytes_P[:piece][pieces.run_P[:piece] == run].sum())
        token = int(runs.start_N[run]) + byte // itemsize
        byte += dataset.first_byte + int(runs.start_N[run]) * itemsize
        where = f"source {self._source_names[number]!r}: "
        if kind != "wrong token":
            return where + explain_read_failure(name, kind, byte=byte, value=value)
        value = int(np.int64(value).astype(dataset.dtype))
        return where + (
            f"{name} holds token {value} at token {token:,} (byte {byte:,}), but the model's vocabulary is"
            f" {vocabulary_size}: the file is corrupted, or was made with another vocabulary"
        )


def code_of(dtype: np.dtype[Any]) -> int:
    """Megatron's code of a dtype; uint32, which has none, is read as int32: no vocabulary reaches 2^31."""
    return CODE_OF_DTYPE[np.dtype("<i4") if dtype == np.dtype("<u4") else dtype]
