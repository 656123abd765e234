"""Keys of documents on disk, sorted within each shard, and all shards read together in ranges of keys.

Every shard has files NAME.keys and NAME.rows: uint64 keys in ascending order, and the row in the shard that each
belongs to. Keys are hashes, so equal ranges of them hold about equally many; ranges are so small that one of all shards
fits into the given memory. What is found does not depend on ranges or on shards: rows become numbers of documents, in
the order of shards and rows.

Legend: N keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)
Keys = NDArray[np.uint64]
Numbers = NDArray[np.int64]
BYTES_PER_KEY = 96
"""Memory of a key while a range is sorted: key, number and order, and copies of each."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The keys of one shard, in the memory of files."""

    key_N: Keys
    row_N: Numbers
    first_number: int
    """Number of the shard's first document among all."""

    def between(self, low: int, high: int) -> tuple[Keys, Numbers]:
        """(keys k with low <= k < high in ascending order, numbers of their documents)."""
        places = self.places(low, high)
        return np.array(self.key_N[places]), self.row_N[places] + self.first_number

    def places(self, low: int, high: int) -> slice:
        """Places of these keys in the file."""
        start = int(np.searchsorted(self.key_N, np.uint64(low)))
        return slice(start, len(self.key_N) if high >> 64 else int(np.searchsorted(self.key_N, np.uint64(high))))


def write_keys(folder: Path, name: str, key_N: Keys, row_N: Numbers) -> None:
    """Write keys with their rows, in any order, sorted."""
    order = np.argsort(key_N, kind="stable")
    key_N[order].tofile(folder / f"{name}.keys")
    row_N[order].astype(np.int64).tofile(folder / f"{name}.rows")


def open_keys(folders: Sequence[Path], name: str, first_numbers: Sequence[int]) -> list[KeyFile]:
    return [
        KeyFile(mapped(folder / f"{name}.keys", np.uint64), mapped(folder / f"{name}.rows", np.int64), first)
        for folder, first in zip(folders, first_numbers, strict=True)
    ]


def mapped(path: Path, dtype: type[Number], *, columns: int | None = None) -> NDArray[Number]:
    """A file of numbers, read as it is needed; rows of `columns` numbers where they are given."""
    shape = (-1,) if columns is None else (-1, columns)
    if not path.stat().st_size:
        return np.zeros((0, *shape[1:]), dtype)
    return np.memmap(path, dtype, "r").reshape(shape)


def ranges(files: Sequence[KeyFile], *, memory_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of keys, low <= key < high, each of which fits into the memory, if keys are spread as hashes are."""
    total = sum(len(file.key_N) for file in files)
    count = max(1, -(-total * BYTES_PER_KEY // memory_bytes))
    edges = [(number << 64) // count for number in range(count + 1)]
    yield from pairwise(edges)


def first_of_equal(files: Sequence[KeyFile], *, memory_bytes: int) -> Iterator[tuple[Numbers, Numbers]]:
    """(number of a document, number of the first document with the same key) for all but the first ones.

    A key that a large part of all documents have takes the memory of one: shards are merged as they are read.
    """
    for low, high in ranges(files, memory_bytes=memory_bytes):
        key_N, number_N, held = np.zeros(0, np.uint64), np.zeros(0, np.int64), []
        for place, file in enumerate(files):
            held.append(file.between(low, high))
            pending = sum(len(keys) for keys, _ in held)
            if place < len(files) - 1 and pending * BYTES_PER_KEY < memory_bytes // 2:
                continue
            key_N = np.concatenate([key_N, *(keys for keys, _ in held)])
            number_N, held = np.concatenate([number_N, *(numbers for _, numbers in held)]), []
            order = np.lexsort((number_N, key_N))
            key_N, number_N = key_N[order], number_N[order]
            first_N = first_of_bucket(key_N)
            is_first_N = first_N == np.arange(len(key_N))
            yield number_N[~is_first_N], number_N[first_N[~is_first_N]]
            key_N, number_N = key_N[is_first_N], number_N[is_first_N]


def first_of_bucket(key_N: Keys) -> Numbers:
    """For each of some sorted keys the index of the first that is equal to it."""
    is_new_N = np.ones(len(key_N), bool)
    is_new_N[1:] = key_N[1:] != key_N[:-1]
    return np.maximum.accumulate(np.where(is_new_N, np.arange(len(key_N)), 0))
