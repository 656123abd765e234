"""Snapshot of what one rank is about to save, and the proof that it arrived.

A copy in host memory lets training go on while a thread writes it. A few numbers of every tensor are noted from the
live weights themselves at that step: after the file is written, its bytes are read back from the disk, hashed, and
those numbers are looked up in it. So a wrong copy, a wrong file and a wrong step all show before anyone trusts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from megaphi.checkpoint.format import TensorPiece
from megaphi.checkpoint.manifest import save_of
from megaphi.checkpoint.tensor_file import FileRecord, TensorFile, hash_file
from megaphi.errors import InputError

NUMBERS_PER_TENSOR = 8


class HostMemory:
    """Room for a copy of what a rank saves. It stays from one save to the next: new pages cost more than the copy."""

    def __init__(self) -> None:
        self._rooms: dict[str, Tensor] = {}

    def copy(self, pieces: Iterable[TensorPiece]) -> list[TensorPiece]:
        """The pieces, with their values in host memory; overwrites the copy before."""
        copies, on_device = [], False
        for piece in pieces:
            values = piece.values
            room = self._rooms.get(piece.key)
            if room is None or room.shape != values.shape or room.dtype != values.dtype:
                room = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
                self._rooms[piece.key] = room
            room.copy_(values, non_blocking=True)
            on_device = on_device or values.is_cuda
            copies.append(replace(piece, values=room))
        if on_device:
            torch.cuda.synchronize()
        return copies


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Numbers of a tensor as the model held them."""

    key: str
    places: list[int]
    """In the piece, flattened."""
    values: Tensor


@torch.no_grad()
def sample_live(pieces: Iterable[TensorPiece], *, step: int) -> list[Sample]:
    """Some numbers of every piece, at places that depend on the step."""
    generator = torch.Generator().manual_seed(step)
    samples = []
    for piece in pieces:
        if piece.values.numel():
            places = torch.randint(piece.values.numel(), (NUMBERS_PER_TENSOR,), generator=generator)
            values = piece.values[places.to(piece.values.device)]
            samples.append(Sample(key=piece.key, places=places.tolist(), values=values))
    return [replace(sample, values=sample.values.cpu()) for sample in samples]


def check_written(path: Path, record: FileRecord, samples: Sequence[Sample], *, save_id: str, step: int) -> None:
    """Read a rank's file back from the disk.

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
