"""A snapshot of what one rank saves, and the check that the file holds it.

A copy in host memory lets training go on while a thread writes it. Some values of every tensor are sampled from the
live weights at that step. After the file is written, its bytes are read back from the disk and hashed, and the sampled
values are looked up in it. So a wrong copy, a wrong file and a wrong step are all found before the file is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megaphi.checkpoint.format import TensorPiece
from megaphi.checkpoint.manifest import save_of
from megaphi.checkpoint.tensor_file import FileRecord, TensorFile, hash_file
from megaphi.errors import InputError

NUMBERS_PER_TENSOR = 8


class HostMemory:
    """One host buffer for all that a rank saves, reused by every save: allocating new pages costs more than the copy.

    With `pinned` its pages are registered with CUDA as they are; torch's own pinned memory would round each tensor up
    to a power of two.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._room = torch.empty(0, dtype=torch.uint8)

    def copy(self, pieces: Sequence[TensorPiece]) -> list[TensorPiece]:
        """Copy the pieces' values to host memory; overwrites the previous copy."""
        ends = list(accumulate(_in_cache_lines(piece.values.nbytes) for piece in pieces))
        if ends and ends[-1] != len(self._room):
            self._take(ends[-1])
        copies = []
        for piece, end in zip(pieces, ends, strict=True):
            values = piece.values
            bytes_N = self._room[end - _in_cache_lines(values.nbytes) :][: values.nbytes]
            room = bytes_N.view(values.dtype).view(values.shape)
            room.copy_(values, non_blocking=True)
            copies.append(replace(piece, values=room))
        if self._pinned:
            torch.cuda.synchronize()
        return copies

    def release(self) -> None:
        """Give the buffer back; copies stay readable as long as somebody holds them."""
        if self._pinned and len(self._room):
            torch.cuda.check_error(int(_cuda().cudaHostUnregister(self._room.data_ptr())))
        self._room = torch.empty(0, dtype=torch.uint8)

    def _take(self, size: int) -> None:
        self.release()
        self._room = torch.empty(size, dtype=torch.uint8)
        if self._pinned:
            torch.cuda.check_error(int(_cuda().cudaHostRegister(self._room.data_ptr(), size, 0)))


def _cuda() -> Any:
    """CUDA's runtime, which torch does not type."""
    return torch.cuda.cudart()


def _in_cache_lines(size: int) -> int:
    """Bytes that a tensor takes in the buffer, where each starts at a cache line."""
    return -(-size // 64) * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Sampled values of one piece, as the live model held them."""

    key: str
    places: list[int]
    """Positions in the flattened piece."""
    values: Tensor


@torch.no_grad()
def sample_live(pieces: Iterable[TensorPiece], *, step: int) -> list[Sample]:
    """Sample some values of every piece, at positions that depend on the step."""
    generator = torch.Generator().manual_seed(step)
    samples = []
    for piece in pieces:
        if piece.values.numel():
            places = torch.randint(piece.values.numel(), (NUMBERS_PER_TENSOR,), generator=generator)
            values = piece.values[places.to(piece.values.device)]
            samples.append(Sample(key=piece.key, places=places.tolist(), values=values))
    return [replace(sample, values=sample.values.cpu()) for sample in samples]


def check_written(path: Path, record: FileRecord, samples: Sequence[Sample], *, save_id: str, step: int) -> None:
    """Read a rank's file back from the disk and check it.

    Raises:
        InputError: its bytes are not those that were written, it is of another save, or it holds another value than
            the model did.
    """
    if hash_file(path, from_disk=True) != record:
        raise InputError(f"{path} was read back with other bytes than were written: the storage is not to be trusted")
    with TensorFile(path) as file:
        if (wrote := save_of(file.metadata)) != (save_id, str(step)):
            raise InputError(f"{path} is of another save: {wrote}, not {(save_id, str(step))}")
        for sample in samples:
            for place, expected in zip(sample.places, sample.values.split(1), strict=True):
                found = file.read(sample.key, place, place + 1)
                if not torch.equal(found.view(torch.uint8), expected.contiguous().view(torch.uint8)):
                    raise InputError(
                        f"{path}: element {place:,} of {sample.key} is {found.item()!r}, and was {expected.item()!r} "
                        f"in the model at step {step}"
                    )
