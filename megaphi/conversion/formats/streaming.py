"""Streaming of weight files in blocks: one thread reads and converts, another hashes and writes.

A block is a few rows, `BLOCK_BYTES` at most, and a bounded number of blocks exists at a time, so memory does not depend
on the size of the model or of its largest tensor. A third thread syncs a finished file to disk while the next one is
being written, because the disk is the bottleneck of a conversion.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from megaphi.checkpoint.index import DTYPES
from megaphi.checkpoint.tensor_file import FileRecord, TensorFileWriter
from megaphi.data.loading.prefetch import prefetch
from megaphi.errors import InputError
from megaphi.log import progress_bar

BLOCK_BYTES = 1 << 22
BLOCKS_AHEAD = 4
MEMORY_CEILING_BYTES = 192 << 20
"""Memory that a conversion of any model may use beyond its imports (measured by tests/conversion/test_memory.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFile:
    """A file to write: its tensors in order, and the rest of its header."""

    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of the tensors' values."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.tensors.values())


def row_blocks(first: int, end: int, *, columns: int) -> Iterator[tuple[int, int]]:
    """Yield rows [first, end) in ranges of at most `BLOCK_BYTES` as fp32, the widest type."""
    step = max(1, BLOCK_BYTES // (columns * 4))
    for start in range(first, end, step):
        yield start, min(start + step, end)


def write_files(
    folder: Path,
    files: Mapping[str, PlannedFile],
    blocks: Iterable[tuple[str, Tensor]],
    *,
    label: str,
    hashed: bool = True,
) -> dict[str, FileRecord]:
    """Write all of `files` from `blocks` of (file name, next values), in order; on return they are synced to disk."""
    left = {name: file.bytes for name, file in files.items()}
    writers: dict[str, TensorFileWriter] = {}
    closed: dict[str, Future[FileRecord]] = {}
    try:
        with (
            ThreadPoolExecutor(1) as closer,
            closing(prefetch(blocks, depth=BLOCKS_AHEAD)) as ahead,
            progress_bar(total=sum(left.values()), unit="B", label=label) as bar,
        ):
            for name, values in ahead:
                if name not in writers:
                    file = files[name]
                    writers[name] = TensorFileWriter(folder / name, file.tensors, metadata=file.metadata, hashed=hashed)
                writers[name].append(values)
                left[name] -= values.nbytes
                bar.update(values.nbytes)
                if left[name] == 0:
                    closed[name] = closer.submit(writers[name].close)
            return {name: closed[name].result() for name in files}
    finally:
        for writer in writers.values():
            writer.abandon()


def check_space(out: Path, files: Mapping[str, PlannedFile]) -> None:
    """Refuse to start if the disk has too little space."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    needed, free = sum(file.bytes for file in files.values()), shutil.disk_usage(place).free
    if needed > free:
        raise InputError(f"cannot write {out}: it takes {needed:,} bytes, and the disk has {free:,} free")


def wanted_dtype(found: torch.dtype, dtype: str | None, *, what: str) -> torch.dtype:
    """The dtype in which a weight is written: as requested, else unchanged."""
    if dtype is not None:
        return DTYPES[dtype]
    if found not in (torch.float32, torch.bfloat16):
        named = str(found).removeprefix("torch.")
        raise InputError(f"{what} is {named}, expected float32 or bfloat16: choose one with --dtype")
    return found
