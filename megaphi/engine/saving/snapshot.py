"""A snapshot of what one rank saves, and the check that the file holds it.

A copy in host memory lets training go on while a thread writes it. Some values of every tensor are sampled from the
live weights at that step. After the file is written, its bytes are read back from the disk and hashed, and the sampled
values are looked up in it. So a wrong copy, a wrong file and a wrong step are all found before the file is trusted.
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
    """A host buffer for what a rank saves, reused by every save: allocating new pages costs more than the copy."""

    def __init__(self) -> None:
        self._rooms: dict[str, Tensor] = {}

    def copy(self, pieces: Iterable[TensorPiece]) -> list[TensorPiece]:
        """Copy the pieces' values to host memory; overwrites the previous copy."""
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
