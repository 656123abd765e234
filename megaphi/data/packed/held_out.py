"""Held-out conversations or pairs as validation wants them: rows of one source each, gone through once.

Every entry of `validation_paths` is a source of its own, so that each can have its loss. Its units are packed by
themselves, the rows of all sources counted through; a micro-batch has rows of one source, and perhaps rows that pad.
A source of which no record was kept stays in the list, to be named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.batch import NO_SAMPLE, Batch
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.rows import MakeBatch

Unit = TypeVar("Unit")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutSource:
    """The units of one source in rows, and how they become micro-batches."""

    rows: PackedEpochs
    make_batch: MakeBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutRows:
    """Held-out rows of several sources; implements the engine's `HeldOutData`."""

    sources: Mapping[str, HeldOutSource | None]
    """By name; None: nothing of it was kept."""
    content: str
    """SHA-256 of the units themselves."""

    def numbers_by_source(self, samples: int) -> dict[str, NDArray[np.int64]]:
        """The numbers of each source's rows, all of them: `samples` is for data without an end."""
        return {name: np.arange(first, first + count) for name, (first, count) in self._stretches().items()}

    def batch(self, sample_numbers: ArrayLike) -> Batch:
        """Rows of one source, one after the other in one flat row; `NO_SAMPLE` is an empty one."""
        numbers_B = np.asarray(sample_numbers, dtype=np.int64)
        stretches = {name: stretch for name, stretch in self._stretches().items() if stretch[1]}
        largest = max(int(numbers_B.max()), 0)
        name, (first, _) = next(item for item in stretches.items() if largest < sum(item[1]))
        source = self.sources[name]
        assert source is not None  # it has rows
        rows = [[] if number == NO_SAMPLE else source.rows.row(number - first) for number in numbers_B.tolist()]
        return source.make_batch(rows, numbers_B)

    def facts(self) -> dict[str, str]:
        return {"units": self.fingerprint[:16]}

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all units and of which row of which source holds them."""
        hashed = hashlib.sha256(self.content.encode())
        for name, source in self.sources.items():
            hashed.update(f"{name} {None if source is None else source.rows.fingerprint} ".encode())
        return hashed.hexdigest()

    def _stretches(self) -> dict[str, tuple[int, int]]:
        """The first number of each source, and how many rows it has."""
        counts = [0 if source is None else source.rows.rows_per_epoch for source in self.sources.values()]
        return dict(zip(self.sources, zip(np.cumsum([0, *counts[:-1]]).tolist(), counts, strict=True), strict=True))


def split_by_source(units: Sequence[Unit], kept_of: Mapping[str, int]) -> dict[str, Sequence[Unit]]:
    """The units that came from each input, by the input's name; `kept_of` counts them in the order of reading."""
    ends = np.cumsum(list(kept_of.values())).tolist()
    parts = zip(_names(list(kept_of)), kept_of.values(), ends, strict=True)
    return {name: units[end - count : end] for name, count, end in parts}


def _names(inputs: Sequence[str]) -> list[str]:
    """Names of files and folders in metrics: their last part without endings, where that tells them apart."""
    short = [Path(given).name.partition(".")[0] for given in inputs]
    tell_apart = len(set(short)) == len(short) and all(name and not set(name) & set("*?[") for name in short)
    return short if tell_apart else list(inputs)
