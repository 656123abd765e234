"""Documents and tokens that a dataset holds once, whatever it repeats: exact, in bounded memory.

Two documents are copies if their token sequences are the same; they are compared by hashes of 128 bits. The hashes go
into temporary files by their first bits, so that equal ones meet in one file, and each file is sorted by itself.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype([("low", "<u8"), ("high", "<u8"), ("tokens", "<u8")])
FILE_BYTES = 1 << 20
"""Size of a file that is sorted in memory; there are at most `MOST_FILES`, which then grow beyond it."""
MOST_FILES = 256


class UniqueCounts(NamedTuple):
    """Contents of a dataset without copies: of equal documents one is counted."""

    documents: int
    tokens: int


class CopyCounter:
    """A counter that is told every document of a dataset, in any order."""

    def __init__(self, documents: int, folder: Path) -> None:
        """`documents`: how many will come, about; `folder`: of the temporary files."""
        self._count = min(MOST_FILES, 1 + documents * ROW.itemsize // FILE_BYTES)
        self._folder = folder
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._files = [
            self._closing.enter_context(tempfile.TemporaryFile(buffering=0, dir=self._folder))  # noqa: SIM115 (closed by `__exit__`)
            for _ in range(self._count)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def add(self, tokens_M: NDArray[Any], lengths_N: NDArray[np.int64]) -> None:
        """Count documents: their concatenated tokens, and the number of tokens of each."""
        end_N, data = np.cumsum(lengths_N) * tokens_M.itemsize, tokens_M.view(np.uint8).data
        start_N = end_N - lengths_N * tokens_M.itemsize
        spans = zip(start_N.tolist(), end_N.tolist(), strict=True)
        # Processors have instructions for SHA-256: it takes half the time of other hashes.
        digests = b"".join(hashlib.sha256(data[start:end]).digest()[:16] for start, end in spans)
        row_N = np.empty(len(lengths_N), ROW)
        hash_N2 = np.frombuffer(digests, "<u8").reshape(-1, 2)
        row_N["low"], row_N["high"], row_N["tokens"] = hash_N2[:, 0], hash_N2[:, 1], lengths_N
        file_N = row_N["low"] % np.uint64(self._count)
        order_N = np.argsort(file_N, kind="stable")
        ends = np.searchsorted(file_N[order_N], np.arange(1, self._count, dtype=np.uint64))
        for file, rows in zip(self._files, np.split(row_N[order_N], ends), strict=True):
            file.write(rows.tobytes())

    def unique(self) -> UniqueCounts:
        """Counts of all that was added."""
        documents = tokens = 0
        for file in self._files:
            file.seek(0)
            row_N = np.frombuffer(file.read(), ROW)
            row_N = row_N[np.lexsort((row_N["high"], row_N["low"]))]
            is_first = np.ones(len(row_N), dtype=bool)
            is_first[1:] = (row_N["low"][1:] != row_N["low"][:-1]) | (row_N["high"][1:] != row_N["high"][:-1])
            documents += int(is_first.sum())
            tokens += int(row_N["tokens"][is_first].sum())
        return UniqueCounts(documents, tokens)
