"""Epoch after epoch of packed rows, each with other neighbours: row number -> the units (conversations, pairs) in it.

Best-fit decreasing looks at nothing but lengths, so how rows are cut (say, 900 + 100 + 24 tokens) is found once and
holds for every epoch; what changes is which of the units of 100 tokens lies where. That is reshuffled by a keyed
permutation of (seed, epoch), and another one puts the rows into order. The result is that of packing the permuted
units, without packing again: a row is a pure function of (lengths, capacity, seed, number), and a run resumes from the
number alone. The surprising fact: neighbours change only as far as lengths are shared. Of many units of 100 tokens
another one comes each time; a unit whose length no other has meets the same lengths again, in another place.
Shape legend: N units, R rows of an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.order.permutation import ORDER_VERSION, KeyedPermutation, derive_key
from megaphi.data.packed.packing import Packing, pack
from megaphi.errors import InputError


@dataclass(frozen=True, eq=False)
class PackedEpochs:
    """An endless sequence of rows over N units; thread-safe.

    Raises:
        InputError: there is no unit, a length is below 1 or above the capacity, or the seed is no number of 64 bits.
    """

    lengths: ArrayLike
    """Tokens of each unit."""
    _: KW_ONLY
    capacity: int
    """Tokens of a row."""
    seed: int
    lengths_N: NDArray[np.int64] = field(init=False, repr=False)
    _slots: Packing = field(init=False, repr=False)
    """Packing of every epoch's rows; member i is the i-th longest unit."""
    _epoch: Callable[[int], tuple[NDArray[np.int64], KeyedPermutation]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"seed={self.seed} is outside 0 .. 2^64 - 1")
        packing = pack(self.lengths, capacity=self.capacity)
        lengths_N = np.array(self.lengths, dtype=np.int64)
        if not packing.rows or len(packing.too_long):
            longest = f"the longest unit has {lengths_N.max():,} tokens" if len(lengths_N) else "there is no unit"
            raise InputError(f"cannot fill rows of {self.capacity:,} tokens: {longest}")
        rank_N = np.empty_like(lengths_N)
        rank_N[_longest_first(lengths_N)] = np.arange(len(lengths_N))
        object.__setattr__(self, "lengths_N", lengths_N)
        object.__setattr__(self, "_slots", replace(packing, members=rank_N[packing.members]))
        object.__setattr__(self, "_epoch", lru_cache(maxsize=2)(self._deal))  # two threads may be in two epochs

    @property
    def rows_per_epoch(self) -> int:
        """R, the same for every epoch and seed."""
        return self._slots.rows

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that rows depend on."""
        hashed = hashlib.sha256(f"{ORDER_VERSION} {self.capacity} {self.seed} ".encode())
        hashed.update(self.lengths_N.astype("<i8").tobytes())
        return hashed.hexdigest()

    def row(self, number: int) -> list[int]:
        """Indices of the units in row `number`, which belongs to epoch `number // rows_per_epoch`; longest first."""
        if number < 0:
            raise IndexError(f"row {number}: rows are counted from 0")
        epoch, place = divmod(number, self.rows_per_epoch)
        units_N, order = self._epoch(epoch)
        row = int(order(place))
        return units_N[self._slots.offsets[row] : self._slots.offsets[row + 1]].tolist()

    def _deal(self, epoch: int) -> tuple[NDArray[np.int64], KeyedPermutation]:
        """The unit in every slot (of equal lengths, in the order of the epoch's permutation), and the order of rows."""
        permutation = KeyedPermutation(len(self.lengths_N), derive_key("packed units", self.seed, epoch))
        units_N = permutation(np.arange(len(self.lengths_N))).astype(np.int64)
        dealt_N = units_N[_longest_first(self.lengths_N[units_N])][self._slots.members]
        return dealt_N, KeyedPermutation(self.rows_per_epoch, derive_key("packed rows", self.seed, epoch))


def _longest_first(lengths_N: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.argsort(-lengths_N, kind="stable")
