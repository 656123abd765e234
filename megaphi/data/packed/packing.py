"""Packing whole samples (conversations) into rows of S tokens: best-fit decreasing, and the arrays of a row.

`pack` takes lengths and returns which samples share a row. Longest first, each goes where the least room remains that
still holds it; of equal samples the first, of equally full rows the one opened first, so the result is a function of
the lengths alone. Samples of one length are placed together: the fullest row that holds one keeps being the fullest, so
it takes as many as fit at once, and a million samples take about a second. `lay_out` makes the arrays of one row, with
labels that never reach from one sample into the next. Shape legend: N samples, R rows, S positions.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.errors import InputError
from megaphi.tokenizer.chat_format import RenderedConversation


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Assignment of samples to rows: row r holds `members[offsets[r] : offsets[r + 1]]`, longest first."""

    capacity: int
    """Positions of a row."""
    members: NDArray[np.int64]
    """Sample indices, row after row; every sample that fits is in it once."""
    offsets: NDArray[np.int64]
    """R + 1 positions in `members`."""
    tokens: int
    """Positions that samples fill, of rows * capacity."""
    too_long: NDArray[np.int64]
    """Samples longer than a row, in ascending order: in no row, for the caller to refuse, skip or cut."""

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> NDArray[np.int64]:
        """Indices of the samples of one row."""
        if not 0 <= number < self.rows:
            raise IndexError(f"row {number} of {self.rows}")
        return self.members[self.offsets[number] : self.offsets[number + 1]]

    @property
    def padding_fraction(self) -> float:
        """Share of all positions that no sample fills; 0 where there are no rows."""
        return 1 - self.tokens / (self.rows * self.capacity) if self.rows else 0.0


def pack(lengths: ArrayLike, *, capacity: int) -> Packing:
    """Best-fit decreasing: for long lists never over 11/9 of the fewest possible rows, in practice a few more than it.

    Args:
        lengths: N lengths in tokens.
        capacity: S, positions of a row.

    Raises:
        InputError: the lengths are not integers of at least 1, or the capacity is less than 1.

    Source of the bound: Johnson, Demers, Ullman, Garey, Graham, "Worst-case performance bounds for simple
    one-dimensional packing algorithms", 1974.
    """
    lengths_N = _checked(lengths, capacity)
    by_length = np.argsort(-lengths_N, kind="stable")
    fitting = by_length[np.count_nonzero(lengths_N > capacity) :]
    row_N = _rows_of(lengths_N[fitting], capacity)
    rows = int(row_N.max(initial=-1)) + 1
    return Packing(
        capacity=capacity,
        members=fitting[np.argsort(row_N, kind="stable")],
        offsets=np.concatenate(([0], np.cumsum(np.bincount(row_N, minlength=rows)))).astype(np.int64),
        tokens=int(lengths_N[fitting].sum()),
        too_long=np.flatnonzero(lengths_N > capacity),
    )


def _checked(lengths: ArrayLike, capacity: int) -> NDArray[np.int64]:
    values_N = np.asarray(lengths)
    if capacity < 1:
        raise InputError(f"rows of {capacity} tokens hold nothing: the sequence length must be at least 1")
    if values_N.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values_N.ndim != 1 or values_N.dtype.kind not in "iu":
        raise InputError(
            f"lengths must be one list of whole numbers, not {values_N.dtype} of shape {values_N.shape}: give one per"
            " sample, in tokens"
        )
    if values_N.min() < 1:
        place = int(np.argmax(values_N < 1))
        raise InputError(f"sample {place} has {values_N[place]} tokens: leave samples out that hold nothing")
    return values_N.astype(np.int64)


def _rows_of(descending_N: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The row of each sample, given lengths that fit and never rise."""
    table = _OpenRows(capacity)
    lengths, counts = np.unique(descending_N, return_counts=True)
    for length, count in zip(lengths[::-1].tolist(), counts[::-1].tolist(), strict=True):
        table.place(length, count)
    return np.repeat(np.array(table.placed_rows, dtype=np.int64), table.placed_counts)


class _OpenRows:
    """Rows by the room they have left; `placed_rows` and `placed_counts` say how many of the next samples went where.

    `room` lists, ascending, the amounts of room that some row has; `rows` holds a heap of row numbers for each.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.opened = 0
        self.room: list[int] = []
        self.rows: list[list[int]] = [[] for _ in range(capacity + 1)]
        self.placed_rows: list[int] = []
        self.placed_counts: list[int] = []

    def place(self, length: int, count: int) -> None:
        """Place `count` samples of one length, no longer than any before."""
        while count:
            place = bisect_left(self.room, length)
            if place < len(self.room):
                room = self.room[place]
                row = heapq.heappop(self.rows[room])
                if not self.rows[room]:
                    del self.room[place]
            else:
                room, row = self.capacity, self.opened
                self.opened += 1
            taken = min(count, room // length)
            self.placed_rows.append(row)
            self.placed_counts.append(taken)
            self._keep(row, room - taken * length)
            count -= taken

    def _keep(self, row: int, room: int) -> None:
        if room:
            if not self.rows[room]:
                self.room.insert(bisect_left(self.room, room), room)
            heapq.heappush(self.rows[room], row)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """The arrays of one row of S positions, as `Batch` wants them, and positions that restart in every sample."""

    tokens_S: NDArray[np.int64]
    labels_S: NDArray[np.int64]
    """The token one place further on in the same sample; the padding token, untrained, where there is none."""
    loss_mask_S: NDArray[np.float32]
    """1 where the label is trained on, 0 where it is not."""
    document_ids_S: NDArray[np.int32]
    """0, 1, 2, ... sample by sample; the padding is one document more."""
    positions_S: NDArray[np.int64]
    """0, 1, 2, ... from the start of each sample, and of the padding."""


def lay_out(samples: Sequence[RenderedConversation], *, capacity: int, padding_token: int) -> PackedRow:
    """The samples one after the other, then padding to `capacity` positions.

    Raises:
        ValueError: the samples do not fit (those of one row of a `Packing` do), or have other numbers of ids and flags.
    """
    tokens = sum(len(sample.ids) for sample in samples)
    flags = sum(len(sample.trained) for sample in samples)
    if tokens != flags or tokens > capacity:
        raise ValueError(f"{tokens} token ids and {flags} flags for a row of {capacity} positions")
    sizes = np.array([*(len(sample.ids) for sample in samples), capacity - tokens])
    ends = np.cumsum(sizes)
    tokens_S = np.full(capacity, padding_token, dtype=np.int64)
    trained_S = np.zeros(capacity, dtype=np.float32)
    for sample, size, end in zip(samples, sizes.tolist(), ends.tolist(), strict=False):
        tokens_S[end - size : end] = sample.ids
        trained_S[end - size : end] = sample.trained
    last_of_samples = ends[:-1] - 1
    labels_S, loss_mask_S = np.roll(tokens_S, -1), np.roll(trained_S, -1)
    labels_S[last_of_samples] = labels_S[-1] = padding_token
    loss_mask_S[last_of_samples] = loss_mask_S[-1] = 0
    return PackedRow(
        tokens_S=tokens_S,
        labels_S=labels_S,
        loss_mask_S=loss_mask_S,
        document_ids_S=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        positions_S=np.arange(capacity, dtype=np.int64) - np.repeat(ends - sizes, sizes),
    )
