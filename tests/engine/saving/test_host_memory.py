"""The host buffer of asynchronous saves: the values, no more bytes than they have, registered once and given back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.format import TensorPiece
from megaphi.engine.saving.snapshot import HostMemory

FORMATS = [torch.float32, torch.bfloat16, torch.uint8, torch.int64]


def pieces_of(sizes: list[tuple[int, torch.dtype]], *, first: int = 0) -> list[TensorPiece]:
    return [
        TensorPiece(
            key=f"tensor {n}",
            whole_shape=(size,),
            box=Box(offset=(0,), shape=(size,)),
            start=0,
            values=torch.arange(first + n, first + n + size).to(dtype),
        )
        for n, (size, dtype) in enumerate(sizes)
    ]


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(FORMATS)), max_size=8))
def test_copies_are_the_values_and_the_buffer_holds_no_more(sizes: list[tuple[int, torch.dtype]]) -> None:
    memory = HostMemory(pinned=False)
    for first in (0, 7):
        pieces = pieces_of(sizes, first=first)
        copies = memory.copy(pieces)
        assert all(torch.equal(copy.values, piece.values) for copy, piece in zip(copies, pieces, strict=True))
        assert len({copy.values.untyped_storage().data_ptr() for copy in copies if len(copy.values)}) <= 1
    used = sum(piece.values.nbytes for piece in pieces_of(sizes))
    assert used <= len(memory._room) < used + 64 * (len(sizes) + 1)


def test_a_pinned_buffer_is_registered_with_its_exact_size_once_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's pinned memory would take 4 MiB for the first tensor. Not yet run on a GPU."""
    registered: dict[int, int] = {}
    waits: list[None] = []
    monkeypatch.setattr(
        torch.cuda,
        "cudart",
        lambda: SimpleNamespace(
            cudaHostRegister=lambda place, size, flags: 0 if registered.setdefault(place, size) == size else 1,
            cudaHostUnregister=lambda place: 0 if registered.pop(place) else 1,
        ),
    )
    errors: list[int] = []
    monkeypatch.setattr(torch.cuda, "check_error", errors.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
    memory = HostMemory(pinned=True)
    sizes = [(2**21 + 64, torch.uint8), (640, torch.float32)]
    memory.copy(pieces_of(sizes))
    memory.copy(pieces_of(sizes))
    assert list(registered.values()) == [2**21 + 64 + 2_560]
    assert len(waits) == 2
    memory.copy(pieces_of([*sizes, (64, torch.uint8)]))
    assert list(registered.values()) == [2**21 + 64 + 2_560 + 64]
    memory.release()
    assert registered == {}
    assert errors == [0, 0, 0, 0]
